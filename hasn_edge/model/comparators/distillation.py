"""Networks whose blocks set a part of the channels aside, convolve the rest further, and fuse both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.model.blocks import ESA
from hasn_edge.model.comparators.comparator import Comparator, Enlarge

SLOPE = 0.05
"""Of the leaky ReLUs of all of them."""


class EnhancedBlock(nn.Module):
    """IDN's block: three convolutions, a quarter of their result kept with the input, three on the rest."""

    def __init__(self, width: int, kept: int) -> None:
        super().__init__()
        self.kept = kept
        rest = width - kept
        shapes = [(width, rest, 1), (rest, width // 2, 4), (width // 2, width, 1)]
        shapes += ((rest, width, 1), (width, rest, 4), (rest, width + kept, 1))
        self.steps = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, groups=groups) for before, after, groups in shapes
        )
        self.compress = nn.Conv2d(width + kept, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        y = x
        for step in self.steps[:3]:
            y = F.leaky_relu(step(y), SLOPE)
        short = torch.cat([x, y[:, : self.kept]], 1)
        y = y[:, self.kept :]
        for step in self.steps[3:]:
            y = F.leaky_relu(step(y), SLOPE)
        return F.leaky_relu(self.compress(short + y), SLOPE)


class IDN(Comparator):
    """IDN (Hui, Wang, Gao, CVPR 2018): four blocks and one 17x17 transposed convolution.

    Of luma as published; with three channels as later papers count it.
    """

    def __init__(self, channels: int = 1, width: int = 64, kept: int = 16, blocks: int = 4) -> None:
        super().__init__()
        self.channels = channels
        self.enlarge = Enlarge(channels)
        self.head = nn.ModuleList(
            [nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)]
        )
        self.blocks = nn.Sequential(*(EnhancedBlock(width, kept) for _ in range(blocks)))
        self.upsampler = nn.ConvTranspose2d(width, channels, 17, stride=4, padding=8, output_padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, channels, 4H, 4W)`` of ``(N, channels, H, W)``."""
        y = x
        for layer in self.head:
            y = F.leaky_relu(layer(y), SLOPE)
        out: Tensor = self.enlarge(x) + self.upsampler(self.blocks(y))
        return out


class JoinedBlocks(Comparator):
    """Blocks one after the other, all of whose outputs a 1x1 convolution joins; x4 by a pixel shuffle.

    Parameters are called as in the checkpoints of both networks that are built so.
    """

    ends = ("fea_conv.weight", "upsampler.0.weight")

    def __init__(self, block: Callable[[int], nn.Module], width: int, blocks: int, called: str) -> None:
        super().__init__()
        self.names = [f"{called}{index}" for index in range(1, blocks + 1)]
        self.fea_conv = nn.Conv2d(3, width, 3, padding=1)
        for name in self.names:
            self.add_module(name, block(width))
        self.c = nn.Sequential(nn.Conv2d(width * blocks, width, 1), nn.LeakyReLU(SLOPE))
        self.LR_conv = nn.Conv2d(width, width, 3, padding=1)
        self.upsampler = nn.Sequential(nn.Conv2d(width, 48, 3, padding=1), nn.PixelShuffle(4))

    @classmethod
    def arguments(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """See the base class."""
        width, joined = weights["c.0.weight"].shape[:2]
        return {"width": width, "blocks": joined // width}

    def forward(self, x: Tensor) -> Tensor:
        """Return RGB ``(N, 3, 4H, 4W)``."""
        first = y = self.fea_conv(x)
        outputs = []
        for name in self.names:
            y = self.get_submodule(name)(y)
            outputs.append(y)
        out: Tensor = self.upsampler(self.LR_conv(self.c(torch.cat(outputs, 1))) + first)
        return out


class ContrastAttention(nn.Module):
    """Scales channels by what deviation and mean over the frame give."""

    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(width, width // reduction, 1),
            nn.ReLU(),
            nn.Conv2d(width // reduction, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled."""
        contrast = x.std((2, 3), unbiased=False, keepdim=True) + x.mean((2, 3), keepdim=True)
        y: Tensor = x * self.conv_du(contrast)
        return y


class MultiDistillation(nn.Module):
    """IMDN's block: a quarter of the channels is kept after each convolution, and what was kept is fused."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kept = width // 4
        rest = width - self.kept
        self.c1 = nn.Conv2d(width, width, 3, padding=1)
        self.c2 = nn.Conv2d(rest, width, 3, padding=1)
        self.c3 = nn.Conv2d(rest, width, 3, padding=1)
        self.c4 = nn.Conv2d(rest, self.kept, 3, padding=1)
        self.cca = ContrastAttention(width)
        self.c5 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        kept, rest = [], x
        for step in (self.c1, self.c2, self.c3):
            y = F.leaky_relu(step(rest), SLOPE)
            kept.append(y[:, : self.kept])
            rest = y[:, self.kept :]
        kept.append(self.c4(rest))
        fused: Tensor = self.c5(self.cca(torch.cat(kept, 1)))
        return fused + x


class IMDN(JoinedBlocks):
    """IMDN (Hui et al., ACM MM 2019): six blocks of 64 channels."""

    def __init__(self, width: int = 64, blocks: int = 6) -> None:
        super().__init__(MultiDistillation, width, blocks, "IMDB")


class WideESA(ESA):
    """Enhanced spatial attention with three convolutions between pooling and resizing."""

    def __init__(self, features: int) -> None:
        channels = features // 4
        super().__init__(features, channels)
        self.conv_max = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv3_ = nn.Conv2d(channels, channels, 3, padding=1)

    def gate(self, squeezed: Tensor) -> Tensor:
        """Return the gate for :attr:`conv1`'s output."""
        y = F.max_pool2d(self.conv2(squeezed), 7, stride=3)
        y = self.conv3_(F.relu(self.conv3(F.relu(self.conv_max(y)))))
        y = F.interpolate(y, size=squeezed.shape[-2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(self.conv4(y + self.conv_f(squeezed)))


class ResidualDistillation(nn.Module):
    """RFDN's block: 1x1 convolutions set channels aside, beside 3x3 convolutions that add their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        for step in (1, 2, 3):
            self.add_module(f"c{step}_d", nn.Conv2d(width, half, 1))
            self.add_module(f"c{step}_r", nn.Conv2d(width, width, 3, padding=1))
        self.c4 = nn.Conv2d(width, half, 3, padding=1)
        self.c5 = nn.Conv2d(4 * half, width, 1)
        self.esa = WideESA(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        kept = []
        for step in (1, 2, 3):
            kept.append(F.leaky_relu(self.get_submodule(f"c{step}_d")(x), SLOPE))
            x = F.leaky_relu(self.get_submodule(f"c{step}_r")(x) + x, SLOPE)
        kept.append(F.leaky_relu(self.c4(x), SLOPE))
        y: Tensor = self.esa(self.c5(torch.cat(kept, 1)))
        return y


class RFDN(JoinedBlocks):
    """RFDN (Liu, Tang, Wu, ECCV Workshops 2020): six blocks of 48 channels; four of 50 won AIM 2020."""

    least_side = 15

    def __init__(self, width: int = 48, blocks: int = 6) -> None:
        super().__init__(ResidualDistillation, width, blocks, "B")
