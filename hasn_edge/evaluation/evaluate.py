"""Image quality of a model or of a built file, by name."""

from __future__ import annotations

from pathlib import Path

from hasn_edge.data.pairs import load_eval_set, shipped_eval_set
from hasn_edge.evaluation import quality
from hasn_edge.evaluation.quality import Scores
from hasn_edge.runtime.open import open_model, open_session
from hasn_edge.runtime.upscaler import Upscaler


def evaluate(
    model: str | Path | None = None,
    *,
    artifact: str | Path | None = None,
    data: str | tuple[str, Path] | None = None,
    self_ensemble: bool = False,
) -> Scores:
    """Measure PSNR-Y and SSIM of a model or of a built file.

    Args:
        model: Bundled name or weights file; the default model where neither is given.
        artifact: What ``export`` or ``build`` made, instead.
        data: Evaluation set, ``"NAME=DIR"`` or (name, folder); the images that ship where ``None``.
        self_ensemble: Average over the eight flips and rotations.

    Raises:
        HasnEdgeError: a file or the set cannot be used.
    """
    session = open_session(Path(artifact)) if artifact is not None else open_model(model)
    with session:
        scale = session.spec.scale
        eval_set = shipped_eval_set(scale) if data is None else load_eval_set(data, scale)
        return quality.evaluate(
            Upscaler(session).run, eval_set, self_ensemble=self_ensemble, keep_outputs=False
        )
