"""CARN (Ahn, Kang, Sohn, ECCV 2018): cascades of residual blocks, within blocks and over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.model.comparators.comparator import RGB_MEAN, Comparator


class ResidualUnit(nn.Module):
    """Two convolutions and a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        return F.relu(self.body(x) + x)


class Joint(nn.Module):
    """A 1x1 convolution over everything before."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``width`` channels."""
        y: Tensor = self.body(x)
        return y


class Cascade(nn.Module):
    """Three parts, each of which reads a 1x1 convolution of the input and of all parts before."""

    def __init__(self, width: int, *, outer: bool) -> None:
        super().__init__()
        for index in (1, 2, 3):
            part = Cascade(width, outer=False) if outer else ResidualUnit(width)
            self.add_module(f"b{index}", part)
            self.add_module(f"c{index}", Joint(width * (index + 1), width))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        y = kept = x
        for index in (1, 2, 3):
            kept = torch.cat([kept, self.get_submodule(f"b{index}")(y)], 1)
            y = self.get_submodule(f"c{index}")(kept)
        return y


class CARN(Comparator):
    """CARN for x4 alone: its published file has upsamplers for x2 and x3 too, which are left out."""

    ends = ("entry.weight", "exit.weight")

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, width, 3, padding=1)
        self.cascade = Cascade(width, outer=True)
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.ReLU(), nn.PixelShuffle(2)]
        self.up = nn.Sequential(*layers)
        self.exit = nn.Conv2d(width, 3, 3, padding=1)
        self.register_buffer("mean", torch.tensor(RGB_MEAN).reshape(1, 3, 1, 1), persistent=False)

    @classmethod
    def own_weights(cls, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See the base class."""
        own = {}
        for name, tensor in published.items():
            part = name.split(".")[0]
            if part in ("entry", "exit"):
                own[name] = tensor
            elif part in ("b1", "b2", "b3", "c1", "c2", "c3"):
                own[f"cascade.{name}"] = tensor
            elif name.startswith(("upsample.up4.body.", "upsample.up.body.")):
                own[f"up.{name.partition('.body.')[2]}"] = tensor
            elif part not in ("sub_mean", "add_mean", "upsample"):
                own[name] = tensor  # to be reported
        return own

    @classmethod
    def arguments(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """See the base class."""
        return {"width": weights["entry.weight"].shape[0]}

    def forward(self, x: Tensor) -> Tensor:
        """Return RGB ``(N, 3, 4H, 4W)``."""
        mean = self.get_buffer("mean")
        out: Tensor = self.exit(self.up(self.cascade(self.entry(x - mean)))) + mean
        return out
