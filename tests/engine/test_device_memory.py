"""The GPU's memory through the driver: a compiled stand-in answers with NVIDIA's C signatures."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from hasn_edge.engine.device_memory import DeviceMemory
from hasn_edge.errors import BuildError


def test_memory_is_copied_and_reused(libcuda: Path) -> None:
    memory = DeviceMemory(library=str(libcuda))
    batch = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    address = memory.upload(batch)
    there = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (24,))
    assert there.tolist() == list(range(24))
    assert memory.upload(batch * 2) == address
    assert there.tolist() == list(range(0, 48, 2))
    memory.upload(np.zeros(100, np.float32))
    assert memory.free_bytes() == 1 << 24


def test_memory_that_is_not_there(libcuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = DeviceMemory(library=str(libcuda))
    monkeypatch.setenv("FAKE_CUDA_BYTES", "100")
    with pytest.raises(BuildError, match="cuMemAlloc_v2 failed: the GPU's memory is used up"):
        memory.upload(np.zeros(100, np.float32))
    with pytest.raises(BuildError, match="cuDevicePrimaryCtxRetain failed: CUDA error 101"):
        DeviceMemory(3, library=str(libcuda))


def test_a_machine_without_a_driver_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="driver is not here"):
        DeviceMemory(library=str(tmp_path / "libcuda.so.1"))
