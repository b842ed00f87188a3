"""Whether an engine can run on this GPU with this TensorRT, known before either is touched."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import pairwise

from hasn_edge.artifact import Artifact, EngineDetails
from hasn_edge.engine.capabilities import NAMES, version_tuple
from hasn_edge.engine.engine_file import PlanHeader, read_plan_header
from hasn_edge.engine.target import EngineRuntime, EngineTarget, load_target, shipped_targets
from hasn_edge.errors import ArtifactError, HasnEdgeError
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.spec import Precision


def require_compatible(
    artifact: Artifact, *, gpu: GpuFacts | None, runtime_version: str | None
) -> PlanHeader:
    """Refuse an engine that would not run here, or would compute something else.

    TensorRT itself returns nothing for such an engine, crashes, or runs it and returns zeros.

    Args:
        artifact: An engine, loaded with its sidecar.
        gpu: The GPU to run on, from :func:`hasn_edge.hardware.gpu.gpu_facts`.
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
        *_sidecar_problems(artifact.engine, header),
        *_version_problems(artifact.engine, header, runtime_version),
        *_gpu_problems(artifact.engine, header, gpu),
    ]
    if reasons:
        raise ArtifactError(
            f"{artifact.path}: this engine cannot run here: {'; '.join(reasons)}. Build it again on this "
            f"machine: {rebuild_advice(artifact, gpu=gpu)}"
        )
    return header


def rebuild_advice(artifact: Artifact, *, gpu: GpuFacts | None = None, again: bool = False) -> str:
    """Return :func:`rebuild_command`, and which of its files are named without the folder that they are in.

    A sidecar has no folders of the machine that built the engine: they are nobody's business.

    Args:
        artifact: The engine.
        gpu: As for :func:`rebuild_command`.
        again: As for :func:`rebuild_command`.
    """
    words = _words(artifact, gpu, again)
    named = [f"{a} {shlex.quote(b)}" for a, b in pairwise(words) if _is_file(a, b)]
    if not named:
        return shlex.join(words)
    return (
        f"{shlex.join(words)} (write the folder of {' and of '.join(named)} as well: only the name is known "
        "here)"
    )


def rebuild_command(artifact: Artifact, *, gpu: GpuFacts | None = None, again: bool = False) -> str:
    """Return the command that builds an engine like this one for the machine that it is typed on.

    What it builds takes the engine's place, unless that was renamed.

    Args:
        artifact: The engine.
        gpu: The GPU there: where the engine's own target is for others, the command names one for this.
        again: Compile even though the build would find nothing changed: the engine itself is what is wrong.
    """
    return shlex.join(_words(artifact, gpu, again))


def _words(artifact: Artifact, gpu: GpuFacts | None, again: bool) -> list[str]:
    details = artifact.engine
    words = ["hasn-edge", "build"]
    if details.model:
        words += ["--model", details.model]
    words += ["--precision", artifact.precision.value]
    if artifact.precision is Precision.INT8:
        words += _int8(details)
    words += ["--target", _target(details, gpu)]
    if details.int8_method == "calibrator":
        words += ["--int8-method", "calibrator"]
    if details.pixels:
        words.append("--pixels")
    if artifact.size is not None:
        words += ["--size", _size(artifact.size)]
    else:
        words += _range(details)
    words += ["-o", str(artifact.path.parent)]
    if again:
        words.append("--rebuild")
    return words


def _is_file(option: str, value: str) -> bool:
    """Whether an option of the command names a file or folder of the user's, and nothing that ships."""
    kinds = {"--model": (".safetensors", ".pth", ".pt"), "--recipe": (".toml",), "--target": (".toml",)}
    return option == "--calibration" or value.endswith(kinds.get(option, ("\0",)))


def _int8(details: EngineDetails) -> list[str]:
    """Return the options for ranges that are not the default's."""
    words = []
    for option, usual in (("recipe", "default"), ("calibration", None)):
        given = details.asked and getattr(details.asked, option)
        if given not in (None, usual):
            words += [f"--{option}", str(given)]
    return words


def _target(details: EngineDetails, gpu: GpuFacts | None) -> str:
    """Return the target to build for: the engine's own, or where that is for other GPUs, one for ``gpu``."""
    name = details.target
    if name not in shipped_targets():
        return f"{name}.toml"
    target = load_target(name)
    if gpu is None or _is_for(target, gpu):
        return name
    if target.runtime is EngineRuntime.RTX:
        for other in shipped_targets():
            candidate = load_target(other)
            if candidate.runtime is EngineRuntime.RTX and _is_for(candidate, gpu):
                return other
    return EngineRuntime.TENSORRT.value


def _is_for(target: EngineTarget, gpu: GpuFacts) -> bool:
    if target.device is not None:
        return target.device.compute_capability == gpu.compute_capability
    able = target.compute_capabilities
    return not able or gpu.compute_capability in able


def _range(details: EngineDetails) -> list[str]:
    """Return the option for an engine's range of sizes, where it is not its target's own."""
    first = 1 if details.pixels else 2
    profile = details.profile
    sizes = [shape[first : first + 2] for shape in (profile.min, profile.opt, profile.max)]
    try:
        own = load_target(details.target).shapes
    except HasnEdgeError:
        return []
    if sizes == [shape[2:] for shape in (own.min, own.opt, own.max)]:
        return []
    return ["--dynamic", *(_size((height, width)) for height, width in sizes)]


def _size(size: tuple[int, int]) -> str:
    """Write (height, width) as the command line reads it."""
    return f"{size[1]}x{size[0]}"


def _sidecar_problems(details: EngineDetails, header: PlanHeader) -> Iterator[str]:
    """Yield what plan and sidecar say differently: then one of them belongs to another engine."""
    if details.runtime != header.runtime.value:
        yield f"its sidecar says runtime {details.runtime}, the plan is one of {NAMES[header.runtime]}"
    if details.version != header.version_or(details.version):
        yield f"its sidecar says version {details.version}, the plan {header.version_or(details.version)}"


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
    if level == "ampere_plus" and _at_least(gpu.compute_capability, "8.0"):
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


def _at_least(capability: str, minimum: str) -> bool:
    return version_tuple(capability) >= version_tuple(minimum)
