"""The report of an estimate: JSON and tables with the word ESTIMATE wherever a figure stands."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hasn_edge.artifact import load_artifact
from hasn_edge.bench.options import DEFAULT_SIZE
from hasn_edge.bench.roofline import CONVENTIONS, MEMORY, Estimate, LayerEstimate, estimate
from hasn_edge.bench.table import markdown_table
from hasn_edge.engine.target import load_target, shipped_targets
from hasn_edge.errors import InputError, UnsupportedError, say, use
from hasn_edge.hardware.profiles import DeviceProfile
from hasn_edge.model.complexity import complexity
from hasn_edge.model.zoo import bundled_onnx, is_foreign_network, load_model_checkpoint, model_name
from hasn_edge.quantize.recipe import GATE, load_quant_recipe
from hasn_edge.spec import ModelSpec, Precision


@dataclass(frozen=True, kw_only=True)
class EstimateReport:
    """Estimates of one network on one device, a precision each."""

    model: str
    spec: ModelSpec
    size: tuple[int, int]
    board: str
    """Name of the target that holds the profile."""
    device: DeviceProfile
    recipe: str
    frozen: tuple[str, ...] = ()
    """Channel attentions that the recipe makes constants, which INT8 does not compute."""
    estimates: tuple[Estimate, ...]
    date: str
    command: str = ""

    @property
    def title(self) -> str:
        """Headline, which states that these are estimates."""
        height, width = self.size
        scale = self.spec.scale
        return (
            f"ESTIMATE, not a measurement: {self.model}, {width}x{height} -> "
            f"{width * scale}x{height * scale} on {self.device.title}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Conventions, the figures of the device, and which of them are unconfirmed."""
        device = self.device
        used = (
            f"ESTIMATE for {device.title}: {device.bandwidth_bytes_per_s / 1e9:g} GB/s, "
            f"{device.clock_hz / 1e6:g} MHz, in TMAC/s: {_rates(device)}; power mode "
            f"{device.power_modes[-1].name}"
        )
        doubtful = (
            (f"figures of this profile that are unconfirmed: {', '.join(device.unconfirmed)}",)
            if device.unconfirmed
            else ()
        )
        quantized = any(e.precision is Precision.INT8 for e in self.estimates)
        frozen = f"; channel attention frozen: {', '.join(self.frozen)}" if self.frozen else ""
        recipe = (f"INT8 recipe: {self.recipe}{frozen}",) if quantized else ()
        return (used, *recipe, *doubtful, *CONVENTIONS)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``"estimate": true`` stands beside every figure that is one."""
        return {
            "schema": 1,
            "estimate": True,
            "title": self.title,
            "model": self.model,
            "spec": self.spec.to_dict(),
            "size": {"height": self.size[0], "width": self.size[1]},
            "board": self.board,
            "device": {name: _plain(value) for name, value in self.device.figures().items()},
            "sources": dict(self.device.sources),
            "recipe": self.recipe,
            "precisions": [_estimate_dict(estimate) for estimate in self.estimates],
            "conventions": list(self.notes),
            "date": self.date,
            "command": self.command,
        }


def estimate_model(
    model: str,
    board: str,
    *,
    precisions: Sequence[str] = ("fp32", "fp16", "int8"),
    size: tuple[int, int] = DEFAULT_SIZE,
    recipe: str = "default",
    command: str = "",
) -> EstimateReport:
    """Estimate a model on a board that is not here.

    Args:
        model: Bundled name or weights file.
        board: Name of a target with a device profile, or the path of a target file.
        precisions: What to estimate, in order.
        size: Input (height, width) in pixels.
        recipe: Which convolutions INT8 means.
        command: The command that the report names as its origin.

    Raises:
        UnsupportedError: no such board, or a target without a profile; the boards are listed.
        HasnEdgeError: the model, recipe, precision or size cannot be used.
    """
    device = _profile(board)
    wanted = [Precision.parse(text) for text in precisions]
    if not wanted:
        raise InputError(
            "no precision to estimate; expected one or more of fp32, fp16, int8", use(precisions=("int8",))
        )
    if is_foreign_network(model):
        raise UnsupportedError(f"{model} is another network, and only our own are estimated layer by layer")
    shipped = bundled_onnx(model)  # its sidecar names the network without PyTorch
    spec = load_artifact(shipped).spec if shipped else load_model_checkpoint(model).spec
    assert isinstance(spec, ModelSpec)
    if min(size) < spec.size.minimum:
        raise InputError(
            f"{size[1]}x{size[0]} pixels is below the network's minimum side of {spec.size.minimum} pixels"
        )
    network = complexity(spec, *size)
    chosen = load_quant_recipe(recipe)
    frozen = chosen.frozen(name + GATE for name in network.gated)
    steady = network.without_gates([name.removesuffix(GATE) for name in frozen])
    int8 = chosen.select(layer.name for layer in steady.layers if layer.is_convolution)
    return EstimateReport(
        model=model_name(model),
        spec=spec,
        size=size,
        board=Path(board).stem,
        device=device,
        recipe=recipe,
        frozen=frozen,
        estimates=tuple(
            estimate(steady if precision is Precision.INT8 else network, device, precision, int8)
            for precision in wanted
        ),
        date=datetime.date.today().isoformat(),
        command=command,
    )


def boards() -> tuple[str, ...]:
    """Return the names of the shipped targets that have a device profile."""
    return tuple(name for name in shipped_targets() if load_target(name).device is not None)


def _profile(board: str) -> DeviceProfile:
    if not board.endswith(".toml") and board not in boards():
        raise UnsupportedError(
            f"no profile of a board called {board!r}",
            say(f"choose one of: {', '.join(boards())}"),
            say("give the path of a target file with a [device] table"),
        )
    device = load_target(board).device
    if device is None:
        raise UnsupportedError(f"{board} has no [device] table; engines/targets/orin-nano.toml shows one")
    return device


def markdown(report: EstimateReport) -> str:
    """Return the report as Markdown: both tables, conventions."""
    lines = []
    for level, (title, head, body) in zip(("#", "##"), grids(report), strict=True):
        lines += [f"{level} {title}", "", *markdown_table(head, body), ""]
    lines += [f"- {note}" for note in report.notes]
    if report.command:
        lines += ["", f"Printed by `{report.command}` on {report.date}."]
    return "\n".join(lines) + "\n"


_Grid = tuple[str, list[str], list[list[str]]]


def grids(report: EstimateReport) -> tuple[_Grid, _Grid]:
    """Return title, headings and rows of two tables: the whole network, and its kinds of layers."""
    found = report.estimates
    whole = [
        ["milliseconds a frame", *(f"{e.seconds * 1e3:.2f}" for e in found)],
        ["frames per second", *(f"{1 / e.seconds:.1f}" for e in found)],
        ["bound by", *(e.bound for e in found)],
        *(
            [f"time bound by {name}", *(f"{e.shares.get(name, 0):.0%}" for e in found)]
            for name in (MEMORY, "tensor cores", "CUDA cores")
        ),
        ["memory traffic, MB", *(f"{e.bytes / 1e6:.0f}" for e in found)],
        ["operations in INT8", *(f"{_int8_share(e):.0%}" for e in found)],
    ]
    kinds = [_kinds(e) for e in found]
    by_kind = []
    for kind in max(kinds, key=len):  # INT8 has none of what is frozen
        cells = []
        for one in kinds:
            if kind not in one:
                cells.append("frozen")
                continue
            spent = sum(layer.seconds for layer in one[kind]) * 1e3
            longest = max(one[kind], key=lambda layer: layer.seconds)
            cells.append(f"{spent:.2f} {longest.bound}" if spent >= 0.005 else f"{spent:.4f} {longest.bound}")
        count = max(len(one.get(kind, ())) for one in kinds)
        by_kind.append([f"{kind} (x{count})" if count > 1 else kind, *cells])
    names = [e.precision.value for e in found]
    return (
        (report.title, ["", *(f"{name}, ESTIMATE" for name in names)], whole),
        (
            f"ESTIMATE by kind of layer on {report.device.title}: milliseconds and what bounds them",
            ["layer", *(f"{name}, ESTIMATE" for name in names)],
            by_kind,
        ),
    )


def _kinds(estimate: Estimate) -> dict[str, list[LayerEstimate]]:
    kinds: dict[str, list[LayerEstimate]] = {}
    for layer in estimate.layers:
        block, dot, rest = layer.name.partition(".")
        kind = f"block_*.{rest}" if block.startswith("block_") and dot else layer.name
        kinds.setdefault(kind, []).append(layer)
    return kinds


def _int8_share(estimate: Estimate) -> float:
    total = sum(layer.operations for layer in estimate.layers)
    return sum(layer.operations for layer in estimate.layers if layer.precision is Precision.INT8) / total


def _rates(device: DeviceProfile) -> str:
    found = []
    for unit, rates in (
        ("tensor cores", device.tensor_cores_macs_per_s),
        ("CUDA cores", device.cuda_cores_macs_per_s),
    ):
        known = [(p.value, rates.of(p)) for p in Precision]
        found.append(unit + " " + ", ".join(f"{name} {rate / 1e12:.4g}" for name, rate in known if rate))
    return "; ".join(found)


def _estimate_dict(estimate: Estimate) -> dict[str, Any]:
    return {
        "estimate": True,
        "precision": estimate.precision.value,
        "milliseconds": estimate.seconds * 1e3,
        "fps": 1 / estimate.seconds,
        "bound": estimate.bound,
        "shares": estimate.shares,
        "bytes": estimate.bytes,
        "layers": [
            {
                "estimate": True,
                "name": layer.name,
                "op": layer.op,
                "precision": layer.precision.value,
                "operations": layer.operations,
                "bytes": layer.bytes,
                "memory_ms": layer.memory_seconds * 1e3,
                "compute_ms": layer.compute_seconds * 1e3,
                "unit": layer.unit,
                "bound": layer.bound,
            }
            for layer in estimate.layers
        ],
    }


def _plain(value: object) -> object:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple):
        return [dict(vars(item)) for item in value]
    return str(value)
