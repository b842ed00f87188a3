"""A little GPU memory for the compiler's process, by the driver alone: no CUDA package need be installed."""

from __future__ import annotations

from ctypes import byref, c_int, c_size_t, c_uint64, c_void_p
from typing import Any

from numpy.typing import NDArray

from hasn_edge.errors import BuildError
from hasn_edge.hardware.gpu import LIBRARY, load_driver


class DeviceMemory:
    """One buffer in the GPU's primary context, which TensorRT uses too. For one thread.

    Args:
        index: Number of the GPU.
        library: The driver, by name or path.

    Raises:
        BuildError: the driver refused.
    """

    def __init__(self, index: int = 0, *, library: str = LIBRARY) -> None:
        self._cuda: Any = load_driver(library)
        if self._cuda is None:
            raise BuildError("the NVIDIA driver is not here (libcuda)")
        device, context = c_int(), c_void_p()
        self._call("cuInit", c_int(0))
        self._call("cuDeviceGet", byref(device), c_int(index))
        self._call("cuDevicePrimaryCtxRetain", byref(context), device)
        self._context = context
        self._address = c_uint64()
        self._size = 0

    def upload(self, array: NDArray[Any]) -> int:
        """Copy ``array`` to the GPU; the address returned is valid until the next call.

        Raises:
            BuildError: out of memory, or the driver refused.
        """
        self._call("cuCtxSetCurrent", self._context)
        if array.nbytes > self._size:
            self._free()
            self._call("cuMemAlloc_v2", byref(self._address), c_size_t(array.nbytes))
            self._size = array.nbytes
        self._call("cuMemcpyHtoD_v2", self._address, c_void_p(array.ctypes.data), c_size_t(array.nbytes))
        return self._address.value

    def free_bytes(self) -> int:
        """Return the GPU memory that is free."""
        free, total = c_size_t(), c_size_t()
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value

    def _free(self) -> None:
        if self._size:
            self._call("cuMemFree_v2", self._address)
            self._size = 0

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status != 0:
            what = {2: "the GPU's memory is used up", 100: "there is no GPU"}.get(
                status, f"CUDA error {status}"
            )
            raise BuildError(f"{name} failed: {what}")
