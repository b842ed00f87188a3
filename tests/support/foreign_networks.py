"""Super-resolution networks that are none of ours, as ONNX files: what users bring."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Bilinear interpolation and something small on top, so that the image is recognized."""

    def __init__(self, scale: int = 2, width: int = 8, peak: float = 1.0) -> None:
        super().__init__()
        self.scale, self.peak = scale, peak
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.tail = nn.Conv2d(width, 3 * scale * scale, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        inner = F.relu(self.body(F.relu(self.head(x / self.peak))))
        return y + 0.02 * self.peak * F.pixel_shuffle(self.tail(inner), self.scale)


class Halving(Residual):
    """Works at half the size in between: both sides have to be even, and not too small."""

    factor = 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        inner = F.max_pool2d(F.relu(self.body(F.relu(self.head(x)))), self.factor)
        wide = F.interpolate(inner, scale_factor=self.factor, mode="nearest")
        return y + 0.02 * F.pixel_shuffle(self.tail(wide), self.scale)


class Eighths(Halving):
    """Takes sides that 8 divides: neither 180 nor 540 rows, as targets have them."""

    factor = 8


class Pooling(Residual):
    """Pools 9 x 9 pixels, of which smaller images have nothing."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        pooled = F.max_pool2d(F.relu(self.body(F.relu(self.head(x)))), 9, 1)
        wide = F.interpolate(pooled, size=x.shape[2:], mode="nearest")
        return y + 0.02 * F.pixel_shuffle(self.tail(wide), self.scale)


def foreign_onnx(
    path: Path, network: nn.Module | None = None, *, opset: int = 17, side: int | None = None, seed: int = 0
) -> Path:
    """Write a network as somebody else would: other names, its own opset, any size or one of ``side``."""
    torch.manual_seed(seed)
    network = (network or Residual()).eval()
    stream = io.BytesIO()
    axes = None if side else {"lr": {0: "n", 2: "h", 3: "w"}, "sr": {0: "n", 2: "H", 3: "W"}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(1, 3, side or 32, side or 40),), stream, input_names=["lr"],
            output_names=["sr"], dynamic_axes=axes, opset_version=opset, dynamo=False,
        )  # fmt: skip
    onnx.save(onnx.load_from_string(stream.getvalue()), str(path))
    return path
