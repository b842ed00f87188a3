"""Opening an engine once in a process of its own: ``python -m hasn_edge.runtime.tensorrt.trial FILE``.

The program that built it holds PyTorch, a graph in ONNX Runtime and the engine itself: on a board of 8 GB
what is left may not suffice to run it, and where the system then kills a process, the engine must stay.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hasn_edge.engine.messages import means_no_memory
from hasn_edge.engine.worker_process import ANSWER_S, NO_ANSWER, run_python
from hasn_edge.errors import BuildError, HasnEdgeError, InputError, error_from_values, error_to_values, say
from hasn_edge.runtime.tensorrt.open_engine import open_engine

_OTHER_KERNELS = say("build it again with a lower optimization_level in the target")


class NoMemoryError(BuildError):
    """There was not enough memory to open an engine beside what runs here; nothing is known against it."""


def try_engine(path: Path, *, python: str = sys.executable, limit_s: float = ANSWER_S) -> None:
    """Do nothing if an engine opens, and computes what its graph did, in a process of its own.

    Args:
        path: The engine, with its sidecar.
        python: The interpreter.
        limit_s: Seconds after which the process is killed.

    Raises:
        NoMemoryError: memory did not suffice to find out.
        BuildError: the process crashed, or did not end in time.
        HasnEdgeError: as :func:`~hasn_edge.runtime.open.open_session`.
    """
    module = "hasn_edge.runtime.tensorrt.trial"
    code, output, errors, late = run_python("-m", module, str(path.resolve()), limit_s=limit_s, python=python)
    if late:
        raise BuildError(
            f"{path.name}: the process that tried it did not end within {limit_s:g} s and was stopped; the "
            "engine was not kept",
            *NO_ANSWER,
            _OTHER_KERNELS,
        )
    if code == 0:
        return
    if code == 1 and output.startswith("{"):
        error = error_from_values(json.loads(output))
        if isinstance(error, InputError) or means_no_memory(error.message):
            raise NoMemoryError(error.message, *error.cures)
        raise error
    last = "\n  ".join(errors.strip().splitlines()[-10:])
    if code == -9 or means_no_memory(last):  # SIGKILL
        raise NoMemoryError("the system ended the process that tried it, most likely for its memory")
    raise BuildError(
        f"{path.name}: the process that tried it crashed (exit code {code}): {last}", _OTHER_KERNELS
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
