"""What an engine is built for: the compiler, the shapes, the GPU generations and the builder's options."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from hasn_edge.config import config_from_mapping, read_toml
from hasn_edge.errors import ConfigError, UnsupportedError, call, say, use
from hasn_edge.files import shipped_path
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.hardware.profiles import DeviceProfile
from hasn_edge.optional import version_tuple
from hasn_edge.sidecar import Shape

GENERATIONS = {
    "turing": ("7.5",),
    "ampere": ("8.0", "8.6"),
    "ada": ("8.9",),
    "hopper": ("9.0",),
    "blackwell": ("12.0", "12.1"),
}
"""Compute capabilities of the desktop and data-centre GPUs of a generation."""

_OLD_SHAPES = {"minimum": "min", "typical": "opt", "maximum": "max"}
"""Keys of a target file's shapes that version 0.1 had, which still load."""

HARDWARE_LEVELS = ("ampere_plus", "same_compute_capability")
"""How far from the GPU it is built on an engine of TensorRT may go."""

_NO_LEVELS = "TensorRT has no hardware_compatibility on a Jetson"
"""NVIDIA's developer guide, "Hardware Compatibility": not supported on JetPack."""
_UNSET_LEVEL = say("leave hardware_compatibility unset in the target, and build on each kind of board")


class EngineRuntime(str, Enum):
    """What compiles and runs the graph."""

    CPU = "cpu"
    """ONNX Runtime on the CPU: the graph itself is what runs, nothing is compiled."""
    PORTABLE = "portable"
    """The weakly and the strongly typed graph, which TensorRT 8.5 to 11 read: the device compiles them."""
    RTX = "rtx"
    """TensorRT for RTX: compiles without a GPU for the generations that are asked for."""
    TENSORRT = "tensorrt"
    """TensorRT: compiles on the device, for that device."""

    @property
    def compiles(self) -> bool:
        """Whether an engine is made; otherwise the graph itself is what is taken along."""
        return self in (EngineRuntime.RTX, EngineRuntime.TENSORRT)


@dataclass(frozen=True, kw_only=True)
class ShapeRange:
    """Input shapes that an engine accepts, each ``(N, C, H, W)``, as a TensorRT profile has them."""

    min: Shape = (1, 3, 32, 32)
    opt: Shape = (1, 3, 180, 320)
    """The shape that the compiler makes fastest."""
    max: Shape = (1, 3, 540, 960)

    def __post_init__(self) -> None:
        for i, axis in enumerate(("batch", "channels", "height", "width")):
            low, middle, high = self.min[i], self.opt[i], self.max[i]
            if not 1 <= low <= middle <= high:
                raise ConfigError(
                    f"shapes: {axis} is {low} / {middle} / {high}; expected 1 <= min <= opt <= max"
                )

    @classmethod
    def static(cls, height: int, width: int, *, batch: int = 1, channels: int = 3) -> ShapeRange:
        """Return the range of one shape only."""
        shape = (batch, channels, height, width)
        return cls(min=shape, opt=shape, max=shape)

    @property
    def size(self) -> tuple[int, int] | None:
        """The one (height, width) of a static range; ``None`` where it is dynamic."""
        same = self.min[2:] == self.max[2:]
        return (self.min[2], self.min[3]) if same else None

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The one (height, width) of a static range; else the smallest, the optimal and the largest."""
        own = self.size
        return (own,) if own else tuple((shape[2], shape[3]) for shape in (self.min, self.opt, self.max))


@dataclass(frozen=True, kw_only=True)
class EngineTarget:
    """One engine to build. Precision is not here: it is the build's, and most graphs state it themselves."""

    name: str = ""
    """Appears in file names and reports; a target file's own name unless it states another."""
    runtime: EngineRuntime = EngineRuntime.RTX
    shapes: ShapeRange = field(default_factory=ShapeRange)
    compute_capabilities: tuple[str, ...] = ()
    """GPUs that the engine runs on: generations ("turing", "ampere", "ada", "hopper", "blackwell") or
    capabilities ("8.6"). TensorRT for RTX only; empty leaves the choice to it (all it knows but Turing)."""
    workspace_bytes: int | None = None
    """Scratch memory that a layer may use. Unset, TensorRT gets a quarter of the free memory of a Jetson or
    half of a card's; TensorRT for RTX has its own default."""
    optimization_level: int | None = None
    """0 (compiles fastest) to 5 (runs fastest, compiles for long); unset leaves the compiler's default, 3."""
    hardware_compatibility: str | None = None
    """TensorRT only: let the engine run on other GPUs than the one it is built on, ``"ampere_plus"`` or
    ``"same_compute_capability"``; it runs slower for that. Not on a Jetson, where it is refused."""
    version_compatible: bool = False
    """TensorRT only: let newer versions run the engine; it may run slower for that."""
    tf32: bool = False
    """Let FP32 convolutions round their inputs to 10 bits of mantissa (Ampere and newer). Faster, but then
    "fp32" no longer means FP32."""
    device: DeviceProfile | None = None
    """What is known of the one device that this target is for: estimates and advice come from it. It changes
    nothing in the engine."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "runtime", EngineRuntime(self.runtime))
        if not re.fullmatch(r"[\w .-]*", self.name):
            raise ConfigError(
                f"name is {self.name!r}; expected letters, digits, spaces, '.', '_' and '-': files bear it"
            )
        capabilities: list[str] = []
        for wanted in self.compute_capabilities:
            key = wanted.strip().lower()
            if key not in GENERATIONS and not re.fullmatch(r"\d+\.\d+", key):
                raise ConfigError(
                    f"compute_capabilities: {wanted!r} is no GPU generation ({', '.join(GENERATIONS)}) "
                    'and no capability such as "8.6"'
                )
            capabilities += GENERATIONS.get(key, (key,))
        ordered = sorted(set(capabilities), key=version_tuple)
        object.__setattr__(self, "compute_capabilities", tuple(ordered))
        if ordered and self.runtime is not EngineRuntime.RTX:
            raise ConfigError(
                f"compute_capabilities: only TensorRT for RTX (runtime = 'rtx') builds for GPUs that are not "
                f"here; runtime is {self.runtime.value!r}"
            )
        self._check_compatibility()
        if self.workspace_bytes is not None and self.workspace_bytes < 1 << 20:
            raise ConfigError(
                f"workspace_bytes is {self.workspace_bytes}; expected at least {1 << 20} (1 MiB)"
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ConfigError(f"optimization_level is {self.optimization_level}; expected 0 to 5")

    def _check_compatibility(self) -> None:
        level = self.hardware_compatibility
        if level is not None and level not in HARDWARE_LEVELS:
            raise ConfigError(
                f"hardware_compatibility is {level!r}; expected one of {', '.join(HARDWARE_LEVELS)}"
            )
        if (level is not None or self.version_compatible) and self.runtime is not EngineRuntime.TENSORRT:
            raise ConfigError(
                "hardware_compatibility and version_compatible are options of TensorRT (runtime = "
                f"'tensorrt'); runtime is {self.runtime.value!r}"
            )
        if level is not None and self.device is not None and self.device.integrated:
            raise ConfigError(f"{_NO_LEVELS}, and the target's device is {self.device.title}", _UNSET_LEVEL)

    def with_size(self, height: int, width: int) -> EngineTarget:
        """Return this target for one size in pixels only, keeping the batch of ``opt`` and channels."""
        batch, channels = self.shapes.opt[:2]
        return replace(self, shapes=ShapeRange.static(height, width, batch=batch, channels=channels))

    def with_range(
        self, smallest: tuple[int, int], opt: tuple[int, int], largest: tuple[int, int]
    ) -> EngineTarget:
        """Return this target for a range of sizes, fastest at ``opt``; each is (height, width) in pixels.

        Raises:
            ConfigError: they are not in this order.
        """
        batch = self.shapes.opt[:2]
        low, middle, high = ((*batch, *size) for size in (smallest, opt, largest))
        return replace(self, shapes=ShapeRange(min=low, opt=middle, max=high))

    def with_batch(self, largest: int) -> EngineTarget:
        """Return this target for 1 to ``largest`` images at a time, fastest at ``largest``."""
        shapes = self.shapes
        return replace(
            self,
            shapes=ShapeRange(
                min=(1, *shapes.min[1:]),
                opt=(largest, *shapes.opt[1:]),
                max=(largest, *shapes.max[1:]),
            ),
        )

    def runs_on(self, gpu: GpuFacts | None) -> bool:
        """Whether an engine of this target runs on a GPU of this machine."""
        if gpu is None or not self.runtime.compiles:
            return False
        if self.device is not None:
            return gpu.compute_capability == self.device.compute_capability
        wanted = self.compute_capabilities  # of TensorRT for RTX alone; TensorRT compiles for the GPU here
        return not wanted or gpu.compute_capability in wanted

    def require_gpu(self, gpu: GpuFacts | None) -> None:
        """Refuse to compile for a described device anywhere but on one of its kind, or for many on a Jetson.

        Raises:
            UnsupportedError: TensorRT would compile for the GPU here, which is another, or there is none. Or
                it is a Jetson's, and the engine shall run on other GPUs too.
        """
        if self.hardware_compatibility is not None and gpu is not None and gpu.l4t is not None:
            raise UnsupportedError(f"{_NO_LEVELS}, and this is one", _UNSET_LEVEL)
        if self.device is None or self.runs_on(gpu):
            return
        here = f"the GPU here is {gpu.title}" if gpu else "there is no NVIDIA GPU with its driver here"
        raise UnsupportedError(
            f"target {self.name!r} is {self.device.title} (compute capability "
            f"{self.device.compute_capability}) and TensorRT compiles for the GPU that it runs on: {here}; "
            "an estimate of its speed needs no GPU",
            say("build on the device itself"),
            use(target="tensorrt" if gpu else "portable"),
            call("bench", estimate=self.name),
        )


def shipped_targets() -> dict[str, Path]:
    """Return the target files that ship with hasn-edge, by name."""
    return {path.stem: path for path in sorted(shipped_path("engines", "targets").glob("*.toml"))}


def rtx_target_for(gpu: GpuFacts) -> str | None:
    """Return the shipped target of TensorRT for RTX whose engines run on a GPU, or ``None``.

    ``"rtx"`` comes first: others take one size only, or are for older GPUs.
    """
    for name in (EngineRuntime.RTX.value, *shipped_targets()):
        target = load_target(name)
        if target.runtime is EngineRuntime.RTX and target.runs_on(gpu):
            return name
    return None


def load_target(name_or_path: str | os.PathLike[str]) -> EngineTarget:
    """Read a target: one that ships, by name (``"rtx"``), or a TOML file, by path.

    Raises:
        UnsupportedError: neither a shipped target nor a ``.toml`` file; the message lists the targets.
        ConfigError: the file is not a valid target.
    """
    text = os.fspath(name_or_path)
    known = shipped_targets()
    path = known.get(text)
    if path is None:
        path = Path(text)
        if path.suffix != ".toml":
            raise UnsupportedError(
                f"unknown target {text!r}",
                say(f"choose one of: {', '.join(known)}"),
                say("give the path of a .toml file"),
            )
    values = read_toml(path)
    if isinstance(shapes := values.get("shapes"), dict):
        for old, new in _OLD_SHAPES.items():
            if old in shapes and new not in shapes:
                shapes[new] = shapes.pop(old)
    target = config_from_mapping(values, EngineTarget, source=str(path))
    return target if target.name else replace(target, name=path.stem)
