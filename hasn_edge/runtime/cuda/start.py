"""Starting CUDA once in a process of its own: ``python -m hasn_edge.runtime.cuda.start``.

A program that only asks would keep CUDA's context for as long as it lives, which takes hundreds of megabytes
of a small board's memory, and a driver can crash or hang.
"""

from __future__ import annotations

import json
import sys

from hasn_edge.engine.worker_process import NO_ANSWER, run_python
from hasn_edge.errors import BuildError, HasnEdgeError, error_from_values, error_to_values
from hasn_edge.runtime.cuda import choose

LIMIT_S = 120.0
"""Importing PyTorch, the last that is tried, takes a minute on a slow board."""


def start_cuda(python: str = sys.executable, *, limit_s: float = LIMIT_S) -> str:
    """Start CUDA as an engine would, elsewhere, and return the name of the package through which it started.

    Args:
        python: The interpreter.
        limit_s: Seconds after which the process is killed.

    Raises:
        NoCudaError: no package works here.
        BuildError: the process does not start, crashed, or did not end in time.
        HasnEdgeError: as :func:`hasn_edge.runtime.cuda.choose`.
    """
    ended = run_python("-m", "hasn_edge.runtime.cuda.start", limit_s=limit_s, python=python)
    if ended.late:
        raise BuildError(f"CUDA did not start within {limit_s:g} s", *NO_ANSWER)
    try:
        answer = json.loads(ended.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (ended.errors.strip().splitlines() or ["it said nothing"])[-1]
        raise BuildError(f"the process that started CUDA ended with exit code {ended.code}: {last}") from None
    if "error" in answer:
        raise error_from_values(answer["error"])
    return str(answer["name"])


def main() -> None:
    """Start CUDA and print how that ended."""
    answer: dict[str, object]
    try:
        answer = {"name": choose().name}
    except HasnEdgeError as exc:
        answer = {"error": error_to_values(exc)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
