"""ONNX from a network: fixed names, convolutions called by their path, simplified and checked."""

from __future__ import annotations

import copy
import io
import json
import warnings

import onnx
import torch
from torch import Tensor, nn

from hasn_edge.errors import BuildError, ShapeError, UnsupportedError, first_line, say, use
from hasn_edge.exporters import onnx_graph as graphs
from hasn_edge.exporters.torchscript import quiet_jit
from hasn_edge.optional import installed_version, require
from hasn_edge.spec import SPEC_KEY, ModelSpec, NetworkSpec

OPSETS = (17, 18, 19, 20)
"""17 is the newest that TensorRT 8.5 to 8.6 read; 20 has Gelu, and Q/DQ of FP16 tensors (from 19)."""

SIMPLIFY_TOLERANCE = 1e-6
"""Largest accepted change of the output by simplification, relative to the output's range."""

_OLDER_TORCH = say("use torch 2.6 to 2.14")
"""Graphs are traced by the exporter that goes through TorchScript: its nodes bear the convolutions' paths."""

_WEIGHT_CHANGING = (
    # These would move GELU's factor 1/2 into the next convolution's weights (and double that convolution's
    # input range), or replace operators: ranges measured on one graph would be wrong on another.
    "fuse_mul_into_conv",
    "fuse_preceding_mul_into_conv",
    "fuse_add_bias_into_conv",
    "fuse_bn_into_conv",
    "fuse_pad_into_conv",
    "fuse_gelu",
    "fuse_layer_norm",
)


class DecomposedNorm(nn.Module):
    """LayerNorm over channels as means, a square root and a division, in NCHW without transposes.

    For readers without the LayerNormalization operator (TensorRT 8.5).
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.affine = norm.weight is not None
        if self.affine:
            self.scale = nn.Parameter(norm.weight.detach().clone().reshape(-1, 1, 1))
            self.shift = nn.Parameter(norm.bias.detach().clone().reshape(-1, 1, 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return ``x`` normalised over dimension 1, same shape."""
        centred = x_NCHW - x_NCHW.mean(1, keepdim=True)
        variance = (centred * centred).mean(1, keepdim=True)
        out = centred / torch.sqrt(variance + self.eps)
        return out * self.scale + self.shift if self.affine else out


def onnx_from_model(
    model: nn.Module,
    *,
    opset: int = 17,
    size: tuple[int, int] | None = None,
    batch: int | None = 1,
    decompose_norm: bool = False,
    simplify: bool = True,
    source: str = "",
) -> onnx.ModelProto:
    """Return ``model`` as one self-contained ONNX graph; the model is left as it was.

    Input ``input`` is ``(batch, channels, height, width)`` float32 RGB in [0, 1], output ``output`` is
    ``scale`` times as high and wide, not clamped. Every Conv node is called by its convolution's path in the
    network (``block_1.f1.conv``) and holds its weights unchanged, whatever the opset: what is measured on one
    graph, keyed by these names, holds for all. The same arguments give the same bytes.

    Args:
        model: A :class:`~hasn_edge.model.hasn.HASN`, fused or not, or another network, with ``spec``.
        opset: 17 to 20. From 20 on GELU is one operator.
        size: ``(H, W)`` for a static graph without any arithmetic on shapes, ``None`` for any size from
            ``spec.size.minimum``.
        batch: Images at a time, ``None`` for any number.
        decompose_norm: Write LayerNorm as elementary operators in NCHW; see :class:`DecomposedNorm`.
        simplify: Simplify with onnxsim where it is installed, and check the result against the graph as
            exported; metadata ``hasn_edge.simplified`` states which it was.
        source: SHA-256 of the checkpoint, for the metadata.

    Raises:
        UnsupportedError: an opset outside 17 to 20, or a static graph with any batch.
        ShapeError: a size below the network's minimum.
        BuildError: simplification changed the output, or the checker refused the graph.
    """
    spec: NetworkSpec = model.spec  # type: ignore[assignment]
    _check(spec, opset, size, batch)
    proto = graphs.canonical(_trace(model, opset, batch, decompose_norm, spec))
    expected = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    # Networks of others may run a convolution several times, and convolve without a module.
    if isinstance(spec, ModelSpec) and set(graphs.conv_parameters(proto)) != expected:
        raise BuildError(
            f"this version of PyTorch ({torch.__version__}) names the graph's nodes in an unknown way, so "
            "convolutions cannot be called by their path",
            _OLDER_TORCH,
        )
    simplified = "no"
    if simplify:
        proto, simplified = _simplify(proto, spec, batch)
    if size is not None:
        proto = graphs.with_fixed_size(proto, size, spec.scale)
    version = installed_version("hasn-edge") or "unknown"
    proto.producer_name, proto.producer_version, proto.doc_string = "hasn-edge", version, ""
    proto.graph.name = spec.arch
    if batch is not None:
        proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = batch
    graphs.set_metadata(
        proto,
        {
            SPEC_KEY: json.dumps(spec.to_dict(), sort_keys=True),
            "hasn_edge.source": source,
            "hasn_edge.color": "RGB, [0, 1], NCHW",
            "hasn_edge.least_side": str(spec.size.minimum),
            "hasn_edge.version": version,
            "hasn_edge.fused": ",".join(getattr(model, "fused", ())),
            "hasn_edge.simplified": simplified,
        },
    )
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, RuntimeError) as exc:
        raise BuildError(f"the exported graph is not valid ONNX: {exc}") from exc
    return proto


def _check(spec: NetworkSpec, opset: int, size: tuple[int, int] | None, batch: int | None) -> None:
    if opset not in OPSETS:
        raise UnsupportedError(f"ONNX opset {opset} is not supported; choose one of {OPSETS}")
    if size is not None and min(size) < spec.size.minimum:
        raise ShapeError(
            f"a static graph for {size[0]}x{size[1]} pixels is not possible; this network needs at least "
            f"{spec.size.minimum}x{spec.size.minimum}"
        )
    if batch is not None and batch < 1:
        raise ShapeError(f"batch is {batch}; expected 1 or more, or None for any")
    if size is not None and batch is None:
        raise UnsupportedError("a static graph needs a fixed batch", use(batch=1))


def _trace(
    model: nn.Module, opset: int, batch: int | None, decompose_norm: bool, spec: NetworkSpec
) -> onnx.ModelProto:
    """Export with dynamic height and width, also where one size is wanted: one path to check."""
    network = copy.deepcopy(model).float().cpu().eval()
    if decompose_norm:
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.LayerNorm):
                parent = network.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], DecomposedNorm(module))
    # Trained weights need not be touched by autograd, and an odd shape shows a size frozen by accident.
    example = torch.zeros(batch or 2, spec.channels, spec.size.minimum + 8, spec.size.minimum + 17)
    axes = {
        graphs.INPUT: {2: "height", 3: "width"},
        graphs.OUTPUT: {2: f"{spec.scale}*height", 3: f"{spec.scale}*width"},
    }
    if batch is None:
        for names in axes.values():
            names[0] = "batch"
    stream = io.BytesIO()
    with torch.no_grad(), quiet_jit(_OLDER_TORCH), warnings.catch_warnings():
        # PyTorch >= 2.9 announces that this exporter will go; its successor writes other node names.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*legacy TorchScript-based ONNX export.*")
        torch.onnx.export(
            network,
            (example,),
            stream,  # type: ignore[arg-type]  # annotated for the new exporter only
            input_names=[graphs.INPUT],
            output_names=[graphs.OUTPUT],
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )
    return onnx.load_from_string(stream.getvalue())


def _simplify(proto: onnx.ModelProto, spec: NetworkSpec, batch: int | None) -> tuple[onnx.ModelProto, str]:
    """Return the simplified graph and how it was done, or the graph itself and why not."""
    version = installed_version("onnxsim")
    if version is None:
        return proto, "no: onnxsim is not installed"
    onnxsim = require("onnxsim", extra="export", needed_for="Simplifying a graph")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result, _ = onnxsim.simplify(proto, skipped_optimizers=list(_WEIGHT_CHANGING))
        except RuntimeError as exc:
            # Simplification is a convenience: the graph as exported is as correct.
            return proto, f"no: onnxsim {version} failed: {first_line(exc)}"
    result = graphs.canonical(result)
    if graphs.conv_parameters(result) != graphs.conv_parameters(proto):
        return proto, f"no: onnxsim {version} changes convolutions"
    low, n = spec.size.minimum, batch or 2
    shapes = [(n, spec.channels, h, w) for h, w in ((low, low), (low + 2, low + 14), (low + 25, low + 1))]
    difference = graphs.largest_difference(proto, result, shapes)
    if not difference <= SIMPLIFY_TOLERANCE:
        raise BuildError(
            f"onnxsim {version} changed the output by {difference:.2g} of its range (limit "
            f"{SIMPLIFY_TOLERANCE:.0e})",
            say("export with simplify=False"),
            say("install another version of onnxsim"),
        )
    return result, f"onnxsim {version}"
