"""Scores of the averaged weights on named sets, by the same metrics as ``hasn-edge eval``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hasn_edge.data.pairs import EvalSet
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.images.arrays import Float32
from hasn_edge.model.hasn import HASN


def validate(model: HASN, sets: Sequence[EvalSet], device: torch.device) -> dict[str, tuple[float, float]]:
    """Return mean PSNR-Y in dB and mean SSIM of ``model`` by the name of the set.

    Args:
        model: In evaluation mode, on ``device``.
        sets: What to score on; each image is upscaled whole.
        device: Where ``model`` is.
    """

    def upscale(x_NCHW: Float32) -> Float32:
        with torch.inference_mode():
            y: Float32 = model(torch.from_numpy(x_NCHW).to(device)).float().cpu().numpy()
        return y

    scores = {each.name: score_images(upscale, each, keep_outputs=False) for each in sets}
    return {name: (score.psnr_y, score.ssim_y) for name, score in scores.items()}
