"""Recording what is shown: every frame of it, at the times it was captured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

from hasn_edge.images.arrays import UInt8
from hasn_edge.live.frame import UpscaledFrame
from hasn_edge.live.stats import Stats
from hasn_edge.queues import StageQueue


class FrameWriter(Protocol):
    """What a recording needs of a video file that is being written."""

    def write(self, pixels: UInt8, time_s: float) -> Any:
        """Encode an ``(H, W, 3)`` uint8 RGB image shown from ``time_s`` seconds on; times grow."""


OpenWriter = Callable[[tuple[int, int]], AbstractContextManager[FrameWriter]]
"""Opens a file for images of (height, width): left normally it is published, with an error removed."""

_LEAST_S = 0.001  # between two images: no encoder takes the same time twice


def record(frames: StageQueue[UpscaledFrame], open_writer: OpenWriter, stats: Stats) -> int:
    """Write every frame until there are no more; a run without frames writes no file.

    Returns:
        How many were written.

    Raises:
        OutputError: the file cannot be written; nothing of it is left.
    """
    count = 0
    with ExitStack() as stack:
        writer: FrameWriter | None = None
        first = last = 0.0
        for shown in frames:
            frame = shown.frame
            time_s = frame.captured if frame.time_s is None or stats.live else frame.time_s
            with stats.busy("record"):
                if writer is None:
                    writer = stack.enter_context(
                        open_writer((shown.upscaled.shape[0], shown.upscaled.shape[1]))
                    )
                    first, last = time_s, -_LEAST_S
                last = max(time_s - first, last + _LEAST_S)
                writer.write(shown.upscaled, last)
            count += 1
    return count
