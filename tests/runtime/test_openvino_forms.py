"""Graphs in the forms that OpenVINO's CPU plugin computes faster compute what they did."""

from __future__ import annotations

import numpy as np
import openvino
import openvino.opset2
import openvino.opset13 as ops
import pytest
import torch
from torch import nn

from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.runtime.openvino import OpenVinoSession
from hasn_edge.runtime.openvino_forms import rewrite
from hasn_edge.spec import Precision
from tests.support.session_contract import SPEC, fp16_onnx_bytes, int8_onnx_bytes, network, noise


def run(graph, x) -> np.ndarray:
    """The output in FP32, by one thread."""
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(graph, "CPU", options)([x])[0]


def kinds(graph) -> set[str]:
    return {node.get_type_name() for node in graph.get_ordered_ops()}


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, (20, 23)])
def test_a_network_computes_what_pytorch_does(size):
    model = network()
    with torch.no_grad():
        for block in model.blocks:
            block.ln.eps = 0.5
            nn.init.normal_(block.ln.weight)
            nn.init.normal_(block.ln.bias)
            nn.init.normal_(block.esa.conv4.bias, std=30)  # gates that are 0 and 1
    x = noise(1, 3, 20, 23)
    graph = openvino.Core().read_model(onnx_from_model(model, size=size).SerializeToString(), b"")
    blocks = len(model.blocks)
    assert rewrite(graph) == {"norm": blocks, "gate": blocks}
    assert not {"MVN", "Transpose"} & kinds(graph)
    with torch.inference_mode():
        expected = model.double()(torch.from_numpy(x).double()).numpy()
    assert np.abs(run(graph, x) - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.slow
def test_an_int8_graph_keeps_its_quantization():
    x, read = noise(1, 3, 40, 40), lambda: openvino.Core().read_model(int8_onnx_bytes(), b"")
    graph = read()
    assert all(rewrite(graph).values())
    # A code may round to its neighbour; more would be another graph.
    assert np.sqrt(np.mean((run(graph, x) - run(read(), x)) ** 2)) < 1e-3
    quantized = [node for node in graph.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    before = [node for node in read().get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    assert len(quantized) == len(before) > 0


def test_an_fp16_graph_is_rewritten_and_computes_what_pytorch_does():
    graph = openvino.Core().read_model(fp16_onnx_bytes(), b"")
    assert rewrite(graph)["gate"] == len(network().blocks)  # the norms are between conversions to FP32
    x = noise(1, 3, 20, 23)
    with torch.inference_mode():
        expected = network().double()(torch.from_numpy(x).double()).numpy()
    with OpenVinoSession(fp16_onnx_bytes(), SPEC, precision=Precision.FP16, threads=1) as session:
        assert np.abs(session.run(x) - expected).max() < 2e-3


def normed(
    order=(0, 2, 3, 1), axes=(-1,), back=(0, 3, 1, 2), *, scale=(5,), mode="INSIDE_SQRT", kind=np.float32
):
    """A graph with a norm between transposes, over 5 channels."""
    x = ops.parameter([1, 5, 4, 6], kind)
    y = ops.transpose(x, ops.constant(np.array(order)))
    y = ops.mvn(y, ops.constant(np.array(axes)), True, 1e-3, mode)
    values = np.random.default_rng(0).random(scale, dtype=np.float32).astype(kind)
    y = ops.transpose(ops.multiply(y, ops.constant(values)), ops.constant(np.array(back)))
    return openvino.Model([y], [x])


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"axes": (3,), "scale": (1, 1, 1, 5)}, 1),
        ({"kind": np.float16}, 0),
        ({"axes": (2, 3)}, 0),
        ({"order": (0, 3, 2, 1), "back": (0, 3, 2, 1)}, 0),
        ({"back": (0, 1, 2, 3)}, 0),
        ({"scale": (6, 1)}, 0),
        ({"scale": ()}, 0),
        ({"mode": "OUTSIDE_SQRT"}, 0),
    ],
)
def test_only_a_norm_over_channels_between_transposes_is_rewritten(options, count):
    kind = options.get("kind", np.float32)
    graph, x = normed(**options), noise(1, 5, 4, 6).astype(kind)
    expected = run(normed(**options), x)
    assert rewrite(graph)["norm"] == count
    assert np.abs(run(graph, x) - expected).max() < 1e-5


def test_the_first_mvn_of_openvino_which_states_no_axes_stays():
    x = ops.parameter([1, 5, 4, 6], np.float32)
    y = openvino.opset2.mvn(ops.transpose(x, ops.constant(np.array([0, 2, 3, 1]))), False, True, 1e-3)
    graph = openvino.Model([ops.transpose(y, ops.constant(np.array([0, 3, 1, 2])))], [x])
    assert rewrite(graph) == {"norm": 0, "gate": 0}


def gated(*, by="convolution", swap=False, twice=False):
    """A graph with a gate."""
    x = ops.parameter([1, 3, 4, 6], np.float32)
    weights = ops.constant(np.random.default_rng(0).standard_normal((3, 3, 1, 1)).astype(np.float32) * 60)
    z = x
    if by == "pool":
        z = ops.reduce_mean(x, ops.constant(np.array([2, 3])), True)
    if by != "input":
        z = ops.convolution(z, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    gate = ops.sigmoid(z)
    y = ops.multiply(gate, x) if swap else ops.multiply(x, gate)
    return openvino.Model([ops.add(y, gate) if twice else y], [x])


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 1), ({"swap": True}, 1), ({"twice": True}, 0), ({"by": "pool"}, 0), ({"by": "input"}, 0)],
)
def test_only_gates_of_pixels_by_a_convolution_become_divisions(options, count):
    graph, x = gated(**options), noise(1, 3, 4, 6) - 0.5
    expected = run(gated(**options), x)
    assert rewrite(graph)["gate"] == count
    assert ("Sigmoid" in kinds(graph)) == (count == 0)
    assert np.abs(run(graph, x) - expected).max() < 1e-6
