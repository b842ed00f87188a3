"""The winners of NTIRE's challenges on efficient super-resolution of 2022, 2023 and 2024, as they are run.

They share the frame of HASN: a stem, blocks, a convolution, and a pixel shuffle, called by the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.model.blocks import ESA
from hasn_edge.model.comparators.comparator import RGB_MEAN, Comparator

ESA_CHANNELS = 16


class StemAndBlocks(Comparator):
    """Stem, blocks, a 3x3 convolution plus the stem's output, and a sub-pixel upsampler."""

    ends = ("conv_1.weight", "upsampler.0.weight")

    def __init__(self, block: Callable[[], nn.Module], width: int, blocks: int, *, bias: bool = True) -> None:
        super().__init__()
        self.names = [f"block_{index}" for index in range(1, blocks + 1)]
        self.conv_1 = nn.Conv2d(3, width, 3, padding=1, bias=bias)
        for name in self.names:
            self.add_module(name, block())
        self.conv_2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.upsampler = nn.Sequential(nn.Conv2d(width, 48, 3, padding=1, bias=bias), nn.PixelShuffle(4))

    @classmethod
    def arguments(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """See the base class."""
        blocks = {name.split(".")[0] for name in weights if name.startswith("block_")}
        return {"width": weights["conv_1.weight"].shape[0], "blocks": len(blocks)}

    def forward(self, x: Tensor) -> Tensor:
        """Return RGB ``(N, 3, 4H, 4W)``."""
        first = y = self.conv_1(x)
        for name in self.names:
            y = self.get_submodule(name)(y)
        out: Tensor = self.upsampler(self.conv_2(y) + first)
        return out


class LocalBlock(nn.Module):
    """Three convolutions and a skip connection, then enhanced spatial attention."""

    def __init__(self, width: int, inner: int, *, bias: bool) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(width, inner, 3, padding=1, bias=bias)
        self.c2_r = nn.Conv2d(inner, inner, 3, padding=1, bias=bias)
        self.c3_r = nn.Conv2d(inner, width, 3, padding=1, bias=bias)
        self.c5 = nn.Conv2d(width, width, 1, bias=bias)
        self.esa = ESA(width, ESA_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        y = x
        for step in (self.c1_r, self.c2_r, self.c3_r):
            y = F.leaky_relu(step(y), 0.05)
        out: Tensor = self.esa(self.c5(y + x))
        return out


class RLFN(StemAndBlocks):
    """RLFN (Kong et al., CVPR Workshops 2022): six blocks of 52 channels.

    DIPNet (Yu et al., CVPR Workshops 2023) is the same once its branches are merged, ``inner`` channels
    narrow after pruning, and in its published file without biases.
    """

    least_side = 15

    def __init__(
        self, width: int = 52, blocks: int = 6, inner: int | None = None, *, bias: bool = True
    ) -> None:
        super().__init__(lambda: LocalBlock(width, inner or width, bias=bias), width, blocks, bias=bias)

    @classmethod
    def arguments(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """See the base class."""
        inner = weights["block_1.c1_r.weight"].shape[0]
        return {**super().arguments(weights), "inner": inner, "bias": "conv_1.bias" in weights}


class SPAB(nn.Module):
    """Three convolutions; their result, shifted by a half after a sigmoid, scales the sum with the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for step in (1, 2, 3):
            self.add_module(f"c{step}_r", nn.Conv2d(width, width, 3, padding=1))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output, and what follows its first convolution."""
        first = F.silu(self.get_submodule("c1_r")(x))
        y = self.get_submodule("c3_r")(F.silu(self.get_submodule("c2_r")(first)))
        return (y + x) * (torch.sigmoid(y) - 0.5), first

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        return self.both(x)[0]


class HASNOfSPAB(StemAndBlocks):
    """HASN with each of its blocks replaced by SPAN's: the other row of the paper's Table 6."""

    def __init__(self, width: int = 52, blocks: int = 6) -> None:
        super().__init__(lambda: SPAB(width), width, blocks)


class SPAN(StemAndBlocks):
    """SPAN (Wan et al., CVPR Workshops 2024): six blocks of 52 channels; of 28 in the challenge.

    In its published files each 3x3 convolution is the sum of a 1x1 convolution and of a chain of three:
    merged when they are read.
    """

    ends = ("conv_cat.weight", "upsampler.0.weight")

    def __init__(self, width: int = 52, blocks: int = 6) -> None:
        super().__init__(lambda: SPAB(width), width, blocks)
        self.conv_cat = nn.Conv2d(4 * width, width, 1)
        self.register_buffer("mean", torch.tensor(RGB_MEAN).reshape(1, 3, 1, 1), persistent=False)

    @classmethod
    def own_weights(cls, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See the base class."""
        chains = [name.removesuffix(".sk.weight") for name in published if name.endswith(".sk.weight")]
        own = {
            name: tensor
            for name, tensor in published.items()
            if not any(name.startswith(f"{chain}.") for chain in chains)
        }
        for chain in chains:
            own[f"{chain}.weight"], own[f"{chain}.bias"] = _merged(published, chain)
        return own

    def forward(self, x: Tensor) -> Tensor:
        """Return RGB ``(N, 3, 4H, 4W)``."""
        head = y = self.conv_1((x - self.get_buffer("mean")) * 255)
        outputs, inner = [], head
        for name in self.names:
            block = self.get_submodule(name)
            assert isinstance(block, SPAB)
            y, inner = block.both(y)
            outputs.append(y)
        y = self.conv_cat(torch.cat([head, self.conv_2(y), outputs[0], inner], 1))
        out: Tensor = self.upsampler(y)
        return out


def _merged(published: Mapping[str, Tensor], chain: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the 3x3 convolution that equals a chain of 1x1, 3x3, 1x1 plus a 1x1."""
    weights = [published[f"{chain}.conv.{step}.weight"].double() for step in range(3)]
    biases = [published[f"{chain}.conv.{step}.bias"].double() for step in range(3)]
    first, middle, last = weights[0][..., 0, 0], weights[1], weights[2][..., 0, 0]
    weight = torch.einsum("oa,abyx,bi->oiyx", last, middle, first)
    weight[..., 1, 1] += published[f"{chain}.sk.weight"].double()[..., 0, 0]
    bias = last @ (middle.sum((2, 3)) @ biases[0] + biases[1]) + biases[2] + published[f"{chain}.sk.bias"]
    return weight.float(), bias.float()
