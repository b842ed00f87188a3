"""What a child process says while it runs."""

from __future__ import annotations

import os
from subprocess import Popen


def hear(process: Popen[str], words: str) -> bool:
    """Wait until a line of the child's standard error has these words; ``False`` where it never came.

    Byte by byte: what a file object reads ahead is lost to :meth:`Popen.communicate`, and on a machine that
    stood still for a moment that is the rest of what the child had to say.
    """
    line = b""
    while byte := os.read(process.stderr.fileno(), 1):
        line += byte
        if byte == b"\n":
            if words.encode() in line:
                return True
            line = b""
    return False
