"""Problems of TensorRT: a machine that has each, and machines that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hasn_edge.artifact import publish
from hasn_edge.doctor.checks import run_checks, tensorrt
from hasn_edge.doctor.environment import MissingLibrary
from hasn_edge.doctor.result import State
from hasn_edge.files import shipped_path
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.environments import CARD, ORIN, SITE, THOR, cures, only, without
from tests.support.samples import details_of


class TestVisible:
    def test_an_environment_without_the_systems_packages(self, jetson):
        found = only(tensorrt.not_visible, without(jetson, "tensorrt", virtual_environment=True))
        assert found.state is State.MISSING
        assert "usr/lib/python3.10/dist-packages/tensorrt, where this Python does not look" in found.detail
        assert "/usr/bin/python3.10 -m venv --clear --system-site-packages .venv" in cures(found)

    def test_another_python_than_jetpacks(self, jetson):
        found = only(tensorrt.not_visible, without(jetson, "tensorrt", python=(3, 12)))
        assert found.detail == "JetPack's is for Python 3.10; this is Python 3.12"
        assert "/usr/bin/python3.10 -m venv --clear --system-site-packages" in cures(found)

    def test_jetpack_5(self, jetson):
        (jetson.root / "usr/lib/python3.10").rename(jetson.root / "usr/lib/python3.8")
        found = only(tensorrt.not_visible, without(jetson, "tensorrt"))
        assert "for Python 3.8, and hasn-edge needs 3.10 or newer" in found.detail
        assert (
            f"{tensorrt.TRTEXEC} --onnx=FILE --fp16 --saveEngine=FILE (and --int8 for INT8)" in found.detail
        )
        assert cures(found) == (
            f"build TensorRT's Python module for 3.10 from its sources ({tensorrt.SOURCES}), or run: "
            "hasn-edge build --target portable"
        )
        written = " ".join(shipped_path("engines", "README.md").read_text(encoding="utf-8").split())
        for way in (tensorrt.SOURCES, tensorrt.TRTEXEC, "hasn-edge build --precision int8 --target portable"):
            assert way in written, "README and doctor give the same ways"

    def test_shared_folder(self, jetson):
        (jetson.root / "usr/lib/python3.10").rename(jetson.root / "usr/lib/python3")
        assert "does not look" in only(tensorrt.not_visible, without(jetson, "tensorrt")).detail

    def test_not_installed(self, jetson):
        (jetson.root / "usr/lib/python3.10/dist-packages/tensorrt").rmdir()
        found = only(tensorrt.not_visible, without(jetson, "tensorrt"))
        assert cures(found) == "sudo apt install python3-libnvinfer"

    def test_a_desktop_may_do_without(self, desktop):
        assert not list(tensorrt.not_visible(without(desktop, "tensorrt")))


class TestShadowed:
    def test_pips_hides_jetpacks(self, jetson):
        environment = without(jetson, modules={"tensorrt": SITE / "tensorrt"})
        found = only(tensorrt.shadowed, environment)
        assert "hides JetPack's" in found.detail
        assert "pip uninstall -y" in cures(found)

    def test_pips_alone(self, jetson):
        (jetson.root / "usr/lib/python3.10/dist-packages/tensorrt").rmdir()
        environment = without(jetson, modules={"tensorrt": SITE / "tensorrt"})
        assert "is built for servers; Jetson Linux 36.4.3" in only(tensorrt.shadowed, environment).detail
        newer = replace(environment, jetson={**environment.jetson, "l4t": "39.1.0"})
        assert not list(tensorrt.shadowed(newer)), "from JetPack 7.2 on the servers' builds run"

    def test_desktops_take_it_from_pip(self, desktop):
        assert not list(tensorrt.shadowed(desktop))


@pytest.mark.parametrize(
    ("lack", "kind", "cure"),
    [
        (MissingLibrary("libnvdla_compiler.so", "libnvinfer.so.10"), "jetson", "nvidia-l4t-dla-compiler"),
        (MissingLibrary("libcudnn.so.8", "libnvinfer.so.8"), "jetson", "nvidia-jetpack"),
        (MissingLibrary("libcuda.so.1", "libnvinfer.so.11"), "desktop", "--gpus all"),
        (MissingLibrary("libnvinfer.so.11", "tensorrt.so"), "desktop", "--force-reinstall"),
    ],
)
def test_missing_libraries(request, lack, kind, cure):
    environment = replace(request.getfixturevalue(kind), missing_libraries=(lack,))
    found = only(tensorrt.missing_libraries, environment)
    assert found.state is State.MISSING
    assert f"{lack.name} (for {lack.needed_by})" in found.detail
    assert cure in cures(found)


def test_a_damaged_tensorrt_is_replaced_by_one_for_the_same_cuda(desktop):
    lack = (MissingLibrary("libnvinfer.so.11", "tensorrt.so"),)
    old = replace(CARD, driver="570.1", cuda="12.8")
    for gpu, versions, package in (
        (CARD, {"tensorrt-cu13-bindings": "11.4.0"}, "tensorrt-cu13"),
        (CARD, {"tensorrt-cu12-bindings": "11.4.0"}, "tensorrt-cu12"),
        (CARD, {}, "tensorrt"),
        (old, {}, "tensorrt-cu12"),
    ):
        environment = replace(desktop, gpu=gpu, versions=versions, missing_libraries=lack)
        found = only(tensorrt.missing_libraries, environment)
        assert cures(found) == f"pip install --force-reinstall {package}"


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
    environment = request.getfixturevalue(kind)
    environment = replace(environment, versions={**environment.versions, "tensorrt": version, "numpy": numpy})
    if said is None:
        assert not list(tensorrt.bad_version(environment))
    else:
        found = only(tensorrt.bad_version, environment)
        assert said in found.detail
        assert found.state is state
        assert version in found.name


def test_thor_has_two_known_ones(jetson):
    environment = replace(jetson, gpu=THOR, versions={**jetson.versions, "tensorrt": "10.13.3.9"})
    wrong, fused = tensorrt.bad_version(environment)
    assert "ultralytics/issues/22873" in wrong.detail
    assert "TensorRT-Edge-LLM/issues/151" in fused.detail
    assert "image whose result is known" in cures(fused)


def test_a_version_that_is_not_for_the_board(jetson):
    environment = replace(jetson, versions={**jetson.versions, "tensorrt": "11.4.1"})
    found = only(tensorrt.not_for_this_board, environment)
    assert "Orin Nano" in found.detail
    assert not list(tensorrt.not_for_this_board(jetson))
    assert not list(tensorrt.not_for_this_board(replace(environment, jetson=None, gpu=None)))


def test_tensorrt_11_on_a_gpu_before_turing(desktop):
    volta = replace(CARD, name="NVIDIA TITAN V", compute_capability="7.0", sm_count=80)
    found = only(tensorrt.too_old_gpu, replace(desktop, gpu=volta))
    assert found.detail == (
        "runs on GPUs of compute capability 7.5 and newer; here is NVIDIA TITAN V (80 SM, compute capability "
        "7.0)"
    )
    assert cures(found).endswith("tensorrt-cu12-libs; pip install 'tensorrt-cu12<10.5'")
    assert found in run_checks(replace(desktop, gpu=volta))
    assert not list(tensorrt.too_old_gpu(replace(desktop, gpu=replace(volta, compute_capability="7.5"))))
    assert not list(tensorrt.too_old_gpu(replace(desktop, gpu=replace(volta, compute_capability="12.0"))))
    old = replace(desktop, gpu=volta, versions={**desktop.versions, "tensorrt": "10.4.0"})
    assert not list(tensorrt.too_old_gpu(old))
    assert only(tensorrt.too_old_gpu, replace(old, versions={**old.versions, "tensorrt": "10.5.0"}))
    pascal = replace(volta, name="NVIDIA TITAN Xp", compute_capability="6.1")
    for machine in (replace(old, gpu=pascal), replace(desktop, gpu=pascal)):
        assert cures(only(tensorrt.too_old_gpu, machine)).endswith("pip install 'tensorrt==8.6.1'")
    xavier = replace(volta, name="Xavier", compute_capability="7.2")
    board = replace(desktop, gpu=xavier, jetson={"model": "Jetson-AGX Xavier", "l4t": "35.6.0"})
    assert "python3-libnvinfer" in cures(only(tensorrt.too_old_gpu, board))


@pytest.mark.parametrize("module", ["tensorrt_lean", "tensorrt_dispatch"])
def test_lean_runtime_without_a_driver(desktop, module):
    lean = without(desktop, modules={module: SITE / module})
    assert not list(tensorrt.lean_without_driver(lean))
    found = only(tensorrt.lean_without_driver, replace(lean, driver=False, gpu=None))
    assert "crashes Python" in found.detail


class TestDriver:
    def test_too_old_for_cuda_13(self, desktop):
        environment = replace(desktop, gpu=replace(CARD, driver="575.57.08", cuda="12.9"))
        found = only(tensorrt.old_driver, environment)
        assert "575.57.08, for CUDA 12.9; TensorRT 11.4.0.106 needs driver 580 or newer" in found.detail
        # 'tensorrt<11' would be 10.16 for CUDA 13, and two sets of the same files end in neither.
        assert cures(found) == (
            "install driver 580 or newer, or pip uninstall -y tensorrt tensorrt-cu13 tensorrt-cu13-bindings "
            "tensorrt-cu13-libs tensorrt-cu12 tensorrt-cu12-bindings tensorrt-cu12-libs; "
            "pip install 'hasn-edge[tensorrt-cu12]'"
        )

    def test_pips_tensorrt_10_is_for_cuda_13_from_10_13_2_on(self, desktop):
        versions = {"tensorrt": "10.16.1.11", "tensorrt-cu13-bindings": "10.16.1.11"}
        environment = replace(desktop, versions=versions, gpu=replace(CARD, driver="570.1", cuda="12.8"))
        assert "TensorRT 10.16.1.11 needs driver 580" in only(tensorrt.old_driver, environment).detail
        for cuda, driver, least in (("12.0", "525.60", None), ("11.8", "520.61", "525")):
            versions = {"tensorrt": "10.12.0.36", "tensorrt-cu12-bindings": "10.12.0.36"}
            environment = replace(desktop, versions=versions, gpu=replace(CARD, driver=driver, cuda=cuda))
            found = list(tensorrt.old_driver(environment))
            assert [cures(one) for one in found] == ([f"install driver {least} or newer"] if least else [])

    def test_cuda_12_packages_need_less(self, desktop):
        versions = {"tensorrt": "11.4.0.106", "tensorrt-cu12-bindings": "11.4.0.106"}
        environment = replace(desktop, versions=versions, gpu=replace(CARD, driver="535.54.03", cuda="12.2"))
        assert not list(tensorrt.old_driver(environment))
        environment = replace(environment, gpu=replace(CARD, driver="530.30.02", cuda="12.1"))
        found = only(tensorrt.old_driver, environment)
        assert "needs driver 535" in found.detail
        assert cures(found).endswith("pip install 'tensorrt-cu12<11'")

    def test_where_the_system_does_not_say_the_driver(self, desktop):
        environment = replace(desktop, gpu=replace(CARD, driver=None, cuda="12.9"))
        assert only(tensorrt.old_driver, environment).detail.startswith("for CUDA 12.9; ")
        assert not list(tensorrt.old_driver(replace(environment, gpu=replace(CARD, driver=None))))

    def test_rtx(self, desktop):
        environment = without(
            desktop, "tensorrt", versions={"tensorrt-rtx-cu13-bindings": "1.7.1.116"},
            gpu=replace(CARD, driver="570.1", cuda="12.8"),
        )  # fmt: skip
        found = only(tensorrt.old_driver, environment)
        assert "TensorRT for RTX 1.7.1.116 for CUDA 13" in found.detail
        assert cures(found).endswith("tensorrt-rtx-cu12-libs; pip install 'hasn-edge[rtx-cu12]'")

    def test_tensorrt_10_and_jetsons(self, desktop, jetson):
        old = replace(CARD, driver="530.30.02", cuda="12.1")
        environment = replace(desktop, versions={"tensorrt": "10.16.1.11"}, gpu=old)
        assert not list(tensorrt.old_driver(environment))
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
                spec=ModelSpec(),
                precision=Precision.INT8,
                source="ab" * 32,
                details=details_of(
                    Kind.ENGINE,
                    version=".".join(map(str, version)),
                    target="orin-nx",
                    gpu=gpu.name,
                    compute_capability=gpu.compute_capability,
                    sm_count=gpu.sm_count,
                    size=[180, 320],
                ),
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
        assert found.name == path.name
        assert found.detail.startswith(f"{path}: this engine cannot run here: it was built on Orin")
        assert "hasn-edge build" not in found.detail
        command = "hasn-edge build --precision int8 --target tensorrt --size 320x180"
        assert cures(found) == f"run: {command} --output {path.parent}"

    def test_of_another_tensorrt(self, desktop, plan):
        plan(version=(10, 3, 0, 26))
        assert "10.3.0.26" in only(tensorrt.stale_engines, desktop).detail

    @pytest.mark.parametrize("change", [lambda b: b[:100], lambda b: b + b"\0", lambda b: b"PK\3\4" + b[4:]])
    def test_broken(self, desktop, plan, change):
        plan(change=change)
        assert cures(only(tensorrt.stale_engines, desktop))

    def test_without_a_gpu_nothing_is_said(self, desktop, plan):
        plan(gpu=ORIN)
        assert not list(tensorrt.stale_engines(replace(desktop, gpu=None)))
