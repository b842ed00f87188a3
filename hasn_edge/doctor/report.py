"""What this machine can build and run, which known traps it is in, and the command that mends each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from hasn_edge.doctor.checks import find_traps
from hasn_edge.doctor.checks.packages import cuda_backends
from hasn_edge.doctor.environment import Machine, look
from hasn_edge.doctor.match import recognise
from hasn_edge.doctor.result import Finding, State
from hasn_edge.errors import CheckpointError
from hasn_edge.hardware import host
from hasn_edge.hardware.gpu import cuda_python_install
from hasn_edge.hardware.jetson import jetpack_of
from hasn_edge.model import zoo

__all__ = ("Finding", "Machine", "State", "can_do", "diagnose", "facts", "find_traps", "look")

PAPER_SET5_DB = 32.17
"""PSNR-Y that the paper reports for its x4 network on Set5 without self-ensemble (Table 9)."""

RTX, RTX_MODULES = "TensorRT for RTX", ("tensorrt_rtx", "tensorrt_rtx_bindings")

_EXPORT = "pip install 'hasn-edge[export]'"
_GPU = "an NVIDIA GPU with its driver"


def diagnose(machine: Machine | None = None) -> tuple[Finding, ...]:
    """Look at CPU, packages, GPU, engines and bundled models; change and import nothing heavy.

    Args:
        machine: What to look at; this machine where ``None``.
    """
    seen = look() if machine is None else machine
    return (*facts(seen), *find_traps(seen))


def facts(machine: Machine) -> tuple[Finding, ...]:
    """Return what is here: it need not be right or wrong."""
    return (*_processor(machine), *_packages(machine), *_gpu(machine), *_models())


def can_do(machine: Machine | None = None) -> tuple[tuple[str, bool, str], ...]:
    """Return what the verbs can do here: name, whether, and what is missing."""
    seen = look() if machine is None else machine
    here = set(seen.modules)
    torch, ort, safetensors = "torch" in here, "onnxruntime" in here, "safetensors" in here
    export = torch and ort and safetensors and "onnx" in here
    rtx = not here.isdisjoint(RTX_MODULES)
    trt = "tensorrt" in here and not seen.missing
    gpu = seen.gpu is not None
    cuda = bool(cuda_backends(seen))
    abilities = [
        ("run .onnx files and the bundled model on the CPU", ort, "pip install onnxruntime"),
        ("run checkpoints and .ts files with PyTorch", torch and safetensors, _EXPORT),
        ("export ONNX and TorchScript", export, _EXPORT),
        ("build FP16 and INT8 graphs for the CPU or another device", export, _EXPORT),
        (
            "build TensorRT for RTX engines (no GPU needed)",
            export and rtx,
            "pip install 'hasn-edge[export,rtx]'",
        ),
        (
            "build TensorRT engines for the GPU here",
            export and trt and gpu,
            _needs({_GPU: gpu, "TensorRT": trt, _EXPORT: export}),
        ),
        (
            "run engines",
            gpu and (trt or rtx) and cuda,
            _needs({_GPU: gpu, "TensorRT": trt or rtx, cuda_python_install(seen.gpu): cuda}),
        ),
        ("train", torch and safetensors, "pip install 'hasn-edge[train]'"),
    ]
    if seen.jetson is not None:  # TensorRT for RTX is for desktop GPUs
        del abilities[4]
    return tuple(abilities)


def _needs(conditions: Mapping[str, bool]) -> str:
    """Say which of several things is missing."""
    return ", ".join(name for name, here in conditions.items() if not here)


def _processor(machine: Machine) -> Iterator[Finding]:
    units = ", ".join(host.vector_units()) or "no vector unit known to matter"
    integer = host.has_integer_dot_product()
    yield Finding(
        name="CPU",
        state=State.INFO,
        detail=f"{host.cpu_name()}, {host.compute_cores()} cores, {units}",
    )
    yield Finding(
        name="INT8 on this CPU",
        state=State.INFO if integer else State.WARNING,
        detail="has integer dot products: INT8 may be faster than FP32; measure it"
        if integer
        else "no integer dot product (VNNI, AMX, i8mm): expect INT8 to be slower than FP32 here",
        cure="" if integer else "build INT8 here for the device it is meant for; bench says what it costs",
    )
    memory = machine.memory_bytes
    yield Finding(
        name="memory",
        state=State.INFO,
        detail=f"{memory / 2**30:.1f} GiB" if memory else "unknown",
    )
    where = ", in a virtual environment" if machine.virtual_environment else ""
    yield Finding(name="python", state=State.OK, detail=".".join(map(str, machine.python)) + where)


def _packages(machine: Machine) -> Iterator[Finding]:
    opencv = next((name for name in machine.versions if name.startswith("opencv")), "opencv")
    for name, module, purpose, cure in (
        ("onnxruntime", "onnxruntime", "runs .onnx files", "pip install onnxruntime"),
        (opencv, "cv2", "reads and writes images", "pip install opencv-python-headless"),
        ("torch", "torch", "loads checkpoints, trains, exports", _EXPORT),
        ("onnx", "onnx", "writes graphs", _EXPORT),
        ("safetensors", "safetensors", "reads weights", _EXPORT),
    ):
        yield _package(machine, name, (module,), purpose, cure)
    if "onnxsim" in machine.modules or machine.python >= (3, 11):  # pip has it for these only
        yield _package(machine, "onnxsim", ("onnxsim",), "simplifies graphs", _EXPORT)
    if machine.jetson is None:  # TensorRT for RTX is for desktop GPUs
        yield _package(
            machine, RTX, RTX_MODULES, "builds engines without a GPU", "pip install 'hasn-edge[rtx]'"
        )
    if "tensorrt" in machine.modules:
        yield Finding(
            name="tensorrt",
            state=State.MISSING if machine.missing else State.OK,
            detail=f"{machine.tensorrt or 'installed'} in {machine.modules['tensorrt']}",
            cure="see the libraries it lacks, below" if machine.missing else "",
        )
    backends = cuda_backends(machine)
    if backends:
        yield Finding(name="CUDA from Python", state=State.OK, detail=", ".join(backends))


def _gpu(machine: Machine) -> Iterator[Finding]:
    gpu = machine.gpu
    if gpu is None:
        yield Finding(
            name="NVIDIA driver",
            state=State.INFO,
            detail="no GPU that answers: engines for TensorRT for RTX can be built here, none can be run",
        )
    else:
        driver = f"driver {gpu.driver}, " if gpu.driver else ""
        yield Finding(name="NVIDIA driver", state=State.OK, detail=f"{driver}CUDA {gpu.cuda}")
        yield Finding(
            name="GPU",
            state=State.OK,
            detail=f"{gpu.title}, {gpu.total_memory_bytes / 2**30:.1f} GiB"
            + (" shared with the CPU" if gpu.integrated else ""),
        )
    if machine.jetson is not None:
        yield Finding(name="Jetson", state=State.OK, detail=_jetson(machine.jetson))
    known = recognise(machine)
    if known is not None:
        title, build = known.profile.title.removeprefix("NVIDIA "), f"hasn-edge build --target {known.target}"
        said = f"this is a {title}; {build}"
        if not known.exact:
            memory = (machine.memory_bytes or 0) / 2**30
            said = (
                f"the nearest is {title}, and this one has {memory:.1f} GiB of memory, so that its "
                f"multiprocessors or clocks may be others too: {build} is right for it, an estimate is of "
                "the other"
            )
        yield Finding(name="device profile", state=State.OK if known.exact else State.INFO, detail=said)
        if known.profile.integrated:
            yield Finding(name="DLA", state=State.INFO, detail=f"not used: {known.profile.dla}")
    elif gpu is not None or machine.jetson is not None:
        yield Finding(
            name="device profile",
            state=State.INFO,
            detail="none for this device: it is built for and measured all the same, only not estimated",
        )


def _jetson(values: Mapping[str, Any]) -> str:
    said = [str(values.get("model") or "unknown model")]
    if values.get("l4t"):
        said.append(f"Jetson Linux {values['l4t']}")
    with suppress(LookupError):
        said.append(f"JetPack {jetpack_of(values.get('l4t'))}")
    if values.get("power_mode"):
        said.append(f"power mode {values['power_mode']}")
    return ", ".join(said)


def _models() -> Iterator[Finding]:
    names = zoo.bundled_models()
    if not names:
        yield Finding(
            name="bundled models",
            state=State.MISSING,
            detail="none in this build",
            cure="give --model a .safetensors or .pth file",
        )
    for name in names:
        label = name + (" (default)" if name == zoo.DEFAULT_MODEL else "")
        try:
            said, state = honest_state(zoo.bundled_provenance(name)), State.OK
        except CheckpointError as exc:
            said, state = str(exc), State.MISSING
        yield Finding(name=label, state=state, detail=said)


def honest_state(provenance: dict[str, Any]) -> str:
    """Say in one sentence what a bundled model was trained on and what it reaches next to the paper."""
    scores = provenance.get("scores", {})
    reached = ", ".join(f"{name} {values['psnr_y']:.2f} dB" for name, values in scores.items())
    data = provenance.get("data", {})
    images = data.get("images", data.get("pictures", "unknown"))  # "pictures": as version 0.1 wrote it
    iterations = provenance.get("iterations", "unknown")
    return (
        f"trained by us on {images} photographs for {iterations} iterations; reaches "
        f"{reached or 'unmeasured quality'} (PSNR-Y), the paper's x4 network {PAPER_SET5_DB} dB on Set5"
    )


def _package(
    machine: Machine, distribution: str, modules: tuple[str, ...], purpose: str, cure: str
) -> Finding:
    if any(module in machine.modules for module in modules):
        version = (machine.rtx if distribution == RTX else machine.versions.get(distribution)) or "installed"
        return Finding(name=distribution, state=State.OK, detail=f"{version}, {purpose}")
    return Finding(name=distribution, state=State.MISSING, detail=f"not installed; {purpose}", cure=cure)
