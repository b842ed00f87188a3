"""One contract for every backend: what a caller may rely on whichever session is behind it."""

from __future__ import annotations

import io
import json
import shutil
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from hasn_edge.errors import BuildError, InputError, ShapeError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.exporters.pt2 import compiled_bytes, program_bytes, program_from_model
from hasn_edge.exporters.torchscript import quiet_jit, torchscript_from_model
from hasn_edge.hardware.host import has_bf16, has_integer_dot_product
from hasn_edge.model.hasn import HASN
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
from hasn_edge.quantize.graph import convolutions
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.observers import Observer
from hasn_edge.quantize.ranges import Ranges
from hasn_edge.quantize.recipe import QuantRecipe
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.runtime.openvino import open_openvino
from hasn_edge.runtime.pt2 import CompiledSession, ProgramSession, package_host
from hasn_edge.runtime.pytorch import PyTorchSession
from hasn_edge.runtime.session import Pending
from hasn_edge.runtime.tensorrt.engine_session import TensorRTSession
from hasn_edge.runtime.torchscript import TorchScriptSession
from hasn_edge.spec import ModelSpec, Precision
from tests.support.fake_session import FakeSession

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)


def network(spec: ModelSpec = SPEC) -> HASN:
    torch.manual_seed(0)
    return HASN(spec).eval()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


@pytest.fixture(scope="module")
def expected():
    """PyTorch's own output, without any of our code around it."""
    model = network()

    def compute(x):
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()

    return compute


class SessionContract:
    """Subclasses say how to open a session, and how far its output may be from PyTorch's in FP32."""

    tolerance = 1e-5
    backend = ""
    least = 15
    """Least side that the file takes."""
    precision = Precision.FP32
    device = "cpu"

    @pytest.fixture(autouse=True)
    def machine(self):
        """What the backend needs around it."""

    def open(self):
        raise NotImplementedError

    @pytest.fixture
    def session(self):
        with self.open() as session:
            yield session

    @pytest.mark.slow
    def test_says_what_it_is(self, session):
        assert (session.spec, session.backend, session.precision) == (SPEC, self.backend, self.precision)
        assert session.device == self.device
        assert session.size is None
        assert not session.closed
        assert self.backend in repr(session)

    @pytest.mark.parametrize("size", [(15, 15), (17, 29), (31, 16)])
    def test_output_is_the_networks(self, session, expected, size):
        size = tuple(side + self.least - 15 for side in size)
        x = noise(1, 3, *size)
        y = session.run(x)
        assert y.dtype == np.float32
        assert y.flags.c_contiguous
        assert y.shape == (1, 3, 4 * size[0], 4 * size[1])
        if self.tolerance is not None:
            np.testing.assert_allclose(y, expected(x), rtol=0, atol=self.tolerance)

    def test_every_session_reports_its_times_and_how_it_runs(self, session):
        for x in (noise(1, 3, 22, 24), np.zeros((1, 22, 24, 3), np.uint8)):
            times = session.times(x)
            assert times.total_s > 0
            for part in (times.gpu_s, times.enqueue_s, times.to_device_s, times.to_host_s):
                assert part is None or part >= 0
        assert session.in_flight >= 1
        assert json.loads(json.dumps(session.facts())) == session.facts()

    def test_two_runs_are_equal_bit_for_bit(self, session):
        x = noise(1, 3, 21, 23)
        np.testing.assert_array_equal(session.run(x), session.run(x))

    def test_output_belongs_to_the_caller_and_input_is_left_alone(self, session):
        x = noise(1, 3, 22, 22)
        before = x.copy()
        first = session.run(x)
        kept = first.copy()
        session.run(1 - x)
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(x, before)
        first[:] = 0  # writable
        np.testing.assert_array_equal(session.run(x), kept)

    def test_batch_equals_its_images_one_by_one(self, session):
        x = noise(3, 3, 22, 24)
        singles = np.concatenate([session.run(one[None]) for one in x])
        np.testing.assert_allclose(session.run(x), singles, rtol=0, atol=self.batch_tolerance)

    batch_tolerance = 1e-6

    def test_submitted_inputs_answer_in_any_order_and_may_be_overwritten(self, session):
        inputs = [noise(1, 3, 22, 24), noise(1, 3, 23, 21), noise(1, 3, 22, 24)[..., ::-1].copy()]
        wanted = [session.run(x) for x in inputs]
        pending = []
        for x in inputs:
            held = x.copy()
            pending.append(session.submit(held))
            held[:] = 0.5
        for i in (1, 2, 0):
            np.testing.assert_array_equal(pending[i].result(), wanted[i])
            assert pending[i].result() is pending[i].result()

    def test_pixels_are_the_tensors_rounded(self, session):
        levels = np.rint(255 * noise(2, 22, 24, 3)).astype(np.uint8)
        y = session.run(np.ascontiguousarray(levels.transpose(0, 3, 1, 2)) / np.float32(255))
        got = session.run_pixels(levels)
        assert got.dtype == np.uint8
        difference = got - 255 * np.clip(y, 0, 1).transpose(0, 2, 3, 1)
        assert np.abs(difference).max() <= 0.5 + 255 * self.batch_tolerance
        np.testing.assert_array_equal(session.submit_pixels(levels).result(), got)

    def test_strides_and_read_only_input_do_not_matter(self, session):
        x = noise(1, 3, 22, 26)
        expected = session.run(x)
        channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        flipped = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
        frozen = x.copy()
        frozen.flags.writeable = False
        for view in (channels_last, flipped, frozen):
            np.testing.assert_array_equal(session.run(view), expected)

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (torch.zeros(1, 3, 16, 16), r"as a NumPy array, got Tensor"),
            (noise(3, 16, 16), r"expected float32 \(N, 3, H, W\), got 3 dimensions \(3, 16, 16\)"),
            (noise(1, 1, 16, 16), r"got 1 channels \(1, 1, 16, 16\)"),
            (noise(1, 16, 16, 3), r"transpose it, it looks like \(N, H, W, C\)"),
            (noise(1, 3, 22, 22).astype(np.float64), r"got float64; .* \.astype\(numpy\.float32\)"),
            (np.zeros((1, 3, 16, 16), np.uint8), r"got uint8; .* hasn_edge\.images\.arrays\.to_tensor"),
            (noise(0, 3, 16, 16), r"at least one pixel, got \(0, 3, 16, 16\)"),
            (
                noise(1, 3, 14, 16),
                r"at least (15 x 15|21 x 21) pixels, got 14 x 16 .*use Upscaler, which pads",
            ),
            (noise(1, 3, 16, 0), r"at least one pixel, got \(1, 3, 16, 0\)"),
        ],
    )
    def test_wrong_shapes_are_named(self, session, x, message):
        with pytest.raises(ShapeError, match=f"^{self.backend}: .*{message}"):
            session.run(x)

    @pytest.mark.parametrize(
        ("value", "message"),
        [(np.nan, "not finite"), (-np.inf, "not finite"), (255, r"got .* to 255; divide by 255")],
    )
    def test_wrong_values_are_named(self, session, value, message):
        x = noise(1, 3, 22, 22)
        x[0, 1, 5, 7] = value
        with pytest.raises(InputError, match=f"^{self.backend}: .*{message}"):
            session.run(x)

    def test_close_twice_then_run(self):
        session = self.open()
        session.close()
        session.close()
        assert session.closed
        with pytest.raises(InputError, match=f"{self.backend}: this session is closed; open it again"):
            session.run(noise(1, 3, 22, 22))

    def test_context_manager_closes_also_on_errors(self):
        with pytest.raises(ZeroDivisionError), self.open() as session:
            assert session.run(noise(1, 3, 21, 21)).shape == (1, 3, 84, 84)
            raise ZeroDivisionError
        assert session.closed

    def test_a_refused_input_does_not_harm(self, session):
        x = noise(1, 3, 22, 22)
        before = session.run(x)
        with pytest.raises(ShapeError):
            session.run(x[:, :2])
        np.testing.assert_array_equal(session.run(x), before)


class TestFake(SessionContract):
    backend = "fake"
    tolerance = None

    def open(self):
        return FakeSession(SPEC)

    def test_repeats_pixels(self, session):
        x = noise(1, 3, 15, 16)
        np.testing.assert_array_equal(session.run(x)[:, :, 1::4, 2::4], x)
        assert session.calls == [(1, 3, 15, 16)]

    def test_backends_are_closed_once(self):
        closed = []

        class Counting(FakeSession):
            def _close(self):
                closed.append(self)

        with Counting(SPEC) as session:
            session.close()
        assert closed == [session]

    def test_fixed_size_and_batch(self):
        session = FakeSession(SPEC, size=(16, 20), batch=2)
        assert session.run(noise(2, 3, 16, 20)).shape == (2, 3, 64, 80)
        with pytest.raises(
            ShapeError, match=r"exactly 16 x 20 pixels .* got 20 x 16; use Upscaler, which pads"
        ):
            session.run(noise(2, 3, 20, 16))
        with pytest.raises(ShapeError, match="2 images at a time, got 3"):
            session.run(noise(3, 3, 16, 20))


class TestPyTorch(SessionContract):
    backend = "pytorch"
    tolerance = 0  # the reference itself

    def open(self):
        return PyTorchSession(network(), threads=1)


class TestPyTorchChannelsLast(SessionContract):
    backend = "pytorch"

    def open(self):
        return PyTorchSession(network(), channels_last=True, threads=1)


class TestPyTorchFp16(SessionContract):
    backend = "pytorch"
    precision = Precision.FP16
    tolerance = 2e-3
    batch_tolerance = 1e-3

    def open(self):
        return PyTorchSession(network().half(), threads=1)


@cache
def torchscript_bytes(precision: Precision) -> bytes:
    buffer = io.BytesIO()
    with quiet_jit():
        torch.jit.save(torchscript_from_model(network(), precision=precision), buffer)
    return buffer.getvalue()


@cache
def program(precision: Precision) -> bytes:
    return program_bytes(program_from_model(network(), precision=precision))


@cache
def compiled() -> bytes:
    return compiled_bytes(program_from_model(network()))


@cache
def onnx_bytes(**options) -> bytes:
    return onnx_from_model(network(), simplify=False, **options).SerializeToString()


class TestTorchScript(SessionContract):
    backend = "torchscript"

    def open(self):
        return TorchScriptSession(torchscript_bytes(Precision.FP32), SPEC, threads=1)


class TestTorchScriptFp16(SessionContract):
    backend = "torchscript"
    precision = Precision.FP16
    tolerance = 2e-3
    batch_tolerance = 1e-3

    def open(self):
        data = torchscript_bytes(self.precision)
        return TorchScriptSession(data, SPEC, precision=self.precision, threads=1)


class OpenedOnce:
    """For what takes a second to open: the tests of a class share one, and open those that they close."""

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls):
        with cls().open() as session:
            yield session


@pytest.mark.slow
class TestProgram(OpenedOnce, SessionContract):
    backend = "pt2"
    least = 21

    def open(self):
        return ProgramSession(program(Precision.FP32), SPEC, least_side=21, threads=1)


@pytest.mark.slow
class TestProgramFp16(OpenedOnce, SessionContract):
    backend = "pt2"
    precision = Precision.FP16
    least = 21
    tolerance = 2e-3
    batch_tolerance = 1e-3

    def open(self):
        data = program(self.precision)
        return ProgramSession(data, SPEC, precision=self.precision, least_side=21, threads=1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles with g++")
class TestCompiled(OpenedOnce, SessionContract):
    backend = "aoti"
    least = 21

    def open(self):
        host = package_host("cpu")
        return CompiledSession(compiled(), SPEC, compiled_for=host, device="cpu", least_side=21, threads=1)


class TestOnnxRuntime(SessionContract):
    backend = "onnxruntime"

    def open(self):
        return OnnxRuntimeSession(onnx_bytes(batch=None), SPEC, threads=1)


class TestOnnxRuntimeExactOneImageAtATime(SessionContract):
    """As exported by default: batch 1, run image by image; without graph optimizations."""

    backend = "onnxruntime"
    batch_tolerance = 0

    def open(self):
        return OnnxRuntimeSession(onnx_bytes(), exact=True, threads=1)

    def test_spec_came_from_the_metadata(self, session):
        assert (session.spec, session.batch, session.exact) == (SPEC, 1, True)


@cache
def fp16_onnx_bytes() -> bytes:
    proto = onnx_from_model(network(), opset=20, batch=None, simplify=False)
    return fp16_onnx_from_onnx(proto).SerializeToString()


class TestOnnxRuntimeFp16(SessionContract):
    backend = "onnxruntime"
    precision = Precision.FP16
    tolerance = 2e-3
    batch_tolerance = 1e-3

    def open(self):
        return OnnxRuntimeSession(fp16_onnx_bytes(), SPEC, precision=self.precision, threads=1)


@cache
def int8_onnx_bytes() -> bytes:
    recipe = QuantRecipe(observer=Observer.MINMAX)
    proto = onnx_from_model(network(), batch=None, simplify=False)
    names = [conv.name for conv in convolutions(proto)]
    limits = dict.fromkeys(names, 4.0)
    ranges = Ranges(
        values=limits, peaks=limits, observer=recipe.observer, percentile=None, fingerprint="", images=0
    )
    return int8_onnx_from_onnx(proto, ranges, recipe).SerializeToString()


class TestOnnxRuntimeInt8(SessionContract):
    backend = "onnxruntime"
    precision = Precision.INT8
    tolerance = 0.2
    batch_tolerance = 0.05  # integer kernels may round another way

    def open(self):
        return OnnxRuntimeSession(int8_onnx_bytes(), SPEC, precision=self.precision, threads=1)


class TestOnnxRuntimeInt8Exact(SessionContract):
    backend = "onnxruntime"
    precision = Precision.INT8
    tolerance = 0.2

    def open(self):
        return OnnxRuntimeSession(int8_onnx_bytes(), precision=self.precision, exact=True, threads=1)


class TestOpenVino(SessionContract):
    backend = "openvino"

    def open(self):
        return open_openvino(onnx_bytes(batch=None), threads=1)


@pytest.mark.slow
class TestOpenVinoThreeInFlight(SessionContract):
    """The throughput hint: images are computed beside one another."""

    backend = "openvino"

    def open(self):
        return open_openvino(onnx_bytes(), threads=1, in_flight=3)

    def test_spec_came_from_the_metadata(self, session):
        assert (session.spec, session.batch, session.in_flight) == (SPEC, 1, 3)


class TestOpenVinoBf16(SessionContract):
    backend = "openvino"
    tolerance = 0.02
    batch_tolerance = 0.01

    @pytest.fixture(autouse=True)
    def machine(self):
        if not has_bf16():
            pytest.skip("this CPU does not compute in BF16")

    def open(self):
        return open_openvino(onnx_bytes(batch=None), threads=1, bf16=True)


class TestOpenVinoInt8(SessionContract):
    backend = "openvino"
    precision = Precision.INT8
    tolerance = 0.2
    batch_tolerance = 0.05

    @pytest.fixture(autouse=True)
    def machine(self):
        if not has_integer_dot_product():
            pytest.skip("this CPU has no VNNI, and OpenVINO's INT8 is wrong without it")

    def open(self):
        return open_openvino(int8_onnx_bytes(), precision=self.precision, threads=1)


class TensorRTContract(SessionContract):
    """Over fakes of TensorRT and CUDA that compute only when they are waited for, and repeat pixels."""

    backend = "tensorrt"
    device = "cuda:0"
    tolerance = None
    batch_tolerance = 0
    cuda = "cuda-python"
    options: ClassVar[dict[str, Any]] = {}
    plan: ClassVar[dict[str, Any]] = {}
    setup: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def machine(self, lab):
        self.lab = lab.set_up(self.cuda, **self.setup)
        self.artifact = lab.engine(**self.plan)

    def open(self):
        return TensorRTSession(self.artifact, cuda=self.cuda, **self.options)

    def test_repeats_pixels(self, session):
        x = noise(1, 3, 15, 16)
        for _ in range(3):  # plainly, recorded, launched
            np.testing.assert_array_equal(session.run(x)[:, :, 1::4, 2::4], x)


class TestTensorRT(TensorRTContract):
    pass


class TestTensorRTPyCuda(TensorRTContract):
    cuda = "pycuda"


class TestTensorRTTorch(TensorRTContract):
    cuda = "torch"


class TestTensorRTThreeInFlight(TensorRTContract):
    options: ClassVar[dict[str, Any]] = {"in_flight": 3}


class TestTensorRTThreeInFlightPyCuda(TensorRTContract):
    cuda = "pycuda"
    options: ClassVar[dict[str, Any]] = {"in_flight": 3}


class TestTensorRTThreeInFlightTorch(TensorRTContract):
    cuda = "torch"
    options: ClassVar[dict[str, Any]] = {"in_flight": 3}


class TestTensorRTMapped(TensorRTContract):
    """A GPU that shares the CPU's memory: nothing is copied between the two."""

    setup: ClassVar[dict[str, Any]] = {"integrated": True}


class TestTensorRTMappedPyCuda(TensorRTContract):
    cuda = "pycuda"
    setup: ClassVar[dict[str, Any]] = {"integrated": True}


class TestTensorRTMappedTorch(TensorRTContract):
    cuda = "torch"
    setup: ClassVar[dict[str, Any]] = {"integrated": True}


class TestTensorRTOneImageAtATime(TensorRTContract):
    plan: ClassVar[dict[str, Any]] = {"maximum": (1, 3, 64, 80)}
    options: ClassVar[dict[str, Any]] = {"in_flight": 2}


class TestTensorRT8(TensorRTContract):
    """Its contexts do not share a profile."""

    setup: ClassVar[dict[str, Any]] = {"version": "8.6.1"}
    plan: ClassVar[dict[str, Any]] = {"version": (8, 6, 1, 6)}
    options: ClassVar[dict[str, Any]] = {"in_flight": 2}


class TestTensorRTForRtx(TensorRTContract):
    setup: ClassVar[dict[str, Any]] = {"version": "1.7.1.116", "rtx": True}
    plan: ClassVar[dict[str, Any]] = {"version": (1, 7, 1, 116), "rtx": True}


def test_pending_waits_once_and_keeps_the_result():
    calls = []

    def wait():
        calls.append(1)
        return np.arange(3)

    pending = Pending(wait)
    assert calls == []
    assert pending.result() is pending.result()
    assert calls == [1]


def test_an_error_of_pending_is_raised_by_every_call():
    calls = []

    def wait():
        calls.append(1)
        raise BuildError("the device is gone")

    pending = Pending(wait)
    for _ in range(2):
        with pytest.raises(BuildError, match="the device is gone"):
            pending.result()
    assert calls == [1]


def test_pending_joined_and_changed_waits_only_when_asked():
    order = []

    def part(value):
        return Pending(lambda: order.append(value) or np.full((1, 2), value))

    joined = Pending.join(part(i) for i in range(3)).then(lambda y: y * 10)
    assert order == []
    np.testing.assert_array_equal(joined.result()[:, 0], [0, 10, 20])
    assert order == [0, 1, 2]


def test_sessions_answer_in_any_order():
    x = np.random.default_rng(0).random((3, 1, 3, 16, 16), dtype=np.float32)
    with FakeSession() as session:
        pending = [session.submit(one) for one in x]
        expected = [session.run(one) for one in x]
        for i in (2, 0, 1):
            np.testing.assert_array_equal(pending[i].result(), expected[i])
        levels = np.rint(x[0] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(session.submit_pixels(levels).result(), session.run_pixels(levels))
