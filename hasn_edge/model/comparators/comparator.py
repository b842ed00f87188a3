"""What the compared networks share: how they are fed, and what they cost by our conventions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.data.resize import imresize
from hasn_edge.images.arrays import LUMA
from hasn_edge.model.complexity import NetworkCounts
from hasn_edge.spec import GraphSpec

SCALE = 4

BLACK, WHITE = 16, 235
"""Y of black and white, of 255."""

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean of DIV2K, which some networks take off their input."""


class Comparator(nn.Module):
    """A super-resolution network of another paper, whose output is four times as high and wide.

    It takes and gives ``(N, channels, H, W)`` float in [0, :attr:`peak`], RGB or luma. The input is of low
    resolution also where the paper's network takes an enlarged one: it enlarges what it is given.
    """

    channels: int = 3
    """1 where it computes luma alone."""
    peak: float = 1.0
    """The value of white, 1 or 255, as its weights were trained."""
    least_side: ClassVar[int] = 1
    """Smallest height and width that it takes, pixels."""
    ends: ClassVar[tuple[str, str] | None] = None
    """Two parameters by which its published checkpoints are known; ``None`` where there are none for
    PyTorch."""

    @classmethod
    def own_weights(cls, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a published checkpoint's tensors under this module's names."""
        return dict(published)

    @classmethod
    def arguments(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the constructor's arguments for what :meth:`own_weights` returned, read off its shapes.

        Raises:
            LookupError: a tensor is missing.
        """
        raise NotImplementedError

    def counts(self, height: int, width: int) -> NetworkCounts:
        """Return its counts for one LR image: a transposed convolution at the size of its output.

        Of convolutions alone, one that runs several times as often; biases, activations and what enlarges,
        pools, sums and resizes are not counted.
        """
        macs, written = 0, 0

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal macs, written
            assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
            taps = module.kernel_size[0] * module.kernel_size[1]
            macs += output.numel() * module.in_channels // module.groups * taps
            written += output.numel()

        shapes = copy.deepcopy(self).to("meta")  # nothing is computed
        for one in shapes.modules():
            if isinstance(one, nn.Conv2d | nn.ConvTranspose2d):
                one.register_forward_hook(add)
        with torch.no_grad():
            shapes(torch.zeros(1, self.channels, height, width, device="meta"))
        parameters = sum(one.numel() for one in self.parameters())
        return NetworkCounts(parameters=parameters, macs=macs, activations=written)


class Enlarge(nn.Module):
    """Bicubic interpolation by four as MATLAB's ``imresize``, which these networks were trained behind."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        taps = imresize(np.eye(9), size=(9 * SCALE, 9))[4 * SCALE : 5 * SCALE, 2:7]  # of the middle sample
        kernels = np.einsum("iy,jx->ijyx", taps, taps).reshape(SCALE**2, 1, 5, 5)
        all_channels = torch.tensor(kernels, dtype=torch.float32).repeat(channels, 1, 1, 1)
        self.register_buffer("kernels", all_channels, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, C, 4H, 4W)`` of ``(N, C, H, W)`` with sides of at least 2."""
        x = torch.cat([x[:, :, 1:2], x[:, :, :1], x, x[:, :, -1:], x[:, :, -2:-1]], 2)
        x = torch.cat([x[..., 1:2], x[..., :1], x, x[..., -1:], x[..., -2:-1]], 3)
        return F.pixel_shuffle(F.conv2d(x, self.get_buffer("kernels"), groups=self.channels), SCALE)


class RgbNetwork(nn.Module):
    """Any of the compared networks as ours are used: ``(N, 3, H, W)`` float RGB in [0, 1], not clamped.

    Where the network computes luma alone, colour is enlarged bicubically, as its paper does.
    """

    def __init__(self, network: Comparator) -> None:
        super().__init__()
        self.network = network
        self.peak = network.peak
        least = network.least_side
        if network.channels == 1:
            least = max(2, least)
            self.enlarge = Enlarge(3)
            weights = torch.tensor(LUMA).reshape(1, 3, 1, 1) / 255
            self.register_buffer("luma", weights, persistent=False)
        self.spec = GraphSpec(scale=SCALE, minimum=least)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return ``(N, 3, 4H, 4W)``."""
        if self.network.channels == 3:
            return self._run(x_NCHW)
        large: Tensor = self.enlarge(x_NCHW)
        return large + (self._run(self._luma(x_NCHW)) - self._luma(large)) * (255 / (WHITE - BLACK))

    def _run(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x) if self.peak == 1 else self.network(x * self.peak) / self.peak
        return y

    def _luma(self, x: Tensor) -> Tensor:
        return (x * self.get_buffer("luma")).sum(1, keepdim=True) + BLACK / 255
