"""ONNX export: what PyTorch computes, at every size, under names that others can key by."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from hasn_edge.errors import BuildError, ShapeError, UnsupportedError
from hasn_edge.exporters import onnx as export
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.exporters.onnx_graph import Emulator, conv_parameters, metadata, module_path
from hasn_edge.fuse.apply import RULES, fuse
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import Activation, Gate, ModelSpec

SIZES = [(15, 15), (17, 29), (40, 16)]
SHAPE_OPERATORS = {"Shape", "Gather", "Unsqueeze", "Slice", "Cast", "Concat", "Constant"}


def network(**fields) -> HASN:
    torch.manual_seed(0)
    spec = ModelSpec(**{"features": 8, "blocks": 1, "esa_channels": 4, **fields})
    model = HASN(spec).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if ".ln." in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def operators(proto) -> set[str]:
    return {node.op_type for node in proto.graph.node}


def difference(proto, model, shape) -> float:
    """Largest difference between ONNX Runtime without optimization and PyTorch, relative to the range."""
    x = torch.rand(shape)
    expected = model(x).numpy()
    got = Emulator(proto, exact=True).run(x.numpy())
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max()) / max(1.0, float(np.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"opset": 18},
        {"opset": 20},
        {"decompose_norm": True},
        {"opset": 20, "decompose_norm": True},
        {"simplify": False},
    ],
    ids=str,
)
def test_outputs_equal_pytorch_at_every_size(options):
    model = network()
    proto = onnx_from_model(model, **options)
    for size in SIZES:
        assert difference(proto, model, (1, 3, *size)) < 5e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"scale": 2, "kernel_size": 3, "blocks": 2},
        {"scale": 3, "activation": Activation.LEAKY_RELU, "gate": Gate.ADD},
        {"activation": Activation.RELU, "residual": True},
        {"norm": False},
        {"esa": False, "cab": False},
        {"channels": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("rules", [(), tuple(RULES)], ids=["unfused", "fused"])
def test_every_variant_fused_or_not(fields, rules):
    model = network(**fields)
    fused, _ = fuse(model, rules)
    proto = onnx_from_model(fused, opset=20)
    assert difference(proto, model, (1, model.spec.channels, 17, 29)) < 5e-6
    convs = {name for name, module in fused.named_modules() if isinstance(module, torch.nn.Conv2d)}
    assert {node.name for node in proto.graph.node if node.op_type == "Conv"} == convs
    assert metadata(proto)["hasn_edge.fused"] == ",".join(fused.fused)


@pytest.mark.slow
def test_any_batch_and_a_fixed_one():
    model = network()
    anything = onnx_from_model(model, batch=None)
    assert anything.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    for n in (1, 3):
        assert difference(anything, model, (n, 3, 16, 20)) < 5e-6
    two = onnx_from_model(model, batch=2, size=(15, 21))
    assert difference(two, model, (2, 3, 15, 21)) < 5e-6


def test_names_and_types_of_input_and_output():
    proto = onnx_from_model(network(), opset=17)
    (given,), (returned,) = proto.graph.input, proto.graph.output
    dims = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (given, returned)
    ]
    assert (given.name, returned.name) == ("input", "output")
    assert dims == [[1, 3, "height", "width"], [1, 3, "4*height", "4*width"]]
    assert given.type.tensor_type.elem_type == returned.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.slow
def test_both_opsets_hold_the_same_convolutions():
    model = network()
    weakly_typed, strongly_typed = onnx_from_model(model, opset=17), onnx_from_model(model, opset=20)
    assert conv_parameters(weakly_typed) == conv_parameters(strongly_typed)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            expected = (module.weight.numpy().tobytes(), module.bias.numpy().tobytes())
            assert conv_parameters(weakly_typed)[name] == expected
    assert weakly_typed.opset_import[0].version == 17
    assert "Erf" in operators(weakly_typed)
    assert "Gelu" not in operators(weakly_typed)
    assert strongly_typed.opset_import[0].version == 20
    assert "Gelu" in operators(strongly_typed)
    assert "Erf" not in operators(strongly_typed)
    assert "LayerNormalization" in operators(weakly_typed) & operators(strongly_typed)


@pytest.mark.slow
def test_a_decomposed_norm_has_neither_layer_normalization_nor_transposes():
    found = operators(onnx_from_model(network(), decompose_norm=True))
    assert {"ReduceMean", "Sub", "Sqrt", "Div"} <= found
    assert not {"LayerNormalization", "Transpose"} & found


@pytest.mark.slow
@pytest.mark.parametrize("simplify", [True, False])
def test_a_static_graph_computes_no_sizes(simplify):
    model = network(blocks=2)
    static = onnx_from_model(model, size=(17, 31), simplify=simplify)
    assert not SHAPE_OPERATORS & operators(static)
    shape = [dim.dim_value for dim in static.graph.output[0].type.tensor_type.shape.dim]
    assert shape == [1, 3, 68, 124]
    x = torch.rand(1, 3, 17, 31).numpy()
    free = onnx_from_model(model, simplify=simplify)
    np.testing.assert_array_equal(Emulator(static, exact=True).run(x), Emulator(free, exact=True).run(x))
    with pytest.raises(Exception, match="Got: 30 Expected: 31"):
        Emulator(static, exact=True).run(x[..., :30])


@pytest.mark.slow
def test_every_tensor_is_used_once_named_and_inside_the_file():
    for rules in ((), tuple(RULES)):
        proto = onnx_from_model(fuse(network(blocks=2), rules)[0])
        written = [name for node in proto.graph.node for name in node.output]
        constants = [tensor.name for tensor in proto.graph.initializer]
        assert len({*written, *constants, "input"}) == len(written) + len(constants) + 1
        assert not any(name.startswith(("/", "_v_", "onnx::")) for name in written + constants)
        assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in proto.graph.initializer)
        assert {"block_2.esa.conv4", "block_2.g.conv", "conv_1"} <= {node.name for node in proto.graph.node}
        onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("simplify", [True, False])
def test_equal_parameters_stay_each_convolutions_own(simplify):
    # The exporter shares equal tensors; a new network's biases are equal, and INT8 scales are per tensor.
    model = network(cab=False)
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    proto = onnx_from_model(model, simplify=simplify)
    for node in proto.graph.node:
        if node.op_type == "Conv":
            assert list(node.input[1:]) == [f"{node.name}.weight", f"{node.name}.bias"]


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes():
    model = network()
    first, second = (onnx_from_model(model, source="a" * 64).SerializeToString() for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_metadata_states_what_the_file_is():
    model = network()
    found = metadata(onnx_from_model(model, source="c0ffee"))
    assert ModelSpec.from_dict(json.loads(found["hasn_edge.spec"])) == model.spec
    assert found["hasn_edge.source"] == "c0ffee"
    assert found["hasn_edge.color"] == "RGB, [0, 1], NCHW"
    assert found["hasn_edge.fused"] == ""
    assert found["hasn_edge.simplified"].startswith(("onnxsim ", "no: onnxsim is not installed"))
    assert "hasn_edge.version" in found


def test_without_onnxsim_the_graph_is_as_good_and_states_it(monkeypatch):
    monkeypatch.setattr(export, "installed_version", lambda name: None)
    model = network()
    proto = onnx_from_model(model)
    assert metadata(proto)["hasn_edge.simplified"] == "no: onnxsim is not installed"
    assert difference(proto, model, (1, 3, 17, 29)) < 5e-6


def corrupting(change):
    """A simplifier that edits one initializer, chosen and changed by ``change``."""

    def simplify(proto, **_):
        result = onnx.ModelProto.FromString(proto.SerializeToString())
        for tensor in result.graph.initializer:
            array = change(tensor.name, onnx.numpy_helper.to_array(tensor))
            if array is not None:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array), tensor.name))
        return result, True

    return simplify


def test_a_simplifier_that_changes_the_output_is_found_out(monkeypatch):
    change = corrupting(
        lambda name, a: np.float32(a * 1.001) if name.startswith("block_1.ln.weight") else None
    )
    monkeypatch.setattr(pytest.importorskip("onnxsim"), "simplify", change)
    with pytest.raises(BuildError, match=r"changed the output by .* of its range .*simplify=False"):
        onnx_from_model(network())


def test_a_simplifier_that_changes_a_convolution_is_not_followed(monkeypatch):
    change = corrupting(lambda name, a: a * 2 if name == "block_1.g.conv.weight" else None)
    monkeypatch.setattr(pytest.importorskip("onnxsim"), "simplify", change)
    model = network()
    proto = onnx_from_model(model)
    assert metadata(proto)["hasn_edge.simplified"].endswith("changes convolutions")
    assert difference(proto, model, (1, 3, 17, 29)) < 5e-6


def test_the_model_stays_as_it_was():
    model = network().double().train()
    onnx_from_model(model, decompose_norm=True)
    assert model.training
    assert next(model.parameters()).dtype is torch.float64
    assert isinstance(model.block_1.ln, torch.nn.LayerNorm)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"opset": 16}, UnsupportedError, r"opset 16 is not supported; choose one of \(17, 18, 19, 20\)"),
        ({"opset": 21}, UnsupportedError, "opset 21"),
        ({"size": (14, 20)}, ShapeError, "14x20 pixels is not possible; this network needs at least 15x15"),
        ({"batch": 0}, ShapeError, "batch is 0"),
        ({"size": (20, 20), "batch": None}, UnsupportedError, "needs a fixed batch"),
    ],
)
def test_what_cannot_be_exported_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        onnx_from_model(network(), **options)


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ("/conv_1", "conv_1"),
        ("/block_1/f1/conv", "block_1.f1.conv"),
        ("/block_1/cab/cab/cab.3/attention/attention.1", "block_1.cab.cab.3.attention.1"),
        ("/upsampler/upsampler.0", "upsampler.0"),
        ("block_1.cab.cab.0", "block_1.cab.cab.0"),
    ],
)
def test_module_paths(scope, path):
    assert module_path(scope) == path


@pytest.mark.slow
def test_published_outputs(shared_data):
    golden = np.load(shared_data / "upstream/golden.npz")
    model = load_checkpoint(shared_data / "upstream/HASN.pth").model()
    run = Emulator(onnx_from_model(fuse(model, tuple(RULES))[0], opset=17), exact=True).run
    names = [n for n in golden.files if n.startswith("lr_") and golden[n].size < 40_000 and n[3].isdigit()]
    assert names
    for name in names:
        got = run(golden[name].astype(np.float32) / 255)
        np.testing.assert_allclose(got, golden[name.replace("lr_", "sr_")], atol=2e-5)
