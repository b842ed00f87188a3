"""What the self-test says of one frame: PSNR-Y of the network and of bicubic against the true picture."""

from __future__ import annotations

from hasn_edge.data.resize import imresize
from hasn_edge.metrics import psnr_y
from hasn_edge.video.frame import Frame, Quality, UInt8


def quality(frame: Frame, upscaled: UInt8, scale: int) -> Quality:
    """Measure as the literature does: luma of BT.601 in studio range, ``scale`` pixels of border cut.

    Args:
        frame: With its ``truth``.
        upscaled: What the network made of ``frame.pixels``, ``(H * scale, W * scale, 3)`` uint8 RGB.
        scale: Of the network.
    """
    assert frame.truth is not None
    bicubic = imresize(frame.pixels, size=(frame.truth.shape[0], frame.truth.shape[1]))
    return Quality(
        hasn_db=psnr_y(upscaled, frame.truth, border=scale),
        bicubic_db=psnr_y(bicubic, frame.truth, border=scale),
    )
