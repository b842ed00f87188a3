"""What travels through the live pipeline: a frame as it was captured, and as it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hasn_edge.images.arrays import UInt8
from hasn_edge.optional import require


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """One image of a source. Its pixels never change once it is made."""

    index: int
    """Number of the frame in its source, from 0; frames that were dropped leave gaps."""
    pixels: UInt8
    """``(H, W, 3)`` uint8 RGB, C-contiguous: what the network gets."""
    time_s: float | None
    """Media time in seconds, where the source has one: files, and streams with timestamps."""
    captured: float
    """``time.monotonic()`` when the image arrived."""
    truth: UInt8 | None = None
    """In a self-test, the ``(H * scale, W * scale, 3)`` image that ``pixels`` was made from."""
    _bicubic: dict[int, UInt8] = field(default_factory=dict, init=False, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def bicubic(self, scale: int) -> UInt8:
        """Return the frame enlarged without a network, to be shown beside it; computed once.

        This is OpenCV's ``INTER_CUBIC`` (a = -0.75), in 1.5 ms for 320 x 180 where MATLAB's bicubic takes
        27 ms. The self-test's figures are those of MATLAB's (:func:`hasn_edge.data.resize.imresize`).

        Returns:
            ``(H * scale, W * scale, 3)`` uint8 RGB; shared, do not write to it.
        """
        if scale not in self._bicubic:
            cv2: Any = require("cv2", extra="all", needed_for="Showing bicubic beside the network")
            height, width = self.size
            self._bicubic[scale] = cv2.resize(
                self.pixels, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC
            )
        return self._bicubic[scale]


@dataclass(frozen=True, kw_only=True)
class Stamps:
    """When one frame passed each point, all by ``time.monotonic()`` in seconds."""

    captured: float
    """It arrived from the source."""
    taken: float
    """Its preparation began: until here it waited for the network to become free."""
    prepared: float
    """It was ready for the network."""
    started: float
    """The network began with it."""
    computed: float
    """The network's result was in host memory."""
    received: float
    """Making its image began."""
    made: float
    """Its image was made, and is handed to the views."""

    @property
    def queued_s(self) -> float:
        """Seconds from its arrival until its preparation; of a recording, how far it was read ahead."""
        return self.taken - self.captured

    @property
    def idle_s(self) -> float:
        """Seconds since its preparation began in which it only waited."""
        return self.started - self.prepared + self.received - self.computed


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameQuality:
    """PSNR of one frame's luma against the image it was made smaller from (BT.601, border cut), in dB."""

    hasn_db: float
    bicubic_db: float
    """Of MATLAB's bicubic, as the literature takes it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class UpscaledFrame:
    """One upscaled frame on its way to the views and to the recording."""

    frame: Frame
    upscaled: UInt8
    """``(H * scale, W * scale, 3)`` uint8 RGB, C-contiguous; shared and never written to."""
    scale: int
    engine: str
    """Name of the engine that computed it, a key of :attr:`hasn_edge.live.pipeline.Live.engines`."""
    stamps: Stamps
    quality: FrameQuality | None = None
    """In a self-test, what it measured of this frame."""
