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


def fourier_l1(sr_NCHW: Tensor, hr_NCHW: Tensor) -> Tensor:
    """Return the mean absolute error of real and imaginary parts of the two-dimensional Fourier transform.

    As MIMO-UNet (Cho et al. 2021) and SAFMN (Sun et al. 2023, weight 0.05) have it: a forward transform of
    each colour over height and width that is not divided by anything, and the mean over all coefficients. An
    error that is white noise therefore counts ``sqrt(H W / 2)`` times what it counts in the mean absolute
    error of the pixels, 68 times on HR patches of 96 x 96: a small weight is a large one. Only the half of
    the spectrum that a real image does not repeat is computed. In its mean the first and, for an even width,
    the last column have twice the share that they have in the mean over the whole spectrum.
    """
    error = torch.view_as_real(torch.fft.rfft2(sr_NCHW - hr_NCHW))
    return error.abs().mean()


def total_loss(config: LossConfig, sr_NCHW: Tensor, hr_NCHW: Tensor) -> Tensor:
    """Return the weighted sum of the terms of ``config``, a scalar."""
    total = sr_NCHW.new_zeros(())
    if config.l1:
        total = total + config.l1 * F.l1_loss(sr_NCHW, hr_NCHW)
    if config.mse:
        total = total + config.mse * F.mse_loss(sr_NCHW, hr_NCHW)
    if config.kl:
        total = total + config.kl * kl_over_channels(sr_NCHW, hr_NCHW)
    if config.fft:
        total = total + config.fft * fourier_l1(sr_NCHW, hr_NCHW)
    return total
