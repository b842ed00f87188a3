"""The network in PyTorch: eager, the FP32 reference that every other backend is compared with; compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hasn_edge.errors import BuildError, InputError, UnsupportedError, say, use
from hasn_edge.images.arrays import Float32
from hasn_edge.runtime.session import Session, out_of_memory
from hasn_edge.spec import NetworkSpec, Precision

_PRECISIONS = {torch.float32: Precision.FP32, torch.float16: Precision.FP16}


class ModuleSession(Session):
    """Runs a module of PyTorch; NumPy goes in and comes out.

    Args:
        module: What runs, on ``target``, and takes ``_dtype`` in ``_format``.
        target: Where it runs, from :func:`torch_device`.
        threads: Threads of PyTorch's CPU kernels, a setting of the whole process; ``None`` leaves it alone.
        spec: As for :class:`~hasn_edge.runtime.session.Session`, like ``options``.
    """

    _dtype, _format = torch.float32, torch.contiguous_format

    def __init__(
        self,
        module: Callable[[torch.Tensor], torch.Tensor],
        target: torch.device,
        threads: int | None,
        spec: NetworkSpec,
        **options: Any,
    ) -> None:
        self._module: Callable[[torch.Tensor], torch.Tensor] | None = module
        self._target, self._threads = target, threads
        super().__init__(spec, device=str(target), **options)

    def _run(self, x_NCHW: Float32) -> Float32:
        assert self._module is not None
        set_threads(self._threads)
        return infer(self._module, x_NCHW, self._target, self._dtype, self._format, backend=self.backend)

    def _close(self) -> None:
        self._module = None


class PyTorchSession(ModuleSession):
    """Runs a module as it is, in inference mode.

    The caller's module is shared, not copied, unless it has to be moved, re-laid or switched to
    evaluation; it is never changed.

    Args:
        model: A :class:`~hasn_edge.model.hasn.HASN` or a fused one: a module with a ``spec``. Its parameters'
            dtype (float32 or float16) is the session's precision.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
        channels_last: Keep tensors as NHWC in memory (1.2 times faster on the CPUs measured, same arithmetic
            in another order).
        threads: Threads of PyTorch's CPU kernels; ``None`` leaves PyTorch's setting alone. It is a setting of
            the whole process, applied at each call.
        compiled: Run it through ``torch.compile``: the first frame takes a minute, so does the first one of
            another size; sizes after that cost nothing.

    Raises:
        InputError: the module has no spec.
        UnsupportedError: no such device here, or parameters of another dtype.
    """

    backend = "pytorch"

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str = "cpu",
        channels_last: bool = False,
        threads: int | None = None,
        compiled: bool = False,
    ) -> None:
        spec = getattr(model, "spec", None)
        if not isinstance(spec, NetworkSpec):
            raise InputError(
                f"pytorch: {type(model).__name__} has no 'spec'",
                say("load it with hasn_edge.load_model"),
                say("set its ModelSpec"),
            )
        parameter = next(model.parameters(), None)
        dtype = torch.float32 if parameter is None else parameter.dtype
        if dtype not in _PRECISIONS:
            raise UnsupportedError(
                f"pytorch: parameters are {str(dtype).removeprefix('torch.')}; expected float32 or float16",
                say("convert with model.float()"),
            )
        target = torch_device(device, backend="pytorch")
        moved = parameter is not None and parameter.device != target
        if channels_last or moved or model.training:
            model = copy.deepcopy(model).eval().to(target)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            self.backend = "torch.compile"
        self._dtype = dtype
        module = torch.compile(model) if compiled else model
        super().__init__(module, target, threads, spec, precision=_PRECISIONS[dtype])


def infer(
    model: Callable[[torch.Tensor], torch.Tensor],
    x_NCHW: Float32,
    device: torch.device,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    *,
    backend: str,
) -> Float32:
    """Run ``model`` without gradients; NumPy in, NumPy out.

    Raises:
        InputError: memory does not suffice.
        BuildError: PyTorch failed; its message is carried.
    """
    try:
        with torch.inference_mode():
            # A copy: PyTorch warns about read-only arrays, and a session never writes to its input.
            x = torch.tensor(x_NCHW, device=device, dtype=dtype).contiguous(memory_format=memory_format)
            y: Float32 = model(x).to("cpu", torch.float32).contiguous().numpy()
            return y
    except (RuntimeError, MemoryError) as exc:
        if isinstance(exc, (MemoryError, torch.OutOfMemoryError)) or "t allocate memory" in str(exc):
            raise out_of_memory(backend, x_NCHW.shape, exc) from exc
        raise BuildError(f"{backend}: PyTorch failed on an input of {x_NCHW.shape}: {exc}") from exc


def torch_device(device: str, *, backend: str) -> torch.device:
    """Return the device called ``device``; on CUDA, convolutions in FP32 from then on do without TF32.

    Raises:
        UnsupportedError: another name, or CUDA where this machine or this PyTorch has none.
    """
    try:
        target = torch.device(device)
    except RuntimeError:
        target = None
    if target is None or target.type not in ("cpu", "cuda"):
        raise UnsupportedError(
            f"{backend}: no device called {device!r}", say("choose cpu, cuda or cuda:<index>")
        )
    if target.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (target.index or 0) >= count:
            raise UnsupportedError(
                f"{backend}: device {device!r} is not here: PyTorch {torch.__version__} sees {count} CUDA "
                "device(s)",
                use(device="cpu"),
                say("install a CUDA build of PyTorch and the NVIDIA driver"),
            )
        target = torch.device("cuda", target.index or 0)
        # PyTorch rounds FP32 convolutions to 10 bits of mantissa by default, a setting of the
        # whole process; here "fp32" means FP32.
        torch.backends.cudnn.allow_tf32 = False
    return target


def set_threads(threads: int | None) -> None:
    """Give PyTorch's CPU kernels this many threads, for the whole process; ``None`` changes nothing."""
    if threads is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
