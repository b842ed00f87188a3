"""TorchScript from a network: traced with free sizes, frozen, float32 in and out in FP32 and FP16."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from hasn_edge.errors import Cure, UnsupportedError, first_line, use
from hasn_edge.exporters.deployable import deployed
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from hasn_edge.spec import ModelSpec

_ANNOUNCED = r".*torch\.jit.*"
_REFUSED = re.compile(
    r"(torch\.jit|TorchScript).*(deprecated|removed|no longer|not supported)"
    r"|module 'torch' has no attribute 'jit'",
    re.IGNORECASE | re.DOTALL,
)


def torchscript_from_model(
    model: nn.Module,
    *,
    precision: Precision = Precision.FP32,
    channels_last: bool = False,
) -> torch.jit.ScriptModule:
    """Return ``model`` as a frozen TorchScript module that needs none of our code; the model stays as it was.

    It takes ``(N, channels, H, W)`` float32 RGB in [0, 1] of any batch and any size from
    ``spec.size.minimum``, and returns float32, ``scale`` times as high and wide, not clamped. It is not
    passed through ``torch.jit.optimize_for_inference``, which made it six times slower on a CPU.

    Args:
        model: A :class:`~hasn_edge.model.hasn.HASN`, fused or not, with ``spec``.
        precision: FP32, or FP16: weights and activations half, casts inside, LayerNorm in float32.
        channels_last: Run the convolutions in NHWC memory order.

    Raises:
        UnsupportedError: another precision; INT8 needs ONNX.
    """
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    exported = deployed(model, precision=precision, channels_last=channels_last)
    # An odd example shows a size that was frozen by accident: every other size then fails its check.
    height, width = spec.size.minimum + 8, spec.size.minimum + 17
    device = next(model.parameters()).device
    example = torch.zeros(1, spec.channels, height, width, device=device)
    with quiet_jit(), torch.no_grad():
        traced = torch.jit.trace(exported, example, check_trace=False)  # type: ignore[no-untyped-call]
        # Passes that do not keep the numbers stay off: the interpreter computes what PyTorch computes.
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced, optimize_numerics=False)
        return frozen


def torchscript_bytes(module: torch.jit.ScriptModule) -> bytes:
    """Return what a ``.ts`` file of ``module`` holds."""
    buffer = io.BytesIO()
    with quiet_jit():
        torch.jit.save(module, buffer)
    return buffer.getvalue()


@contextmanager
def quiet_jit(*instead: Cure) -> Iterator[None]:
    """The door to TorchScript: its announced end is no message here, and a PyTorch without it is one error.

    Args:
        instead: What helps where this PyTorch has no TorchScript; the format ``pt2`` by default.

    Raises:
        UnsupportedError: this PyTorch refuses TorchScript.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_ANNOUNCED, category=DeprecationWarning)
            warnings.filterwarnings("ignore", message=_ANNOUNCED, category=FutureWarning)
            yield
    except (AttributeError, ImportError, NotImplementedError, RuntimeError) as exc:
        if not _REFUSED.search(str(exc)):
            raise
        raise UnsupportedError(
            f"PyTorch {torch.__version__} has no TorchScript any more: {first_line(exc)}",
            *(instead or (use(format="pt2"),)),
        ) from exc
