"""What a run leaves on disk as it goes: log, TensorBoard events, states, best and last weights, curve."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch

from hasn_edge.data.pairs import EvalSet, bicubic_baseline, linear_baseline
from hasn_edge.errors import CheckpointError, OutputError
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.files import naming_errors, writing
from hasn_edge.model.checkpoint import load_checkpoint, save_checkpoint, save_pth
from hasn_edge.model.hasn import HASN
from hasn_edge.optional import installed_version
from hasn_edge.progress import Step
from hasn_edge.runtime.memory import NO_LIMIT_BYTES
from hasn_edge.runtime.pytorch import ModuleSession
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.train.run_folder import prune, save_state, state_path
from hasn_edge.train.silence import describe, silent_units
from hasn_edge.train.trainer import Trainer

LOG = "log.csv"
BEST = "best.safetensors"
LAST = "last.safetensors"
LAST_PTH = "last.pth"
CURVE = "curve.png"
BOARD = "tensorboard"

_FALL_DB = 0.3
"""So far below the best validation a network has lost what it had learned; else they differ by hundredths."""

log = logging.getLogger(__name__)


class Recorder:
    """Belongs to the main process of a run; a context manager that closes its files."""

    def __init__(
        self, trainer: Trainer, folder: Path, sets: Sequence[EvalSet], provenance: Mapping[str, Any]
    ) -> None:
        self._trainer, self._folder, self._sets, self._provenance = trainer, folder, sets, provenance
        self._log = CsvLog(folder / LOG, iteration=trainer.iteration)
        name = sets[0].name if sets else ""
        self._best, self._best_at = _best_score(folder, name, trainer.iteration)
        self._baselines: dict[str, Mapping[str, float]] = {}
        """By set, what every network is compared with."""
        self._falls, self._was_well = 0, False
        self.lost = ""
        """Once the run should stop because its network lost what it had learned: what happened to it."""
        self._board = _open_tensorboard(folder, trainer.iteration)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        with closing(self._log), naming_errors(self._folder / BOARD):
            if self._board is not None:
                self._board.close()

    def record(self, loss: float, per_second: float, loader_per_second: float) -> Step:
        """Log the steps since the last call; validate and save where the recipe has it now.

        Args:
            loss: Mean of the losses.
            per_second: Iterations a second, validation not counted.
            loader_per_second: Patches a second that this process's loader delivers while it works.

        Returns:
            The same figures to show; a validation's scores are to be kept.
        """
        trainer, recipe = self._trainer, self._trainer.recipe
        done = trainer.iteration
        rate = recipe.learning_rate(done - 1)
        row = {
            "iteration": done,
            "lr": f"{rate:.6g}",
            "loss": f"{loss:.6g}",
            "it_per_s": f"{per_second:.4g}",
            "loader_patches_per_s": f"{loader_per_second:.4g}",
        }
        try:
            self._log.add(row)
            self._add_scalars({"train/loss": loss, "train/lr": rate, "speed/it_per_s": per_second})
        except OutputError:
            with suppress(OutputError):  # as a rule there is no room for it either
                self.save()
            raise
        saved = self._ends or done % recipe.checkpoint_every == 0 or done in recipe.kept_always
        if saved:  # before what may fail: an image of a validation set that can no longer be read
            self.save()
        scores: Mapping[str, tuple[float, float]] = {}
        silent = ""
        if self._ends or done % recipe.validate_every == 0:
            try:
                scores, silent = self._validate()
            except Exception:
                if not saved:
                    self.save()
                raise
        if self._ends:
            self._finish(scores)
        hours, minutes = divmod(round((recipe.iterations - done) / max(1e-9, per_second)) // 60, 60)
        text = (
            f"loss {loss:.5f}  lr {rate:.2e}  {per_second:.2f} it/s  ETA {hours}:{minutes:02d} h  patches/s: "
            f"network {per_second * recipe.phase(done - 1).batch_size:.0f}, loader {loader_per_second:.0f}"
        )
        text += self._in_words(scores, silent)
        return Step(text, done, recipe.iterations, keep=bool(scores or silent))

    def catch_up(self) -> Step | None:
        """Do what a run left undone that ended between saving its newest state and this.

        Validate where its log has the steps before the state and not the validation after it; write what a
        run leaves at its end, where any of it is missing or is that of an earlier end.

        Returns:
            The validation's scores to show; ``None`` where nothing was left undone.
        """
        trainer, recipe = self._trainer, self._trainer.recipe
        done = trainer.iteration
        ends = self._ends and not self._finished()
        due = (self._ends or done % recipe.validate_every == 0) and self._log.last == done
        if not ends and not (due and self._log.last_validated != done):
            return None
        scores, silent = self._validate()
        if ends:
            self._finish(scores)
        text = f"validated after resuming{self._in_words(scores, silent)}"
        return Step(text, done, recipe.iterations, keep=True)

    @property
    def _ends(self) -> bool:
        return self._trainer.iteration == self._trainer.recipe.iterations

    def _finished(self) -> bool:
        """Whether what :meth:`_finish` writes is there, of this very end."""
        wanted = [LAST_PTH, LAST] + [CURVE] * (installed_version("matplotlib") is not None)
        if not all((self._folder / name).is_file() for name in wanted):
            return False
        return _provenance(self._folder / LAST).get("iterations") == self._trainer.iteration

    def _in_words(self, scores: Mapping[str, tuple[float, float]], silent: str) -> str:
        text = "".join(
            f"  {name} {psnr:.3f} dB {ssim:.4f} (bicubic {self._baselines[name]['bicubic']:.3f} dB)"
            for name, (psnr, ssim) in scores.items()
        )
        return text + (f"  {silent}" if silent else "")

    def save(self) -> None:
        """Write the full state and delete those that are no longer kept."""
        save_state(state_path(self._folder, self._trainer.iteration), self._trainer.state())
        self._prune()

    def _prune(self) -> None:
        recipe = self._trainer.recipe
        prune(self._folder, keep=recipe.keep, always=(*recipe.kept_always, self._best_at))

    def _validate(self) -> tuple[dict[str, tuple[float, float]], str]:
        """Return the scores by set, and which hidden units are silent."""
        trainer = self._trainer
        weights, more = trainer.exported(trainer.averaged)
        silent = silent_units(weights, trainer.watched)
        count = sum(int(units.sum()) for units in silent.values())
        self._add_scalars({"train/silent_units": count})
        scores = validate(trainer.averaged, self._sets, trainer.world.device)
        if not self._baselines:  # they do not change over the run
            for each in self._sets:
                runs = {"bicubic": bicubic_baseline(each.scale), "best linear 5x5": linear_baseline(each)}
                self._baselines[each.name] = {
                    name: score_images(run, each, keep_outputs=False).psnr_y for name, run in runs.items()
                }
        first = scores[self._sets[0].name][0] if self._sets else math.inf
        if first > self._best or not self._sets:
            self._best = first
            if self._sets:
                self._best_at = trainer.iteration
                if state_path(self._folder, trainer.iteration).exists():
                    self._prune()
                else:
                    self.save()  # where to go back to, should the network be lost later
            save_checkpoint(self._folder / BEST, weights, provenance=self._provenance_with(scores) | more)
        self._judge(first)
        # The log comes last: what it has is not validated again.
        if self._log.last_validated != trainer.iteration:
            rows = [
                {"set": name, "psnr_y": f"{psnr:.4f}", "ssim_y": f"{ssim:.5f}"}
                for name, (psnr, ssim) in scores.items()
            ]
            self._log.add(*({"iteration": trainer.iteration, "silent": count, **row} for row in rows or [{}]))
        for name, (psnr, ssim) in scores.items():
            self._add_scalars({f"{name}/psnr_y": psnr, f"{name}/ssim_y": ssim})
        return scores, describe(silent)

    def _judge(self, first: float) -> None:
        """Note where the network lost what it had learned: as a rule it does not come back by itself.

        A run that was resumed so far below its best goes on, because it may be resumed after :attr:`lost`.
        """
        if first >= self._best - _FALL_DB:
            self._falls, self._was_well = 0, True
            return
        self._falls += 1
        fall = (
            f"iteration {self._trainer.iteration}: {self._sets[0].name} has {first:.3f} dB, "
            f"{self._best - first:.2f} less than after iteration {self._best_at}, the best of this run"
        )
        if self._falls == 1:
            log.warning("%s", fall)
        elif self._was_well:
            self.lost = f"{fall}; it did not come back since the validation before"

    @property
    def before_the_fall(self) -> str:
        """What a run may begin with: the state with the best validation; if there is none, its weights."""
        kept = state_path(self._folder, self._best_at).exists()
        return f"{self._folder}@{self._best_at}" if kept else str(self._folder / BEST)

    def _finish(self, scores: Mapping[str, tuple[float, float]]) -> None:
        trainer = self._trainer
        averaged, more = trainer.exported(trainer.averaged)
        provenance = self._provenance_with(scores) | more
        # As BasicSR writes weights and their average, for other projects to read.
        save_pth(self._folder / LAST_PTH, trainer.exported(trainer.model)[0], ema=averaged.state_dict())
        if installed_version("matplotlib") is not None:
            _draw_curve(self._folder, self._baselines)
        # Last, because it states the iteration: where it is there, so is all else.
        save_checkpoint(self._folder / LAST, averaged, provenance=provenance)

    def _provenance_with(self, scores: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
        # Not rounded: a resumed run compares with the best one's.
        plain = {name: {"psnr_y": psnr, "ssim_y": ssim} for name, (psnr, ssim) in scores.items()}
        return {**self._provenance, "iterations": self._trainer.iteration, "scores": plain}

    def _add_scalars(self, values: Mapping[str, float]) -> None:
        if self._board is not None:
            with naming_errors(self._folder / BOARD):  # its thread's, as soon as it has failed
                for name, value in values.items():
                    self._board.add_scalar(name, value, self._trainer.iteration)


def _open_tensorboard(folder: Path, iteration: int) -> Any:
    """Return a writer of TensorBoard events, or ``None`` where the package is missing."""
    if installed_version("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    # Steps after the restored state are taken again: TensorBoard drops what the interrupted run had of them.
    with naming_errors(folder / BOARD):
        return SummaryWriter(str(folder / BOARD), purge_step=iteration + 1)


def validate(model: HASN, sets: Sequence[EvalSet], device: torch.device) -> dict[str, tuple[float, float]]:
    """Return mean PSNR-Y in dB and mean SSIM of ``model`` by the name of the set.

    Args:
        model: In evaluation mode, on ``device``.
        sets: What to score on. Each image is upscaled whole, unless the memory turns out not to suffice, and
            one below the network's smallest size is padded, as :class:`~hasn_edge.runtime.upscaler.Upscaler`
            does it for a user.
        device: Where ``model`` is.

    Raises:
        InputError: an image cannot be read or measured, or the output is not finite; names the image.
    """
    # What happens to be free must not decide whether a validation has tiles, so that resuming stays exact.
    upscaler = Upscaler(_InTraining(model, device, None, model.spec), memory_limit_bytes=NO_LIMIT_BYTES)
    scores = {each.name: score_images(upscaler.run, each, keep_outputs=False) for each in sets}
    return {name: (score.psnr_y, score.ssim_y) for name, score in scores.items()}


class _InTraining(ModuleSession):
    """A network in training: ``PyTorchSession`` would turn TF32 off, for the steps that follow too."""

    backend = "pytorch"


def _draw_curve(folder: Path, baselines: Mapping[str, Mapping[str, float]]) -> None:
    """Draw ``curve.png`` from a run's ``log.csv``.

    Args:
        folder: The run's.
        baselines: By set and name, PSNR-Y in dB of what the network is compared with: a level line each.
    """
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    rows = read_log(folder / LOG)
    steps = [(int(row["iteration"]), float(row["loss"]), float(row["lr"])) for row in rows if row["loss"]]
    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for name in dict.fromkeys(row["set"] for row in rows if row["set"]):
        points = [(int(r["iteration"]), float(r["psnr_y"])) for r in rows if r["set"] == name]
        best = max(value for _, value in points)
        (line,) = upper.plot(*zip(*points, strict=True), marker=".", label=f"{name} (best {best:.2f} dB)")
        for style, (what, level) in zip((":", "--"), baselines.get(name, {}).items(), strict=False):
            label = f"{name}, {what} ({level:.2f} dB)"
            upper.axhline(level, color=line.get_color(), linestyle=style, linewidth=1, label=label)
    upper.set_ylabel("PSNR-Y of the average [dB]")
    if upper.lines:
        # Above the axes: levels of several sets leave no corner free.
        upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize="small", frameon=False)
    upper.grid(alpha=0.3)
    # A run that was stopped early and is to end there may have logged no step.
    iterations, losses, rates = zip(*steps, strict=True) if steps else ((), (), ())
    lower.plot(iterations, losses, linewidth=0.8)
    lower.set_yscale("log")
    lower.set_ylabel("training loss")
    lower.set_xlabel("iteration")
    lower.grid(alpha=0.3)
    right = lower.twinx()
    right.plot(iterations, rates, color="tab:orange", linewidth=0.8)
    right.set_ylabel("learning rate", color="tab:orange")
    with writing(folder / CURVE) as temporary:
        figure.savefig(temporary, dpi=110)


class CsvLog:
    """``log.csv``: a row per interval and per validation; resuming cuts it to the state's iteration."""

    COLUMNS = (
        "iteration",
        "lr",
        "loss",
        "it_per_s",
        "loader_patches_per_s",
        "set",
        "psnr_y",
        "ssim_y",
        "silent",
    )

    def __init__(self, path: Path, *, iteration: int) -> None:
        """Open ``path``, keeping the rows up to ``iteration``."""
        rows = [row for row in read_log(path) if int(row["iteration"]) <= iteration]
        with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self.last = max((int(row["iteration"]) for row in rows), default=0)
        """Iteration of the newest row that was kept."""
        validated = (int(row["iteration"]) for row in rows if row["set"] or row.get("silent"))
        self.last_validated = max(validated, default=0)
        """That of the newest validation that was kept."""
        self._path = path
        with naming_errors(path):
            self._stream = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._stream, self.COLUMNS)

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Append rows in one piece; columns that are not given stay empty.

        Raises:
            OutputError: the file cannot be written, as where the disk is full.
        """
        with naming_errors(self._path):
            self._writer.writerows(rows)
            self._stream.flush()

    def close(self) -> None:
        """Close the file, having written what is left of rows that could not be.

        Raises:
            OutputError: they still cannot.
        """
        with naming_errors(self._path):
            self._stream.close()


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the complete rows of a ``log.csv``; an interrupted last row is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            row for row in csv.DictReader(stream) if None not in row.values() and row["iteration"].isdigit()
        ]


def _best_score(folder: Path, name: str, iteration: int) -> tuple[float, int]:
    """Return the PSNR-Y on set ``name`` that ``best.safetensors`` states, and its iteration.

    Without such a file the lowest.

    Not the highest one of the log, which has four decimals. Weights of a later ``iteration`` do not count:
    their steps are taken again, or they are those of another run, which ended there before its first state.
    """
    stated = _provenance(folder / BEST)
    try:
        best, at = float(stated["scores"][name]["psnr_y"]), int(stated["iterations"])
    except (KeyError, TypeError, ValueError):
        return -math.inf, 0
    return (best, at) if at <= iteration else (-math.inf, 0)


def _provenance(path: Path) -> Mapping[str, Any]:
    """Return what a run's weights state of it; nothing where there are none."""
    if not path.is_file():
        return {}
    try:
        return load_checkpoint(path).provenance
    except CheckpointError as exc:
        log.warning("%s; it is written anew", exc)
        return {}
