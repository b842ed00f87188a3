"""Whether windows work here: an OpenCV that has them, and a display that can be opened."""

from __future__ import annotations

import os
import subprocess
import sys

from hasn_edge.errors import UnsupportedError, say, use
from hasn_edge.live.views.window_draw import cv2

IN_THE_BROWSER = use(view="web")
"""What helps wherever there is no window."""

_PROBE_S = 20
_PROBE = "import cv2; cv2.namedWindow('hasn-edge'); cv2.waitKey(1); cv2.destroyAllWindows()"


def check_windows() -> None:
    """Return if a window can be opened.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        UnsupportedError: this OpenCV has no windows, or there is no display, or it does not answer.
    """
    if _toolkit() in ("", "NONE"):
        raise UnsupportedError(
            "this OpenCV was built without windows, as opencv-python-headless is",
            say(
                "install one that has them: pip uninstall -y opencv-python-headless && pip install "
                "opencv-python"
            ),
            IN_THE_BROWSER,
        )
    if not sys.platform.startswith("linux"):
        return
    display = _display()
    if not display:
        raise UnsupportedError(
            "there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)",
            say("log in on the machine's own screen, use ssh -X"),
            IN_THE_BROWSER,
        )
    # A toolkit that cannot open its display ends the whole process: let it end another one.
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_S, check=False
        )
        reason = "" if done.returncode == 0 else (done.stderr.strip() or f"exit status {done.returncode}")
    except subprocess.TimeoutExpired:
        reason = f"no answer within {_PROBE_S} s"
    if reason:
        raise UnsupportedError(
            f"no window can be opened on display {display} ({reason.splitlines()[0]})",
            say("check it"),
            IN_THE_BROWSER,
        )


def has_display() -> bool:
    """Return whether this machine may have a screen; nothing is opened."""
    return not sys.platform.startswith("linux") or bool(_display())


def _display() -> str | None:
    return os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")


def _toolkit() -> str:
    """Return the name of the window toolkit in OpenCV's own description; ``"NONE"`` for none."""
    for line in cv2().getBuildInformation().splitlines():
        name, _, value = line.strip().partition(":")
        if name == "GUI":
            return str(value.strip())
    return ""
