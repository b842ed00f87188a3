"""An OpenCV with cameras, for tests on machines without: a module that remembers what it was told."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np


class FakeCapture:
    def __init__(self, rig: FakeCv2, target: Any, *options: Any) -> None:
        self.rig, self.target, self.options = rig, target, options
        self.settings: list[tuple[str, float]] = []
        self.frames = [] if target in rig.silent else list(rig.frames)
        self.released = False
        rig.opened.append(self)

    def isOpened(self) -> bool:
        return self.target not in self.rig.refused

    def set(self, name: str, value: float) -> bool:
        self.settings.append((name, value))
        return True

    def get(self, name: str) -> float:
        return {"HEIGHT": 48.0, "WIDTH": 64.0, "FPS": 30.0}.get(name.rsplit("_", 1)[-1], 0.0)

    def read(self):
        assert not self.released, "read after release"
        if self.target in self.rig.hung:
            self.rig.release.wait(20)
            return False, None
        if not self.frames:
            return False, None
        return True, self.frames.pop(0)

    def release(self) -> None:
        self.released = True


class FakeCv2:
    """What a camera needs of OpenCV; every constant is its own name."""

    COLOR_BGR2RGB = cv2.COLOR_BGR2RGB
    cvtColor = staticmethod(cv2.cvtColor)  # noqa: N815 - OpenCV's name
    __version__ = "4.10.0"

    class VideoWriter:
        @staticmethod
        def fourcc(*letters: str) -> str:
            return "".join(letters)

    def __init__(self) -> None:
        self.opened: list[FakeCapture] = []
        self.refused: set[Any] = set()
        """What cannot be opened."""
        self.silent: set[Any] = set()
        """What can be opened and gives no images."""
        self.hung: set[Any] = set()
        """What can be opened and does not return from a read, until :attr:`release`."""
        self.release = threading.Event()
        red = np.zeros((48, 64, 3), np.uint8)
        red[..., 2] = 255  # OpenCV's order is blue, green, red
        self.frames = [red] * 3
        self.backends = {"FFMPEG", "V4L2"}
        """What it captures through; JetPack's has GSTREAMER, too."""
        self.videoio_registry = SimpleNamespace(
            hasBackend=lambda name: name.removeprefix("CAP_") in self.backends
        )

    def VideoCapture(self, *args: Any) -> FakeCapture:
        return FakeCapture(self, *args)

    def __getattr__(self, name: str) -> str:
        if name.startswith("CAP_"):
            return name
        raise AttributeError(name)
