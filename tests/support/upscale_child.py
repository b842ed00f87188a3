"""``hasn-edge upscale`` in a process of its own that hangs, as a library may, in the stage named first.

Says READY on standard error once it does. The network is a fake.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # run by its path

from hasn_edge import interrupt
from hasn_edge.cli import main, upscale
from hasn_edge.spec import ModelSpec
from hasn_edge.video.encode import Encoder
from tests.support.fake_session import FakeSession

STAGE = sys.argv[1]


def ready() -> None:
    sys.stderr.write("READY\n")
    sys.stderr.flush()


def watch(lock: ctypes.Array) -> None:
    """Say so once the main thread waits for a lock: only then no step of Python's comes any more."""
    while ctypes.c_int.from_buffer(lock).value != 2:  # glibc's word for "locked, and awaited"
        time.sleep(0.01)
    ready()


class Hanging(FakeSession):
    def _run(self, x_NCHW):
        if STAGE == "network" and len(self.calls) == 5:
            # No signal interrupts this, and no handler of Python's runs under it.
            lock, library = ctypes.create_string_buffer(256), ctypes.CDLL(None)
            library.pthread_mutex_lock(lock)
            threading.Thread(target=watch, args=(lock,), daemon=True).start()
            library.pthread_mutex_lock(lock)
        return super()._run(x_NCHW)


def hanging(write):
    images = []

    def hang(self, rgb_HWC, pts, duration=0):
        images.append(pts)
        if len(images) == 1:  # the trial's, in memory: no file has begun yet
            write(self, rgb_HWC, pts, duration)
        else:
            ready()
            time.sleep(900)

    return hang


if STAGE != "network":
    Encoder.write = hanging(Encoder.write)
if STAGE == "twice":
    interrupt.LEAVE_S = 900
upscale.open_chosen = lambda *args, **options: Hanging(ModelSpec())
sys.argv[1:2] = ["upscale"]
main()
