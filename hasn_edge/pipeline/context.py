"""One model on its way to files: every graph is made here, measured, and given its name last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasn_edge.artifact import Artifact, Kind, publish
from hasn_edge.engine.capabilities import Form
from hasn_edge.engine.precision import FLAGS
from hasn_edge.errors import ShapeError, UnsupportedError
from hasn_edge.model.zoo import load_model_checkpoint, model_name
from hasn_edge.optional import installed_version
from hasn_edge.pipeline.acceptance import FP16_BUDGET_DB, SIZES, Gate, check_batch, check_pixels, check_static
from hasn_edge.pipeline.variants import GraphMaker
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

    from hasn_edge.data.calibration import CalibrationData
    from hasn_edge.quantize.ranges import Ranges
    from hasn_edge.quantize.recipe import QuantRecipe
    from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession

Progress = Callable[[str], None]

TOOLS = ("hasn-edge", "torch", "onnx", "onnxsim", "onnxruntime", "numpy")
"""Distributions whose versions go into sidecars."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A finished file that has no name on disk yet."""

    data: bytes
    kind: Kind
    precision: Precision
    size: tuple[int, int] | None
    suffix: str
    details: Mapping[str, Any]
    parent: str | None = None
    made_by: Mapping[str, str] = field(default_factory=dict)


class Job:
    """Makes files of one model.

    Args:
        model: Bundled name, ``.safetensors`` or ``.pth``.
        rules: Fusion rules of the backend that the files are for.
        pixels: Whether graphs take and give 8-bit pixels instead of floats.
        batch: Smallest and largest number of images that files take at a time.
        progress: Called with what is under way.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        rules: Sequence[str] = (),
        pixels: bool = False,
        batch: tuple[int, int] = (1, 1),
        progress: Progress = lambda text: None,
    ) -> None:
        progress("loading the model")
        self.name = model_name(model)
        self.pixels = pixels
        self.batch = batch
        self._count = batch[1] if batch[0] == batch[1] else None  # of a graph: None for any number
        self.progress = progress
        self.maker = GraphMaker(load_model_checkpoint(model), tuple(rules))
        self.gate = Gate(self.maker.checkpoint)
        self.summary = list(self.maker.fused)
        """What was measured so far, a sentence each."""
        self.model = Path(model).name
        """What a sidecar calls the model: never a folder of the machine that built the file."""
        self.recipe: QuantRecipe | None = None
        self.images: CalibrationData | None = None

    def calibrate(self, recipe: QuantRecipe, images: str | Path | None) -> None:
        """Take the ranges for INT8 from ``images``, or from those of the recipe."""
        from hasn_edge.data.calibration import load_calibration

        self.recipe = recipe
        self.images = load_calibration(images if images is not None else recipe.calibration)
        if skipped := self.images.skipped:
            self.summary.append(f"calibration: {len(skipped)} images left out, the first: {skipped[0]}")

    @cached_property
    def ranges(self) -> Ranges | None:
        """The ranges for INT8, measured when they are first needed."""
        if self.recipe is None or self.images is None:
            return None
        self.progress(f"measuring ranges on {len(self.images)} images")
        return self.maker.ranges(self.images, self.recipe)

    def require_size(self, size: tuple[int, int]) -> None:
        """Refuse a (height, width) that the network does not take, before anything is made for it.

        Raises:
            ShapeError: it is too small.
        """
        least = self.maker.checkpoint.spec.size.minimum
        if min(size) < least:
            raise ShapeError(
                f"{self.name} takes no less than {least}x{least} pixels, and {size[1]}x{size[0]} was asked "
                f"for; ask for {least}x{least} or more with --size, --dynamic or the target file's shapes: "
                "smaller images are padded to that before they are upscaled"
            )

    def identity(self, form: Form, precision: Precision, size: tuple[int, int] | None) -> str:
        """Return a hash of everything that decides a graph, without making it."""
        facts = {
            "source": self.maker.checkpoint.sha256,
            "rules": list(self.maker.rules),
            "pixels": self.pixels,
            "form": form.value,
            "precision": precision.value,
            "size": size,
            "batch": self._count,
            "recipe": self.recipe.to_dict() if self.recipe and precision is Precision.INT8 else None,
            "images": self.images.fingerprint if self.images else None,
            "tools": {tool: installed_version(tool) for tool in TOOLS},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def graph(
        self,
        form: Form,
        precision: Precision,
        *,
        size: tuple[int, int] | None,
        suffix: str,
        opset: int | None = None,
    ) -> File:
        """Make and check one ONNX file.

        Raises:
            ShapeError: ``size`` is too small for the network.
            UnsupportedError: one size and any number of images.
            VerificationError: it is not this network, or misses its budget.
        """
        from hasn_edge.exporters.uint8_io import with_pixels
        from hasn_edge.quantize.check_qdq import lint

        count = self._count
        if size is not None:
            self.require_size(size)
            if count is None:
                raise UnsupportedError(
                    "a graph of one size takes one image at a time; leave out --size or --batch, or build "
                    "an engine, which has both"
                )
        what = f"{precision.value}{suffix}"

        def make(size: tuple[int, int] | None, batch: int | None) -> ModelProto:
            return self.maker.make(
                form, precision, size=size, batch=batch, opset=opset, ranges=self.ranges, recipe=self.recipe
            )

        self.progress(f"making {what}")
        graph = make(None, 1 if count == 1 else None)
        self.progress(f"checking {what}")
        if precision is Precision.INT8:
            lint(graph)
        with self._session(graph, precision) as session:
            measured, said = self.gate.check(
                session, what=f"the ONNX graph {what}", budget_db=self._budget(precision), advice=self._advice
            )
            if count != 1:
                check_batch(session)
        self.summary.append(said)
        if size is not None or count not in (1, None):
            fixed = make(size, count)
            check_static(
                lambda: self._session(graph, precision),
                lambda: self._session(fixed, precision),
                size or SIZES[-1],
                count=count or 1,
            )
            graph = fixed
        if self.pixels:
            floats, graph = graph, with_pixels(graph)
            with self._session(floats, precision) as before, self._session(graph, precision) as after:
                measured["pixels"], said = check_pixels(before, after)
            self.summary.append(said)
        return File(
            data=graph.SerializeToString(),
            kind=Kind.ONNX,
            precision=precision,
            size=size,
            suffix=suffix,
            details={
                "form": form.value,
                **({"builder_flags": list(FLAGS[precision])} if form.weakly_typed else {}),
                "opset": graph.opset_import[0].version,
                "fused": list(self.maker.rules),
                **self._quantization(precision),
                "measured": measured,
            },
        )

    def torchscript(self, precision: Precision) -> File:
        """Make and check one TorchScript file."""
        from hasn_edge.exporters.torchscript import torchscript_bytes, torchscript_from_model
        from hasn_edge.runtime.torchscript import TorchScriptSession

        self.progress(f"exporting TorchScript {precision.value}")
        checkpoint = self.maker.checkpoint
        data = torchscript_bytes(torchscript_from_model(checkpoint.model(), precision=precision))
        self.progress("comparing with PyTorch")
        with TorchScriptSession(data, checkpoint.spec, precision=precision) as session:
            measured, said = self.gate.check(session, what=f"the {precision.value} TorchScript file")
        self.summary.append(said)
        return File(
            data=data,
            kind=Kind.TORCHSCRIPT,
            precision=precision,
            size=None,
            suffix="",
            details={"measured": measured},
        )

    def publish(self, file: File, folder: Path) -> Artifact:
        """Give a finished file its name in ``folder``, with its sidecar."""
        sized = f"-{file.size[1]}x{file.size[0]}" if file.size else ""
        pixels = "-u8" if self.pixels else ""
        batch = f"-b{self.batch[1]}" if self.batch[1] > 1 else ""
        name = f"{self.name}-{file.precision.value}{file.suffix}{pixels}{sized}{batch}"
        path = folder / f"{name}{file.kind.suffix}"
        self.progress(f"writing {path}")
        versions = {tool: version for tool in TOOLS if (version := installed_version(tool))}
        return publish(
            file.data,
            path,
            kind=file.kind,
            spec=self.maker.checkpoint.spec,
            precision=file.precision,
            source=self.maker.checkpoint.sha256,
            parent=file.parent,
            made_by={**versions, **file.made_by},
            details={
                **({"size": list(file.size)} if file.size else {}),
                **({"pixels": True} if self.pixels else {}),
                **({"batch": list(self.batch)} if self.batch[1] > 1 else {}),
                **file.details,
            },
        )

    def _session(self, graph: ModelProto, precision: Precision) -> OnnxRuntimeSession:
        """Open a graph; INT8 as exact Q/DQ arithmetic, which is what an engine is expected to do."""
        from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(
            graph.SerializeToString(),
            self.maker.checkpoint.spec,
            precision=precision,
            exact=precision is Precision.INT8,
        )

    def _budget(self, precision: Precision) -> float:
        return self.recipe.budget_db if precision is Precision.INT8 and self.recipe else FP16_BUDGET_DB

    def _advice(self) -> str:
        """Say which convolutions cost the most, where it is INT8 that lost too much."""
        if self.recipe is None or self.ranges is None:
            return ""
        from hasn_edge.data.pairs import shipped_eval_set
        from hasn_edge.images.arrays import to_tensor
        from hasn_edge.quantize.sensitivity import advice, sensitivity

        self.progress("measuring which convolutions cost the most")
        images = [to_tensor(pair.lr()) for pair in shipped_eval_set(self.maker.checkpoint.spec.scale)]
        costs = sensitivity(self.maker.fp32(), self.ranges, self.recipe, images, by_kind=True)
        return f"The {advice(costs)}."

    def _quantization(self, precision: Precision) -> Mapping[str, Any]:
        if precision is not Precision.INT8 or self.recipe is None or self.ranges is None:
            return {}
        from hasn_edge.quantize.graph import convolutions, mac_share

        plain = self.maker.fp32()
        chosen = self.recipe.select(conv.name for conv in convolutions(plain))
        share = mac_share(plain, chosen)
        said = f"int8: {len(chosen)} convolutions, {share:.1%} of the convolutions' MACs"
        if said not in self.summary:
            self.summary.append(said)
        return {
            "recipe": self.recipe.to_dict(),
            "ranges": self.ranges.to_dict(),
            "int8_convolutions": list(chosen),
            "int8_mac_share": share,
        }
