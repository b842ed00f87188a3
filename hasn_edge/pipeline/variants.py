"""How the files of a model are made and checked, a file for each form and precision."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from hasn_edge.engine.precision import FLAGS
from hasn_edge.errors import Cure, UnsupportedError, counted, omit, say, use
from hasn_edge.pipeline.acceptance import (
    FP16_BUDGET,
    SIZES,
    Acceptance,
    check_batch,
    check_levels,
    check_static,
)
from hasn_edge.pipeline.context import BuildContext, FinishedFile, ImageSize, require_size
from hasn_edge.pipeline.foreign_graph import ForeignGraph
from hasn_edge.pipeline.graph_exporter import GraphExporter
from hasn_edge.progress import Progress, Step
from hasn_edge.sidecar import (
    Form,
    GraphDetails,
    PixelLevels,
    ProgramDetails,
    QualityRecord,
    TorchScriptDetails,
)
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

    from hasn_edge.model.checkpoint import Checkpoint
    from hasn_edge.quantize.ranges import Ranges
    from hasn_edge.quantize.recipe import QuantRecipe
    from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession


class Variants:
    """Makes and checks files of one model; what was found goes with each file.

    Args:
        context: The model, and what its files shall be.
        progress: Receives what is under way.
    """

    def __init__(self, context: BuildContext, progress: Progress) -> None:
        self.context = context
        self.progress = progress
        self.acceptance = Acceptance(context.checkpoint, context.held_out, force=context.force)
        """What files are held against: the checkpoint's network, unless these are other weights for it."""
        self._fused: list[str] = []
        self._unmatched: list[str] = []
        self.searched = False
        """Whether a search chose the placement of INT8."""

    @cached_property
    def exporter(self) -> GraphExporter:
        """What makes graphs of floats."""
        return self._collect_notes(GraphExporter(self.context.checkpoint, self.context.rules))

    @cached_property
    def int8(self) -> tuple[GraphExporter, Ranges]:
        """What makes INT8 graphs, and the ranges of its network."""
        context = self.context
        assert context.recipe is not None
        assert context.images is not None
        self.progress(Step(f"measuring ranges on {counted(len(context.images), 'patch', 'patches')}"))
        exporter = GraphExporter.for_int8(context.checkpoint, context.rules, context.images, context.recipe)
        self.check_patterns(exporter)
        return self._collect_notes(exporter), exporter.measure_ranges(context.images, context.recipe)

    def check_patterns(self, exporter: GraphExporter) -> None:
        """Note which patterns of the recipe name nothing that the exporter's graphs have."""
        from hasn_edge.quantize.freeze import find_gates
        from hasn_edge.quantize.graph import convolutions

        assert self.context.recipe is not None
        plain = exporter.fp32()
        names = (conv.name for conv in convolutions(plain))
        self._unmatched = self.context.recipe.unmatched(names, find_gates(plain))

    def with_recipe(self, recipe: QuantRecipe) -> Variants:
        """Return the same build by a recipe of a search: it prepares the network alike and selects less."""
        from hasn_edge.quantize.graph import convolutions

        exporter, ranges = self.int8
        chosen = recipe.select(conv.name for conv in convolutions(exporter.fp32()))
        other = Variants(replace(self.context, recipe=recipe), self.progress)
        other._fused, other._unmatched = self._fused, self._unmatched
        other.acceptance = self.acceptance  # FP32 is the same and was scored
        other.searched = True
        steady = self.steady_gates if recipe.freeze else {}
        gates = {name: steady[name] for name in recipe.frozen(steady)}
        other.int8 = exporter, replace(ranges.only(chosen), gates=gates)
        return other

    @cached_property
    def steady_gates(self) -> dict[str, tuple[float, ...]]:
        """Means of the channel attentions that hardly vary over the calibration images, by name."""
        from hasn_edge.quantize.freeze import STEADY, find_gates
        from hasn_edge.quantize.ranges import measure_gates

        assert self.context.images is not None
        plain = self.int8[0].fp32()
        gates = measure_gates(plain, self.context.images, find_gates(plain))
        return {name: mean for name, (mean, spread) in gates.items() if spread <= STEADY}

    def _collect_notes(self, exporter: GraphExporter) -> GraphExporter:
        self._fused += [note for note in exporter.fused if note not in self._fused]
        return exporter

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found that is no single file's, a sentence each."""
        return (*self._fused, *self.context.notes, *self._unmatched)

    def make_graph(
        self,
        form: Form,
        precision: Precision,
        *,
        size: ImageSize | None,
        suffix: str | None = None,
        opset: int | None = None,
    ) -> FinishedFile:
        """Make and check one ONNX file.

        Args:
            form: Who reads it.
            precision: What it computes in.
            size: The one (height, width) that it takes; any size where ``None``.
            suffix: What its name has after the precision; the form's own where ``None``.
            opset: Instead of the form's own.

        Raises:
            ShapeError: ``size`` is too small for the network.
            UnsupportedError: one size and any number of images.
            VerificationError: it is not this network, or misses its budget.
        """
        from hasn_edge.quantize.check_qdq import check_qdq

        context, count = self.context, self.context.count
        if size is not None:
            require_size(context.name, context.checkpoint.spec, size)
            if count is None:
                cures = omit("size"), use(batch=1), say("build an engine, which has both")
                raise UnsupportedError("a graph of one size takes one image at a time", *cures)
        suffix = f"-{form.value}" if suffix is None else suffix
        what = f"{precision.value}{suffix}"
        exporter, ranges = self.int8 if precision is Precision.INT8 else (self.exporter, None)

        def export(size: ImageSize | None, batch: int | None) -> ModelProto:
            return exporter.export(
                form, precision, size=size, batch=batch, opset=opset, ranges=ranges, recipe=context.recipe
            )

        self.progress(Step(f"making {what}"))
        graph = export(None, 1 if count == 1 else None)
        self.progress(Step(f"checking {what}"))
        details = GraphDetails(
            size=size,
            form=form,
            opset=graph.opset_import[0].version,
            builder_flags=FLAGS[precision] if form.weakly_typed else (),
            fused=exporter.rules,
            least_side=context.checkpoint.spec.size.minimum,
            padded=size is None and exporter.pads,
        )
        notes: list[str] = []
        if ranges is not None:
            check_qdq(graph)
            details = self._with_quantization(details, ranges, notes)
        measured, found = self._measure(graph, form, precision, f"the ONNX graph {what}")
        notes[:0] = found
        if size is not None or count not in (1, None):
            fixed = export(size, count)
            check_static(
                lambda: self._open(graph, precision),
                lambda: self._open(fixed, precision),
                size or SIZES[-1],
                count=count or 1,
            )
            graph = fixed
        if context.pixels:
            graph, levels, note = self._with_pixels(graph, precision)
            measured = msgspec.structs.replace(measured, pixels=levels)
            notes.append(note)
        return FinishedFile(
            data=graph.SerializeToString(),
            precision=precision,
            suffix=suffix,
            details=msgspec.structs.replace(details, measured=measured),
            notes=tuple(notes),
        )

    def _measure(
        self, graph: ModelProto, form: Form, precision: Precision, what: str
    ) -> tuple[QualityRecord, tuple[str, ...]]:
        """Hold a graph of any size against the network and its budget; INT8 for a CPU also as it runs.

        FP16 for a GPU, alone or around INT8, is rounded as there: an overflow shows here.
        """
        from hasn_edge.quantize.fp16 import rounded_onnx_from_fp16

        int8 = precision is Precision.INT8
        if precision is not Precision.FP32 and form is Form.STRONGLY_TYPED:
            graph = rounded_onnx_from_fp16(graph)
        outside = self._outside if int8 else ()
        as_run = self._open(graph, precision, exact=False) if int8 and form is Form.CPU else nullcontext()
        with as_run as optimized, self._open(graph, precision) as session:
            found = self.acceptance.check(
                session,
                what=what,
                budget=self._budget(precision),
                optimized=optimized,
                outside=outside,
                advice=self._advice,
            )
            if self.context.count != 1:
                check_batch(session)
        return found

    def make_torchscript(self, precision: Precision) -> FinishedFile:
        """Make and check one TorchScript file.

        Raises:
            VerificationError: it is not this network.
        """
        from hasn_edge.exporters.torchscript import torchscript_bytes, torchscript_from_model
        from hasn_edge.runtime.torchscript import TorchScriptSession

        self.progress(Step(f"exporting TorchScript {precision.value}"))
        checkpoint = self._weights("TorchScript")
        data = torchscript_bytes(torchscript_from_model(checkpoint.model(), precision=precision))
        self.progress(Step("comparing with PyTorch"))
        with TorchScriptSession(data, checkpoint.spec, precision=precision) as session:
            measured, notes = self.acceptance.check(session, what=f"the {precision.value} TorchScript file")
        return FinishedFile(
            data=data,
            precision=precision,
            suffix="",
            details=TorchScriptDetails(measured=measured),
            notes=notes,
        )

    def _weights(self, what: str) -> Checkpoint:
        """Return the model where it is one of ours, of which alone ``what`` is made."""
        checkpoint = self.context.checkpoint
        if isinstance(checkpoint, ForeignGraph):
            raise UnsupportedError(
                f"{checkpoint.path} is a graph, and {what} is made of weights", use(format="onnx")
            )
        return checkpoint

    def make_program(self, precision: Precision, *, compiled: bool) -> FinishedFile:
        """Make and check one ``.pt2`` file.

        Args:
            precision: FP32 or FP16.
            compiled: Compile it by AOTInductor for this machine's GPU, or its CPU where PyTorch sees none.

        Raises:
            BuildError: PyTorch does not export the network, or there is no compiler.
            VerificationError: it is not this network.
        """
        import torch

        from hasn_edge.exporters.pt2 import compiled_bytes, least_side, program_bytes, program_from_model
        from hasn_edge.runtime.pt2 import CompiledSession, ProgramSession, package_host

        checkpoint = self._weights("a program of PyTorch")
        device = "cuda" if compiled and torch.cuda.is_available() else "cpu"
        self.progress(Step(f"exporting {precision.value} with torch.export"))
        program = program_from_model(checkpoint.model(), precision=precision, device=device)
        details = ProgramDetails(least_side=least_side(checkpoint.spec))
        options: dict[str, Any] = {"precision": precision, "least_side": details.least_side}
        if compiled:
            self.progress(Step(f"compiling for {device}, which takes minutes"))
            data, host = compiled_bytes(program), package_host(device)
            details = msgspec.structs.replace(details, compiled_for=host, device=device)
            session: ProgramSession = CompiledSession(
                data, checkpoint.spec, compiled_for=host, device=device, **options
            )
        else:
            data = program_bytes(program)
            session = ProgramSession(data, checkpoint.spec, **options)
        self.progress(Step("comparing with PyTorch"))
        what = f"the {precision.value} {'package' if compiled else 'program'}"
        with session:
            measured, notes = self.acceptance.check(session, what=what)
        return FinishedFile(
            data=data,
            precision=precision,
            suffix=f"-aoti-{device}" if compiled else "",
            details=msgspec.structs.replace(details, measured=measured),
            notes=(*notes, f"{what} takes sides from {details.least_side} pixels; smaller images are padded"),
        )

    def _open(
        self, graph: ModelProto, precision: Precision, *, exact: bool | None = None
    ) -> OnnxRuntimeSession:
        """Open a graph; INT8 by default as exact Q/DQ arithmetic, which an engine is expected to do."""
        from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(
            graph.SerializeToString(),
            self.context.checkpoint.spec,
            precision=precision,
            exact=precision is Precision.INT8 if exact is None else exact,
        )

    def _budget(self, precision: Precision) -> tuple[float, float]:
        recipe = self.context.recipe
        return recipe.budget if recipe and precision is Precision.INT8 else FP16_BUDGET

    @cached_property
    def _outside(self) -> tuple[tuple[float, str], ...]:
        """The largest share of an INT8 input outside its range on each part, and whose it is."""
        from hasn_edge.quantize.ranges import shares_outside

        exporter, ranges = self.int8
        parts = []
        for part in self.context.held_out:
            shares = shares_outside(exporter.fp32(), ranges, (pair.lr() for pair in part))
            parts.append(max((share, name) for name, share in shares.items()))
        return tuple(parts)

    def _advice(self) -> tuple[str, tuple[Cure, ...]]:
        """Say what is doubtful about the calibration, which convolutions cost the most, and what helps.

        Nothing where it is not INT8 that lost too much.
        """
        if "int8" not in vars(self) or self.context.recipe is None:
            return "", ()
        begin, notes = "warning: ", (*self.context.notes, *self._unmatched)
        found = [note.removeprefix(begin) for note in notes if note.startswith(begin)]
        doubts = [note[0].upper() + note[1:] for note in found]
        if self.searched:  # which measured that, and whose next attempt spends less
            return ". ".join(doubts), (say("allow a larger drop"), say("build FP16"))
        from hasn_edge.images.arrays import to_tensor
        from hasn_edge.quantize.sensitivity import advice, sensitivity

        self.progress(Step("measuring which convolutions cost the most"))
        images = [to_tensor(pair.lr()) for part in self.context.held_out for pair in part]
        exporter, ranges = self.int8
        costs = sensitivity(exporter.fp32(), ranges, self.context.recipe, images, by_kind=True)
        text, cure = advice(costs)
        text = ". ".join([*doubts, text])
        budget = self.context.recipe.budget_db
        return text, (cure, use(max_drop=budget)) if budget else (cure,)

    def as_compiled(self, floats: ModelProto) -> ModelProto:
        """Return a graph of floats as a compiler receives those of this build: what it costs is compared.

        It has no pad for smaller images, for an engine has sizes, and 8-bit pixels where they are asked for.
        """
        from hasn_edge.exporters.least_side import without_padding
        from hasn_edge.exporters.uint8_io import with_pixels

        graph = without_padding(floats)
        return with_pixels(graph) if self.context.pixels else graph

    def _with_pixels(self, floats: ModelProto, precision: Precision) -> tuple[ModelProto, PixelLevels, str]:
        """Return a checked graph with 8-bit pixels in and out, and what its check found."""
        from hasn_edge.exporters.uint8_io import with_pixels

        graph = with_pixels(floats)
        with self._open(floats, precision) as before, self._open(graph, precision) as after:
            return graph, *check_levels(before, after)

    def _with_quantization(self, details: GraphDetails, ranges: Ranges, notes: list[str]) -> GraphDetails:
        """Return ``details`` with what was quantized; add a sentence on it to ``notes``."""
        from hasn_edge.quantize.freeze import with_frozen_gates
        from hasn_edge.quantize.graph import convolutions, mac_share

        assert self.context.recipe is not None
        plain = with_frozen_gates(self.int8[0].fp32(), ranges, self.context.recipe)
        chosen = self.context.recipe.select(conv.name for conv in convolutions(plain))
        share = mac_share(plain, chosen)
        notes.append(f"int8: {counted(len(chosen), 'convolution')}, {share:.1%} of the convolutions' MACs")
        if ranges.gates:
            notes.append(f"int8: channel attention frozen: {', '.join(ranges.gates)}")
        return msgspec.structs.replace(
            details,
            recipe=self.context.recipe.to_dict(),
            ranges=ranges.to_record(),
            int8_convolutions=chosen,
            int8_mac_share=share,
        )
