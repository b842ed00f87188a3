"""How graphs are made of a model: each form and precision from the same weights and ranges."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hasn_edge.optional import require
from hasn_edge.pipeline.context import ImageSize
from hasn_edge.pipeline.foreign_graph import ForeignGraph
from hasn_edge.sidecar import Form
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

    from hasn_edge.model.checkpoint import Checkpoint
    from hasn_edge.model.hasn import HASN
    from hasn_edge.quantize.ranges import CalibrationBatches, Ranges
    from hasn_edge.quantize.recipe import QuantRecipe

WEAKLY_TYPED_OPSET, STRONGLY_TYPED_OPSET = 17, 20


def adapted_rules(rules: tuple[str, ...]) -> tuple[str, ...]:
    """Return the fusion rules that leave what INT8 convolutions read as it was when weights were adapted."""
    changing = ("norm_affine", "norm_factor", "fold_esa", "split_cab")
    return tuple(rule for rule in rules if rule not in changing)


class GraphExporter:
    """Makes graphs of one checkpoint. Nothing is written to disk and nothing is checked here.

    Args:
        checkpoint: The network.
        rules: Fusion rules that are applied first.
        model: Computes the same as the checkpoint's, with other weights; the checkpoint's by default.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | ForeignGraph,
        rules: tuple[str, ...] = (),
        model: HASN | None = None,
    ) -> None:
        require("onnx", extra="export", needed_for="Making a graph")
        self.checkpoint = checkpoint
        self.rules = rules
        self.fused: list[str] = []
        """What fusion did, a line a rule."""
        self._fp32: dict[tuple[int, bool, ImageSize | None, int | None], ModelProto] = {}
        if isinstance(checkpoint, ForeignGraph):
            return
        self.network = self._model = checkpoint.model() if model is None else model
        """What is exported, before it is fused."""
        if rules:
            from hasn_edge.fuse.apply import fuse

            self._model, self.fused = fuse(self._model, rules)

    def fp32(
        self,
        opset: int = WEAKLY_TYPED_OPSET,
        *,
        decompose_norm: bool = False,
        size: ImageSize | None = None,
        batch: int | None = 1,
    ) -> ModelProto:
        """Return the FP32 graph; do not modify it, it is kept for further calls."""
        key = (opset, decompose_norm, size, batch)
        if key not in self._fp32 and isinstance(self.checkpoint, ForeignGraph):
            self._fp32[key] = self.checkpoint.graph(opset, size=size, batch=batch)
        elif key not in self._fp32:
            from hasn_edge.exporters.onnx import onnx_from_model

            self._fp32[key] = onnx_from_model(
                self._model,
                opset=opset,
                size=size,
                batch=batch,
                decompose_norm=decompose_norm,
                source=self.checkpoint.sha256,
            )
        return self._fp32[key]

    @classmethod
    def for_int8(
        cls,
        checkpoint: Checkpoint | ForeignGraph,
        rules: tuple[str, ...],
        data: CalibrationBatches,
        recipe: QuantRecipe,
    ) -> GraphExporter:
        """Return the exporter of INT8 graphs: of the equalized network where the recipe equalizes.

        LayerNorm's weight is what makes its channels alike, so it is not fused into what follows then. With
        LayerNorm as a factor behind the convolutions, they would read and quantize what is not normalized; a
        split CAB would quantize one more tensor. ESA folded by an inverse would quantize that inverse's sums,
        which reach twenty times as far: by that the published weights lost 0.18 dB in INT8, and lose 0.02
        without. Weights that were adapted to INT8 are taken as they are.
        """
        rules = tuple(rule for rule in rules if rule not in ("fold_esa", "norm_factor", "split_cab"))
        if isinstance(checkpoint, ForeignGraph):
            return cls(checkpoint, rules)
        from hasn_edge.quantize.ranges import learned_ranges

        if learned_ranges(checkpoint.provenance, data) is not None:
            return cls(checkpoint, adapted_rules(rules))
        if recipe.equalize is None:
            return cls(checkpoint, rules)
        from hasn_edge.quantize.equalize import equalize

        model = equalize(checkpoint.model(), data, alpha=recipe.equalize)
        return cls(checkpoint, tuple(rule for rule in rules if rule != "norm_affine"), model)

    def measure_ranges(self, data: CalibrationBatches, recipe: QuantRecipe) -> Ranges:
        """Measure the ranges that INT8 needs, by convolution, but for those learned with the weights."""
        from hasn_edge.quantize.ranges import learned_ranges, ranges_from_onnx, with_codes
        from hasn_edge.quantize.recipe import Rounding

        graph, learned = self.fp32(), None
        if not isinstance(self.checkpoint, ForeignGraph):
            learned = learned_ranges(self.checkpoint.provenance, data)
        if learned is None:
            return ranges_from_onnx(graph, data, recipe)
        measured = ranges_from_onnx(graph, data, replace(recipe, rounding=Rounding.NEAREST))
        return with_codes(measured.learned(learned), graph, data, recipe)

    def export(
        self,
        form: Form,
        precision: Precision,
        *,
        size: ImageSize | None = None,
        batch: int | None = 1,
        opset: int | None = None,
        ranges: Ranges | None = None,
        recipe: QuantRecipe | None = None,
    ) -> ModelProto:
        """Return the graph of one form and precision; one of any size pads images that are too small itself.

        Args:
            form: Who reads it.
            precision: INT8 needs ``ranges`` and ``recipe``.
            size: The one (height, width) that it takes; any size where ``None``.
            batch: How many images it takes at a time; any number where ``None``, not with a size.
            opset: Instead of the form's own.
            ranges: From :meth:`measure_ranges`.
            recipe: What is quantized, and which channel attention is frozen.
        """
        from hasn_edge.exporters.least_side import with_padding
        from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
        from hasn_edge.quantize.freeze import with_frozen_gates
        from hasn_edge.quantize.int8 import int8_onnx_from_onnx

        typed = form is Form.STRONGLY_TYPED or (form is Form.CPU and precision is Precision.FP16)
        chosen = opset or (STRONGLY_TYPED_OPSET if typed else WEAKLY_TYPED_OPSET)
        graph = self.fp32(chosen, decompose_norm=form is Form.WEAKLY_TYPED, size=size, batch=batch)
        if ranges is not None and recipe is not None:
            graph = with_frozen_gates(graph, ranges, recipe)
        if precision is Precision.FP16 or (precision is Precision.INT8 and form is Form.STRONGLY_TYPED):
            assert not form.weakly_typed, "weakly typed graphs have FP32 tensors"
            graph = fp16_onnx_from_onnx(graph)
        if precision is Precision.INT8:
            assert ranges is not None
            assert recipe is not None
            graph = int8_onnx_from_onnx(graph, ranges, recipe)
        spec = self.checkpoint.spec
        return with_padding(graph, spec.size.minimum, spec.scale) if size is None and self.pads else graph

    @property
    def pads(self) -> bool:
        """Whether graphs of any size pad images that are too small themselves; not up to a multiple."""
        rule = self.checkpoint.spec.size
        return rule.minimum > 1 and rule.multiple == 1
