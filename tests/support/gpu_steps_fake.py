"""What a step of benchmarks/gpu.py can do to its process; functions, because they are sent to another one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from hasn_edge.errors import BuildError


def succeed(value=1):
    return {"value": value, "process": os.getpid()}


def refuse():
    raise BuildError("the engine cannot\nrun on this GPU")


def crash():
    sys.stderr.write("something\nSegmentation fault\n")
    sys.stderr.flush()
    os.kill(os.getpid(), 11)


def hang(mark: Path):
    """As a compiler does: in a process of its own, which has to end too."""
    code = f"import time; time.sleep(20); open({str(mark)!r}, 'w')"
    subprocess.Popen([sys.executable, "-c", code])
    time.sleep(60)


def stay(mark: Path):
    mark.write_text(str(os.getpid()))
    time.sleep(20)


def not_json():
    return {"value": float("nan")}


def crash_at_the_end():
    import atexit

    atexit.register(os._exit, 139)
    return succeed()
