"""Kernels that TensorRT for RTX compiles while an engine runs, kept beside it for the next process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hasn_edge.artifact import writing
from hasn_edge.errors import OutputError

LARGEST_BYTES = 1 << 30
"""What is larger is no such file: a network's kernels take some megabytes."""


class RuntimeCache:
    """The file ``<engine>.runtime-cache``. It saves time and decides nothing: every failure is silent.

    TensorRT for RTX itself refuses kernels of another GPU, version or CUDA, and compiles again; what it has
    at the end replaces them. The file is as trusted as the engine beside it: both hold code for the GPU.
    """

    def __init__(self, engine: Path) -> None:
        self.path = engine.with_name(engine.name + ".runtime-cache")
        self._known = b""

    def read(self) -> bytes:
        """Return what was kept; nothing where nothing was, or it cannot be read."""
        with suppress(OSError):
            if self.path.stat().st_size <= LARGEST_BYTES:
                self._known = self.path.read_bytes()
        return self._known

    def keep(self, cache: bytes) -> None:
        """Write what there is now, if that is something else than what was read."""
        if cache and cache != self._known:
            # A folder that cannot be written to costs the next start some time, and nothing else.
            with suppress(OSError, OutputError), writing(self.path) as temporary:
                temporary.write_bytes(cache)
                self._known = cache
