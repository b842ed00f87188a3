"""The parts of HASN: enhanced spatial attention, channel attention and the block that joins them.

Shapes: ``N`` batch, ``C`` features (52), ``E`` expanded features (156), ``H`` x ``W`` frame. Parameter names
are those of the published checkpoints, so that weights move between projects without renaming.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.spec import Activation, Gate, ModelSpec


def named_conv(
    inputs: int, outputs: int, kernel_size: int, *, padding: int = 0, groups: int = 1
) -> nn.Sequential:
    """Return a convolution whose parameters are called ``conv.weight`` and ``conv.bias``."""
    conv = nn.Conv2d(inputs, outputs, kernel_size, padding=padding, groups=groups)
    return nn.Sequential(OrderedDict(conv=conv))


def activation_module(activation: Activation) -> nn.Module:
    """Return the module that computes ``activation`` (paper, Table 8; leaky slope 0.01)."""
    if activation is Activation.RELU:
        return nn.ReLU()
    return nn.ReLU6() if activation is Activation.RELU6 else nn.LeakyReLU()


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of an ``(N, C, H, W)`` tensor; eps 1e-5."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return ``x`` normalised over dimension 1, same shape."""
        return super().forward(x_NCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ESA(nn.Module):
    """Enhanced spatial attention (paper, Figure 3c): a gate in (0, 1) for every channel and pixel.

    Accepts sides of 15 pixels and more: stride 2, then a 7x7 max-pool, leave nothing of less.
    """

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, channels, 1)
        self.conv_f = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=2)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv4 = nn.Conv2d(channels, features, 1)

    def gate(self, squeezed: Tensor) -> Tensor:
        """Return the gate ``(N, E, H, W)`` for :attr:`conv1`'s output ``(N, channels, H, W)``."""
        coarse = F.max_pool2d(self.conv2(squeezed), kernel_size=7, stride=3)
        coarse = F.interpolate(
            self.conv3(coarse), size=squeezed.shape[-2:], mode="bilinear", align_corners=False
        )
        return torch.sigmoid(self.conv4(coarse + self.conv_f(squeezed)))

    def forward(self, x_NEHW: Tensor) -> Tensor:
        """Return ``x`` times its gate, same shape."""
        return x_NEHW * self.gate(self.conv1(x_NEHW))


class ChannelAttention(nn.Module):
    """Scale each channel by a gate computed from its mean over the whole frame."""

    def __init__(self, features: int, squeezed: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(features, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, features, 1),
            nn.Sigmoid(),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return ``x`` times its ``(N, C, 1, 1)`` gate."""
        gated: Tensor = x_NCHW * self.attention(x_NCHW)
        return gated


class CAB(nn.Module):
    """Channel attention block (paper, Figure 3b). There is no residual around it, as published."""

    def __init__(self, features: int, compressed: int, squeezed: int) -> None:
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(features, compressed, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(compressed, features, 3, padding=1),
            ChannelAttention(features, squeezed),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the attended features, same shape."""
        out: Tensor = self.cab(x_NCHW)
        return out


class HASB(nn.Module):
    """Hybrid attention separable block (paper, Figure 3a and equation 6).

    ``(N, C, H, W)`` in and out. Without ESA there is no third branch; without CAB the block ends at the
    second depthwise convolution.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        features, expanded = spec.features, spec.features * spec.expansion
        kernel, padding = spec.kernel_size, spec.kernel_size // 2
        self.multiply = spec.gate is Gate.MULTIPLY
        self.skip = spec.skip
        self.residual = spec.residual
        self.dwconv = named_conv(features, features, kernel, padding=padding, groups=features)
        self.ln = ChannelNorm(features) if spec.norm else nn.Identity()
        self.f1 = named_conv(features, expanded, 1)
        self.f2 = named_conv(features, expanded, 1)
        if spec.esa:
            self.f3 = named_conv(features, expanded, 1)
            self.esa: ESA | None = ESA(expanded, spec.esa_channels)
        else:
            self.esa = None
        self.act = activation_module(spec.activation)
        self.g = named_conv(expanded, features, 1)
        self.dwconv2 = named_conv(features, features, kernel, padding=padding, groups=features)
        self.cab = CAB(features, spec.cab_channels, spec.squeeze_channels) if spec.cab else nn.Identity()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output, same shape."""
        y = self.dwconv2(self.g(self.mix(self.ln(self.dwconv(x_NCHW)))))
        return self.finish(y, x_NCHW)

    def mix(self, y_NCHW: Tensor) -> Tensor:
        """Return ``act(f1) * f2 + ESA(f3)``, shape ``(N, E, H, W)``."""
        a, b = self.act(self.f1(y_NCHW)), self.f2(y_NCHW)
        mixed: Tensor = a * b if self.multiply else a + b
        return mixed if self.esa is None else mixed + self.esa(self.f3(y_NCHW))

    def finish(self, y_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        """Return the block's output from its second depthwise convolution's and its input."""
        out: Tensor = self.cab(y_NCHW + x_NCHW if self.skip else y_NCHW)
        return out + x_NCHW if self.residual else out
