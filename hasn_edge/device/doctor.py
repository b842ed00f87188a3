"""What this machine can build and run, what is missing, and the command that mends it."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import platform
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hasn_edge import machine
from hasn_edge.engine.capabilities import find_module
from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import CheckpointError, MissingDependencyError
from hasn_edge.model import zoo
from hasn_edge.optional import installed_version

PAPER_SET5_DB = 32.17
"""PSNR-Y that the paper reports for its x4 network on Set5 without self-ensemble (Table 9)."""


class State(str, Enum):
    """How a finding stands."""

    OK = "ok"
    MISSING = "missing"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact about the machine, with the cure where something is missing."""

    name: str
    state: State
    detail: str
    cure: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return plain JSON values."""
        return {"name": self.name, "state": self.state.value, "detail": self.detail, "cure": self.cure}


def diagnose() -> tuple[Finding, ...]:
    """Look at processor, packages, GPU, engines and bundled models; change and import nothing heavy."""
    return (
        *_machine(),
        *_running(),
        *_building(),
        *_gpu(),
        *_models(),
    )


def can_do() -> tuple[tuple[str, bool, str], ...]:
    """Return what the verbs can do here: name, whether, and what is missing."""
    torch, onnx, ort = _has("torch"), _has("onnx"), _has("onnxruntime")
    safetensors = _has("safetensors")
    export = torch and onnx and ort and safetensors
    rtx = export and _has(_rtx_module())
    need_export = "pip install 'hasn-edge[export]'"
    return (
        ("run .onnx files and the bundled model on the processor", ort, "pip install onnxruntime"),
        ("run checkpoints and .ts files with PyTorch", torch and safetensors, need_export),
        ("export ONNX and TorchScript", export, need_export),
        ("build FP16 and INT8 graphs for the processor or another device", export, need_export),
        ("build TensorRT for RTX engines (no GPU needed)", rtx, "pip install 'hasn-edge[export,rtx]'"),
        ("train", torch and safetensors, "pip install 'hasn-edge[train]'"),
        (
            "run TensorRT engines",
            False,
            "not in this version: engines are built and checked here, and run by TensorRT on the device",
        ),
    )


def cuda_driver() -> str | None:
    """Return the CUDA version the installed NVIDIA driver supports, or ``None`` without a driver."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        version = ctypes.c_int()
        if library.cuInit(0) == 0 and library.cuDriverGetVersion(ctypes.byref(version)) == 0:
            return f"{version.value // 1000}.{version.value % 1000 // 10}"
    return None


def jetson_release() -> str | None:
    """Return the L4T release line of a Jetson, or ``None`` on any other machine."""
    try:
        return Path("/etc/nv_tegra_release").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    except (OSError, IndexError):
        return None


def _machine() -> tuple[Finding, ...]:
    units = ", ".join(machine.vector_units()) or "no vector unit known to matter"
    integer = machine.has_integer_dot_product()
    total = machine.memory_bytes()
    return (
        Finding(
            name="processor",
            state=State.INFO,
            detail=f"{machine.processor()}, {machine.compute_cores()} cores, {units}",
        ),
        Finding(
            name="INT8 on this processor",
            state=State.INFO if integer else State.WARNING,
            detail="has integer dot products: INT8 may be faster than FP32; measure it"
            if integer
            else "no integer dot product (VNNI, AMX, i8mm): expect INT8 to be slower than FP32 here",
            cure=""
            if integer
            else "build INT8 here for the device it is meant for; bench says what it costs",
        ),
        Finding(
            name="memory",
            state=State.INFO,
            detail=f"{total / 2**30:.1f} GiB" if total else "unknown",
        ),
        Finding(name="python", state=State.OK, detail=f"{platform.python_version()} ({sys.executable})"),
    )


def _running() -> tuple[Finding, ...]:
    return (
        _package("onnxruntime", "onnxruntime", "runs .onnx files", "pip install onnxruntime"),
        _package(
            machine.opencv_distribution(),
            "cv2",
            "reads and writes pictures",
            "pip install opencv-python-headless",
        ),
        _package("torch", "torch", "loads checkpoints, trains, exports", "pip install 'hasn-edge[export]'"),
    )


def _building() -> tuple[Finding, ...]:
    export = "pip install 'hasn-edge[export]'"
    found = [
        _package("onnx", "onnx", "writes graphs", export),
        _package("safetensors", "safetensors", "reads weights", export),
        _package("onnxsim", "onnxsim", "simplifies graphs", export + " (Python 3.11 or newer)"),
        _package(
            "tensorrt-rtx-cu13-bindings",
            _rtx_module(),
            "builds TensorRT for RTX engines",
            "pip install 'hasn-edge[rtx]'",
        ),
    ]
    version = installed_version("tensorrt")
    located = importlib.util.find_spec("tensorrt")
    if located is not None:
        where = f" in {Path(located.origin).parent}" if located.origin else ""
        found.append(
            Finding(
                name="tensorrt",
                state=State.INFO,
                detail=f"{version or 'installed'}{where}; its engines are not built or run by this version",
            )
        )
    return tuple(found)


def _gpu() -> tuple[Finding, ...]:
    driver = cuda_driver()
    jetson = jetson_release()
    found = [
        Finding(
            name="NVIDIA driver",
            state=State.OK if driver else State.INFO,
            detail=f"CUDA {driver}" if driver else "none: engines can be built here, not run",
        )
    ]
    if jetson:
        found.append(Finding(name="Jetson", state=State.OK, detail=jetson))
    return tuple(found)


def _models() -> tuple[Finding, ...]:
    names = zoo.bundled_models()
    if not names:
        return (
            Finding(
                name="bundled models",
                state=State.MISSING,
                detail="none in this build",
                cure="give --model a .safetensors or .pth file",
            ),
        )
    found = []
    for name in names:
        default = " (default)" if name == zoo.DEFAULT_MODEL else ""
        try:
            found.append(
                Finding(
                    name=name + default, state=State.OK, detail=honest_state(zoo.bundled_provenance(name))
                )
            )
        except CheckpointError as exc:
            found.append(Finding(name=name + default, state=State.MISSING, detail=str(exc)))
    return tuple(found)


def honest_state(provenance: dict[str, Any]) -> str:
    """Say in one sentence what a bundled model was trained on and what it reaches next to the paper."""
    scores = provenance.get("scores", {})
    reached = ", ".join(f"{name} {values['psnr_y']:.2f} dB" for name, values in scores.items())
    pictures = provenance.get("data", {}).get("pictures", "unknown")
    iterations = provenance.get("iterations", "unknown")
    return (
        f"trained by us on {pictures} photographs for {iterations} iterations; reaches "
        f"{reached or 'unmeasured quality'} (PSNR-Y), the paper's x4 network {PAPER_SET5_DB} dB on Set5"
    )


def _rtx_module() -> str:
    try:
        return find_module(EngineRuntime.RTX)
    except MissingDependencyError:
        return "tensorrt_rtx"


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _package(distribution: str, module: str, purpose: str, cure: str) -> Finding:
    if _has(module):
        version = installed_version(distribution) or "installed"
        return Finding(name=distribution, state=State.OK, detail=f"{version}, {purpose}")
    return Finding(name=distribution, state=State.MISSING, detail=f"not installed; {purpose}", cure=cure)
