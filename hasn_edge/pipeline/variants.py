"""The graphs of one model, in every form and precision: each made once, from the same weights and ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hasn_edge.engine.capabilities import Form
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

    from hasn_edge.model.checkpoint import Checkpoint
    from hasn_edge.quantize.ranges import CalibrationBatches, Ranges
    from hasn_edge.quantize.recipe import QuantRecipe

WEAKLY_TYPED_OPSET, STRONGLY_TYPED_OPSET = 17, 20


@dataclass
class GraphMaker:
    """Makes graphs of one checkpoint. Nothing is written to disk and nothing is checked here."""

    checkpoint: Checkpoint
    rules: tuple[str, ...] = ()
    """Fusion rules that are applied first."""
    fused: list[str] = field(init=False)
    """What fusion did, a line a rule."""

    def __post_init__(self) -> None:
        from hasn_edge.fuse.apply import fuse

        self._model = self.checkpoint.model()
        self.fused = []
        if self.rules:
            self._model, self.fused = fuse(self._model, self.rules)
        self._fp32: dict[tuple[int, bool, tuple[int, int] | None, int | None], ModelProto] = {}

    def fp32(
        self,
        opset: int = WEAKLY_TYPED_OPSET,
        *,
        decompose_norm: bool = False,
        size: tuple[int, int] | None = None,
        batch: int | None = 1,
    ) -> ModelProto:
        """Return the FP32 graph; do not modify it, it is kept for further calls."""
        from hasn_edge.exporters.onnx import onnx_from_model

        key = (opset, decompose_norm, size, batch)
        if key not in self._fp32:
            self._fp32[key] = onnx_from_model(
                self._model,
                opset=opset,
                size=size,
                batch=batch,
                decompose_norm=decompose_norm,
                source=self.checkpoint.sha256,
            )
        return self._fp32[key]

    def ranges(self, data: CalibrationBatches, recipe: QuantRecipe) -> Ranges:
        """Measure the ranges that INT8 needs: keyed by convolution, they serve every form."""
        from hasn_edge.quantize.ranges import ranges_from_onnx

        return ranges_from_onnx(self.fp32(), data, recipe)

    def make(
        self,
        form: Form,
        precision: Precision,
        *,
        size: tuple[int, int] | None = None,
        batch: int | None = 1,
        opset: int | None = None,
        ranges: Ranges | None = None,
        recipe: QuantRecipe | None = None,
    ) -> ModelProto:
        """Return the graph of one form and precision.

        Args:
            form: Who reads it.
            precision: INT8 needs ``ranges`` and ``recipe``.
            size: The one (height, width) that it takes; any size where ``None``.
            batch: How many images it takes at a time; any number where ``None``, not with a size.
            opset: Instead of the form's own.
            ranges: From :meth:`ranges`.
            recipe: What is quantized.
        """
        from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
        from hasn_edge.quantize.int8 import int8_onnx_from_onnx

        typed = form is Form.STRONGLY_TYPED or (form is Form.CPU and precision is Precision.FP16)
        chosen = opset or (STRONGLY_TYPED_OPSET if typed else WEAKLY_TYPED_OPSET)
        graph = self.fp32(chosen, decompose_norm=form is Form.WEAKLY_TYPED, size=size, batch=batch)
        if precision is Precision.FP16 or (precision is Precision.INT8 and form is Form.STRONGLY_TYPED):
            assert not form.weakly_typed, "weakly typed graphs have FP32 tensors"
            graph = fp16_onnx_from_onnx(graph)
        if precision is Precision.INT8:
            assert ranges is not None
            assert recipe is not None
            graph = int8_onnx_from_onnx(graph, ranges, recipe)
        return graph
