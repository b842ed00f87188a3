"""Weights adapted to INT8 without labels, in a given time: measured, stopped, resumed, published."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasn_edge import interrupt
from hasn_edge.errors import HasnEdgeError, OutputError, UnsupportedError, counted, omit, say, use
from hasn_edge.evaluation.evaluate import drift, score_images
from hasn_edge.files import writing
from hasn_edge.model.zoo import read_provenance
from hasn_edge.optional import installed_version
from hasn_edge.pipeline.context import TOOLS
from hasn_edge.pipeline.foreign_graph import ForeignGraph
from hasn_edge.progress import Progress, Step
from hasn_edge.quantize.recipe import QuantRecipe
from hasn_edge.sidecar import Form
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

    from hasn_edge.model.checkpoint import Checkpoint
    from hasn_edge.pipeline.graph_exporter import GraphExporter
    from hasn_edge.pipeline.variants import Variants
    from hasn_edge.quantize.fake_quant import FakeQuantHASN, Tuner
    from hasn_edge.quantize.ranges import Ranges

VALIDATE_EVERY_S = 60.0
"""Seconds between two measurements of the real graph; more where measuring takes more than a fifth of it."""

SUFFIX = "-finetuned"
"""What names of adapted weights, and of files made of them, have after the model's."""

log = logging.getLogger(__name__)


class Stopped(HasnEdgeError):  # noqa: N818 - it is no error that somebody asks to stop
    """Fine-tuning was asked to stop; its state is saved."""

    exit_code = interrupt.EXIT_CODE


@dataclass(frozen=True, kw_only=True)
class GateLoss:
    """What a graph loses on the held-out images."""

    mean: float
    """Loss of mean PSNR-Y in dB, of the part that loses the most."""
    worst: float
    """Loss of the image that loses the most, in dB."""
    share: float
    """The larger of both over its limit: 1 where the budget is just kept."""

    def __str__(self) -> str:
        return f"{self.mean:.4f} dB (worst image {self.worst:.4f})"


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What fine-tuning found."""

    variants: Variants
    """The build to go on with: of the adapted weights, or the one that it began with."""
    notes: tuple[str, ...]
    weights: bytes | None
    """The adapted weights' file, which has no name yet; ``None`` where nothing was better than the start."""
    path: Path
    """What its name shall be."""
    state: Path | None
    """What a longer run goes on from; ``None`` where it is not this result's."""

    def publish(self) -> tuple[Path, ...]:
        """Give the weights their name, remove the state, and return what was written."""
        if self.weights is not None:
            with writing(self.path) as path:
                path.write_bytes(self.weights)
        if self.state is not None:  # after the weights: a full disk must not take both
            self.state.unlink(missing_ok=True)
        return () if self.weights is None else (self.path,)


def refuse_others_weights(name: str, source: str, folder: Path, *, force: bool) -> Path:
    """Return where adapted weights will be; refuse, before any work, a file there that others were made of.

    Raises:
        OutputError: it was adapted from other weights than ``source``.
    """
    path = folder / f"{name}{SUFFIX}.safetensors"
    try:
        parent = read_provenance(path)["finetuned"]["parent"] if path.is_file() else source
    except (OSError, ValueError, LookupError, TypeError):
        parent = None
    if parent != source and not force:
        raise OutputError(
            f"{path} was not adapted from these weights, and would be replaced",
            use(name="NAME"),
            use(force=True),
            say("choose another folder"),
        )
    return path


def finetune(
    variants: Variants,
    seconds: float,
    folder: Path,
    *,
    cache: Path,
    only_if_needed: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Adapted:
    """Adapt the weights of a build in INT8 to what its recipe selects.

    The real graph is measured at the start, every minute and at the end, in exact arithmetic and on the
    build's held-out images, against the FP32 network; the best of these is the result.

    Args:
        variants: The build; its recipe states the budget that "best" is measured by.
        seconds: For how long, the measurements included, and earlier parts of a run that was stopped.
        folder: Where the weights will be.
        cache: Folder for the state of a run that was stopped.
        only_if_needed: Adapt nothing where the start keeps the budget.
        clock: Seconds.

    Raises:
        UnsupportedError: the model is a graph.
        OutputError: see :func:`refuse_others_weights`.
        Stopped: Ctrl-C; the same call goes on.
    """
    context = variants.context
    checkpoint, recipe = context.checkpoint, context.recipe
    if isinstance(checkpoint, ForeignGraph):
        raise UnsupportedError(
            f"{checkpoint.path} is a graph, and what is adapted is weights", omit("finetune")
        )
    assert recipe is not None
    path = refuse_others_weights(context.name, checkpoint.sha256, folder, force=context.force)
    run = _Run(variants, checkpoint, recipe, seconds, cache, clock)
    start = run.measure_start()
    if only_if_needed and start.share <= 1:
        note = f"finetune: not needed, INT8 of all that the recipe selects loses {start} as it is"
        return Adapted(variants=variants, notes=(note,), weights=None, path=path, state=None)
    run.go_on()
    notes: tuple[str, ...] = (
        f"finetune: {counted(run.tuner.step_count, 'step')} in {run.spent / 60:.1f} minutes on "
        f"{counted(len(run.images), 'patch', 'patches')}; INT8 of what the recipe selects lost {start} at "
        f"the start and {run.best} after {counted(run.best_step, 'step')}",
    )
    if run.best_step == 0:
        notes = (*notes, "finetune: nothing was better than the start, so the weights stay as they were")
        return Adapted(variants=variants, notes=notes, weights=None, path=path, state=run.path)
    adapted, data = run.result()
    notes = (*notes, f"finetune: without rounding, in FP32, the adapted weights lose {run.plain}")
    context = replace(context, checkpoint=adapted, name=path.stem, model=path.name)
    other = type(variants)(context, variants.progress)
    other.acceptance = variants.acceptance  # all is held against the network that it began with
    return Adapted(
        variants=other,
        notes=notes,
        weights=data,
        path=path,
        state=run.path,
    )


class _Run:
    """One run of fine-tuning, from its start or from where it was stopped."""

    def __init__(
        self,
        variants: Variants,
        checkpoint: Checkpoint,
        recipe: QuantRecipe,
        seconds: float,
        cache: Path,
        clock: Callable[[], float],
    ) -> None:
        from hasn_edge.quantize.fake_quant import TuneSettings

        images = variants.context.images
        assert images is not None
        self.variants, self.checkpoint, self.recipe, self.images = variants, checkpoint, recipe, images
        self.seconds, self.clock, self.settings = seconds, clock, TuneSettings()
        self.progress: Progress = variants.progress
        self.spent = 0.0
        self.best, self.best_step = GateLoss(mean=0, worst=0, share=0), 0
        self.plain = self.best
        """What the best weights lose in FP32, once :meth:`result` has measured it."""
        self._kept: tuple[dict[str, Any], Ranges] | None = None
        self._stop: list[int] = []
        facts = {
            "source": checkpoint.sha256,
            "recipe": recipe.to_dict(),  # with the limits, by which the best is chosen
            "rules": list(self._rules),
            "images": images.fingerprint,
            "held_out": [part.fingerprint for part in variants.context.held_out],
            "settings": asdict(self.settings),
            "versions": [installed_version(name) for name in ("hasn-edge", "torch")],
        }
        self.identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.path = cache / f"finetune-{self.identity[:16]}.pt"

    @property
    def _rules(self) -> tuple[str, ...]:
        from hasn_edge.pipeline.graph_exporter import adapted_rules

        return adapted_rules(self.variants.context.rules)

    def measure_start(self) -> GateLoss:
        """Prepare the network and return what a build without fine-tuning loses."""
        from hasn_edge.pipeline.graph_exporter import GraphExporter
        from hasn_edge.quantize.fake_quant import FakeQuantHASN, Tuner

        exporter, ranges = self.variants.int8
        self.best, model = self._measure(exporter, ranges), exporter.network
        if exporter.rules != self._rules:
            exporter = GraphExporter(self.checkpoint, self._rules, model)
            ranges = exporter.measure_ranges(self.images, self.recipe)
        composed = "compose_esa" in self._rules
        network = FakeQuantHASN(model, exporter.fp32(), ranges, self.recipe, composed=composed)
        self.tuner: Tuner = Tuner(network, self.checkpoint.model(), tuple(self.images), self.settings)
        return self.best

    def go_on(self) -> None:
        """Take steps until the time is over; measure every minute and keep the best.

        Raises:
            Stopped: somebody asked for it.
        """
        self._load()
        began, last, took = self.clock() - self.spent, self.spent, 0.0
        with interrupt.catching(self._stop.append, once=True):
            while True:
                self.spent = self.clock() - began
                over = self.spent + took >= self.seconds or bool(self._stop)
                if over or self.spent - last >= max(VALIDATE_EVERY_S, 4 * took):
                    if not self._stop:
                        self._validate()
                        took = self.clock() - began - self.spent
                        self.spent = last = self.clock() - began
                    self._save()
                if self._stop:
                    raise Stopped(
                        f"stopped after {counted(self.tuner.step_count, 'step')}, {self.spent / 60:.1f} of "
                        f"{self.seconds / 60:.1f} minutes; the same command goes on from there"
                    )
                if over:
                    return
                levels = 255 * self.tuner.step()
                if not math.isfinite(levels):  # it will not come back; what was kept before is the result
                    log.warning("step %d: the difference is no number", self.tuner.step_count)
                    return
                text = (
                    f"fine-tuning to INT8: step {self.tuner.step_count}, {levels:.3f} levels from FP32, "
                    f"best so far {self.best.mean:.4f} dB lost; seconds"
                )
                self.progress(Step(text, round(self.spent), round(self.seconds)))

    def result(self) -> tuple[Checkpoint, bytes]:
        """Return the best weights as a checkpoint, and its file."""
        from hasn_edge.model.checkpoint import load_checkpoint, save_checkpoint
        from hasn_edge.model.hasn import HASN
        from hasn_edge.pipeline.graph_exporter import GraphExporter
        from hasn_edge.quantize.fake_quant import provenance_of

        assert self._kept is not None
        weights, ranges = self._kept
        model = HASN(self.checkpoint.spec)
        model.load_state_dict(weights)
        self.plain = self._loss(GraphExporter(self.checkpoint, self._rules, model).fp32())
        provenance = {
            "finetuned": {
                "parent": self.checkpoint.sha256,
                "model": self.variants.context.model,
                "steps": self.best_step,
                "seconds": round(self.spent, 1),
                "settings": asdict(self.settings),
                "recipe": self.recipe.to_dict(),
                "loss_db": asdict(self.best),
                "fp32_loss_db": asdict(self.plain),
            },
            **provenance_of(ranges),
            "parent": dict(self.checkpoint.provenance),
            "versions": {tool: version for tool in TOOLS if (version := installed_version(tool))},
        }
        with tempfile.TemporaryDirectory(prefix="hasn-edge-finetune-") as folder:
            file = Path(folder, "weights.safetensors")
            save_checkpoint(file, model, provenance=provenance)
            return load_checkpoint(file), file.read_bytes()

    def _measure(self, exporter: GraphExporter, ranges: Ranges) -> GateLoss:
        """Return what the real INT8 graph of ``exporter`` loses against the FP32 network of the build."""
        self.progress(Step("measuring the INT8 graph on the held-out images"))
        return self._loss(exporter.export(Form.CPU, Precision.INT8, ranges=ranges, recipe=self.recipe))

    def _loss(self, graph: ModelProto) -> GateLoss:
        from hasn_edge.exporters.onnx_graph import Emulator

        acceptance = self.variants.acceptance
        run = Emulator(graph, exact=True).run
        parts = [
            drift(before, score_images(run, part))
            for before, part in zip(acceptance.reference_scores, acceptance.held_out, strict=True)
        ]
        mean, worst = -min(part.dpsnr for part in parts), -min(part.worst_dpsnr for part in parts)
        return self._judge(mean, worst)

    def _judge(self, mean: float, worst: float) -> GateLoss:
        limits = self.recipe.budget
        share = max(mean / max(limits[0], 1e-9), worst / max(limits[1], 1e-9))
        return GateLoss(mean=mean, worst=worst, share=share)

    def _validate(self) -> None:
        from hasn_edge.pipeline.graph_exporter import GraphExporter
        from hasn_edge.quantize.ranges import with_codes

        if self.tuner.step_count == 0:
            return
        network: FakeQuantHASN = self.tuner.averaged
        model, ranges = network.network(), network.ranges()
        try:
            exporter = GraphExporter(self.checkpoint, self._rules, model)
            found = self._measure(exporter, with_codes(ranges, exporter.fp32(), self.images, self.recipe))
        except HasnEdgeError as exc:  # outputs that are no numbers, ranges of no size
            log.warning("step %d: %s", self.tuner.step_count, exc)
            return
        log.info("step %d: %s", self.tuner.step_count, found)
        if found.share < self.best.share:
            self.best, self.best_step = found, self.tuner.step_count
            self._kept = dict(model.state_dict()), ranges

    def _save(self) -> None:
        from hasn_edge.model.checkpoint import torch_bytes

        kept = None
        if self._kept is not None:
            weights, ranges = self._kept
            learned = {
                "values": dict(ranges.values),
                "lows": dict(ranges.lows),
                "spread": dict(ranges.spread),
            }
            kept = {"weights": weights, **learned}
        state = {
            "tuner": self.tuner.state(),
            "spent": self.spent,
            "best": {**asdict(self.best), "step": self.best_step},
            "kept": kept,
        }
        content = torch_bytes(state)
        with writing(self.path) as path:
            path.write_bytes(content)

    def _load(self) -> None:
        import torch

        if not self.path.is_file():
            return
        try:
            state: Mapping[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            self.tuner.restore(state["tuner"])
        except Exception as exc:  # whatever a damaged file makes of the unpickler
            log.warning("%s: a state that cannot be read; beginning anew (%s)", self.path, exc)
            return
        self.spent = float(state["spent"])
        best = self._judge(state["best"]["mean"], state["best"]["worst"])
        if (kept := state["kept"]) is not None and best.share < self.best.share:
            self.best, self.best_step = best, int(state["best"]["step"])
            learned = {key: kept[key] for key in ("values", "lows", "spread")}
            ranges = replace(self.tuner.network.ranges(), **learned)
            self._kept = kept["weights"], ranges
