"""Training losses on ``(N, 3, H, W)`` float32 RGB in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hasn_edge.train.recipe import LossConfig

_EPSILON = 1e-8


def kl_over_channels(sr_NCHW: Tensor, hr_NCHW: Tensor) -> Tensor:
    """KL(HR || SR) of softmaxes over the colour channel, mean over all elements.

    The paper's stage 2 term as its code has it: ``mean(p * (log p - log(q + 1e-8)))`` with ``p`` the
    softmax of the target and ``q`` of the prediction, both over dimension 1. Adding the same value to all
    three channels of a pixel changes nothing: the term sees hue and not brightness.
    """
    p, q = torch.softmax(hr_NCHW, dim=1), torch.softmax(sr_NCHW, dim=1)
    return F.kl_div(torch.log(q + _EPSILON), p, reduction="none").mean()


def total_loss(config: LossConfig, sr_NCHW: Tensor, hr_NCHW: Tensor) -> Tensor:
    """Return the weighted sum of the terms of ``config``, a scalar."""
    total = sr_NCHW.new_zeros(())
    if config.l1:
        total = total + config.l1 * F.l1_loss(sr_NCHW, hr_NCHW)
    if config.mse:
        total = total + config.mse * F.mse_loss(sr_NCHW, hr_NCHW)
    if config.kl:
        total = total + config.kl * kl_over_channels(sr_NCHW, hr_NCHW)
    return total
