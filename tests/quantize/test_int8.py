"""Q/DQ graphs against PyTorch on rounded values, TensorRT's rules, and weights of any size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hasn_edge.errors import ArtifactError, ConfigError, UnsupportedError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.fuse.apply import fuse
from hasn_edge.model.hasn import HASN
from hasn_edge.quantize.check_qdq import problems
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx, rounded_onnx_from_fp16
from hasn_edge.quantize.graph import array_of, convolutions, initializers
from hasn_edge.quantize.int8 import int8_onnx_from_onnx, scale_of, weight_ranges
from hasn_edge.quantize.observers import Observer
from hasn_edge.quantize.ranges import Ranges, ranges_from_onnx
from hasn_edge.quantize.recipe import Granularity, QuantRecipe, WeightRange

ALL = QuantRecipe()
F32, F16 = np.dtype(np.float32), np.dtype(np.float16)


def ranges_of(values: dict[str, float], peaks: dict[str, float] | None = None) -> Ranges:
    return Ranges(
        values=values,
        peaks=peaks or values,
        observer=Observer.MINMAX,
        percentile=None,
        fingerprint="",
        images=1,
    )


def conv_graph(weights: np.ndarray, bias: np.ndarray | None = None) -> onnx.ModelProto:
    """One convolution called ``c`` that keeps the size."""
    side = weights.shape[-1]
    tensors = [numpy_helper.from_array(weights.astype(np.float32), "w")]
    if bias is not None:
        tensors.append(numpy_helper.from_array(bias.astype(np.float32), "b"))
    node = helper.make_node(
        "Conv", ["x", "w", "b"][: 1 + len(tensors)], ["y"], name="c", pads=[side // 2] * 4
    )
    shapes = ((1, weights.shape[1], 6, 5), (1, weights.shape[0], 6, 5))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip("xy", shapes, strict=True))
    graph = helper.make_graph([node], "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def pair_of(proto: onnx.ModelProto, tensor: str) -> tuple[onnx.NodeProto, np.ndarray, np.ndarray]:
    """Return the QuantizeLinear of a tensor with its scale and zero point."""
    node = next(n for n in proto.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor)
    constants = initializers(proto)
    return node, array_of(constants[node.input[1]]), array_of(constants[node.input[2]])


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("weight_range", list(WeightRange))
def test_one_convolution_is_that_of_pytorch_on_rounded_values(run_graph, side, granularity, weight_range):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 3, side, side)) * np.array([0.01, 1, 5, 0.3])[:, None, None, None]
    bias = rng.standard_normal(4)
    recipe = QuantRecipe(weights=granularity, weight_range=weight_range)
    x = (rng.standard_normal((1, 3, 6, 5)) * 0.7).astype(np.float32)
    quantized = int8_onnx_from_onnx(conv_graph(weights, bias), ranges_of({"c": 1.25}), recipe)
    assert problems(quantized) == []

    def fake(values, scale):  # as the ONNX standard defines the two operators
        return np.clip(np.rint(values / scale), -128, 127).astype(np.float32) * scale

    scales = pair_of(quantized, "w")[1]
    per_row = scales.reshape(-1, 1, 1, 1) if granularity is Granularity.PER_CHANNEL else scales
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(fake(x, np.float32(1.25 / 127))),
        torch.from_numpy(fake(weights.astype(np.float32), per_row)),
        torch.from_numpy(bias.astype(np.float32)),
        padding=side // 2,
    )
    assert run_graph(quantized, x) == pytest.approx(expected.numpy(), abs=2e-5)
    if weight_range is WeightRange.MINMAX:
        axes = (1, 2, 3) if granularity is Granularity.PER_CHANNEL else None
        assert scales == pytest.approx(np.abs(weights).max(axis=axes) / 127, rel=1e-6)


def test_what_a_gpu_computes_is_integers_whose_sum_is_rounded(run_graph):
    """A code times its scale is no FP16 number; the sum of their products becomes one."""
    rng = np.random.default_rng(0)
    weights, bias = rng.standard_normal((4, 3, 1, 1)), rng.standard_normal(4)
    x = (rng.standard_normal((1, 3, 6, 5)) * 0.7).astype(np.float32)
    half = fp16_onnx_from_onnx(conv_graph(weights, bias))
    quantized = int8_onnx_from_onnx(half, ranges_of({"c": 1.25}), ALL)
    found = run_graph(rounded_onnx_from_fp16(quantized), x)

    def codes(values, scale):
        return np.clip(np.rint(values.astype(np.float64) / scale), -128, 127)

    step = np.float64(np.float16(1.25 / 127))
    scales = pair_of(quantized, "w.fp16")[1].astype(np.float64)
    rows = codes(weights.astype(np.float16), scales.reshape(-1, 1, 1, 1))[:, :, 0, 0] * scales.reshape(-1, 1)
    exact = np.einsum("oc,nchw->nohw", rows, codes(x.astype(np.float16), step) * step)
    exact += bias.astype(np.float16).astype(np.float64).reshape(1, -1, 1, 1)
    assert np.array_equal(found, found.astype(np.float16)), "each is an FP16 number"
    assert np.array_equal(found, exact.astype(np.float16))
    assert np.abs(run_graph(quantized, x) - exact).max() < 4e-3


def forms(tiny) -> dict[str, onnx.ModelProto]:
    return {
        "weakly typed": int8_onnx_from_onnx(tiny.weakly_typed, tiny.ranges, ALL),
        "decomposed": int8_onnx_from_onnx(tiny.decomposed, tiny.ranges, ALL),
        "strongly typed": int8_onnx_from_onnx(fp16_onnx_from_onnx(tiny.strongly_typed), tiny.ranges, ALL),
    }


def test_both_artifacts_keep_tensorrts_rules(tiny):
    for name, proto in forms(tiny).items():
        onnx.checker.check_model(proto, full_check=True)
        assert problems(proto) == [], name
        convs = [node for node in proto.graph.node if node.op_type == "Conv"]
        assert len(convs) == len(convolutions(tiny.weakly_typed)) == 18
        assert all(node.input[0].endswith(".dq") and node.input[1].endswith(".dq") for node in convs), name
        assert not any(node.input[2].endswith(".dq") for node in convs), name
        wanted = F16 if name == "strongly typed" else F32
        for node in proto.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                scale, zero = (array_of(initializers(proto)[n]) for n in node.input[1:])
                assert scale.dtype == wanted
                assert zero.dtype == np.int8
                assert not zero.any()


def test_branches_share_one_pair_and_biases_stay_as_they_were(tiny):
    for proto in forms(tiny).values():
        convs = {node.name: node for node in proto.graph.node if node.op_type == "Conv"}
        branches = {convs[f"block_1.f{i}.conv"].input[0] for i in (1, 2, 3)}
        assert len(branches) == 1
        tensors = {conv.input for conv in convolutions(tiny.weakly_typed)}
        quantizers = [n for n in proto.graph.node if n.op_type == "QuantizeLinear"]
        assert len(quantizers) == len(convs) + len(tensors)
    weakly_typed = forms(tiny)["weakly typed"]
    for tensor in tiny.weakly_typed.graph.initializer:
        assert initializers(weakly_typed)[tensor.name] == tensor


def test_composed_esa_shares_the_pair_of_the_branches_and_the_widest_range_wins(tiny, images):
    fused, _ = fuse(tiny.model, ("compose_esa", "norm_affine"))
    graph = onnx_from_model(fused, opset=17, simplify=False)
    ranges = ranges_from_onnx(graph, images(), ALL)
    wider = replace(ranges, values={**ranges.values, "block_1.esa.conv1": 100.0})
    proto = int8_onnx_from_onnx(graph, wider, ALL)
    convs = {node.name: node for node in proto.graph.node if node.op_type == "Conv"}
    readers = ("block_1.f1.conv", "block_1.f2.conv", "block_1.f3.conv", "block_1.esa.conv1")
    assert len({convs[name].input[0] for name in readers}) == 1
    tensor = next(c.input for c in convolutions(graph) if c.name == "block_1.f1.conv")
    assert pair_of(proto, tensor)[1] == pytest.approx(100 / 127)


def test_the_image_survives_in_both_artifacts(tiny, run_graph):
    x = np.random.default_rng(5).random((1, 3, 21, 30), dtype=np.float32)
    expected = run_graph(tiny.weakly_typed, x)
    results = {name: run_graph(proto, x) for name, proto in forms(tiny).items()}
    for name, found in results.items():
        assert 0 < np.abs(found - expected).max() < 0.06 * np.abs(expected).max(), name
    noise = np.abs(results["weakly typed"] - expected).mean()
    assert np.abs(results["strongly typed"] - results["weakly typed"]).mean() < noise
    # Two ways to write LayerNorm differ in the last digit, which moves some values to the next code.
    assert np.abs(results["decomposed"] - results["weakly typed"]).mean() < noise


def test_what_the_recipe_leaves_out_is_left_alone(tiny, run_graph):
    recipe = QuantRecipe(quantize=("block_1.f*.conv",), keep_float=("block_1.f2.conv",))
    proto = int8_onnx_from_onnx(tiny.weakly_typed, tiny.ranges, recipe)
    touched = {n.name for n in proto.graph.node if n.op_type == "Conv" and n.input[1].endswith(".dq")}
    assert touched == {"block_1.f1.conv", "block_1.f3.conv"}
    kept = next(n for n in proto.graph.node if n.name == "block_1.f2.conv")
    assert list(kept.input) == list(
        next(n for n in tiny.weakly_typed.graph.node if n.name == kept.name).input
    )
    assert problems(proto) == []


def test_the_graph_is_left_as_it_was_and_the_same_arguments_give_the_same_bytes(tiny):
    before = tiny.weakly_typed.SerializeToString()
    first = int8_onnx_from_onnx(tiny.weakly_typed, tiny.ranges, ALL)
    assert tiny.weakly_typed.SerializeToString() == before
    assert (
        int8_onnx_from_onnx(tiny.weakly_typed, tiny.ranges, ALL).SerializeToString()
        == first.SerializeToString()
    )


def test_an_fp16_graph_never_quantizes_its_float32_input(tiny):
    strongly_typed = forms(tiny)["strongly typed"]
    stem = next(node for node in strongly_typed.graph.node if node.name == "conv_1")
    makers = {output: node for node in strongly_typed.graph.node for output in node.output}
    quantizer = makers[makers[stem.input[0]].input[0]]
    assert makers[quantizer.input[0]].op_type == "Cast"


@pytest.mark.slow
@given(
    mantissa=st.floats(1, 2, exclude_max=True),
    exponent=st.integers(-1074, 1023),
    zero=st.booleans(),
    dtype=st.sampled_from([F32, F16]),
)
@settings(max_examples=300, deadline=None)
def test_every_range_gives_a_usable_scale(mantissa, exponent, zero, dtype):
    value = 0.0 if zero else float(np.ldexp(mantissa, exponent))
    scale = scale_of(value, dtype)
    assert scale.dtype == dtype
    assert scale.shape == ()
    assert np.isfinite(scale)
    assert scale >= np.finfo(dtype).tiny
    with np.errstate(over="raise"):
        assert np.isfinite(scale * dtype.type(-128))
        assert np.isfinite(dtype.type(1) / scale)
    if not zero and 2.0**-90 < value < 2.0**120 and dtype == F32:
        assert scale == pytest.approx(value / 127, rel=1e-6)


def test_a_tensor_that_was_zero_everywhere_keeps_room_for_values_up_to_one():
    assert scale_of(0.0, F32) == pytest.approx(1 / 127)
    assert scale_of(np.array([0.0, 254.0]), F16) == pytest.approx(np.array([1 / 127, 2.0]), rel=1e-3)


MAGNITUDES = [0.0, 1e-44, 1e-38, 1e-30, 1e-8, 1e-3, 1.0, 3e4, 6.5e4]


@pytest.mark.slow
@given(
    rows=st.lists(st.sampled_from([*MAGNITUDES, 1e10, 1e18]), min_size=2, max_size=4),
    limit=st.sampled_from([*MAGNITUDES, 1e10, 1e30, 3.4e38]),
    feed=st.sampled_from([0.0, 1e-30, 1.0, 100.0]),
    weight_range=st.sampled_from(list(WeightRange)),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=60, deadline=None)
def test_no_weight_or_range_gives_a_zero_scale_nan_or_infinity(
    run_graph, rows, limit, feed, weight_range, seed
):
    rng = np.random.default_rng(seed)
    weights = rng.uniform(-1, 1, (len(rows), 2, 1, 1)) * np.array(rows)[:, None, None, None]
    x = (rng.uniform(-1, 1, (1, 2, 6, 5)) * feed).astype(np.float32)
    recipe = QuantRecipe(weight_range=weight_range)
    for half in (False, True):
        graph = conv_graph(weights)
        try:
            graph = fp16_onnx_from_onnx(graph) if half else graph
            quantized = int8_onnx_from_onnx(graph, ranges_of({"c": limit}), recipe)
        except UnsupportedError:
            assert half
            assert max(*rows, limit) > 65504
            continue
        assert problems(quantized) == []
        found = run_graph(quantized, x)
        assert not np.isnan(found).any()
        # An FP16 product may overflow where the float network's does; quantization adds no infinity.
        if np.abs(run_graph(graph, x)).max() < 3e4 and min(limit, feed) < 3e4:
            assert np.isfinite(found).all()


@pytest.mark.slow
def test_dead_and_extreme_channels_of_a_network_stay_finite(make_model, run_graph, images):
    model = make_model()
    attention = model.block_1.cab.cab[3].attention
    attention[1].weight.zero_()
    attention[1].bias.fill_(-1.0)  # a dead ReLU: the next convolution reads zeros
    model.block_1.f1.conv.weight[0] = 0.0
    model.block_1.f2.conv.weight[1] = 1e-30
    model.block_1.g.conv.weight[2] = 1e-42
    weakly_typed = onnx_from_model(model, opset=17, simplify=False)
    ranges = ranges_from_onnx(weakly_typed, images(), ALL)
    assert ranges.values["block_1.cab.cab.3.attention.3"] == 0.0
    strongly_typed = fp16_onnx_from_onnx(onnx_from_model(model, opset=20, simplify=False))
    x = images(seed=3).batches[0]
    expected = run_graph(weakly_typed, x)
    for graph in (weakly_typed, strongly_typed):
        quantized = int8_onnx_from_onnx(graph, ranges, ALL)
        assert problems(quantized) == []
        assert np.abs(run_graph(quantized, x) - expected).max() < 0.1 * np.abs(expected).max()


def test_an_activation_that_fp16_cannot_hold_is_refused_by_name(tiny):
    hot = replace(tiny.ranges, peaks={**tiny.ranges.peaks, "block_1.g.conv": 7e4})
    half = fp16_onnx_from_onnx(tiny.strongly_typed)
    with pytest.raises(UnsupportedError, match=r"input of convolution block_1.g.conv reaches 7e\+04"):
        int8_onnx_from_onnx(half, hot, ALL)
    int8_onnx_from_onnx(tiny.weakly_typed, hot, ALL)


def test_ranges_of_another_network_are_refused(tiny):
    with pytest.raises(ArtifactError, match="no range was measured for convolution conv_1"):
        int8_onnx_from_onnx(tiny.weakly_typed, ranges_of({"other": 1.0}), ALL)


def test_what_cannot_be_quantized_is_refused(tiny):
    once = int8_onnx_from_onnx(tiny.weakly_typed, tiny.ranges, QuantRecipe(quantize=("conv_1",)))
    with pytest.raises(UnsupportedError, match="already"):
        int8_onnx_from_onnx(once, tiny.ranges, QuantRecipe(quantize=("conv_2",)))
    with pytest.raises(ConfigError, match="quantizes no convolution"):
        int8_onnx_from_onnx(tiny.weakly_typed, tiny.ranges, QuantRecipe(quantize=("nothing",)))
    old = onnx.ModelProto()
    old.CopyFrom(fp16_onnx_from_onnx(tiny.strongly_typed))
    old.opset_import[0].version = 18
    with pytest.raises(UnsupportedError, match=r"float16 tensors needs opset 19 or newer, this graph has 18"):
        int8_onnx_from_onnx(old, tiny.ranges, ALL)


def test_weight_ranges_have_the_shape_of_their_granularity():
    weights = np.random.default_rng(0).standard_normal((5, 2, 3, 3)).astype(np.float32)
    assert weight_ranges(weights, ALL).shape == (5,)
    single = weight_ranges(weights, QuantRecipe(weights=Granularity.PER_TENSOR))
    assert single.shape == ()
    assert single == np.abs(weights).max()


def shifted(conv: str, low: float, value: float) -> Ranges:
    return replace(ranges_of({conv: value}), lows={conv: low})


@pytest.mark.parametrize(
    ("side", "low", "high"),
    [(1, 0.0, 1.0), (3, 0.0, 1.0), (3, -0.17, 2.4), (3, -3.0, 0.5), (3, -1.0, 0.0), (1, 0.2, 0.9)],
)
def test_a_shifted_input_uses_all_codes_and_pads_with_zero(run_graph, side, low, high):
    """PyTorch pads the plain input with zeros, so a border that is wrong by a bit shows."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 3, side, side))
    bias = rng.standard_normal(4)
    x = rng.uniform(low - 0.1, high + 0.1, (1, 3, 6, 5)).astype(np.float32)
    step = np.float32((high - low) / 255)
    quantized = int8_onnx_from_onnx(
        conv_graph(weights, bias), shifted("c", low, 127 * (high - low) / 255), QuantRecipe()
    )
    onnx.checker.check_model(quantized, full_check=True)
    assert problems(quantized) == []
    zero_code = np.rint(low / step)
    x_rounded = (np.clip(np.rint(x / step), zero_code, zero_code + 255) * step).astype(np.float32)
    scales = pair_of(quantized, "w")[1].reshape(-1, 1, 1, 1)
    w_rounded = (np.clip(np.rint(weights.astype(np.float32) / scales), -128, 127) * scales).astype(np.float32)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x_rounded),
        torch.from_numpy(w_rounded),
        torch.from_numpy(bias.astype(np.float32)),
        padding=side // 2,
    )
    assert run_graph(quantized, x) == pytest.approx(expected.numpy(), abs=5e-5)


def test_the_codes_of_a_shifted_image_are_its_levels(tiny, images, run_graph):
    """Nothing of an 8-bit image is lost: only the rounding of the stem's weights remains."""
    recipe = QuantRecipe(quantize=("conv_1",), shift=("conv_1",))
    graph = int8_onnx_from_onnx(
        tiny.weakly_typed, ranges_from_onnx(tiny.weakly_typed, images(), recipe), recipe
    )
    assert problems(graph) == []
    weights = next(n for n in graph.graph.node if n.op_type == "QuantizeLinear" and "weight" in n.name)
    constants = initializers(graph)
    scale = array_of(constants[weights.input[1]]).reshape(-1, 1, 1, 1)
    values = array_of(constants[weights.input[0]])
    model = HASN(tiny.model.spec).eval().requires_grad_(False)
    model.load_state_dict(tiny.model.state_dict())
    model.conv_1.weight.copy_(torch.from_numpy(np.clip(np.rint(values / scale), -128, 127) * scale))
    levels = np.random.default_rng(3).integers(0, 256, (1, 3, 20, 17))
    x = (levels / 255).astype(np.float32)
    assert run_graph(graph, x) == pytest.approx(model(torch.from_numpy(x)).numpy(), abs=1e-5)


@pytest.mark.slow
def test_shifted_inputs_in_every_form(tiny, images, run_graph):
    recipe = QuantRecipe(shift=("conv_1", "*.cab.cab.2", "block_1.f?.conv"))
    ranges = ranges_from_onnx(tiny.weakly_typed, images(), recipe)
    assert set(ranges.lows) == {"conv_1", "block_1.cab.cab.2"} | {f"block_1.f{n}.conv" for n in (1, 2, 3)}
    assert -0.17 < ranges.lows["block_1.cab.cab.2"] < 0  # GELU's smallest value is -0.16997
    made = {
        "weakly typed": int8_onnx_from_onnx(tiny.weakly_typed, ranges, recipe),
        "decomposed": int8_onnx_from_onnx(tiny.decomposed, ranges, recipe),
        "strongly typed": int8_onnx_from_onnx(fp16_onnx_from_onnx(tiny.strongly_typed), ranges, recipe),
    }
    x = next(iter(images(1, 20, 5)))
    expected = tiny.model(torch.from_numpy(x)).numpy()
    plain = run_graph(int8_onnx_from_onnx(tiny.weakly_typed, tiny.ranges, ALL), x)
    for name, graph in made.items():
        onnx.checker.check_model(graph, full_check=True)
        assert problems(graph) == [], name
        error = np.abs(run_graph(graph, x) - expected).mean()
        assert error < 1.1 * np.abs(plain - expected).mean(), name
