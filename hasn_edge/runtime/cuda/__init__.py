"""Memory, streams and graphs of CUDA, through whichever of three Python packages is here."""

from __future__ import annotations

import sys
from collections.abc import Callable

from hasn_edge.errors import (
    BuildError,
    HasnEdgeError,
    MissingDependencyError,
    NoCudaError,
    UnsupportedError,
    say,
    shell,
)
from hasn_edge.hardware.gpu import cuda_python_install, gpu_facts
from hasn_edge.runtime.cuda.backend import CudaBackend
from hasn_edge.runtime.cuda.cuda_python import CudaPythonBackend
from hasn_edge.runtime.cuda.pycuda import PyCudaBackend
from hasn_edge.runtime.cuda.torch import TorchBackend

_OPENERS: dict[str, Callable[[int], CudaBackend]] = {
    "torch": TorchBackend,
    "cuda-python": CudaPythonBackend,
    "pycuda": PyCudaBackend,
}
BACKENDS = tuple(_OPENERS)
"""Names of the Python packages, as :func:`choose` takes them."""


def choose(name: str | None = None, *, index: int = 0) -> CudaBackend:
    """Start CUDA on one GPU through a Python package.

    Without ``name``, the first of these that is installed and starts:

    1. PyTorch, where the program imported it already: one allocator for everything, and nothing to load.
    2. cuda-python: NVIDIA's own, from wheels, with CUDA graphs.
    3. PyCUDA: what older Jetson installations have; without CUDA graphs.
    4. PyTorch, imported for this alone: seconds and hundreds of megabytes.

    Args:
        name: ``"torch"``, ``"cuda-python"`` or ``"pycuda"``: this one and no other.
        index: Number of the GPU among those that ``CUDA_VISIBLE_DEVICES`` leaves.

    Raises:
        NoCudaError: none of the three is installed and starts.
        UnsupportedError: no such backend.
        MissingDependencyError: the one that was named is not installed.
        BuildError: the one that was named does not start, or the GPU has no memory left for CUDA's context.
    """
    try:
        return _choose(name, index)
    except MemoryError as exc:  # the other packages would find no more
        raise BuildError(str(exc), say("end other programs that use the GPU")) from exc


def _choose(name: str | None, index: int) -> CudaBackend:
    if name is not None:
        if name not in _OPENERS:
            raise UnsupportedError(
                f"no CUDA backend called {name!r}", say(f"choose one of: {', '.join(BACKENDS)}")
            )
        return _start(name, index)
    loaded = ("torch",) if "torch" in sys.modules else ()
    reasons: dict[str, str] = {}
    for candidate in dict.fromkeys((*loaded, "cuda-python", "pycuda", "torch")):
        try:
            return _start(candidate, index)
        except MissingDependencyError:
            reasons[candidate] = "not installed"
        except HasnEdgeError as exc:
            reasons[candidate] = str(exc)
    raise NoCudaError(
        "running an engine needs a Python package for CUDA's memory and streams, and none of the three "
        "works here:" + "".join(f"\n  {candidate}: {reason}" for candidate, reason in reasons.items()),
        shell(cuda_python_install(gpu_facts(index))),
    )


def _start(name: str, index: int) -> CudaBackend:
    try:
        return _OPENERS[name](index)
    except (ImportError, OSError, RuntimeError) as exc:  # installed, but one of its libraries is not
        raise BuildError(f"{name} is installed but cannot be loaded: {exc}", say("install it again")) from exc
