"""The child process that compiles: ``python -m hasn_edge.engine.worker FOLDER``.

The compiler runs apart from the program that asks, because it can crash or be killed for memory. FOLDER holds
``target.json`` and ``model.onnx``; ``engine.plan`` is left there. Standard output carries one JSON object per
line: messages, progress, and at last either ``done`` or ``failed``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from hasn_edge.engine.capabilities import driver_present, load_tensorrt
from hasn_edge.engine.compiler import compile_plan
from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.errors import HasnEdgeError, UnsupportedError


class Channel:
    """Writes events to the parent; safe to use from several threads."""

    def __init__(self, descriptor: int) -> None:
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8")
        self._lock = threading.Lock()

    def send(self, event: str, **values: Any) -> bool:
        """Write one event; return whether the parent still listens."""
        try:
            with self._lock:
                self._stream.write(json.dumps({"event": event, **values}) + "\n")
                self._stream.flush()
        except OSError:
            return False
        return True


def main(folder: Path) -> int:
    """Compile what ``folder`` asks for; return the exit code."""
    channel = Channel(os.dup(1))
    os.dup2(2, 1)  # libraries print to standard output as they like; that must not end up in the channel
    try:
        target = msgspec.json.decode((folder / "target.json").read_bytes(), type=EngineTarget)
        if target.runtime is EngineRuntime.TENSORRT and not driver_present():
            raise UnsupportedError(
                "TensorRT compiles on the device it compiles for, and this machine has no NVIDIA driver "
                "(libcuda); run the build on the device, or choose a target of TensorRT for RTX, such as rtx"
            )
        trt, capabilities = load_tensorrt(target.runtime)
        channel.send("loaded", title=capabilities.title, version=capabilities.version)
        plan, facts = compile_plan(
            trt,
            capabilities,
            (folder / "model.onnx").read_bytes(),
            target,
            on_message=lambda severity, text: channel.send("message", severity=severity, text=text),
            on_step=lambda phase, done, steps: channel.send("step", phase=phase, done=done, steps=steps),
        )
        (folder / "engine.plan").write_bytes(plan)
    except HasnEdgeError as exc:
        channel.send("failed", kind=type(exc).__name__, text=str(exc))
        return 1
    except OSError as exc:
        channel.send(
            "failed",
            kind="OutputError",
            text=f"cannot keep the build's temporary files in {folder.parent}: {exc.strerror or exc}; "
            "free some space there, or set TMPDIR to another folder",
        )
        return 1
    channel.send("done", facts=facts)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
