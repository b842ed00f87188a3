"""What this machine is, and what the verbs can do on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from hasn_edge.doctor.checks import run_checks
from hasn_edge.doctor.commands import apt_install, make_virtual_environment, pip_install
from hasn_edge.doctor.environment import Environment
from hasn_edge.doctor.match import match_profile
from hasn_edge.doctor.result import CheckResult, State
from hasn_edge.engine.target import rtx_target_for
from hasn_edge.errors import CheckpointError, Cure, call, say, shell, use
from hasn_edge.hardware.gpu import cuda_python_install, tensorrt_extra
from hasn_edge.hardware.host import has_integer_dot_product
from hasn_edge.hardware.jetson import jetpack_of
from hasn_edge.model import zoo

PAPER_SET5_DB = 32.17
"""PSNR-Y that the paper reports for its x4 network on Set5 without self-ensemble (Table 9)."""

RTX, RTX_MODULES = "TensorRT for RTX", ("tensorrt_rtx", "tensorrt_rtx_bindings")

_GPU = "an NVIDIA GPU with its driver"

USUAL_ENCODERS = (
    *("libx264", "libx265", "libsvtav1", "libvpx-vp9", "libopenh264", "mpeg4"),
    *("h264_nvenc", "hevc_nvenc", "av1_nvenc"),
)
"""Encoders of videos whose quality can be set, those first that are taken first."""

_CAPTURES = {
    "FFmpeg": r"FFMPEG:\s*YES",
    "V4L2": r"v4l/v4l2:\s*YES",
    "GStreamer": r"GStreamer:\s*YES",
}
"""Libraries through which OpenCV captures, and how its build report has them."""


class Ability(NamedTuple):
    """Whether something that the verbs do can be done here."""

    what: str
    can: bool
    needs: str
    """What is missing, where something is: packages by the command that installs them."""


def describe_environment(environment: Environment) -> tuple[CheckResult, ...]:
    """Return what is here: CPU, packages, video, GPU and bundled models. It need not be right or wrong."""
    found = (_cpu(environment), _packages(environment), _video(environment), _gpu(environment), _models())
    return tuple(result for results in found for result in results)


def next_step(environment: Environment) -> Cure | None:
    """Return what to do next on a machine with a GPU or a Jetson, nearly always a command to type.

    First come the problems, in the order in which they are repaired; then the packages that run and build
    engines; then the build. What is missing stops the rest, so that there plain words count too.

    Returns:
        ``None`` where nothing helps, and on a machine without a GPU on which nothing is wrong.
    """
    results = list(run_checks(environment))
    if environment.gpu is not None or environment.jetson is not None:
        results += [result for result in _packages(environment) if result.name != RTX]
    steps = (
        cure
        for result in results
        if result.wrong
        for cure in result.cures
        if result.state is State.MISSING or cure.action in ("shell", "call")
    )
    first = next(steps, None)
    if first is not None or environment.gpu is None:
        return first
    if {"tensorrt", *RTX_MODULES}.isdisjoint(environment.modules):
        return shell(pip_install(environment, "tensorrt")) if environment.jetson is None else None
    if "tensorrt" not in environment.modules:
        target = rtx_target_for(environment.gpu)
        return call("build", target=target) if target else shell(pip_install(environment, "tensorrt"))
    found = match_profile(environment)
    if environment.missing_libraries:
        return None
    return call("build", target=found.target if found is not None and found.exact else "tensorrt")


def list_abilities(environment: Environment) -> tuple[Ability, ...]:
    """Return what the verbs can do here, and what is missing where they cannot."""
    here = set(environment.modules)
    torch, ort, safetensors = "torch" in here, "onnxruntime" in here, "safetensors" in here
    export = torch and ort and safetensors and "onnx" in here
    rtx = not here.isdisjoint(RTX_MODULES)
    trt = "tensorrt" in here and not environment.missing_libraries
    gpu = environment.gpu is not None
    exporting = pip_install(environment, "export")
    engines = _needs({_GPU: gpu, "TensorRT": trt, exporting: export})
    run = _needs(
        {
            _GPU: gpu,
            "TensorRT": trt or rtx,
            cuda_python_install(environment.gpu): environment.cuda is not None,
        }
    )
    rtx_extras = f"pip install 'hasn-edge[export,{tensorrt_extra('rtx', environment.gpu)}]'"
    abilities = (
        ("run .onnx files and the bundled model on the CPU", "" if ort else "pip install onnxruntime"),
        ("run checkpoints and .ts files with PyTorch", "" if torch and safetensors else exporting),
        ("export ONNX and files of PyTorch", "" if export else exporting),
        ("build FP16 and INT8 graphs for the CPU or another device", "" if export else exporting),
        *(  # TensorRT for RTX is for desktop GPUs
            [("build TensorRT for RTX engines (no GPU needed)", "" if export and rtx else rtx_extras)]
            if environment.jetson is None
            else []
        ),
        ("build TensorRT engines for the GPU here", engines),
        ("run engines", run),
        ("upscale videos", "" if "av" in here else pip_install(environment, "video")),
        *_showing(environment),
        ("train", "" if torch and safetensors else pip_install(environment, "train")),
    )
    return tuple(Ability(what, not needs, needs) for what, needs in abilities)


def _showing(environment: Environment) -> Iterator[tuple[str, str]]:
    """Yield what the demo can do: where it is shown, and what it shows."""
    build = environment.opencv_build
    has = {name: bool(re.search(line, build or "")) for name, line in _CAPTURES.items()}
    opencv = {_opencv(environment): "cv2" in environment.modules}
    page = {pip_install(environment, "demo"): "websockets" in environment.modules}
    windows = {
        "an OpenCV that has windows": build is None or not re.search(r"GUI:\s*NONE", build),
        "a display": environment.display,
    }
    jetson = environment.jetson is not None
    cameras = {"a camera in /dev/video*": bool(environment.cameras) or jetson}
    streams = {} if build is None else {"an OpenCV that has FFmpeg": has["FFmpeg"]}
    yield "show video live in the browser", _needs({**opencv, **page})
    yield "show video live in a window", _needs({**opencv, **windows})
    yield "show cameras", _needs({**opencv, **cameras})
    yield "show network streams and video files", _needs({**opencv, **streams})


def _video(environment: Environment) -> Iterator[CheckResult]:
    """Yield what reads, writes and shows video: packages, encoders, libraries that capture, cameras."""
    yield _package(environment, "av", ("av",), "reads and writes videos", pip_install(environment, "video"))
    here = [name for name in USUAL_ENCODERS if name in environment.encoders]
    if here:
        nvenc = "; those of NVENC start where the GPU has it" if any("nvenc" in name for name in here) else ""
        yield CheckResult(name="video encoders", state=State.INFO, detail=", ".join(here) + nvenc)
    demo = pip_install(environment, "demo")
    yield _package(environment, "websockets", ("websockets",), "serves the demo's page", demo)
    if environment.opencv_build is not None:
        ways = [name for name, line in _CAPTURES.items() if re.search(line, environment.opencv_build)]
        detail = f"OpenCV captures through {', '.join(ways) or 'nothing that is known here'}"
        yield CheckResult(name="capture", state=State.INFO, detail=detail)
    csi = ", and csi:0 if one is connected" if environment.jetson is not None else ""
    detail = (", ".join(environment.cameras) or "no /dev/video*") + csi
    yield CheckResult(name="cameras", state=State.INFO, detail=detail)


def _opencv(environment: Environment) -> str:
    """Return the command that gives this Python an OpenCV: on a Jetson the system's, which has GStreamer."""
    if environment.jetson is None:
        return "pip install opencv-python-headless"
    if environment.python in environment.system_packages("cv2"):
        return make_virtual_environment(environment, environment.python)
    return apt_install(environment, "python3-opencv")


def _needs(conditions: Mapping[str, bool]) -> str:
    """Name those of several things that are missing."""
    return ", ".join(name for name, here in conditions.items() if not here)


def _cpu(environment: Environment) -> Iterator[CheckResult]:
    units = ", ".join(environment.vector_units) or "no vector unit known to matter"
    integer = has_integer_dot_product(environment.vector_units)
    yield CheckResult(
        name="CPU",
        state=State.INFO,
        detail=f"{environment.cpu}, {environment.cores} core{'s' * (environment.cores > 1)}, {units}",
    )
    yield CheckResult(
        name="INT8 on this CPU",
        state=State.INFO if integer else State.WARNING,
        detail="has integer dot products: INT8 may be faster than FP32; measure it"
        if integer
        else "no integer dot product (VNNI, AMX, i8mm): expect INT8 to be slower than FP32 here",
        cures=()
        if integer
        else (say("build INT8 here for the device that it is meant for; bench shows what it costs"),),
    )
    memory = environment.memory_bytes
    yield CheckResult(
        name="memory",
        state=State.INFO,
        detail=f"{memory / 2**30:.1f} GiB" if memory else "unknown",
    )
    where = ", in a virtual environment" if environment.virtual_environment else ""
    yield CheckResult(name="python", state=State.OK, detail=".".join(map(str, environment.python)) + where)


def _packages(environment: Environment) -> Iterator[CheckResult]:
    opencv = next((name for name in environment.versions if name.startswith("opencv")), "opencv")
    exporting = pip_install(environment, "export")
    for name, module, purpose, cure in (
        ("onnxruntime", "onnxruntime", "runs .onnx files", "pip install onnxruntime"),
        (opencv, "cv2", "reads and writes images", _opencv(environment)),
        ("pillow", "PIL", "reads images", "pip install pillow"),
        ("torch", "torch", "loads checkpoints, trains, exports", exporting),
        ("onnx", "onnx", "writes graphs", exporting),
        ("safetensors", "safetensors", "reads weights", exporting),
    ):
        yield _package(environment, name, (module,), purpose, cure)
    # pip has it for these only; graphs are exported without it too, so that a board may lack it.
    if "onnxsim" in environment.modules or (environment.python >= (3, 11) and environment.jetson is None):
        yield _package(environment, "onnxsim", ("onnxsim",), "simplifies graphs", exporting)
    if environment.jetson is None:  # TensorRT for RTX is for desktop GPUs, OpenVINO for other CPUs
        install = pip_install(environment, "openvino")
        openvino = _package(environment, "openvino", ("openvino",), "runs .onnx files on a CPU", install)
        # ONNX Runtime does the same: nothing fails without it.
        yield replace(openvino, state=State.INFO) if openvino.state is State.MISSING else openvino
        yield _package(
            environment, RTX, RTX_MODULES, "builds engines without a GPU", pip_install(environment, "rtx")
        )
    if "tensorrt" in environment.modules:
        yield CheckResult(
            name="tensorrt",
            state=State.MISSING if environment.missing_libraries else State.OK,
            detail=f"{environment.tensorrt or 'installed'} in {environment.modules['tensorrt']}",
            cures=(say("see the libraries that it lacks, below"),) if environment.missing_libraries else (),
        )
    if environment.cuda is not None:
        yield CheckResult(name="CUDA from Python", state=State.OK, detail=f"{environment.cuda} starts")


def _gpu(environment: Environment) -> Iterator[CheckResult]:
    gpu = environment.gpu
    if gpu is None:
        yield CheckResult(
            name="NVIDIA driver",
            state=State.INFO,
            detail="no GPU that answers: engines for TensorRT for RTX can be built here, none can be run",
        )
    else:
        driver = f"driver {gpu.driver}, " if gpu.driver else ""
        yield CheckResult(name="NVIDIA driver", state=State.OK, detail=f"{driver}CUDA {gpu.cuda}")
        yield CheckResult(
            name="GPU",
            state=State.OK,
            detail=f"{gpu.title}, {gpu.total_memory_bytes / 2**30:.1f} GiB"
            + (" shared with the CPU" if gpu.integrated else ""),
        )
    if environment.jetson is not None:
        yield CheckResult(name="Jetson", state=State.OK, detail=_jetson(environment.jetson))
    found = match_profile(environment)
    if found is not None:
        title = found.profile.title.removeprefix("NVIDIA ")
        detail = f"this is a {title}"
        if not found.exact:
            memory = (environment.memory_bytes or 0) / 2**30
            detail = (
                f"the nearest is {title}, and this one has {memory:.1f} GiB of memory, so that its "
                "multiprocessors or clocks may be others too: a build for that target is right for it, an "
                "estimate is of the other"
            )
        yield CheckResult(
            name="device profile",
            state=State.OK if found.exact else State.INFO,
            detail=detail,
            cures=(call("build", target=found.target),),
        )
        if found.profile.integrated:
            yield CheckResult(name="DLA", state=State.INFO, detail=f"not used: {found.profile.dla}")
    elif gpu is not None or environment.jetson is not None:
        yield CheckResult(
            name="device profile",
            state=State.INFO,
            detail="none for this device: it is built for and measured all the same, only not estimated",
        )


def _jetson(values: Mapping[str, Any]) -> str:
    parts = [str(values.get("model") or "unknown model")]
    if values.get("l4t"):
        parts.append(f"Jetson Linux {values['l4t']}")
    with suppress(LookupError):
        parts.append(f"JetPack {jetpack_of(values.get('l4t'))}")
    if values.get("power_mode"):
        parts.append(f"power mode {values['power_mode']}")
    return ", ".join(parts)


def _models() -> Iterator[CheckResult]:
    names = zoo.bundled_models()
    if not names:
        yield CheckResult(
            name="bundled models",
            state=State.MISSING,
            detail="none in this build",
            cures=(use(model="FILE.safetensors"),),
        )
    for name in names:
        label = name + (" (default)" if name == zoo.DEFAULT_MODEL else "")
        try:
            detail = describe_training(zoo.bundled_provenance(name))
        except CheckpointError as exc:
            yield CheckResult(name=label, state=State.MISSING, detail=exc.message, cures=exc.cures)
        else:
            yield CheckResult(name=label, state=State.OK, detail=detail)


def describe_training(provenance: dict[str, Any]) -> str:
    """State in one sentence what a model was trained on and what it reaches, at x4 next to the paper."""
    every = provenance.get("scores", {})
    scores = {name: every[name] for name in ("Set5", "Set14") if name in every} or every
    reached = ", ".join(f"{name} {values['psnr_y']:.2f} dB" for name, values in scores.items())
    data = provenance.get("data", {})
    images = data.get("images", data.get("pictures", "unknown"))  # "pictures": as version 0.1 wrote it
    iterations = provenance.get("iterations", "unknown")
    # The settings name what differs from the published network, which is x4.
    scale = provenance.get("settings", {}).get("model", {}).get("scale", 4)
    last = "in the last of several runs " if provenance.get("start") else ""
    return (
        f"trained by us, {last}on {images} images for {iterations} iterations; reaches "
        f"{reached or 'unmeasured quality'} (PSNR-Y)"
        + (f", the paper's x4 network {PAPER_SET5_DB} dB on Set5" if scale == 4 else "")
    )


def _package(
    environment: Environment, distribution: str, modules: tuple[str, ...], purpose: str, cure: str
) -> CheckResult:
    if not any(module in environment.modules for module in modules):
        detail = f"not installed; {purpose}"
        return CheckResult(name=distribution, state=State.MISSING, detail=detail, cures=(shell(cure),))
    version = environment.rtx if distribution == RTX else environment.versions.get(distribution)
    return CheckResult(name=distribution, state=State.OK, detail=f"{version or 'installed'}, {purpose}")
