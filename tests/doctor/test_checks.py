"""Each known trap: a machine that is in it, and machines that are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hasn_edge.artifact import Kind, publish
from hasn_edge.doctor.checks import TRAPS, board, find_traps, packages, tensorrt
from hasn_edge.doctor.environment import Machine, look
from hasn_edge.doctor.libraries import Missing
from hasn_edge.doctor.result import Finding, State
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.hardware.jetson import Jetson
from hasn_edge.resources import shipped
from hasn_edge.spec import ModelSpec, Precision

ORIN = GpuFacts(
    name="Orin",
    compute_capability="8.7",
    total_memory_bytes=7_990_000_000,
    driver="540.4.0",
    cuda="12.6",
    integrated=True,
    l4t="36.4.3",
    sm_count=8,
)
CARD = GpuFacts(
    name="NVIDIA GeForce RTX 4090",
    compute_capability="8.9",
    total_memory_bytes=25_300_000_000,
    driver="580.65.06",
    cuda="13.0",
    integrated=False,
    l4t=None,
    sm_count=128,
)
DIST = Path("/usr/lib/python3.10/dist-packages")
SITE = Path("/home/user/.venv/lib/python3.10/site-packages")


@pytest.fixture
def desktop(tmp_path) -> Machine:
    """A desktop where all is well."""
    site = tmp_path / "site-packages"
    (site / "torch").mkdir(parents=True)
    (site / "torch/version.py").write_text("__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\n")
    names = ("torch", "cuda", "cv2", "tensorrt", "onnx", "onnxruntime", "safetensors")
    return Machine(
        root=tmp_path,
        modules={name: site / name for name in names},
        versions={
            "tensorrt": "11.4.0.106",
            "tensorrt-cu13-bindings": "11.4.0.106",
            "cuda-python": "13.0.1",
            "numpy": "2.4.6",
        },
        opencv_build="Video I/O:\n    GStreamer:                   NO\n",
        driver=True,
        gpu=CARD,
        memory_bytes=64 * 2**30,
        engines=tmp_path / "engines",
    )


@pytest.fixture
def jetson(orin_nano) -> Machine:
    """An Orin Nano where all is well: MAXN, clocks locked, swap on disk, JetPack's Python."""
    gpu = orin_nano / "sys/class/devfreq/17000000.gpu"
    (gpu / "min_freq").write_text((gpu / "max_freq").read_text())
    for name in ("tensorrt", "cv2"):
        (orin_nano / "usr/lib/python3.10/dist-packages" / name).mkdir(parents=True)
    dist = orin_nano / "usr/lib/python3.10/dist-packages"
    return Machine(
        root=orin_nano,
        architecture="aarch64",
        python=(3, 10),
        modules={"tensorrt": dist / "tensorrt", "cv2": dist / "cv2", "cuda": SITE / "cuda"},
        versions={"tensorrt": "10.7.0", "cuda-python": "12.6.2", "numpy": "1.26.4"},
        opencv_build="    GStreamer:                   YES (1.20.3)\n",
        driver=True,
        gpu=ORIN,
        jetson=Jetson(orin_nano).facts().values,
        memory_bytes=7_990_000_000,
        swaps=(("/dev/zram0", 600 << 20), ("/swapfile", 8 << 30)),
        engines=orin_nano / "engines",
    )


def only(trap, machine: Machine) -> Finding:
    (found,) = trap(machine)
    assert found.cure
    return found


THOR = replace(ORIN, name="NVIDIA Thor", compute_capability="11.0", sm_count=20, l4t="38.4.0")


def without(machine: Machine, *names: str, **changes) -> Machine:
    modules = {name: place for name, place in machine.modules.items() if name not in names}
    return replace(machine, modules={**modules, **changes.pop("modules", {})}, **changes)


def test_machines_where_all_is_well(desktop, jetson):
    assert find_traps(desktop) == ()
    assert find_traps(jetson) == ()
    assert find_traps(Machine(root=desktop.root, engines=desktop.engines)) == ()


def test_every_trap_has_its_line_here():
    here = Path(__file__).read_text(encoding="utf-8")
    for trap in TRAPS:
        assert here.count(f"{trap.__module__.split('.')[-1]}.{trap.__name__}") >= 1, trap
        assert trap.__doc__


def test_this_machine_is_looked_at():
    for finding in find_traps(look()):
        assert finding.wrong or finding.state is State.INFO
        assert finding.cure


class TestVisible:
    def test_an_environment_without_the_systems_packages(self, jetson):
        found = only(tensorrt.not_visible, without(jetson, "tensorrt", virtual_environment=True))
        assert found.state is State.MISSING
        assert "usr/lib/python3.10/dist-packages/tensorrt, where this Python does not look" in found.detail
        assert "/usr/bin/python3.10 -m venv --system-site-packages .venv" in found.cure

    def test_another_python_than_jetpacks(self, jetson):
        found = only(tensorrt.not_visible, without(jetson, "tensorrt", python=(3, 12)))
        assert found.detail == "JetPack's is for Python 3.10; this is Python 3.12"
        assert "/usr/bin/python3.10 -m venv --system-site-packages" in found.cure

    def test_jetpack_5(self, jetson):
        (jetson.root / "usr/lib/python3.10").rename(jetson.root / "usr/lib/python3.8")
        found = only(tensorrt.not_visible, without(jetson, "tensorrt"))
        assert "for Python 3.8, and hasn-edge needs 3.10 or newer" in found.detail
        assert f"module for 3.10 from its sources ({tensorrt.SOURCES})" in found.cure
        assert (
            f"{tensorrt.TRTEXEC} --onnx=FILE --fp16 --saveEngine=FILE, and --int8 for an INT8" in found.cure
        )
        written = " ".join(shipped("engines", "README.md").read_text(encoding="utf-8").split())
        for way in (tensorrt.SOURCES, tensorrt.TRTEXEC, "hasn-edge build --precision int8 --target portable"):
            assert way in written, "README and doctor say the same"

    def test_shared_folder(self, jetson):
        (jetson.root / "usr/lib/python3.10").rename(jetson.root / "usr/lib/python3")
        assert "does not look" in only(tensorrt.not_visible, without(jetson, "tensorrt")).detail

    def test_not_installed(self, jetson):
        (jetson.root / "usr/lib/python3.10/dist-packages/tensorrt").rmdir()
        found = only(tensorrt.not_visible, without(jetson, "tensorrt"))
        assert found.cure == "sudo apt install python3-libnvinfer"

    def test_a_desktop_may_do_without(self, desktop):
        assert not list(tensorrt.not_visible(without(desktop, "tensorrt")))


class TestShadowed:
    def test_pips_hides_jetpacks(self, jetson):
        machine = without(jetson, modules={"tensorrt": SITE / "tensorrt"})
        found = only(tensorrt.shadowed, machine)
        assert "hides JetPack's" in found.detail
        assert "pip uninstall -y" in found.cure

    def test_pips_alone(self, jetson):
        (jetson.root / "usr/lib/python3.10/dist-packages/tensorrt").rmdir()
        machine = without(jetson, modules={"tensorrt": SITE / "tensorrt"})
        assert "is built for servers; Jetson Linux 36.4.3" in only(tensorrt.shadowed, machine).detail
        newer = replace(machine, jetson={**machine.jetson, "l4t": "39.1.0"})
        assert not list(tensorrt.shadowed(newer)), "from JetPack 7.2 on the servers' builds run"

    def test_desktops_take_it_from_pip(self, desktop):
        assert not list(tensorrt.shadowed(desktop))


@pytest.mark.parametrize(
    ("lack", "kind", "cure"),
    [
        (Missing("libnvdla_compiler.so", "libnvinfer.so.10"), "jetson", "nvidia-l4t-dla-compiler"),
        (Missing("libcudnn.so.8", "libnvinfer.so.8"), "jetson", "nvidia-jetpack"),
        (Missing("libcuda.so.1", "libnvinfer.so.11"), "desktop", "--gpus all"),
        (Missing("libnvinfer.so.11", "tensorrt.so"), "desktop", "--force-reinstall"),
    ],
)
def test_missing_libraries(request, lack, kind, cure):
    machine = replace(request.getfixturevalue(kind), missing=(lack,))
    found = only(tensorrt.missing_libraries, machine)
    assert found.state is State.MISSING
    assert f"{lack.name} (for {lack.needed_by})" in found.detail
    assert cure in found.cure


@pytest.mark.parametrize(
    ("kind", "version", "numpy", "said", "state"),
    [
        ("desktop", "10.2.0.19", "2.4.6", "cannot build", State.WARNING),
        ("jetson", "10.3.0", "1.26.4", "fails to build some INT8 networks", State.WARNING),
        ("jetson", "10.16.2.10", "1.26.4", "dequantized by an FP16 scale", State.WARNING),
        ("jetson", "8.5.2.2", "1.26.4", "tensorrt.nptype()", State.INFO),
        ("jetson", "8.5.2.2", "1.23.5", None, None),
        ("desktop", "10.3.0", "2.4.6", None, None),
        ("desktop", "10.16.2.10", "2.4.6", None, None),
        ("desktop", "11.4.0.106", "2.4.6", None, None),
    ],
)
def test_bad_versions(request, kind, version, numpy, said, state):
    machine = request.getfixturevalue(kind)
    machine = replace(machine, versions={**machine.versions, "tensorrt": version, "numpy": numpy})
    if said is None:
        assert not list(tensorrt.bad_version(machine))
    else:
        found = only(tensorrt.bad_version, machine)
        assert said in found.detail
        assert found.state is state
        assert version in found.name


def test_thor_has_two_known_ones(jetson):
    machine = replace(jetson, gpu=THOR, versions={**jetson.versions, "tensorrt": "10.13.3.9"})
    wrong, fused = tensorrt.bad_version(machine)
    assert "ultralytics/issues/22873" in wrong.detail
    assert "TensorRT-Edge-LLM/issues/151" in fused.detail
    assert "image whose result is known" in fused.cure


def test_a_version_that_is_not_for_the_board(jetson):
    machine = replace(jetson, versions={**jetson.versions, "tensorrt": "11.4.1"})
    found = only(tensorrt.not_for_this_board, machine)
    assert "Orin Nano" in found.detail
    assert not list(tensorrt.not_for_this_board(jetson))
    assert not list(tensorrt.not_for_this_board(replace(machine, jetson=None, gpu=None)))


def test_tensorrt_11_on_a_gpu_before_turing(desktop):
    volta = replace(CARD, name="NVIDIA TITAN V", compute_capability="7.0", sm_count=80)
    found = only(tensorrt.too_old_gpu, replace(desktop, gpu=volta))
    assert found.detail == (
        "runs on Turing and newer GPUs (compute capability 7.5); here is NVIDIA TITAN V (80 SM, compute "
        "capability 7.0)"
    )
    assert found.cure == "install an older TensorRT: pip install 'tensorrt<11'"
    assert found in find_traps(replace(desktop, gpu=volta))
    assert not list(tensorrt.too_old_gpu(replace(desktop, gpu=replace(volta, compute_capability="7.5"))))
    assert not list(tensorrt.too_old_gpu(replace(desktop, gpu=replace(volta, compute_capability="12.0"))))
    old = replace(desktop, gpu=volta, versions={**desktop.versions, "tensorrt": "10.4.0"})
    assert not list(tensorrt.too_old_gpu(old))
    xavier = replace(volta, name="Xavier", compute_capability="7.2")
    board = replace(desktop, gpu=xavier, jetson={"model": "Jetson-AGX Xavier", "l4t": "35.6.0"})
    assert "python3-libnvinfer" in only(tensorrt.too_old_gpu, board).cure


@pytest.mark.parametrize("module", ["tensorrt_lean", "tensorrt_dispatch"])
def test_lean_runtime_without_a_driver(desktop, module):
    lean = without(desktop, modules={module: SITE / module})
    assert not list(tensorrt.lean_without_driver(lean))
    found = only(tensorrt.lean_without_driver, replace(lean, driver=False, gpu=None))
    assert "crashes Python" in found.detail


class TestDriver:
    def test_too_old_for_cuda_13(self, desktop):
        machine = replace(desktop, gpu=replace(CARD, driver="575.57.08", cuda="12.9"))
        found = only(tensorrt.old_driver, machine)
        assert "575.57.08, for CUDA 12.9; TensorRT 11.4.0.106 needs driver 580 or newer" in found.detail

    def test_cuda_12_packages_need_less(self, desktop):
        versions = {"tensorrt": "11.4.0.106", "tensorrt-cu12-bindings": "11.4.0.106"}
        machine = replace(desktop, versions=versions, gpu=replace(CARD, driver="535.54.03", cuda="12.2"))
        assert not list(tensorrt.old_driver(machine))
        machine = replace(machine, gpu=replace(CARD, driver="530.30.02", cuda="12.1"))
        assert "needs driver 535" in only(tensorrt.old_driver, machine).detail

    def test_where_the_system_does_not_say_the_driver(self, desktop):
        machine = replace(desktop, gpu=replace(CARD, driver=None, cuda="12.9"))
        assert only(tensorrt.old_driver, machine).detail.startswith("for CUDA 12.9; ")
        assert not list(tensorrt.old_driver(replace(machine, gpu=replace(CARD, driver=None))))

    def test_rtx(self, desktop):
        machine = without(
            desktop, "tensorrt", versions={"tensorrt-rtx-cu13-bindings": "1.7.1.116"},
            gpu=replace(CARD, driver="570.1", cuda="12.8"),
        )  # fmt: skip
        assert "TensorRT for RTX 1.7.1.116 for CUDA 13" in only(tensorrt.old_driver, machine).detail

    def test_tensorrt_10_and_jetsons(self, desktop, jetson):
        old = replace(CARD, driver="530.30.02", cuda="12.1")
        machine = replace(desktop, versions={"tensorrt": "10.16.1.11"}, gpu=old)
        assert not list(tensorrt.old_driver(machine))
        assert not list(tensorrt.old_driver(jetson))


class TestEngines:
    @pytest.fixture
    def plan(self, desktop):
        def make(name="net.engine", *, gpu=CARD, version=(11, 4, 0, 106), change=None):
            header = b"ftrt" + bytes(20) + bytes(version)
            path = desktop.engines / name
            publish(
                header.ljust(4096, b"\1"),
                path,
                kind=Kind.ENGINE,
                spec=ModelSpec(),
                precision=Precision.INT8,
                source="ab" * 32,
                details={
                    "runtime": "tensorrt",
                    "version": ".".join(map(str, version)),
                    "target": "orin-nx",
                    "gpu": gpu.name,
                    "compute_capability": gpu.compute_capability,
                    "sm_count": gpu.sm_count,
                    "size": [180, 320],
                },
            )
            if change:
                path.write_bytes(change(path.read_bytes()))
            return path

        return make

    def test_of_this_machine(self, desktop, plan):
        plan()
        assert not list(tensorrt.stale_engines(desktop))

    def test_of_another_gpu(self, desktop, plan):
        path = plan(gpu=ORIN)
        found = only(tensorrt.stale_engines, desktop)
        assert found.name == str(path)
        assert "built on Orin" in found.detail
        assert "hasn-edge build" not in found.detail
        command = "hasn-edge build --precision int8 --target tensorrt --size 320x180"
        assert found.cure == f"{command} -o {path.parent}"

    def test_of_another_tensorrt(self, desktop, plan):
        plan(version=(10, 3, 0, 26))
        assert "10.3.0.26" in only(tensorrt.stale_engines, desktop).detail

    @pytest.mark.parametrize("change", [lambda b: b[:100], lambda b: b + b"\0", lambda b: b"PK\3\4" + b[4:]])
    def test_broken(self, desktop, plan, change):
        plan(change=change)
        assert only(tensorrt.stale_engines, desktop).cure

    def test_without_a_gpu_nothing_is_said(self, desktop, plan):
        plan(gpu=ORIN)
        assert not list(tensorrt.stale_engines(replace(desktop, gpu=None)))


class TestCudaFromPython:
    def test_none(self, desktop):
        found = only(packages.cuda_backend, without(desktop, "cuda", "torch", versions={}))
        assert found.state is State.MISSING
        assert found.cure == "pip install 'cuda-python>=13,<14'"

    def test_a_torch_without_cuda_is_none(self, desktop):
        (desktop.modules["torch"] / "version.py").write_text("cuda: Optional[str] = None\n")
        found = only(packages.cuda_backend, without(desktop, "cuda", versions={}))
        assert "engines cannot run" in found.detail

    def test_only_pycuda(self, desktop):
        machine = without(desktop, "cuda", "torch", modules={"pycuda": SITE / "pycuda"}, versions={})
        found = only(packages.cuda_backend, machine)
        assert found.state is State.INFO
        assert "no CUDA graphs" in found.detail

    def test_bindings_newer_than_the_driver(self, desktop):
        machine = replace(desktop, gpu=replace(CARD, cuda="12.8"))
        found = only(packages.cuda_backend, machine)
        assert found.cure == "pip install 'cuda-python>=12,<13'"

    def test_no_gpu_needs_none(self, desktop):
        assert not list(packages.cuda_backend(without(desktop, "cuda", "torch", gpu=None)))


def test_torch_without_cuda(desktop):
    assert not list(packages.torch_without_cuda(desktop))
    (desktop.modules["torch"] / "version.py").write_text("__version__ = '2.13.0+cpu'\ncuda = None\n")
    assert "run on the CPU" in only(packages.torch_without_cuda, desktop).detail
    assert not list(packages.torch_without_cuda(replace(desktop, gpu=None)))
    assert not list(packages.torch_without_cuda(without(desktop, "torch")))


class TestOpenCV:
    def test_pips_hides_the_systems(self, jetson):
        machine = without(jetson, modules={"cv2": SITE / "cv2"}, opencv_build="  GStreamer:   NO\n")
        found = only(packages.opencv, machine)
        assert "hides the system's" in found.detail
        assert found.cure.startswith("pip uninstall -y")

    def test_what_root_installed_by_pip_hides_the_systems_too(self, jetson):
        place = jetson.root / "usr/local/lib/python3.10/dist-packages/cv2"
        found = only(packages.opencv, without(jetson, modules={"cv2": place}, opencv_build="GStreamer: NO\n"))
        assert f"hides the system's in {jetson.root / 'usr/lib/python3.10/dist-packages/cv2'}" in found.detail
        assert "opencv-contrib-python" in found.cure

    @pytest.mark.parametrize(
        ("line", "library", "what"),
        [
            ("    FFMPEG:                      NO\n", "FFmpeg", "no streams and no video files"),
            ("    v4l/v4l2:                    NO\n", "V4L2", "no cameras"),
        ],
    )
    def test_without_what_the_demo_captures_by(self, desktop, jetson, line, library, what):
        found = only(packages.opencv_backends, replace(desktop, opencv_build=line))
        assert found.name == f"opencv without {library}"
        assert what in found.detail
        assert found.cure == "pip install --force-reinstall opencv-python-headless"
        assert "hides JetPack's" in only(packages.opencv_backends, replace(jetson, opencv_build=line)).cure
        whole = line.replace("NO", "YES (linux/videodev2.h)")
        assert not list(packages.opencv_backends(replace(desktop, opencv_build=whole)))

    def test_a_jetson_with_pips_only(self, jetson):
        (jetson.root / "usr/lib/python3.10/dist-packages/cv2").rmdir()
        machine = without(jetson, modules={"cv2": SITE / "cv2"}, opencv_build="  GStreamer:   NO\n")
        found = only(packages.opencv, machine)
        assert "no CSI cameras" in found.detail
        assert "apt install python3-opencv" in found.cure

    def test_broken(self, desktop):
        said = "error: ImportError: libGL.so.1: cannot open shared object file"
        found = only(packages.opencv, replace(desktop, opencv_build=said))
        assert found.state is State.MISSING
        assert "libGL.so.1" in found.detail
        assert "opencv-python-headless" in found.cure

    def test_desktops_need_no_gstreamer(self, desktop):
        assert not list(packages.opencv(desktop))
        assert not list(packages.opencv(replace(desktop, opencv_build=None)))


class TestBoard:
    def test_no_gpu_answers(self, desktop, jetson):
        found = only(board.no_gpu_in_container, replace(desktop, gpu=None))
        assert "--gpus all" in found.cure
        found = only(board.no_gpu_in_container, replace(jetson, gpu=None, driver=False))
        assert "--runtime nvidia" in found.cure
        assert not list(board.no_gpu_in_container(replace(desktop, gpu=None, driver=False)))

    def test_power_mode(self, jetson):
        slow = replace(jetson, jetson={**jetson.jetson, "power_mode": "15W"})
        found = only(board.power_mode, slow)
        assert found.detail == "15W; the fastest is MAXN_SUPER"
        assert found.cure == "sudo nvpmodel -m 2; sudo jetson_clocks"

    def test_power_modes_without_maxn(self, xavier_nx):
        values = Jetson(xavier_nx).facts().values
        machine = Machine(root=xavier_nx, jetson={**values, "power_mode": "MODE_15W_2CORE"})
        assert "nvpmodel -m 8" in only(board.power_mode, machine).cure
        for fine in ("MODE_20W_6CORE", "MODE_20W_2CORE", None):
            assert not list(board.power_mode(replace(machine, jetson={**values, "power_mode": fine})))

    def test_clocks(self, jetson, agx_orin):
        values = {"clocks_locked": False, "gpu_min_hz": 306_000_000, "gpu_max_hz": 1_020_000_000}
        found = only(board.clocks, replace(jetson, jetson={**jetson.jetson, **values}))
        assert "between 306 and 1020 MHz" in found.detail
        assert "jetson_clocks" in found.cure
        assert not list(board.clocks(Machine(root=agx_orin, jetson=Jetson(agx_orin).facts().values)))
        unknown = {**jetson.jetson, "clocks_locked": None}
        assert not list(board.clocks(replace(jetson, jetson=unknown)))

    def test_swap(self, jetson, desktop):
        found = only(board.swap, replace(jetson, swaps=(("/dev/zram0", 2 << 30), ("/dev/zram1", 1 << 30))))
        assert "only zram (3.0 GiB)" in found.detail
        assert "nvzramconfig" in found.cure
        found = only(board.swap, replace(jetson, swaps=()))
        assert found.detail.startswith("no swap at all, on 7.4 GiB")
        assert "nvzramconfig" not in found.cure
        assert not list(board.swap(replace(jetson, swaps=(), memory_bytes=16 << 30)))
        assert not list(board.swap(replace(desktop, memory_bytes=4 << 30)))
