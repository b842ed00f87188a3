"""Starting CUDA once in a process of its own: ``python -m hasn_edge.runtime.cuda.start``.

A program that only asks would keep CUDA's context for as long as it lives, which takes hundreds of megabytes
of a small board's memory, and a driver can crash or hang.
"""

from __future__ import annotations

import sys

from hasn_edge.engine.worker_process import answer, ask_python
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
    started = ask_python(
        "hasn_edge.runtime.cuda.start",
        work="started CUDA",
        late="CUDA did not start",
        limit_s=limit_s,
        python=python,
    )
    return str(started)


def main() -> None:
    """Start CUDA and print how that ended."""
    answer(lambda: choose().name)


if __name__ == "__main__":
    main()
