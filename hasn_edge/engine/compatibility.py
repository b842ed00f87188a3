"""Whether an engine can run on this GPU with this TensorRT, known before either is touched."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from hasn_edge.artifact import Artifact
from hasn_edge.engine.capabilities import NAMES, version_tuple
from hasn_edge.engine.engine_file import PlanHeader, read_plan_header
from hasn_edge.engine.gpu import GpuFacts
from hasn_edge.engine.target import EngineRuntime, load_target, shipped_targets
from hasn_edge.errors import ArtifactError, HasnEdgeError


def require_compatible(
    artifact: Artifact, *, gpu: GpuFacts | None, runtime_version: str | None
) -> PlanHeader:
    """Refuse an engine that would not run here, or would compute something else.

    TensorRT itself returns nothing for such an engine, crashes, or runs it and returns zeros.

    Args:
        artifact: An engine, loaded with its sidecar.
        gpu: The GPU to run on, from :func:`hasn_edge.engine.gpu.gpu_facts`.
        runtime_version: Version of the TensorRT that will run it, as its module or package says it;
            ``None`` where it is not known yet: then it is not compared.

    Returns:
        The plan's header; its ``runtime`` says which TensorRT runs it.

    Raises:
        ArtifactError: not a whole plan, or made for another GPU or TensorRT; names what differs and the
            command that builds it again.
    """
    header = read_plan_header(artifact.path)
    reasons = [
        *_sidecar_problems(artifact.details, header),
        *_version_problems(artifact.details, header, runtime_version),
        *_gpu_problems(artifact.details, header, gpu),
    ]
    if reasons:
        raise ArtifactError(
            f"{artifact.path}: this engine cannot run here: {'; '.join(reasons)}. Build it again on this "
            f"machine: {rebuild_command(artifact)}"
        )
    return header


def rebuild_command(artifact: Artifact) -> str:
    """Return the command that builds an engine like this one for the machine that it is typed on."""
    details = artifact.details
    words = ["hasn-edge", "build"]
    if details.get("model"):
        words += ["--model", str(details["model"])]
    words += ["--precision", artifact.precision.value]
    target = details.get("target")
    if target:
        words += ["--target", str(target) if target in shipped_targets() else f"{target}.toml"]
    if details.get("int8_method") == "calibrator":
        words += ["--int8-method", "calibrator"]
    pixels = _input_dtype(details) == "uint8"
    if pixels:
        words.append("--pixels")
    if artifact.size is not None:
        words += ["--size", _size(artifact.size)]
    else:
        words += _range(details, pixels=pixels)
    return shlex.join(words)


def _input_dtype(details: Any) -> str | None:
    try:
        return str(details["inputs"][0]["dtype"])
    except (KeyError, IndexError, TypeError):
        return None


def _range(details: Any, *, pixels: bool) -> list[str]:
    """Return the option for an engine's range of sizes, where it is not its target's own."""
    first = 1 if pixels else 2
    try:
        sizes = [
            tuple(int(n) for n in details["profile"][name][first : first + 2])
            for name in ("minimum", "typical", "maximum")
        ]
        own = load_target(str(details["target"])).shapes
    except (KeyError, TypeError, ValueError, HasnEdgeError):
        return []
    if sizes == [shape[2:] for shape in (own.minimum, own.typical, own.maximum)]:
        return []
    return ["--dynamic", *(_size((height, width)) for height, width in sizes)]


def _size(size: tuple[int, int]) -> str:
    """Write (height, width) as the command line reads it."""
    return f"{size[1]}x{size[0]}"


def _sidecar_problems(details: Any, header: PlanHeader) -> Iterator[str]:
    """Yield what plan and sidecar say differently: then one of them belongs to another engine."""
    runtime = details.get("runtime")
    if runtime is not None and runtime != header.runtime.value:
        yield f"its sidecar says runtime {runtime}, the plan is one of {NAMES[header.runtime]}"
    version = details.get("version")
    if version is not None and str(version) != header.version_text:
        yield f"its sidecar says version {version}, the plan {header.version_text}"


def _version_problems(details: Any, header: PlanHeader, running: str | None) -> Iterator[str]:
    if running is None:
        return
    name = NAMES[header.runtime]
    here = version_tuple(running)
    made = header.version[: len(here)]  # "10.3.0" names no build number; the plan does
    if here == made:
        return
    flexible = bool(_flag(details, "version_compatible"))
    # NVIDIA: newer within the major version, and from 8 to 10 and 10 to 11.
    reachable = here[0] == made[0] or (made[0], here[0]) in ((8, 10), (10, 11))
    if flexible and header.runtime is EngineRuntime.TENSORRT and here > made and reachable:
        return
    yield (
        f"it was built by {name} {header.version_text}, and {running} is here, which runs its own engines "
        "only"
    )


def _gpu_problems(details: Any, header: PlanHeader, gpu: GpuFacts | None) -> Iterator[str]:
    if gpu is None:
        yield "it needs an NVIDIA GPU with its driver, and there is none"
        return
    if header.runtime is EngineRuntime.RTX:
        able = details.get("compute_capabilities")
        if isinstance(able, list) and able and gpu.compute_capability not in able:
            yield f"it was built for compute capability {', '.join(able)}, and here is {gpu.title}"
        return
    made_on, capability = details.get("gpu"), details.get("compute_capability")
    level = _flag(details, "hardware_compatibility")
    if level == "ampere_plus" and _at_least(gpu.compute_capability, "8.0"):
        return
    if capability is not None and capability != gpu.compute_capability:
        yield f"it was built on {made_on} (compute capability {capability}), and here is {gpu.title}"
    elif level == "same_compute_capability":
        return
    elif made_on is not None and (made_on, details.get("sm_count")) != (gpu.name, gpu.sm_count):
        # Jetson Orin Nano, NX and AGX have one name and one capability, and other kernels fit them.
        yield f"it was built on {made_on} with {details.get('sm_count')} SM, and here is {gpu.title}"


def _flag(details: Any, name: str) -> Any:
    flags = details.get("flags")
    return flags.get(name) if isinstance(flags, dict) else None


def _at_least(capability: str, minimum: str) -> bool:
    return version_tuple(capability) >= version_tuple(minimum)
