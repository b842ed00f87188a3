"""The kernels that a compiler lists: NVIDIA's own lists of real engines, and what is learned from them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hasn_edge.engine.compile import engine_from_onnx, kernels_from_onnx
from hasn_edge.engine.kernels import (
    Kernel,
    KernelTensor,
    describe_kernels,
    find_unverified,
    kernels_of_inspector,
    kernels_of_log,
)
from hasn_edge.engine.target import EngineTarget, ShapeRange, load_target
from hasn_edge.errors import BuildError
from hasn_edge.sidecar import KernelLine
from hasn_edge.spec import Precision
from tests.support.compiling import MakeOnnx
from tests.support.samples import as_json

NHWC, LINEAR = "Format: (NHWC) Channel major format", "Format: (Linear) Row major linear format"
LOG = "Layers:\n" + "\n".join(
    (
        "Name: block_1.dwconv.conv_U46_myl0_3, LayerType: correlation, "
        "Inputs: [ { Name: __mye36, Dimensions: [1,32,48,64], Strides: [98304,1,2048,32], "
        f"StrideOrder: [3,0,2,1], Datatype: Int8, {NHWC} }}], "
        "Constants: [ { Name: __mye6558_dconst_myl0, Dimensions: [8,4,7,7], Strides: [196,1,28,4], "
        f"StrideOrder: [3,0,2,1], Datatype: Int8, {NHWC} }}], "
        "Outputs: [ { Name: __myln_k_arg__bb1_5_myl0, Dimensions: [1,8,48,64], Strides: [24576,1,512,8], "
        f"StrideOrder: [3,0,2,1], Datatype: Float, {NHWC} }}], TacticName: __myelin_CASK_STUB, StreamId: 0, "
        "Metadata: [ONNX Layer: block_1.dwconv.conv][ONNX Layer: conv_1.q/Dequantize]",
        "Name: __myl_MulCast_myl0_4, LayerType: kgen, "
        "Inputs: [ { Name: __myln_k_arg__bb1_5_myl0, Dimensions: [1,8,48,64], Strides: [24576,1,512,8], "
        f"StrideOrder: [3,0,2,1], Datatype: Float, {NHWC} }}], "
        "Outputs: [ { Name: a, Dimensions: [1,48,64,1], Strides: [3072,64,1,1], StrideOrder: [3,2,1,0], "
        f"Datatype: Half, {LINEAR} }}, {{ Name: b, Dimensions: [1], Strides: [1], StrideOrder: [0], "
        f"Datatype: Float, {LINEAR} }}], TacticName: __myl_MulCast, StreamId: 0, Metadata: [ONNX Layer: ln]",
    )
)
"""Two lines of TensorRT for RTX 1.7.1 about an INT8 engine of a small network, with fewer constants."""


def test_what_tensorrt_for_rtx_lists() -> None:
    convolution, rest = kernels_of_log(LOG)
    assert convolution.convolution
    assert not rest.convolution
    assert convolution.reads == (KernelTensor("Int8", (1, 32, 48, 64)),)
    assert convolution.constants == (KernelTensor("Int8", (8, 4, 7, 7)),)
    assert convolution.nodes == ("block_1.dwconv.conv", "conv_1.q/Dequantize")
    assert rest.writes == (KernelTensor("Half", (1, 48, 64, 1)), KernelTensor("Float", (1,)))
    between = 4 * 8 * 48 * 64
    read, written = 32 * 48 * 64 + 8 * 4 * 49, 2 * 48 * 64 + 4
    found = describe_kernels((convolution, rest), size=(48, 64), activation_bytes=7)
    assert (found.all, found.convolutions, found.integer, found.wide) == (2, {"Int8 -> Float": 1}, 1, 1)
    assert (found.read_bytes, found.written_bytes) == (read + between, written + between)
    assert found.moved_bytes == read + written + 2 * between
    assert found.lines == (
        KernelLine(name="block_1.dwconv.conv_U46_myl0_3", convolution=True, reads="Int8", writes="Float",
                   read_bytes=read, written_bytes=between, nodes="block_1.dwconv.conv conv_1.q/Dequantize"),
        KernelLine(name="__myl_MulCast_myl0_4", convolution=False, reads="Float", writes="Half",
                   read_bytes=between, written_bytes=written, nodes="ln"),
    )  # fmt: skip


def test_fused_convolutions_and_rounding_alone_are_known_by_their_names() -> None:
    """Names that TensorRT for RTX 1.7.1 gave to kernels of hasn-x4."""
    half = (KernelTensor("Half", (1,)),)

    def kernel(name: str, kind: str = "kgen", constants: tuple[KernelTensor, ...] = half) -> Kernel:
        return Kernel(name=name, kind=kind, reads=half, constants=constants, writes=half, nodes=())

    fused = kernel("__myl_CorrMulAdd_myl0_13", "runtime_fusion", (KernelTensor("Int8", (156, 52, 1, 1)),))
    alone = kernel("__myl_MulCastAddMulMinMaxRounCast_myl0_6")
    others = [kernel("__myl_CastConc_myl0_0"), kernel("__myl_Resi_myl0_9", "runtime_function")]
    assert [one.convolution for one in (fused, alone, *others)] == [True, False, False, False]
    assert [one.rounding for one in (fused, alone, *others)] == [False, True, False, False]
    assert describe_kernels([fused, alone]).convolutions == {"Int8 -> Half": 1}
    assert describe_kernels([fused, alone]).rounding == 1
    waits = Kernel(name="__mye23853_myl0_4", kind="", reads=(), writes=(), nodes=())
    assert describe_kernels([fused, waits, alone]) == describe_kernels([fused, alone])


def test_bytes_of_open_sizes_are_not_known() -> None:
    kernels = kernels_of_log(LOG.replace("[1,8,48,64]", "[1,8,-1,-1]"))
    assert describe_kernels(kernels).moved_bytes is None


def layer(name: str, kind: str, into: str, out: str, **more: Any) -> dict[str, Any]:
    """As TensorRT's engine inspector writes a layer, by NVIDIA's samples of its output."""
    ends = {
        key: [{"Name": key, "Dimensions": [1, 8, 4, 4], "Format/Datatype": text}]
        for key, text in (("Inputs", into), ("Outputs", out))
    }
    return {"Name": name, "LayerType": kind, **ends, **more}


HALF, FLOAT = "Channel major FP16 format where channel % 8 == 0", "Row major linear FP32"


def test_what_tensorrts_inspector_lists() -> None:
    layers = [
        layer("conv_1 + relu", "CaskConvolution", "Row major linear FP32", HALF, ParameterType="Convolution"),
        layer("q", "Reformat", HALF, "Thirty-two wide channel vectorized row major Int8 format"),
        layer("{ForeignNode[ln.Mean...ln.Div]}", "Myelin", HALF, HALF,
              Metadata="[ONNX Layer: ln.Mean]\u001e[ONNX Layer: ln.Div]"),
        layer("pool", "Reduce", FLOAT, FLOAT, Metadata="[ONNX Layer: pool]"),
    ]  # fmt: skip
    kernels = kernels_of_inspector(json.dumps({"Layers": layers}))
    assert [kernel.convolution for kernel in kernels] == [True, False, False, False]
    assert kernels[0].nodes == ("conv_1", "relu")
    assert kernels[1].writes[0].kind == "Int8"
    assert describe_kernels(kernels).convolutions == {"Float -> Half": 1}
    assert find_unverified(kernels, ["ln.Mean", "ln.Div", "pool"]) == ["ln.Mean", "ln.Div"]
    assert find_unverified(kernels, []) == []
    assert kernels_of_inspector('{"Layers": ["conv_1", "pool"]}') == (), "names only, at a lower verbosity"


@pytest.mark.usefixtures("needs_rtx")
class TestRealEngines:
    TARGET = EngineTarget(name="test", shapes=ShapeRange.static(40, 56), compute_capabilities=("8.6",))

    @pytest.mark.slow
    def test_fp16(self, hasn_onnx: MakeOnnx) -> None:
        built = engine_from_onnx(hasn_onnx("fp16", size=(40, 56)), self.TARGET, precision=Precision.FP16)
        kernels = as_json(built.details())["kernels"]
        assert set(kernels["convolutions"]) == {"Half -> Half"}
        assert kernels["all"] > kernels["convolutions"]["Half -> Half"] > 10
        assert kernels["read_bytes"] > 4 * 3 * 40 * 56  # at least the images
        assert kernels["written_bytes"] > 4 * 3 * 40 * 56 * 16
        assert kernels["activation_bytes"] > 2 * 52 * 40 * 56  # at least the tensor that is carried along
        assert len(kernels["lines"]) == kernels["all"]
        assert built.warnings == ()

    @pytest.mark.slow
    def test_sizes_of_an_engine_for_several_are_those_of_the_optimal_one(self, hasn_onnx: MakeOnnx) -> None:
        several = ShapeRange(min=(1, 3, 32, 32), opt=(1, 3, 40, 56), max=(1, 3, 64, 64))
        target = EngineTarget(name="test", shapes=several, compute_capabilities=("8.6",))
        graph = hasn_onnx("fp16")
        kernels = engine_from_onnx(graph, target, precision=Precision.FP16).kernels
        assert kernels is not None
        assert kernels.size == (40, 56)
        fixed = kernels_from_onnx(hasn_onnx("fp16", size=(40, 56)), self.TARGET)
        assert kernels.moved_bytes == fixed.moved_bytes
        assert kernels_from_onnx(graph, target) == kernels

    @pytest.mark.slow
    def test_int8_writes_fp32_and_moves_more_than_fp16(self, hasn_onnx: MakeOnnx) -> None:
        int8 = kernels_from_onnx(hasn_onnx("int8", size=(40, 56)), self.TARGET)
        fp16 = kernels_from_onnx(hasn_onnx("fp16", size=(40, 56)), self.TARGET)
        assert int8.wide == int8.integer == int8.convolutions["Int8 -> Float"] > 10
        assert int8.rounding > fp16.rounding == 0
        assert int8.moved_bytes is not None
        assert fp16.moved_bytes is not None
        assert int8.moved_bytes > fp16.moved_bytes

    @pytest.mark.slow
    def test_int8_that_is_none_is_refused(self, hasn_onnx: MakeOnnx) -> None:
        """TensorRT for RTX computes no convolution in INT8 on Turing."""
        turing = load_target("rtx-turing").with_size(40, 56)
        with pytest.raises(
            BuildError, match=r"none of the \d+ convolutions computes in INT8 .* 7\.5: .*use precision='fp16'"
        ):
            engine_from_onnx(hasn_onnx("int8", size=(40, 56)), turing, precision=Precision.INT8)
        assert kernels_from_onnx(hasn_onnx("int8", size=(40, 56)), turing).integer == 0
