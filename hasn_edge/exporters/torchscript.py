"""TorchScript from a network: traced with free sizes, frozen, float32 in and out in FP32 and FP16."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hasn_edge.errors import UnsupportedError, call
from hasn_edge.model.blocks import ChannelNorm
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from hasn_edge.spec import ModelSpec


class Float32Norm(nn.Module):
    """A norm that computes mean and variance in float32 whatever it is given.

    In float16 a variance of small activations underflows to zero.
    """

    def __init__(self, norm: ChannelNorm) -> None:
        super().__init__()
        self.norm = norm.float()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return ``x`` normalised over dimension 1, same shape and type."""
        out: Tensor = self.norm(x_NCHW.float())
        return out.to(x_NCHW.dtype)


class Deployed(nn.Module):
    """A network as it is traced: ``(N, 3, H, W)`` float32 in, float32 out, its own number format between."""

    def __init__(self, network: nn.Module, *, half: bool, channels_last: bool) -> None:
        super().__init__()
        self.network = network
        self.half_precision = half
        self.channels_last = channels_last

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the upscaled batch, contiguous NCHW float32."""
        x = x_NCHW.half() if self.half_precision else x_NCHW
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor = self.network(x)
        return out.float().contiguous()


def torchscript_from_model(
    model: nn.Module,
    *,
    precision: Precision = Precision.FP32,
    size: tuple[int, int] | None = None,
    channels_last: bool = False,
) -> torch.jit.ScriptModule:
    """Return ``model`` as a frozen TorchScript module that needs none of our code; the model stays as it was.

    It takes ``(N, channels, H, W)`` float32 RGB in [0, 1] of any batch and any size from
    ``spec.size.minimum``, and returns float32, ``scale`` times as high and wide, not clamped. It is not
    passed through ``torch.jit.optimize_for_inference``, which made it six times slower on a CPU.

    Args:
        model: A :class:`~hasn_edge.model.hasn.HASN`, fused or not, with ``spec``.
        precision: FP32, or FP16: weights and activations half, casts inside, LayerNorm in float32.
        size: ``(H, W)`` of the example that is traced; the result takes other sizes all the same.
        channels_last: Run the convolutions in NHWC memory order.

    Raises:
        UnsupportedError: another precision; INT8 needs ONNX.
    """
    if precision not in (Precision.FP32, Precision.FP16):
        raise UnsupportedError(
            f"TorchScript in {precision.value} is not possible; it has fp32 and fp16",
            call("build", precision=precision.value),
        )
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    network = copy.deepcopy(model).float().eval().requires_grad_(False)
    half = precision is Precision.FP16
    if half:
        network = network.half()
        for block in network.children():
            if isinstance(norm := getattr(block, "ln", None), ChannelNorm):
                block.ln = Float32Norm(norm)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # An odd example shows a size that was frozen by accident: every other size then fails its check.
    height, width = size or (spec.size.minimum + 8, spec.size.minimum + 17)
    device = next(model.parameters()).device
    example = torch.zeros(1, spec.channels, height, width, device=device)
    deployed = Deployed(network, half=half, channels_last=channels_last).eval()
    with quiet_jit(), torch.no_grad():
        traced = torch.jit.trace(deployed, example, check_trace=False)  # type: ignore[no-untyped-call]
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
def quiet_jit() -> Iterator[None]:
    """Silence the announcement of newer PyTorch that TorchScript will go, here only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=FutureWarning)
        yield
