"""A network as PyTorch's exporters take it: float32 in and out, its own number format between.

It stands alone because TorchScript and ``torch.export`` make files of one module, and must not differ in it.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from hasn_edge.errors import UnsupportedError, call
from hasn_edge.model.blocks import ChannelNorm
from hasn_edge.spec import Precision


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
    """A network as it is exported: ``(N, C, H, W)`` float32 in and out, its own number format between."""

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


def deployed(
    model: nn.Module, *, precision: Precision, channels_last: bool = False, what: str = "TorchScript"
) -> Deployed:
    """Return a copy of ``model`` ready to be exported; the model stays as it was.

    Args:
        model: A :class:`~hasn_edge.model.hasn.HASN`, fused or not.
        precision: FP32, or FP16: weights and activations half, casts inside, LayerNorm in float32.
        channels_last: Run the convolutions in NHWC memory order.
        what: The format, for messages.

    Raises:
        UnsupportedError: another precision; INT8 needs ONNX.
    """
    if precision not in (Precision.FP32, Precision.FP16):
        raise UnsupportedError(
            f"{what} in {precision.value} is not possible; it has fp32 and fp16",
            call("build", precision=precision.value),
        )
    network = copy.deepcopy(model).float().eval().requires_grad_(False)
    half = precision is Precision.FP16
    if half:
        network = network.half()
        for block in network.children():
            if isinstance(norm := getattr(block, "ln", None), ChannelNorm):
                block.ln = Float32Norm(norm)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Deployed(network, half=half, channels_last=channels_last).eval()
