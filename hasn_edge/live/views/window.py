"""Live images in a window of the desktop, with keys and the mouse."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hasn_edge.errors import HasnEdgeError
from hasn_edge.images.arrays import UInt8
from hasn_edge.images.codec import write_image
from hasn_edge.live.frame import UpscaledFrame
from hasn_edge.live.notices import Notice
from hasn_edge.live.views import window_draw as draw
from hasn_edge.live.views.live_view import LiveRun, View
from hasn_edge.live.views.window_check import check_windows

TITLE = "hasn-edge"

LARGEST = (900, 1600)
"""Height and width that the window opens with at most; larger images are made smaller, and zoomed into."""

HELP = (
    "left, right, a, d:  move the divider, or drag it",
    "b:  flip between HASN and bicubic",
    "c:  compare both",
    "+, -, wheel:  zoom at the pointer",
    "0:  whole image",
    "space:  pause",
    "s:  save a snapshot (PNG)",
    "e:  next engine",
    "i:  figures on and off",
    "h:  this help",
    "q, Esc:  quit",
)

_SAME = {
    **dict.fromkeys((65361, 2424832, 63234), "a"),  # the arrow to the left: X11, Windows, macOS
    **dict.fromkeys((65363, 2555904, 63235), "d"),  # to the right
    **dict.fromkeys((65307, 27), "q"),  # Esc
    **{ord("="): "+", ord("?"): "h"},
}
"""Keys that do the same as a character's."""

_STEP = 0.02
_LARGEST_ZOOM = 16
_NOTE_S = 3.0
_REFRESH_S = 0.25  # the figures change even while no image comes


class WindowView(View):
    """Shows frames with OpenCV, which insists on the main thread: all drawing happens in :meth:`poll`.

    Latency is measured until the window has been painted.

    Args:
        folder: Where snapshots are written; the current one by default.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        UnsupportedError: there is no display, or this OpenCV has no windows.
    """

    poll_every_s = 0.01

    def __init__(self, folder: Path | None = None) -> None:
        check_windows()
        self._folder = Path() if folder is None else folder
        self._lock = threading.Lock()
        self._newest: UpscaledFrame | None = None
        self._message: str | None = None
        self._run: LiveRun | None = None
        self._open = False
        self._sized: tuple[int, int] | None = None
        self._on_screen: UpscaledFrame | None = None
        self._mode: draw.Mode = "compare"
        self._split = 0.5
        self._zoom = 1
        self._centre = self._pointer = (0.5, 0.5)
        self._dragging = self._paused = self._help = False
        self._figures = True
        self._note: tuple[str, float] = ("h: help", time.monotonic() + 2 * _NOTE_S)
        self._stale = True
        self._drawn_at = 0.0

    def start(self, run: LiveRun) -> None:
        """Open the window."""
        cv2 = draw.cv2()
        self._run = run
        cv2.namedWindow(
            TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | getattr(cv2, "WINDOW_GUI_NORMAL", 0)
        )
        cv2.setMouseCallback(TITLE, self._mouse)
        self._open = True
        self._paint(None)

    def show(self, shown: UpscaledFrame) -> None:
        """Keep the frame for the next poll."""
        with self._lock:
            self._newest = shown

    def notify(self, notice: Notice | None) -> None:
        """Keep the words for the next poll."""
        self._message = None if notice is None else notice.text
        self._stale = True

    def poll(self) -> None:
        """Draw what is new, and act on the keys."""
        if not self._open:
            return
        with self._lock:
            newest, self._newest = self._newest, None
        fresh = newest if not self._paused else None
        if fresh is not None or self._stale or time.monotonic() - self._drawn_at > _REFRESH_S:
            self._paint(fresh or self._on_screen)
        key = draw.cv2().waitKeyEx(1)
        if fresh is not None and self._run is not None:
            self._on_screen = fresh
            self._run.stats.displayed(fresh)
        if key >= 0:
            self._key(key)
        if self._run is not None and self._closed_by_hand():
            self._open = False
            self._run.stop()

    def stop(self) -> None:
        """Close the window."""
        if not self._open:
            return
        self._open = False
        cv2 = draw.cv2()
        cv2.destroyWindow(TITLE)
        cv2.waitKey(1)

    def _paint(self, shown: UpscaledFrame | None) -> None:
        self._stale, self._drawn_at = False, time.monotonic()
        draw.cv2().imshow(TITLE, self._image(shown))
        if shown is not None and shown.upscaled.shape[:2] != self._sized:
            height, width = self._sized = (shown.upscaled.shape[0], shown.upscaled.shape[1])
            # OpenCV does not know the screen, and a window that is larger cannot be moved back.
            factor = min(1.0, LARGEST[0] / height, LARGEST[1] / width)
            draw.cv2().resizeWindow(TITLE, round(width * factor), round(height * factor))

    def _image(self, shown: UpscaledFrame | None) -> UInt8:
        """Return what to show, in OpenCV's order of colours."""
        if shown is None:
            bgr = np.full((360, 640, 3), 14, np.uint8)
            draw.words(bgr, [self._message or "waiting for the first image"], "middle")
            return bgr
        cv2 = draw.cv2()
        bgr = cv2.cvtColor(draw.together(shown, self._mode, self._split), cv2.COLOR_RGB2BGR)
        bgr = draw.enlarged(bgr, self._zoom, self._centre)
        if self._mode == "compare" and self._zoom == 1:
            draw.divider(bgr, draw.column(shown, self._split))
        if self._figures and self._run is not None:
            name = {"compare": "bicubic | HASN", "hasn": "HASN", "bicubic": "bicubic"}[self._mode]
            zoomed = f", x{self._zoom}" if self._zoom > 1 else ""
            draw.words(bgr, [f"{name}{zoomed}", *self._run.stats.overlay()], "top")
        note, until = self._note
        lasting = self._message or ("paused" if self._paused else None)
        draw.words(
            bgr,
            [lasting or "", note if time.monotonic() < until else ""],
            "bottom",
            alarm=bool(self._message),
        )
        if self._help:
            draw.words(bgr, HELP, "middle")
        return bgr

    def _closed_by_hand(self) -> bool:
        cv2 = draw.cv2()
        try:
            return float(cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE)) < 1
        except cv2.error:  # some toolkits no longer know the window
            return True

    def _mouse(self, event: int, x: int, y: int, flags: int, _: Any) -> None:
        """Take the mouse's place in the image, in its pixels."""
        cv2 = draw.cv2()
        height, width = self._sized or (360, 640)
        self._pointer = (min(1.0, max(0.0, x / width)), min(1.0, max(0.0, y / height)))
        if event == cv2.EVENT_LBUTTONDOWN:
            self._dragging = True
        elif event == cv2.EVENT_LBUTTONUP:
            self._dragging = False
        elif event == cv2.EVENT_MOUSEWHEEL:
            self._zoom_by(2 if flags > 0 else 0.5)
        if self._dragging and self._zoom == 1 and event in (cv2.EVENT_LBUTTONDOWN, cv2.EVENT_MOUSEMOVE):
            self._move_to(self._pointer[0])

    def _key(self, key: int) -> None:
        self._stale = True
        # X11 puts the state of Shift and Num Lock above the key.
        code = key & 0xFFFF
        actions: dict[str, Callable[[], None]] = {
            "a": lambda: self._move_to(self._split - _STEP),
            "d": lambda: self._move_to(self._split + _STEP),
            "q": self._quit,
            " ": lambda: setattr(self, "_paused", not self._paused),
            "s": self._snapshot,
            "b": lambda: setattr(self, "_mode", "bicubic" if self._mode == "hasn" else "hasn"),
            "c": lambda: setattr(self, "_mode", "compare"),
            "+": lambda: self._zoom_by(2),
            "-": lambda: self._zoom_by(0.5),
            "0": lambda: self._zoom_by(0),
            "e": self._next_engine,
            "i": lambda: setattr(self, "_figures", not self._figures),
            "h": lambda: setattr(self, "_help", not self._help),
        }
        actions.get(_SAME.get(key) or _SAME.get(code) or chr(code).lower(), lambda: None)()

    def _move_to(self, split: float) -> None:
        self._mode, self._split, self._stale = "compare", min(1.0, max(0.0, split)), True

    def _zoom_by(self, factor: float) -> None:
        zoom = min(_LARGEST_ZOOM, max(1, int(self._zoom * factor)))
        # What is under the pointer stays there, as far as the image's edges allow.
        moved, half = 1 / self._zoom - 1 / zoom, 0.5 / zoom
        x, y = (
            min(1 - half, max(half, centre + (pointer - 0.5) * moved))
            for centre, pointer in zip(self._centre, self._pointer, strict=True)
        )
        self._zoom, self._centre, self._stale = zoom, (x, y), True

    def _quit(self) -> None:
        if self._run is not None:
            self._run.stop()

    def _next_engine(self) -> None:
        run = self._run
        if run is None or len(run.engines) < 2:
            self._note_for_a_while("there is one engine only; start with several files to choose from")
            return
        names = run.engines
        run.select(names[(names.index(run.engine) + 1) % len(names)])

    def _snapshot(self) -> None:
        """Write what is shown, without words and divider, in full size."""
        shown = self._on_screen
        if shown is None:
            self._note_for_a_while("there is no image yet")
            return
        path = self._folder / f"hasn-edge-frame{shown.frame.index:06d}-{self._mode}.png"
        try:
            write_image(path, draw.together(shown, self._mode, self._split))
        except HasnEdgeError as exc:  # a full disk must not end the show
            self._note_for_a_while(str(exc))
        else:
            self._note_for_a_while(f"saved {path}")

    def _note_for_a_while(self, text: str) -> None:
        self._note = (text, time.monotonic() + _NOTE_S)
        self._stale = True
