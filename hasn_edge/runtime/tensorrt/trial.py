"""Opening an engine once in a process of its own: ``python -m hasn_edge.runtime.tensorrt.trial FILE``.

The program that built it holds PyTorch, a graph in ONNX Runtime and the engine itself: on a board of 8 GB
what is left may not suffice to run it, and where the system then kills a process, the engine must stay.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from hasn_edge.engine.messages import means_no_memory
from hasn_edge.engine.worker_process import child_environment
from hasn_edge.errors import BuildError, HasnEdgeError, InputError, error_from_values, error_to_values, say
from hasn_edge.runtime.tensorrt.open_engine import open_engine


class NoMemoryError(BuildError):
    """There was not enough memory to open an engine beside what runs here; nothing is known against it."""


def try_engine(path: Path, *, python: str = sys.executable) -> None:
    """Do nothing if an engine opens, and computes what its graph did, in a process of its own.

    Args:
        path: The engine, with its sidecar.
        python: The interpreter.

    Raises:
        NoMemoryError: memory did not suffice to find out.
        HasnEdgeError: as :func:`~hasn_edge.runtime.open.open_session`.
    """
    done = subprocess.run(
        [python, "-m", "hasn_edge.runtime.tensorrt.trial", str(path.resolve())],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd="/",
        env=child_environment(),
    )  # fmt: skip
    if done.returncode == 0:
        return
    if done.returncode == 1 and done.stdout.startswith("{"):
        error = error_from_values(json.loads(done.stdout))
        if isinstance(error, InputError) or means_no_memory(error.message):
            raise NoMemoryError(error.message, *error.cures)
        raise error
    last = "\n  ".join(done.stderr.strip().splitlines()[-10:])
    if done.returncode == -9 or means_no_memory(last):  # SIGKILL
        raise NoMemoryError("the system ended the process that tried it, most likely for its memory")
    raise BuildError(
        f"{path.name}: the process that tried it crashed (exit code {done.returncode}): {last}",
        say("build it again with a lower optimization_level in the target"),
    )


def main(path: str) -> int:
    """Open an engine, which checks its golden image, and close it; print the error otherwise."""
    from hasn_edge.artifact import load_artifact

    try:
        open_engine(load_artifact(path)).close()
    except HasnEdgeError as exc:
        sys.stdout.write(json.dumps(error_to_values(exc)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
