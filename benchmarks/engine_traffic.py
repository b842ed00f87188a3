"""What engines of TensorRT for RTX read and write, by fusion rule and by what is INT8; it needs no GPU.

    python benchmarks/engine_traffic.py                  # hasn-x4, and others: 10 minutes
    python benchmarks/engine_traffic.py --part rules     # one of the tables: rules, refused, int8, networks

Bytes are those of the compiler's list of kernels: all tensors of each, whole, constants too. They do not
depend on the weights, so a network that is not bundled is compiled as PyTorch initialises it. Quality is
measured on the held-out images that ship, by ONNX Runtime, which rounds to FP16 behind each operator. Prints
the tables and writes them to benchmarks/results/engine_traffic.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from onnx import ModelProto
from torch import Tensor, nn

from hasn_edge.bench.table import markdown_table
from hasn_edge.data.calibration import load_calibration
from hasn_edge.data.pairs import shipped_eval_set
from hasn_edge.engine.compile import kernels_from_onnx
from hasn_edge.engine.target import EngineTarget, ShapeRange
from hasn_edge.evaluation.evaluate import drift, score_session
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.files import writing
from hasn_edge.fuse.apply import DEFAULT_RULES, fuse
from hasn_edge.fuse.rules import compose, pad_between
from hasn_edge.model.checkpoint import Checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.model.zoo import load_model_checkpoint
from hasn_edge.optional import installed_version
from hasn_edge.pipeline.graph_exporter import GraphExporter
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx, rounded_onnx_from_fp16
from hasn_edge.quantize.recipe import Granularity, QuantRecipe, Rounding, load_quant_recipe
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.runtime.pytorch import PyTorchSession
from hasn_edge.sidecar import Form, KernelRecord
from hasn_edge.spec import ModelSpec, Precision

SIZE = (180, 320)
CAPABILITIES = ("8.6", "8.9", "12.0")
STEPS = ("compose_esa", "pad_cab", "squeeze_first", "norm_factor", "fold_esa")
"""The rules of TensorRT for RTX in the order in which the table adds them."""

INT8_RULES = tuple(rule for rule in DEFAULT_RULES["rtx"] if rule not in ("fold_esa", "norm_factor"))
PLACEMENTS = {
    "default recipe": load_quant_recipe("default").quantize,
    "f1, f2, f3 and g": ("block_*.f*.conv", "block_[2-5].g.conv"),
    "f1, f2, f3": ("block_*.f*.conv",),
    "g": ("block_[2-5].g.conv",),
    "ESA": ("block_*.esa.conv*",),
    "CAB's first": ("block_*.cab.cab.0",),
    "conv_2": ("conv_2",),
}
"""Patterns of convolutions that are INT8, all within the default recipe, by what the table calls them."""

Rows = list[tuple[str, ...]]


def kernels_of(graph: ModelProto, capability: str, size: tuple[int, int] = SIZE) -> KernelRecord:
    """Compile a graph for one compute capability and return its kernels."""
    shapes = ShapeRange.static(*size)
    target = EngineTarget(name="traffic", shapes=shapes, compute_capabilities=(capability,))
    return kernels_from_onnx(graph.SerializeToString(), target)


def megabytes(kernels: KernelRecord) -> str:
    """Return what kernels move, in 10^6 bytes."""
    assert kernels.moved_bytes is not None
    return f"{kernels.moved_bytes / 1e6:,.0f}"


def fp16(
    model: nn.Module, size: tuple[int, int] | None = SIZE, *, decompose_norm: bool = False
) -> ModelProto:
    """Return the strongly typed FP16 graph of a network."""
    return fp16_onnx_from_onnx(onnx_from_model(model, opset=20, size=size, decompose_norm=decompose_norm))


class Quality:
    """What graphs lose against their network in FP32, on the images that ship."""

    def __init__(self, model: HASN) -> None:
        self.spec, self.images = model.spec, shipped_eval_set(model.spec.scale)
        with PyTorchSession(model) as session:
            self.reference = score_session(session, self.images)

    def of(self, graph: ModelProto, precision: Precision = Precision.FP16) -> tuple[str, str]:
        """Return fidelity and the change of PSNR-Y, both in dB, as text."""
        exact = precision is Precision.INT8
        data = rounded_onnx_from_fp16(graph).SerializeToString()
        with OnnxRuntimeSession(data, self.spec, precision=precision, exact=exact) as session:
            change = drift(self.reference, score_session(session, self.images))
        return f"{change.fidelity_psnr:.1f}", f"{change.dpsnr:+.4f}"


def table_of_rules(model: HASN, quality: Quality) -> Rows:
    """Return the rows of the rules: added one after the other, then each left out."""
    chosen = [STEPS[:count] for count in range(len(STEPS) + 1)]
    chosen += [tuple(rule for rule in STEPS if rule != left_out) for left_out in STEPS[:-1]]
    labels = ["none", *(f"and {rule}" for rule in STEPS), *(f"all but {rule}" for rule in STEPS[:-1])]
    rows: Rows = [("rules", "kernels", *(f"MB, {one}" for one in CAPABILITIES), "fidelity, dB", "dPSNR, dB")]
    for label, rules in zip(labels, chosen, strict=True):
        network = fuse(model, rules)[0]
        graph = fp16(network)
        found = [kernels_of(graph, one) for one in CAPABILITIES]
        scores = ("", "") if label.startswith("all but") else quality.of(fp16(network, None))
        rows.append((label, str(found[0].all), *map(megabytes, found), *scores))
        click.echo(" | ".join(rows[-1]))
    return rows


def pad_to_8(model: HASN) -> HASN:
    """Pad CAB's hidden channels to a multiple of 8."""
    for block in model.blocks:
        body = block.get_submodule("cab.cab")
        pair = pad_between(body.get_submodule("0"), body.get_submodule("2"), 8)  # type: ignore[arg-type]
        for name, conv in zip(("0", "2"), pair, strict=True):
            body.add_module(name, conv)
    return model


class LateESA(nn.Module):
    """ESA whose last convolution works on the coarse map, before the resize, and on the fine one."""

    def __init__(self, esa: nn.Module) -> None:
        super().__init__()
        for name, module in esa.named_children():
            self.add_module(name, module)
        self.conv_f = compose(esa.conv_f, esa.conv4)  # type: ignore[arg-type]
        self.conv4.bias = None  # type: ignore[assignment, union-attr]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x`` times the gate of ``y``."""
        squeezed = self.conv1(y)
        coarse = self.conv4(self.conv3(F.max_pool2d(self.conv2(squeezed), 7, 3)))
        coarse = F.interpolate(coarse, size=squeezed.shape[-2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv_f(squeezed) + coarse)


def resize_last(model: HASN) -> HASN:
    """Resize ESA's gates, of the full width, instead of what they are made of."""
    for block in model.blocks:
        block.esa = LateESA(block.esa)  # type: ignore[assignment, arg-type]
    return model


class BorderGate(nn.Module):
    """Channel attention from the mean and border sums of what a padded 3x3 reads; for one size only."""

    def __init__(self, second: nn.Conv2d, attention: nn.Sequential) -> None:
        super().__init__()
        squeeze: nn.Conv2d = attention[1]  # type: ignore[assignment]
        w = torch.einsum("so,omuv->smuv", squeeze.weight[:, :, 0, 0], second.weight)
        # A tap above the centre never sees the last row, one below never the first; columns alike.
        rows, columns = (-w[:, :, 2], -w[:, :, 0]), (-w[..., 2], -w[..., 0])
        parts = [w.sum((2, 3)), *(r.sum(2) for r in rows), *(c.sum(2) for c in columns)]
        parts += [w[:, :, 2, 2], w[:, :, 2, 0], w[:, :, 0, 2], w[:, :, 0, 0]]
        self.squeeze = nn.Conv2d(9 * second.in_channels, squeeze.out_channels, 1)
        self.squeeze.weight.data = torch.cat(parts, 1)[:, :, None, None]
        self.squeeze.bias.data = squeeze.bias + squeeze.weight[:, :, 0, 0] @ second.bias  # type: ignore[union-attr]
        self.sums = BorderSums()
        self.rest = nn.Sequential(*attention[2:])

    def forward(self, x: Tensor) -> Tensor:
        """Return the gate for the 3x3's input."""
        gate: Tensor = self.rest(self.squeeze(self.sums(x)))
        return gate


class BorderSums(nn.Module):
    """Mean, first and last row and column, and corners of each channel, as shares of the mean."""

    def forward(self, x: Tensor) -> Tensor:
        """Return nine numbers a channel."""
        (height, width), rows, columns = SIZE, x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        ends = [rows[:, :, :1] / height, rows[:, :, -1:] / height]
        ends += [columns[..., :1] / width, columns[..., -1:] / width]
        corners = [x[:, :, i, j] / (height * width) for i in (slice(1), slice(-1, None))
                   for j in (slice(1), slice(-1, None))]  # fmt: skip
        return torch.cat([rows.mean(2, keepdim=True), *ends, *corners], 1)


class GatedBody(nn.Module):
    """CAB's convolutions with another gate."""

    def __init__(self, body: nn.Module, gate: nn.Module | None) -> None:
        super().__init__()
        for name in ("0", "1", "2"):
            self.add_module(name, body.get_submodule(name))
        self.add_module("gate", gate)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended features."""
        first, act, second, *gate = self.children()
        hidden = act(first(x))
        out: Tensor = second(hidden)
        return out * gate[0](hidden) if gate else out


def sum_the_border(model: HASN) -> HASN:
    """Take channel attention's mean from sums over the border of the 3x3's input."""
    for block in model.blocks:
        body = block.get_submodule("cab.cab")
        second, attention = body.get_submodule("2"), body.get_submodule("3.attention")
        gate = BorderGate(second, attention)  # type: ignore[arg-type]
        block.cab.cab = GatedBody(body, gate)  # type: ignore[assignment, union-attr]
    return model


def freeze_attention(model: HASN) -> HASN:
    """Replace channel attention by its mean over the calibration images, as factors of the second 3x3."""
    gates: dict[int, list[Tensor]] = {}
    hooks = [
        block.get_submodule("cab.cab.3.attention").register_forward_hook(
            lambda module, x, y, index=index: gates.setdefault(index, []).append(y[:, :, 0, 0])
        )
        for index, block in enumerate(model.blocks)
    ]
    for batch in load_calibration("patches"):
        model(torch.from_numpy(batch))
    for hook in hooks:
        hook.remove()
    for index, block in enumerate(model.blocks):
        body, mean = block.get_submodule("cab.cab"), torch.cat(gates[index]).mean(0)
        second: nn.Conv2d = body.get_submodule("2")  # type: ignore[assignment]
        second.weight.data *= mean.reshape(-1, 1, 1, 1)
        second.bias.data *= mean  # type: ignore[union-attr]
        block.cab.cab = GatedBody(body, None)  # type: ignore[assignment, union-attr]
    return model


def fused(model: HASN, *rules: str) -> HASN:
    """Return the network with these rules applied."""
    return fuse(model, rules)[0]


UNSQUEEZED = tuple(rule for rule in STEPS if rule != "squeeze_first")
ATTEMPTS: dict[str, Callable[[HASN], HASN]] = {
    "nothing changed": lambda model: model,
    "merge_branches": lambda model: fused(model, "merge_branches"),
    "norm_affine": lambda model: fused(model, "norm_affine"),
    "LayerNorm in single operations": lambda model: model,
    "all rules": lambda model: fused(model, *STEPS),
    "all rules, and merge_branches": lambda model: fused(model, *STEPS, "merge_branches"),
    "all rules, CAB's channels padded to a multiple of 8": lambda model: fused(pad_to_8(model), *STEPS),
    "all rules, border sums instead of squeeze_first": lambda model: sum_the_border(
        fused(model, *UNSQUEEZED)
    ),
    "all rules, ESA's gates resized instead of fold_esa": lambda model: resize_last(
        fused(model, *STEPS[:-1])
    ),
    "all rules, channel attention frozen (not exact)": lambda model: freeze_attention(
        fused(model, *UNSQUEEZED)
    ),
}
"""What was tried, each with a network of its own."""


@torch.no_grad()
def table_of_attempts(model: HASN, quality: Quality) -> Rows:
    """Return the rows of what else was tried."""
    rows: Rows = [("graph", "kernels", "MB, 8.6", "fidelity, dB", "dPSNR, dB")]
    for label, change in ATTEMPTS.items():
        network = change(copy.deepcopy(model))
        found = kernels_of(fp16(network, decompose_norm="single" in label), "8.6")
        scores = quality.of(fp16(network, None)) if "frozen" in label else ("", "")
        rows.append((label, str(found.all), megabytes(found), *scores))
        click.echo(" | ".join(rows[-1]))
    return rows


def table_of_int8(checkpoint: Checkpoint, quality: Quality) -> Rows:
    """Return the rows of what is INT8, with weight scales for each tensor and for each channel."""
    # Compensated codes belong to one kind of scales, and both kinds are compared here.
    recipe = replace(load_quant_recipe("default"), rounding=Rounding.NEAREST)
    images = load_calibration(recipe.calibration)
    exporter = GraphExporter.for_int8(checkpoint, INT8_RULES, images, recipe)
    ranges = exporter.measure_ranges(images, recipe)
    rows: Rows = [("INT8", "weight scales", "kernels", "Q/DQ kernels", "MB, 8.6", "dPSNR, dB")]
    for rules, title in ((INT8_RULES, "none: FP16, the same rules"), (STEPS, "none: FP16, all rules")):
        found = kernels_of(fp16(fuse(checkpoint.model(), rules)[0]), "8.6")
        rows.append((title, "", str(found.all), str(found.rounding), megabytes(found), ""))
    for label, patterns in PLACEMENTS.items():
        for granularity in (Granularity.PER_CHANNEL, Granularity.PER_TENSOR):
            chosen = replace(recipe, quantize=patterns, weights=granularity)

            def export(size: tuple[int, int] | None, chosen: QuantRecipe = chosen) -> ModelProto:
                return exporter.export(
                    Form.STRONGLY_TYPED, Precision.INT8, size=size, ranges=ranges, recipe=chosen
                )

            found = kernels_of(export(SIZE), "8.6")
            lost = quality.of(export(None), Precision.INT8)[1] if label == "default recipe" else ""
            words = granularity.value.replace("_", " ")
            rows.append((label, words, str(found.all), str(found.rounding), megabytes(found), lost))
            click.echo(" | ".join(rows[-1]))
    return rows


def table_of_networks(model: HASN) -> Rows:
    """Return the rows of other networks, sizes and generations, unfused and with all rules."""
    torch.manual_seed(0)
    residual = HASN(ModelSpec(residual=True)).eval()
    cases = [
        ("bundled hasn-x4-small", load_model_checkpoint("hasn-x4-small").model(), SIZE, "8.6"),
        ("a residual around each block", residual, SIZE, "8.6"),
        ("a residual around each block", residual, SIZE, "12.0"),
        ("hasn-x4", model, (360, 640), "8.6"),
        ("hasn-x4", model, SIZE, "8.0"),
        ("hasn-x4", model, SIZE, "7.5"),
    ]
    rows: Rows = [("network", "size", "capability", "MB unfused", "MB", "change")]
    for name, network, size, capability in cases:
        before = kernels_of(fp16(network, size), capability, size)
        after = kernels_of(fp16(fuse(network, STEPS)[0], size), capability, size)
        assert before.moved_bytes is not None
        assert after.moved_bytes is not None
        change = f"{after.moved_bytes / before.moved_bytes - 1:+.1%}"
        rows.append((name, f"{size[1]}x{size[0]}", capability, megabytes(before), megabytes(after), change))
        click.echo(" | ".join(rows[-1]))
    return rows


TITLES = {
    "rules": "Fusion rules, FP16",
    "refused": "What else was tried, FP16",
    "int8": "INT8",
    "networks": "Other networks, sizes and generations, FP16",
}


HEAD = """# What engines of TensorRT for RTX read and write

`{name}` at {width}x{height}, one image; TensorRT for RTX {version}, compiled without a GPU, by `python
benchmarks/engine_traffic.py`. MB are 10^6 bytes of all tensors that the compiler's kernels read and write,
whole, constants too, by compute capability. Fidelity and dPSNR are those against the FP32 network, on the
held-out images that ship, in ONNX Runtime. No time was measured.
"""
NOTES = {
    "refused": """
Also tried: the wide 1x1 convolutions as matrix products are merged into one of 468 columns, whose parts are
read again; Q/DQ pairs around products that stay float store no INT8, the compiler rounds them in place.
""",
    "int8": """
No placement moves fewer bytes than FP16: what follows an INT8 convolution is not computed in its kernel. Q/DQ
on the outputs as well changes nothing, no convolution writes INT8. A scale for each tensor that is a power of
two, with a factor for each channel behind it, is the row "per tensor" and further operations.
""",
}
"""What a table has below it."""


@click.command()
@click.option("--part", "parts", type=click.Choice(list(TITLES)), multiple=True, help="Only these tables.")
@click.option("--model", default="hasn-x4", show_default=True, help="Bundled name or a file of weights.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/engine_traffic.md")
)
def main(parts: tuple[str, ...], model: str, output: Path) -> None:
    """Compile, measure, print and write the tables."""
    checkpoint = load_model_checkpoint(model)
    network = checkpoint.model().eval()
    quality = Quality(network)
    makers: dict[str, Callable[[], Rows]] = {
        "rules": lambda: table_of_rules(network, quality),
        "refused": lambda: table_of_attempts(network, quality),
        "int8": lambda: table_of_int8(checkpoint, quality),
        "networks": lambda: table_of_networks(network),
    }
    version = installed_version("tensorrt-rtx-cu13-libs") or "of an unknown version"
    text = HEAD.format(name=Path(model).name, width=SIZE[1], height=SIZE[0], version=version)
    for part in parts or TITLES:
        headings, *rows = makers[part]()
        table = "\n".join(markdown_table(headings, rows))
        text += f"\n## {TITLES[part]}\n\n{table}\n{NOTES.get(part, '')}"
    click.echo(text)
    with writing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
