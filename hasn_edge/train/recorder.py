"""What a run leaves on disk as it goes: log, TensorBoard events, states, best and last weights, curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasn_edge.data.pairs import EvalSet
from hasn_edge.model.checkpoint import save_checkpoint, save_pth
from hasn_edge.optional import installed_version
from hasn_edge.train.run import BEST, LAST, LAST_PTH, LOG, CsvLog, best_score
from hasn_edge.train.schedule import learning_rate
from hasn_edge.train.state import prune, save_state, state_path
from hasn_edge.train.validate import validate

if TYPE_CHECKING:
    from hasn_edge.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """What the loop reports at each logging interval and after each validation."""

    iteration: int
    iterations: int
    loss: float
    rate: float
    """Learning rate of the last step."""
    per_second: float
    """Iterations a second since the last report, validation not counted."""
    loader_per_second: float
    """Patches a second that this process's loader thread delivers while it works."""
    model_per_second: float
    """Patches a second that all processes together trained on."""
    scores: Mapping[str, tuple[float, float]]
    """PSNR-Y and SSIM by set; empty where this was no validation."""


class Recorder:
    """Belongs to the main process of a run; a context manager that closes its files."""

    def __init__(
        self, trainer: Trainer, folder: Path, sets: Sequence[EvalSet], provenance: Mapping[str, Any]
    ) -> None:
        self._trainer, self._folder, self._sets, self._provenance = trainer, folder, sets, provenance
        self._log = CsvLog(folder / LOG, iteration=trainer.iteration)
        self._best = best_score(folder, sets[0].name) if sets else -math.inf
        self._board = _tensorboard(folder, trainer.iteration)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self._log.close()
        if self._board is not None:
            self._board.close()

    def interval(self, loss: float, per_second: float, loader_per_second: float) -> TrainingProgress:
        """Log what happened since the last time; validate and save where the recipe says so now."""
        trainer, recipe = self._trainer, self._trainer.recipe
        done = trainer.iteration
        last = done == recipe.iterations
        rate = learning_rate(recipe.optimizer, done - 1, recipe.iterations)
        consumed = per_second * recipe.phase(done - 1).batch_size
        self._log.add(
            iteration=done,
            lr=f"{rate:.6g}",
            loss=f"{loss:.6g}",
            it_per_s=f"{per_second:.4g}",
            loader_patches_per_s=f"{loader_per_second:.4g}",
        )
        self._scalars({"train/loss": loss, "train/lr": rate, "speed/it_per_s": per_second})
        scores = self._validate() if last or done % recipe.validate_every == 0 else {}
        if last or done % recipe.checkpoint_every == 0 or done in recipe.kept_always:
            self.save()
        if last:
            self._finish(scores)
        return TrainingProgress(
            iteration=done,
            iterations=recipe.iterations,
            loss=loss,
            rate=rate,
            per_second=per_second,
            loader_per_second=loader_per_second,
            model_per_second=consumed,
            scores=scores,
        )

    def save(self) -> None:
        """Write the full state and delete those that are no longer kept."""
        recipe = self._trainer.recipe
        save_state(state_path(self._folder, self._trainer.iteration), self._trainer.state())
        prune(self._folder, keep=recipe.keep, always=recipe.kept_always)

    def _validate(self) -> dict[str, tuple[float, float]]:
        trainer = self._trainer
        scores = validate(trainer.averaged, self._sets, trainer.world.device)
        for name, (psnr, ssim) in scores.items():
            self._log.add(iteration=trainer.iteration, set=name, psnr_y=f"{psnr:.4f}", ssim_y=f"{ssim:.5f}")
            self._scalars({f"{name}/psnr_y": psnr, f"{name}/ssim_y": ssim})
        first = scores[self._sets[0].name][0] if self._sets else math.inf
        if first > self._best or not self._sets:
            self._best = first
            save_checkpoint(self._folder / BEST, trainer.averaged, provenance=self._facts(scores))
        return scores

    def _finish(self, scores: Mapping[str, tuple[float, float]]) -> None:
        trainer = self._trainer
        save_checkpoint(self._folder / LAST, trainer.averaged, provenance=self._facts(scores))
        save_pth(self._folder / LAST_PTH, trainer.model, ema=trainer.averaged.state_dict())
        if installed_version("matplotlib") is not None:
            from hasn_edge.train.curve import draw_curve

            draw_curve(self._folder)

    def _facts(self, scores: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
        plain = {n: {"psnr_y": round(p, 4), "ssim_y": round(s, 5)} for n, (p, s) in scores.items()}
        return {**self._provenance, "iterations": self._trainer.iteration, "scores": plain}

    def _scalars(self, values: Mapping[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, self._trainer.iteration)


def _tensorboard(folder: Path, iteration: int) -> Any:
    """Return a writer of TensorBoard events, or ``None`` where the package is missing."""
    if installed_version("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    # Steps after the restored state are taken again: TensorBoard drops what the interrupted run had of them.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)
