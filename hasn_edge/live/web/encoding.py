"""Images for the web: each frame is encoded once per quality however many watch, and only while one does."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Any

from hasn_edge.images.arrays import UInt8
from hasn_edge.live.frame import UpscaledFrame
from hasn_edge.live.web.messages import ImageQuality
from hasn_edge.optional import require

MEDIA: dict[ImageQuality, str] = {
    "best": "image/jpeg",
    "good": "image/jpeg",
    "light": "image/jpeg",
    "lossless": "image/png",
}

_JPEG: dict[str, tuple[int, bool]] = {"best": (95, True), "good": (88, True), "light": (65, False)}
"""Quality, and whether colours keep their full resolution, which is what an enlarged image shows."""


class ImageError(Exception):
    """An image could not be encoded, for no viewer; its cause is what was raised."""


class FrameEncoder:
    """Encodes in threads; the methods are the event loop's.

    Args:
        executor: Whose threads encode.
    """

    def __init__(self, executor: Executor) -> None:
        self.encoded = 0
        """How many files were made so far."""
        self._executor = executor
        self._number = -1
        self._files: dict[tuple[str, bool], asyncio.Future[bytes]] = {}

    async def files(
        self, number: int, shown: UpscaledFrame, quality: ImageQuality, *, compare: bool
    ) -> list[bytes]:
        """Return the network's image, and bicubic's if ``compare``; what is being made is waited for.

        Args:
            number: Of the frame; files of the newest one are kept until the next one comes.
            shown: The frame.
            quality: A key of :data:`MEDIA`.
            compare: Whether bicubic, too.

        Raises:
            ImageError: it cannot be encoded.
        """
        if number > self._number:
            self._number, self._files = number, {}
        kept = self._files if number == self._number else {}
        loop = asyncio.get_running_loop()
        waiting = []
        for bicubic in (False, True) if compare else (False,):
            if (quality, bicubic) not in kept:
                self.encoded += 1
                kept[quality, bicubic] = loop.run_in_executor(self._executor, encode, shown, quality, bicubic)
            waiting.append(kept[quality, bicubic])
        try:
            # A viewer who leaves must not take the others' image away.
            return [await asyncio.shield(file) for file in waiting]
        except Exception as exc:
            raise ImageError from exc


def encode(shown: UpscaledFrame, quality: ImageQuality, bicubic: bool) -> bytes:
    """Return the network's image of a frame, or bicubic's, as a JPEG or PNG file."""
    cv2: Any = require("cv2", extra="all", needed_for="Encoding images for the browser")
    pixels: UInt8 = shown.frame.bicubic(shown.scale) if bicubic else shown.upscaled
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    if quality == "lossless":
        done, file = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    else:
        level, full_colour = _JPEG[quality]
        sampling = (
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if full_colour else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
        )
        settings = [cv2.IMWRITE_JPEG_QUALITY, level, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        done, file = cv2.imencode(".jpg", bgr, settings)
    if not done:
        raise RuntimeError(f"OpenCV could not encode {pixels.shape[1]}x{pixels.shape[0]} pixels")
    return bytes(file)
