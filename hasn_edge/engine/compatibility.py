"""Whether an engine can run on this GPU with this TensorRT, known before either is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hasn_edge.artifact import Artifact
from hasn_edge.engine.capabilities import NAMES
from hasn_edge.engine.engine_file import PlanHeader, read_plan_header
from hasn_edge.engine.target import EngineRuntime, load_target, rtx_target_for, shipped_targets
from hasn_edge.errors import ArtifactError, Cure, HasnEdgeError, call
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.optional import version_tuple
from hasn_edge.sidecar import BuildAskedFor, EngineDetails

_FILES: Mapping[str, tuple[str, ...]] = {
    "model": (".safetensors", ".pth", ".pt", ".onnx", "/"),
    "recipe": (".toml",),
    "target": (".toml",),
    "calibration": ("",),
    "evaluation": ("",),
}
"""Arguments of a build that may be files or folders of the user's, and how those end; all else ships."""


def require_compatible(artifact: Artifact, *, gpu: GpuFacts | None, runtime_version: str | None) -> None:
    """Refuse an engine that would not run here, or would compute something else.

    TensorRT itself returns nothing for such an engine, crashes, or runs it and returns zeros.

    Args:
        artifact: An engine, loaded with its sidecar.
        gpu: The GPU to run on, from :func:`hasn_edge.hardware.gpu.gpu_facts`.
        runtime_version: Version of the TensorRT that will run it, as its module or package states it;
            ``None`` where it is not known yet: then it is not compared.

    Raises:
        ArtifactError: not a whole plan, or made for another GPU or TensorRT; names what differs, and
            the build that makes it again.
    """
    header = read_plan_header(artifact.path)
    reasons = [
        *_sidecar_problems(artifact.engine, header),
        *_version_problems(artifact.engine, header, runtime_version),
        *_gpu_problems(artifact.engine, header, gpu),
    ]
    if reasons:
        cure = rebuild(artifact, gpu=gpu)
        raise ArtifactError(
            f"{artifact.path}: this engine cannot run here: {'; '.join(reasons)}{unknown_folders(cure)}", cure
        )


def rebuild(artifact: Artifact, *, gpu: GpuFacts | None = None, again: bool = False) -> Cure:
    """Return the build of an engine like this one for the machine that it runs on.

    What it builds takes the engine's place, unless that was renamed. Every option that decides it is there,
    as far as the sidecar shows it; that weights of another file may be replaced is for the user to say again.

    Args:
        artifact: The engine.
        gpu: The GPU there: where the engine's own target is for others, the build is for one that fits this.
        again: Compile even though the build would find nothing changed: the engine itself is what is wrong.
    """
    details, asked = artifact.engine, artifact.engine.asked or BuildAskedFor()
    fixed = {"size": artifact.size} if artifact.size is not None else _range(details)
    arguments = {
        "model": details.model,
        "precision": artifact.precision.value,
        "recipe": None if asked.recipe == "default" else asked.recipe,
        "calibration": asked.calibration,
        "evaluation": asked.evaluation,
        "target": _target(details, gpu),
        "int8_method": "calibrator" if details.int8_method == "calibrator" else None,
        "pixels": details.pixels,
        **fixed,
        "batch": _batch(details),
        "name": asked.name,
        "output": str(artifact.path.parent),
        "rebuild": again,
    }
    given = {name: value for name, value in arguments.items() if value}
    return call("build", **{name: _beside(artifact, name, value) for name, value in given.items()})


def unknown_folders(cure: Cure) -> str:
    """Return the end of a message with :func:`rebuild`'s cure: which of its files lack their folder.

    A sidecar keeps no folders of the machine that built the engine.
    """
    named = [
        repr(value)
        for name, value in cure.arguments.items()
        if name in _FILES
        and value.endswith(_FILES[name])
        and not any(Path(text).exists() for text in (value, value.partition("=")[2] or value))  # NAME=FILE
    ]
    only = f"only the name of {' and of '.join(named)} is known here: write the folder as well"
    return f"; {only}" if named else ""


def _beside(artifact: Artifact, name: str, value: Any) -> Any:
    """Return the path of a file that lies beside the engine, as the recipe of a search does."""
    ours = name in _FILES and value.endswith(_FILES[name])
    return str(beside) if ours and (beside := artifact.path.parent / value).exists() else value


def _target(details: EngineDetails, gpu: GpuFacts | None) -> str:
    """Return the target to build for: the engine's own, or where that is for other GPUs, one for ``gpu``."""
    name = details.target
    if name not in shipped_targets():
        return f"{name}.toml"
    target = load_target(name)
    if gpu is None or target.runs_on(gpu):
        return name
    other = rtx_target_for(gpu) if target.runtime is EngineRuntime.RTX else None
    return other or EngineRuntime.TENSORRT.value


def _batch(details: EngineDetails) -> int | None:
    """Return the argument for how many images an engine takes, where it is not its target's own."""
    largest = details.batch[1]
    with suppress(HasnEdgeError):
        return None if load_target(details.target).shapes.max[0] == largest else largest
    return largest if largest > 1 else None


def _range(details: EngineDetails) -> dict[str, Any]:
    """Return the argument for an engine's range of sizes, where it is not its target's own."""
    first = 1 if details.pixels else 2
    profile = details.profile
    sizes = [shape[first : first + 2] for shape in (profile.min, profile.opt, profile.max)]
    try:
        own = load_target(details.target).shapes
    except HasnEdgeError:
        return {}
    if sizes == [shape[2:] for shape in (own.min, own.opt, own.max)]:
        return {}
    return {"dynamic": tuple(sizes)}


def _sidecar_problems(details: EngineDetails, header: PlanHeader) -> Iterator[str]:
    """Yield where plan and sidecar differ: then one of them belongs to another engine."""
    if details.runtime != header.runtime.value:
        yield f"its sidecar states runtime {details.runtime}, the plan is one of {NAMES[header.runtime]}"
    if details.version != header.version_or(details.version):
        yield f"its sidecar states version {details.version}, the plan {header.version_or(details.version)}"


def _version_problems(details: EngineDetails, header: PlanHeader, running: str | None) -> Iterator[str]:
    if running is None:
        return
    name = NAMES[header.runtime]
    version = header.version_or(details.version)
    here, made = version_tuple(running), version_tuple(version)
    least = min(len(here), len(made))  # "10.3.0" names no build number; the plan does
    if here[:least] == made[:least]:
        return
    flexible = details.flags.version_compatible
    # NVIDIA: newer within the major version, and from 8 to 10 and 10 to 11.
    reachable = here[0] == made[0] or (made[0], here[0]) in ((8, 10), (10, 11))
    if flexible and header.runtime is EngineRuntime.TENSORRT and here > made and reachable:
        return
    yield f"it was built by {name} {version}, and {running} is here, which runs its own engines only"


def _gpu_problems(details: EngineDetails, header: PlanHeader, gpu: GpuFacts | None) -> Iterator[str]:
    if gpu is None:
        yield "it needs an NVIDIA GPU with its driver, and there is none"
        return
    if header.runtime is EngineRuntime.RTX:
        able = details.compute_capabilities
        if able and gpu.compute_capability not in able:
            yield f"it was built for compute capability {', '.join(able)}, and here is {gpu.title}"
        return
    made_on, capability = details.gpu, details.compute_capability
    level = details.flags.hardware_compatibility
    if level == "ampere_plus" and version_tuple(gpu.compute_capability) >= (8,):
        return
    if capability is not None and capability != gpu.compute_capability:
        yield f"it was built on {made_on} (compute capability {capability}), and here is {gpu.title}"
    elif level == "same_compute_capability":
        return
    elif made_on is not None and (made_on, details.sm_count) != (gpu.name, gpu.sm_count):
        # Jetson Orin Nano, NX and AGX have one name and one capability, and other kernels fit them.
        reason = f"it was built on {made_on} with {details.sm_count} SM, and here is {gpu.title}"
        if gpu.integrated and made_on == gpu.name:
            reason += "; so is one board in another power mode, which 'sudo nvpmodel -q' names"
        yield reason
