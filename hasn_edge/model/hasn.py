"""HASN, the hybrid attention separable network, in every variant of the paper's tables."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor, nn

from hasn_edge.model.blocks import HASB
from hasn_edge.spec import SPEC_KEY, ModelSpec


class HASN(nn.Module):
    """``(N, 3, H, W)`` float RGB in [0, 1] to ``(N, 3, H * scale, W * scale)``, not clamped.

    Stem, blocks, a 3x3 convolution plus the stem's output, and a sub-pixel upsampler (paper, equations
    1 to 3). ``spec`` is all that decides; there are no modes.
    """

    def __init__(self, spec: ModelSpec | None = None) -> None:
        super().__init__()
        self.spec = spec if spec is not None else ModelSpec()
        features, channels, scale = self.spec.features, self.spec.channels, self.spec.scale
        self.conv_1 = nn.Conv2d(channels, features, 3, padding=1)
        for index in range(1, self.spec.blocks + 1):
            self.add_module(f"block_{index}", HASB(self.spec))
        self.conv_2 = nn.Conv2d(features, features, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(features, channels * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    @property
    def blocks(self) -> list[HASB]:
        """The blocks in order. They are called ``block_1`` ... as in the published checkpoints."""
        return [getattr(self, f"block_{index}") for index in range(1, self.spec.blocks + 1)]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the upscaled batch; see the class for shapes and ranges."""
        stem = self.conv_1(x_NCHW)
        features = stem
        for block in self.blocks:
            features = block(features)
        out: Tensor = self.upsampler(self.conv_2(features) + stem)
        return out

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # Beside the tensors, where PyTorch keeps its modules' versions: torch.save writes it, every project
        # reads the tensors as before, and what has no parameters (gate, activation, skips) is not lost.
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            spec = json.dumps(self.spec.to_dict(), sort_keys=True)
            destination._metadata.setdefault(prefix[:-1], {})[SPEC_KEY] = spec
