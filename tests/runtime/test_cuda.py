"""The three CUDA backends: one behaviour over packages that check what they are called with."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
import threading

import numpy as np
import pytest
import torch as real_torch

from hasn_edge.errors import BuildError, HasnEdgeError, MissingDependencyError, UnsupportedError
from hasn_edge.hardware.gpu import gpu_facts
from hasn_edge.runtime.cuda import BACKENDS, choose
from hasn_edge.runtime.cuda.backend import CudaBackend
from tests.support import fake_cuda

WITH_GRAPHS = ("cuda-python", "torch")


@pytest.fixture(params=BACKENDS)
def backend(request, lab) -> CudaBackend:
    lab.set_up(request.param)
    return choose(request.param)


def data(nbytes: int = 1000) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, nbytes, dtype=np.uint8)


@pytest.mark.slow
def test_says_what_it_is(backend):
    assert backend.name in BACKENDS
    assert (backend.index, backend.integrated) == (0, False)
    assert backend.graphs is (backend.name != "pycuda")
    backend.close()
    backend.close()


def test_bytes_go_there_and_back_when_they_are_waited_for(backend):
    with backend.activate():
        host, other = backend.host_alloc(1000), backend.host_alloc(1000)
        device, stream = backend.malloc(1024), backend.create_stream()
        assert host.array.dtype == np.uint8
        assert host.array.shape == (1000,)
        assert host.device_address is None
        assert type(device.address) is type(stream.handle) is int
        assert stream.handle > 2  # 0, 1 and 2 are default streams
        host.array[:] = data()
        other.array[:] = 0
        backend.to_device(device, host, 900, stream)
        backend.to_host(other, device, 900, stream)
        assert not other.array.any()
        backend.synchronize(stream)
        np.testing.assert_array_equal(other.array[:900], data()[:900])
        assert not other.array[900:].any()
        for buffer in (host, other):
            backend.host_free(buffer)
        backend.free(device)
        backend.destroy_stream(stream)
    backend.close()


def test_mapped_memory_has_an_address_on_the_gpu(backend, lab):
    with backend.activate():
        host = backend.host_alloc(512, mapped=True)
        assert type(host.device_address) is int
        _, seen = lab.gpu.find(host.device_address, 512, host=False)
        host.array[:] = data(512)
        np.testing.assert_array_equal(seen, data(512))
        del seen
        backend.host_free(host)


def test_events_take_the_time_of_what_is_between_them(backend):
    with backend.activate():
        host, device, stream = backend.host_alloc(5000), backend.malloc(5000), backend.create_stream()
        start, end = backend.create_event(), backend.create_event()
        backend.record(start, stream)
        backend.to_device(device, host, 5000, stream)
        backend.record(end, stream)
        with pytest.raises(BuildError, match="failed to read the time"):
            backend.elapsed_s(start, end)
        backend.synchronize(stream)
        assert backend.elapsed_s(start, end) == pytest.approx(5e-6)
        for event in (start, end):
            backend.destroy_event(event)
        backend.free(device)
        backend.host_free(host)
        backend.destroy_stream(stream)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("integrated", [False, True])
def test_a_thread_sleeps_where_cpu_and_gpu_share_their_watts(lab, name, integrated):
    lab.set_up(name, integrated=integrated)
    backend = choose(name)
    with backend.activate():
        host, device, stream = backend.host_alloc(100), backend.malloc(100), backend.create_stream()
        for value in (1, 2, 3):
            host.array[:] = value
            backend.to_device(device, host, 100, stream)
            backend.synchronize(stream)
            assert set(lab.gpu.find(device.address, 100, host=False)[1]) == {value}
        assert lab.gpu.calls.count("sleep") == (3 if integrated else 0)
        lab.gpu.fail["asynchronous"] = "cudaErrorIllegalAddress"
        with pytest.raises(BuildError, match="failed to finish the queued work"):
            backend.synchronize(stream)
        backend.free(device)
        backend.host_free(host)
        backend.destroy_stream(stream)
    backend.close()


def test_memory_that_is_free(backend, lab):
    with backend.activate():
        before = backend.free_bytes()
        assert before == lab.gpu.memory_bytes
        device = backend.malloc(1 << 20)
        assert before - backend.free_bytes() == 1 << 20
        backend.free(device)


@pytest.mark.parametrize("before", [0, 1, None])
def test_the_callers_gpu_is_current_again(lab, before):
    """Of a program that computes on another one with the same package, or did not yet with any."""
    lab.set_up("cuda-python")
    lab.gpu.cards = 2
    runtime = sys.modules["cuda.bindings.runtime"]
    if before is not None:
        runtime.cudaSetDevice(before)
    for index in (0, 1):
        backend = choose("cuda-python", index=index)
        assert runtime.cudaGetDevice()[1] == (before or 0)
        with pytest.raises(ZeroDivisionError), backend.activate(), backend.activate():
            assert runtime.cudaGetDevice()[1] == index
            raise ZeroDivisionError
        assert runtime.cudaGetDevice()[1] == (before or 0)


@pytest.mark.parametrize("name", BACKENDS)
def test_no_other_gpu_gets_a_context(lab, name):
    """One takes hundreds of megabytes, and from CUDA 12 on cudaSetDevice makes it."""
    lab.set_up(name)
    lab.gpu.cards = 2
    backend = choose(name, index=1)
    with backend.activate():
        backend.destroy_stream(backend.create_stream())
    backend.close()
    assert lab.gpu.primary == {1}


def test_a_graph_does_again_what_was_recorded(backend):
    with backend.activate():
        host, device, stream = backend.host_alloc(100), backend.malloc(100), backend.create_stream()
        if backend.graphs:
            backend.begin_capture(stream)
            backend.to_device(device, host, 100, stream)
            backend.to_host(host, device, 50, stream)
            graph = backend.end_capture(stream)
            for value in (1, 2):
                host.array[:] = value
                backend.launch(graph, stream)
                host.array[:50] = 7
                backend.synchronize(stream)
                assert set(host.array[:50]) == {7}
                assert set(host.array[50:]) == {value}
            backend.destroy_graph(graph)
        else:
            for call in (backend.begin_capture, backend.end_capture):
                with pytest.raises(BuildError, match="pycuda has no CUDA graphs"):
                    call(stream)
        backend.free(device)
        backend.host_free(host)
        backend.destroy_stream(stream)


@pytest.mark.parametrize("name", WITH_GRAPHS)
def test_a_recording_that_was_spoiled_ends(lab, name):
    lab.set_up(name)
    backend = choose(name)
    with backend.activate():
        stream = backend.create_stream()
        backend.begin_capture(stream)
        with pytest.raises(BuildError, match="failed to allocate"):
            backend.malloc(100)
        with pytest.raises(BuildError, match="failed to record a graph"):
            backend.end_capture(stream)
        backend.synchronize(stream)  # the stream is an ordinary one again
        backend.destroy_stream(stream)
    assert lab.gpu.last_error is None


def test_nothing_is_freed_twice(backend):
    with backend.activate():
        stream, device, host = backend.create_stream(), backend.malloc(8), backend.host_alloc(8)
        for free, thing in (
            (backend.destroy_stream, stream), (backend.free, device), (backend.host_free, host)
        ):  # fmt: skip
            free(thing)
            with pytest.raises(BuildError, match="it was freed before"):
                free(thing)


def test_memory_that_does_not_suffice(backend, lab):
    lab.gpu.memory_bytes = 1000
    with backend.activate():
        with pytest.raises(
            MemoryError, match=rf"CUDA \(through {backend.name}\) could not allocate 2000 bytes"
        ):
            backend.malloc(2000)
        lab.gpu.fail["host_alloc"] = "cudaErrorMemoryAllocation"
        with pytest.raises(MemoryError, match="2000 bytes of page-locked memory"):
            backend.host_alloc(2000)
    assert lab.gpu.last_error is None


def test_cudas_words_are_carried(backend, lab):
    lab.gpu.fail["create_stream"] = "cudaErrorIllegalAddress"
    with backend.activate(), pytest.raises(BuildError, match="failed to make a stream: .*(?i:illegal)"):
        backend.create_stream()


def test_every_thread_has_to_be_told(backend, lab):
    with backend.activate():
        stream = backend.create_stream()
    problems = []

    def work() -> None:
        try:
            backend.synchronize(stream)
        except AssertionError as exc:
            problems.append(str(exc))
        with backend.activate():
            backend.synchronize(stream)
            backend.destroy_stream(stream)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert problems == ["synchronize without a current context in this thread"] == lab.gpu.violations
    lab.gpu.violations.clear()


def test_pycuda_takes_the_primary_context_and_leaves_the_stack_as_it_was(lab):
    lab.set_up("pycuda")
    backend = choose("pycuda")
    assert lab.gpu.primary == {0}
    with pytest.raises(ZeroDivisionError), backend.activate(), backend.activate():
        raise ZeroDivisionError
    assert set(lab.gpu._current.values()) == {0}
    backend.close()
    with pytest.raises(BuildError, match="the backend is closed"), backend.activate():
        pass


@pytest.mark.parametrize(
    ("layout", "name"), [("bindings", "cuda.bindings.runtime"), ("cudart", "cuda.cudart")]
)
def test_cuda_python_has_had_two_names(lab, monkeypatch, layout, name):
    lab.set_up("torch")
    fakes = fake_cuda
    for module in ("cuda.bindings", "cuda.bindings.runtime", "cuda.bindings.driver"):
        monkeypatch.delitem(sys.modules, module)
    for module, value in fakes.cuda_python(lab.gpu, layout=layout).items():
        monkeypatch.setitem(sys.modules, module, value)
    backend = choose("cuda-python")
    assert backend._rt is sys.modules[name]


def test_a_driver_that_is_too_old(lab):
    """That of JetPack 6 runs CUDA 12.6; what helps where no GPU answers is not known so well."""
    lab.set_up("cuda-python")
    for gpus, versions in ((1, ">=12,<13"), (0, "<13")):
        lab.driver.gpus = gpus
        lab.gpu.fail["driver"] = "cudaErrorInsufficientDriver"
        with pytest.raises(BuildError, match=rf"failed to use GPU 0: .*pip install 'cuda-python{versions}'"):
            choose("cuda-python")


class TestChoice:
    @pytest.fixture
    def all_three(self, lab, monkeypatch):
        lab.set_up("torch")
        fakes = fake_cuda
        for make in (fakes.cuda_python, fakes.pycuda):
            for name, module in make(lab.gpu).items():
                monkeypatch.setitem(sys.modules, name, module)
        return lab

    def test_pytorch_comes_first_only_where_it_is_loaded_already(self, all_three, monkeypatch):
        assert choose().name == "torch"
        monkeypatch.delitem(sys.modules, "torch")
        assert choose().name == "cuda-python"

    def test_then_cuda_python_then_pycuda(self, all_three, monkeypatch):
        all_three.gpu.hidden_from_torch = True
        assert choose().name == "cuda-python"
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
        assert choose().name == "pycuda"

    @pytest.mark.parametrize("name", [None, "cuda-python"])
    def test_no_memory_for_a_context_is_no_missing_package(self, lab, name):
        """What a full GPU refuses."""
        lab.set_up("cuda-python")
        lab.gpu.fail["context"] = "CUDA_ERROR_OUT_OF_MEMORY"
        with pytest.raises(BuildError, match="could not use GPU 0: .*end other programs that use the GPU"):
            choose(name)

    @pytest.mark.parametrize("name", BACKENDS)
    def test_the_one_that_is_named(self, all_three, name):
        assert choose(name).name == name

    def test_none_says_why_of_each(self, lab):
        lab.set_up("torch")
        lab.gpu.hidden_from_torch, lab.driver = True, None
        with pytest.raises(UnsupportedError) as caught:
            choose()
        text = str(caught.value)
        assert "pip install 'hasn-edge[cuda]'" in text
        assert "cuda-python: not installed" in text
        assert "pycuda: not installed" in text
        assert "PyTorch 2.13.0+fake here sees no GPU number 0" in text

    @pytest.mark.parametrize(
        ("name", "extra"), [("cuda-python", "cuda"), ("pycuda", "pycuda"), ("torch", "export")]
    )
    def test_a_named_one_that_is_missing(self, lab, name, extra):
        lab.set_up("pycuda" if name == "torch" else "torch")
        lab.driver = None
        with pytest.raises(MissingDependencyError, match=rf"through {name} needs .*'hasn-edge\[{extra}\]'"):
            choose(name)

    def test_the_cure_is_for_the_drivers_cuda(self, lab):
        """pip's newest cuda-python is for CUDA 13, which the driver of JetPack 6 does not run."""
        lab.set_up("torch")
        lab.gpu.hidden_from_torch = True
        with pytest.raises(HasnEdgeError, match="What helps: pip install 'cuda-python>=12,<13'"):
            choose()
        with pytest.raises(
            MissingDependencyError, match="with: pip install 'cuda-python>=12,<13'$"
        ) as caught:
            choose("cuda-python")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

    def test_a_broken_package_is_no_traceback(self, lab, tmp_path, monkeypatch):
        lab.set_up("pycuda")
        (tmp_path / "pycuda").mkdir()
        (tmp_path / "pycuda/driver.py").write_text(
            "raise ImportError('libcurand.so.10: cannot open shared object file')"
        )
        for name in ("pycuda", "pycuda.driver"):
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(BuildError, match=r"pycuda is installed but cannot be loaded: libcurand\.so\.10"):
            choose("pycuda")
        with pytest.raises(UnsupportedError, match=r"pycuda: pycuda is installed but .* libcurand"):
            choose()

    @pytest.mark.parametrize("name", BACKENDS)
    def test_no_such_gpu(self, lab, name):
        lab.set_up(name)
        with pytest.raises((BuildError, UnsupportedError), match="GPU (number )?1"):
            choose(name, index=1)

    def test_no_such_backend(self):
        with pytest.raises(
            UnsupportedError, match="no CUDA backend called 'cupy'; choose one of: torch, cuda"
        ):
            choose("cupy")


def test_the_real_pytorch_takes_these_calls():
    """The fake's signatures are checked against the PyTorch that is installed, which has no GPU here."""
    cuda = real_torch.cuda
    inspect.signature(cuda.CUDAGraph.capture_begin).bind(None, capture_error_mode="thread_local")
    for name in ("capture_end", "replay", "reset"):
        inspect.signature(getattr(cuda.CUDAGraph, name)).bind(None)
    inspect.signature(cuda.Event.__new__).bind(None, enable_timing=True, blocking=False)
    inspect.signature(cuda.Event.synchronize).bind(None)
    inspect.signature(cuda.mem_get_info).bind(0)
    inspect.signature(cuda.Event.record).bind(None, None)
    inspect.signature(cuda.Event.elapsed_time).bind(None, None)
    inspect.signature(cuda.Stream.__new__).bind(None, device=None)
    inspect.signature(cuda.Stream.synchronize).bind(None)
    inspect.signature(cuda.stream).bind(None)
    inspect.signature(cuda.device).bind(0)
    assert issubclass(cuda.OutOfMemoryError, RuntimeError)
    assert cuda.is_available() or cuda.device_count() == 0
    tensor = real_torch.empty(16, dtype=real_torch.uint8)
    tensor[:8].copy_(real_torch.arange(8), non_blocking=True)
    assert tensor.numpy().ctypes.data == tensor.data_ptr()


def test_the_real_cuda_python_takes_these_calls():
    """Where cuda-python is installed: without a GPU every call fails with CUDA's error, no TypeError."""
    rt = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed: extra [cuda]")
    driver = importlib.import_module("cuda.bindings.driver")
    from hasn_edge.runtime.cuda.backend import CudaEvent, CudaGraph, CudaStream, DeviceBuffer, HostBuffer
    from hasn_edge.runtime.cuda.cuda_python import CudaPythonBackend, _NoMemory, _Refused

    try:
        choose("cuda-python")
    except BuildError as exc:
        assert "through cuda-python" in str(exc)  # noqa: PT017
    else:
        pytest.skip("there is a GPU: the tests marked gpu use it")
    backend = object.__new__(CudaPythonBackend)
    backend._rt, backend.index, backend.integrated = rt, 0, False

    def stream() -> CudaStream:
        return CudaStream(16, rt.cudaStream_t(16))

    def buffers() -> tuple[DeviceBuffer, HostBuffer]:
        return DeviceBuffer(4096, 8, 4096), HostBuffer(np.zeros(8, np.uint8), None, 8192)

    for call in (
        lambda: backend.malloc(8),
        lambda: backend.free(buffers()[0]),
        lambda: backend.host_alloc(8),
        lambda: backend.host_alloc(8, mapped=True),
        lambda: backend.host_free(buffers()[1]),
        lambda: backend.to_device(*buffers(), 8, stream()),
        lambda: backend.to_host(*buffers()[::-1], 8, stream()),
        lambda: backend.create_stream(),
        lambda: backend.synchronize(stream()),
        lambda: backend.free_bytes(),
        lambda: backend.destroy_stream(stream()),
        lambda: backend.create_event(),
        lambda: backend.record(CudaEvent(rt.cudaEvent_t(16)), stream()),
        lambda: backend.elapsed_s(CudaEvent(rt.cudaEvent_t(16)), CudaEvent(rt.cudaEvent_t(32))),
        lambda: backend.destroy_event(CudaEvent(rt.cudaEvent_t(16))),
        lambda: backend.begin_capture(stream()),
        lambda: backend.end_capture(stream()),
        lambda: backend.launch(CudaGraph(rt.cudaGraphExec_t(16)), stream()),
        lambda: backend.destroy_graph(CudaGraph(rt.cudaGraphExec_t(16))),
    ):
        with pytest.raises(BuildError, match="through cuda-python"):
            call()
    for call in (
        lambda: backend._create_event(sleeps=True),
        lambda: backend._wait(rt.cudaEvent_t(16)),
        lambda: backend._result((driver.CUresult.CUDA_ERROR_INVALID_CONTEXT, None)),
    ):
        with pytest.raises(_Refused):
            call()
    with pytest.raises(_NoMemory, match="out of memory"):
        backend._result((driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None))
    assert backend._result((driver.CUresult.CUDA_SUCCESS, driver.CUcontext(16))).__class__ is driver.CUcontext
    for call, given in (
        (driver.cuInit, 0),
        (driver.cuDeviceGet, 0),
        (driver.cuDevicePrimaryCtxRetain, driver.CUdevice(0)),
        (driver.cuCtxPushCurrent, driver.CUcontext(0)),
    ):
        with pytest.raises(RuntimeError, match="driver"):  # it is not here; the arguments were right
            call(given)
    assert rt.cudaGraphInstantiateWithFlags(rt.cudaGraph_t(0), 0)[0] != rt.cudaError_t.cudaSuccess
    assert rt.cudaHostGetDevicePointer(4096, 0)[0] != rt.cudaError_t.cudaSuccess


@pytest.mark.gpu
@pytest.mark.parametrize("name", BACKENDS)
def test_on_a_real_gpu(name):
    """What the fakes promise: bytes arrive after waiting, mapped memory is the CPU's, time passes."""
    if gpu_facts() is None:
        pytest.skip("no NVIDIA driver answers on this machine")
    try:
        backend = choose(name)
    except (MissingDependencyError, UnsupportedError, BuildError) as exc:
        pytest.skip(str(exc))
    nbytes = 1 << 24
    with backend.activate():
        host, other = backend.host_alloc(nbytes, mapped=True), backend.host_alloc(nbytes)
        device, stream = backend.malloc(nbytes), backend.create_stream()
        start, end = backend.create_event(), backend.create_event()
        assert host.device_address
        assert stream.handle > 2
        for seed in range(3):
            wanted = np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)
            host.array[:] = wanted
            backend.record(start, stream)
            backend.to_device(device, host, nbytes, stream)
            backend.to_host(other, device, nbytes, stream)
            backend.record(end, stream)
            backend.synchronize(stream)
            np.testing.assert_array_equal(other.array, wanted)
            assert 0 < backend.elapsed_s(start, end) < 10
        for event in (start, end):
            backend.destroy_event(event)
        backend.free(device)
        for buffer in (host, other):
            backend.host_free(buffer)
        backend.destroy_stream(stream)
    backend.close()
