"""What the doctor reports of this machine and of machines that are described."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.cli.cures import cure_text
from hasn_edge.doctor.describe import (
    RTX,
    USUAL_ENCODERS,
    Ability,
    describe_environment,
    describe_training,
    list_abilities,
    next_step,
)
from hasn_edge.doctor.environment import DISTRIBUTIONS, Environment, MissingLibrary, collect_environment
from hasn_edge.doctor.result import CheckResult, State
from hasn_edge.hardware.gpu import cuda_python_install
from hasn_edge.hardware.jetson import Jetson
from hasn_edge.model import zoo
from hasn_edge.video.formats import QUALITY_SCALES
from tests.support.environments import CARD, ORIN, cures

ROOT = Path(__file__).parents[2]
ALL = ("torch", "onnx", "onnxruntime", "safetensors", "tensorrt")


def with_modules(*names: str, **changes: Any) -> Environment:
    return Environment(modules={name: Path("/site") / name for name in names}, **changes)


def describe(environment: Environment) -> dict[str, CheckResult]:
    return {result.name: result for result in describe_environment(environment)}


def abilities(environment: Environment) -> dict[str, Ability]:
    return {ability.what: ability for ability in list_abilities(environment)}


@pytest.fixture
def orin(orin_nano) -> Environment:
    return with_modules(
        *ALL, root=orin_nano, python=(3, 10), driver=True, gpu=ORIN, memory_bytes=7_990_000_000,
        jetson=Jetson(orin_nano).facts().values, versions={"tensorrt": "10.3.0"}, engines=orin_nano,
        cuda="cuda-python",
    )  # fmt: skip


def test_everything_missing_has_a_cure():
    for environment in (collect_environment(), Environment()):
        for result in describe_environment(environment):
            assert result.detail
            if result.state is State.MISSING:
                assert result.cures


def test_a_missing_package_is_named_with_its_extra():
    bare = with_modules("onnxruntime")
    found = describe(bare)
    assert found["torch"].state is State.MISSING
    assert cures(found["torch"]) == "pip install 'hasn-edge[export]'"
    assert cures(found["TensorRT for RTX"]) == "pip install 'hasn-edge[rtx]'"
    can = abilities(bare)
    assert can["export ONNX and files of PyTorch"][1:] == (False, "pip install 'hasn-edge[export]'")
    assert can["run .onnx files and the bundled model on the CPU"].can


def test_on_jetpack_6_packages_are_those_that_fit(orin):
    bare = replace(orin, modules={})
    command = "pip install 'torch<2.11' safetensors onnx 'numpy<2'"
    needed = abilities(bare)["export ONNX and files of PyTorch"].needs
    assert cures(describe(bare)["torch"]) == needed == command
    listed = (ROOT / "constraints-jetpack6.txt").read_text().splitlines()
    wanted = {line for line in listed if line and not line.startswith("#")}
    cuda_python = cuda_python_install(ORIN).split("'")[1]
    assert wanted == {*re.findall("'([a-z]+<[0-9.]+)'", command), cuda_python}


def test_the_commands_for_jetpack_6_name_what_running_an_engine_needs():
    """All but OpenCV, which is JetPack's own; pip's would hide it."""
    needs = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)[1]
    named = set(re.findall(r'^  "([a-z0-9-]+)', needs, re.M)) - {"opencv-python-headless"}
    command = re.search(
        r"pip install \$C (.*?) && pip install --no-deps", (ROOT / "docs/jetson.md").read_text()
    )
    assert set(command[1].split()) == named


def test_slow_int8_is_announced():
    for units, state in ((("avx2",), State.WARNING), (("avx2", "avx512_vnni"), State.INFO)):
        found = describe(Environment(cpu="Any", cores=4, vector_units=units))
        assert found["INT8 on this CPU"].state is state
        assert found["CPU"].detail == f"Any, 4 cores, {', '.join(units)}"


def test_engines_are_not_promised_without_what_they_need(orin):
    assert abilities(orin)["run engines"][1:] == (True, "")
    assert abilities(orin)["build TensorRT engines for the GPU here"][1:] == (True, "")
    for lack, needs in (
        (replace(orin, gpu=None), "an NVIDIA GPU with its driver"),
        (with_modules(gpu=ORIN, cuda="torch"), "TensorRT"),
        (
            with_modules("tensorrt", gpu=ORIN),
            "pip uninstall -y cuda-bindings; pip install 'cuda-python>=12,<12.7'",
        ),
        (
            replace(orin, missing_libraries=(MissingLibrary("libnvdla_compiler.so", "libnvinfer.so"),)),
            "TensorRT",
        ),
    ):
        assert abilities(lack)["run engines"][1:] == (False, needs)
    _, can, needs = abilities(with_modules())["build TensorRT engines for the GPU here"]
    assert not can
    assert needs == "an NVIDIA GPU with its driver, TensorRT, pip install 'hasn-edge[export]'"
    for gpu, extra in ((None, "rtx"), (replace(CARD, cuda="12.8"), "rtx-cu12")):
        needed = abilities(with_modules(gpu=gpu))["build TensorRT for RTX engines (no GPU needed)"].needs
        assert needed == f"pip install 'hasn-edge[export,{extra}]'"


def test_a_jetson(orin):
    found = describe(orin)
    assert "JetPack 6.2" in found["Jetson"].detail
    assert "Jetson Linux 36.4.3" in found["Jetson"].detail
    assert found["device profile"].detail.startswith("this is a Jetson Orin Nano 8GB Super")
    assert cures(found["device profile"]) == "run: hasn-edge build --target orin-nano-super"
    assert found["DLA"].detail == "not used: none on this module"
    assert "7.4 GiB shared with the CPU" in found["GPU"].detail
    assert "TensorRT for RTX" not in found
    assert "onnxsim" not in found, "pip has none for this Python"
    assert "build TensorRT for RTX engines (no GPU needed)" not in abilities(orin)


def test_a_module_with_less_memory_is_not_taken_for_the_other(orin):
    small = replace(orin, memory_bytes=int(3.4 * 2**30))
    found = describe(small)["device profile"]
    assert found.detail == "this is a Jetson Orin Nano 4GB (10 W)"
    assert cures(found) == "run: hasn-edge build --target orin-nano-4gb"
    other = replace(orin, memory_bytes=int(15.2 * 2**30))
    found = describe(other)["device profile"]
    assert found.state is State.INFO
    assert found.detail.startswith(
        "the nearest is Jetson Orin Nano 8GB Super (MAXN SUPER), and this one has 15.2"
    )
    assert "this is a" not in found.detail


def test_the_next_step_of_a_desktop(desktop):
    """What it is on Jetsons is in test_advice.py."""
    more = {name: Path("/site") / name for name in ("PIL", "onnxsim")}
    whole = replace(desktop, modules={**desktop.modules, **more})
    rtx = {name: place for name, place in whole.modules.items() if name != "tensorrt"}
    build = {"tensorrt_rtx_bindings": Path("/site/tensorrt_rtx_bindings")}
    unknown = replace(whole.gpu, name="NVIDIA H200", compute_capability="9.0")
    for machine, command in (
        (whole, "run: hasn-edge build --target rtx-4090"),
        (replace(whole, gpu=unknown), "run: hasn-edge build --target tensorrt"),
        (replace(whole, modules={**rtx, **build}), "run: hasn-edge build --target rtx"),
        (replace(whole, modules={**rtx, **build}, gpu=unknown), "pip install 'hasn-edge[tensorrt]'"),
        (replace(whole, modules=rtx), "pip install 'hasn-edge[tensorrt]'"),
        (
            replace(whole, modules=rtx, gpu=replace(whole.gpu, driver="570.1", cuda="12.8"), versions={}),
            "pip install 'hasn-edge[tensorrt-cu12]'",
        ),
        (replace(whole, cuda=None), "pip install 'cuda-python>=13,<14'"),
        (desktop, "pip install pillow"),
    ):
        assert cure_text(next_step(machine)) == command
    assert next_step(replace(whole, gpu=None, driver=False)) is None, "nothing is wrong without a GPU"
    assert next_step(Environment()) is None


def test_a_device_without_a_profile():
    card = replace(ORIN, name="NVIDIA H200", compute_capability="9.0", integrated=False, l4t=None)
    assert describe(with_modules(gpu=card))["device profile"].state is State.INFO
    assert "device profile" not in describe(Environment())


def test_the_version_of_each_package_is_looked_up():
    lacks = [one.name for one in describe(Environment()).values() if one.detail.startswith("not installed")]
    assert len(lacks) == 11
    assert set(lacks) - {"opencv", RTX} <= set(DISTRIBUTIONS)


def test_bundled_models_say_their_describe_training():
    found = describe(Environment())[f"{zoo.DEFAULT_MODEL} (default)"]
    assert found.detail == describe_training(zoo.bundled_provenance(zoo.DEFAULT_MODEL))
    assert found.detail.startswith(
        "trained by us, in the last of several runs on 3308 images for 18388 iterations; reaches "
        "Set5 31.67 dB, Set14 28.35 dB ("
    )
    once = describe_training({"data": {"images": 63}, "iterations": 9, "start": None})
    assert once.startswith("trained by us, on 63 images for 9 iterations; reaches unmeasured quality")
    assert "the paper's x4 network 32.17 dB on Set5" in found.detail
    double = describe(Environment())["hasn-x2"].detail
    assert double.endswith("Set14 33.25 dB (PSNR-Y)"), "the paper's figure is of x4"


BUILD = "GUI:    {gui}\nVideo I/O:\n  FFMPEG:   {ffmpeg}\n  GStreamer:   NO\n  v4l/v4l2:   YES (linux)\n"


def test_what_video_and_the_demo_need():
    bare = with_modules("onnxruntime", "cv2", opencv_build=BUILD.format(gui="NONE", ffmpeg="NO"))
    found, can = describe(bare), abilities(bare)
    assert (found["av"].state, cures(found["av"])) == (State.MISSING, "pip install 'hasn-edge[video]'")
    assert cures(found["websockets"]) == "pip install 'hasn-edge[demo]'"
    assert found["capture"].detail == "OpenCV captures through V4L2"
    assert found["cameras"].detail == "no /dev/video*"
    assert "video encoders" not in found
    assert can["upscale videos"][1:] == (False, "pip install 'hasn-edge[video]'")
    assert can["show video live in the browser"][1:] == (False, "pip install 'hasn-edge[demo]'")
    assert can["show video live in a window"].needs == "an OpenCV that has windows, a display"
    assert can["show cameras"].needs == "a camera in /dev/video*"
    assert can["show network streams and video files"].needs == "an OpenCV that has FFmpeg"

    whole = with_modules(
        *("onnxruntime", "cv2", "av", "websockets"), opencv_build=BUILD.format(gui="QT5", ffmpeg="YES"),
        display=True, cameras=("/dev/video0", "/dev/video2"), encoders=("h264_nvenc", "libx264", "wmv2"),
    )  # fmt: skip
    found, can = describe(whole), abilities(whole)
    assert found["video encoders"].detail == "libx264, h264_nvenc; those of NVENC start where the GPU has it"
    assert found["capture"].detail == "OpenCV captures through FFmpeg, V4L2"
    assert found["cameras"].detail == "/dev/video0, /dev/video2"
    assert all(ability.can for what, ability in can.items() if "show" in what or "video" in what)


def test_encoders_that_are_named_are_those_whose_quality_can_be_set():
    assert set(USUAL_ENCODERS) - {"libopenh264"} <= set(QUALITY_SCALES)


def test_a_jetson_may_have_a_csi_camera(orin):
    assert describe(orin)["cameras"].detail == "no /dev/video*, and csi:0 if one is connected"
    assert abilities(replace(orin, modules={**orin.modules, "cv2": Path("/site/cv2")}))["show cameras"].can
