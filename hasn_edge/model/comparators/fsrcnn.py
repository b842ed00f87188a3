"""FSRCNN (Dong, Loy, Tang: Accelerating the Super-Resolution Convolutional Neural Network, ECCV 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from hasn_edge.model.comparators.comparator import Comparator, Publication


class FSRCNN(Comparator):
    """FSRCNN(56, 12, 4): shrink, map by four 3x3 convolutions, expand, one 9x9 transposed convolution."""

    published = Publication(paper="FSRCNN, ECCV 2016", set5_db=30.72)
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
        """Return luma ``(N, 1, 4H, 4W)`` of luma ``(N, 1, H, W)``."""
        y: Tensor = self.upsampler(self.body(x))
        return y


make = FSRCNN
