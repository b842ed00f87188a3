"""The first networks: chains of convolutions behind bicubic interpolation, and in low resolution."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.model.comparators.comparator import Comparator, Enlarge


class SRCNN(Comparator):
    """SRCNN (Dong et al., TPAMI 2016): three convolutions, 9-5-5 or, with ``middle=1``, 9-1-5."""

    channels = 1

    def __init__(self, middle: int = 5) -> None:
        super().__init__()
        self.enlarge = Enlarge()
        self.conv1 = nn.Conv2d(1, 64, 9, padding=4)
        self.conv2 = nn.Conv2d(64, 32, middle, padding=middle // 2)
        self.conv3 = nn.Conv2d(32, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return luma ``(N, 1, 4H, 4W)`` of luma ``(N, 1, H, W)``, as the others with one channel."""
        y: Tensor = self.conv3(F.relu(self.conv2(F.relu(self.conv1(self.enlarge(x))))))
        return y


class FSRCNN(Comparator):
    """FSRCNN(56, 12, 4) (Dong, Loy, Tang, ECCV 2016): shrink, map, expand, one 9x9 transposed convolution."""

    channels = 1

    def __init__(self, width: int = 56, shrunk: int = 12, maps: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, 5, padding=2), nn.PReLU(width)]
        layers += [nn.Conv2d(width, shrunk, 1), nn.PReLU(shrunk)]
        for _ in range(maps):
            layers += [nn.Conv2d(shrunk, shrunk, 3, padding=1), nn.PReLU(shrunk)]
        layers += [nn.Conv2d(shrunk, width, 1), nn.PReLU(width)]
        self.body = nn.Sequential(*layers)
        self.upsampler = nn.ConvTranspose2d(width, 1, 9, stride=4, padding=4, output_padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`SRCNN.forward`."""
        y: Tensor = self.upsampler(self.body(x))
        return y


class VDSR(Comparator):
    """VDSR (Kim, Lee, Lee, CVPR 2016): twenty 3x3 convolutions compute what bicubic interpolation lacks."""

    channels = 1

    def __init__(self, width: int = 64, depth: int = 20) -> None:
        super().__init__()
        self.enlarge = Enlarge()
        widths = [1, *[width] * (depth - 1), 1]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`SRCNN.forward`."""
        large: Tensor = self.enlarge(x)
        y = large
        for layer in self.layers[:-1]:
            y = F.relu(layer(y))
        out: Tensor = large + self.layers[-1](y)
        return out


class LapSRN(Comparator):
    """LapSRN (Lai et al., CVPR 2017): doubles the size twice, ten convolutions before each time.

    ``kernel`` is that of the transposed convolutions of the features: 3 in the authors' program, 4 in the
    paper's text.
    """

    channels = 1

    def __init__(self, width: int = 64, depth: int = 10, kernel: int = 3) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, width, 3, padding=1)
        self.levels = nn.ModuleList()
        for _ in range(2):
            level = nn.Module()
            level.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
            level.up = nn.ConvTranspose2d(
                width, width, kernel, stride=2, padding=1, output_padding=kernel % 2
            )
            level.residual = nn.Conv2d(width, 1, 3, padding=1)
            level.image = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, bias=False)
            self.levels.append(level)

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`SRCNN.forward`."""
        y = F.leaky_relu(self.head(x), 0.2)
        for level in self.levels:
            for layer in level.layers:  # type: ignore[union-attr]
                y = F.leaky_relu(layer(y), 0.2)
            y = F.leaky_relu(level.up(y), 0.2)  # type: ignore[operator]
            x = level.image(x) + level.residual(y)  # type: ignore[operator]
        return x


class SRMDNF(Comparator):
    """SRMDNF (Zhang, Zuo, Zhang, CVPR 2018): twelve convolutions that read the blur's code with the image.

    The code is fifteen principal components of a blur kernel, the same for every pixel: zero here.
    """

    def __init__(self, width: int = 128, depth: int = 12, code: int = 15) -> None:
        super().__init__()
        self.register_buffer("code", torch.zeros(1, code, 1, 1), persistent=False)
        widths = [3 + code, *[width] * (depth - 1), 48]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return RGB ``(N, 3, 4H, 4W)``."""
        y = torch.cat([x, self.get_buffer("code") + 0 * x[:, :1]], 1)
        for layer in self.layers[:-1]:
            y = F.relu(layer(y))
        return F.pixel_shuffle(self.layers[-1](y), 4)
