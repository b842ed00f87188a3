"""Triton's configuration: its text against NVIDIA's own schema, every rule against what breaks it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hasn_edge.errors import ConfigError
from hasn_edge.exporters.triton.pbtxt import (
    ANY,
    DATA_TYPES,
    ONNX_RUNTIME,
    TENSORRT,
    TensorSettings,
    TritonConfig,
    message_text,
    parameter_fields,
    split_batch,
)

IN = TensorSettings(name="input", dtype="float32", dims=(3, ANY, ANY))
OUT = TensorSettings(name="output", dtype="float32", dims=(3, ANY, ANY))
BATCHED = TritonConfig(
    name="hasn-x4",
    backend=ONNX_RUNTIME,
    inputs=(IN,),
    outputs=(OUT,),
    max_batch_size=8,
    kind="gpu",
    queue_delay_us=500,
    warmup={"input": (3, 180, 320)},
    parameters={"hasn_edge.1.spec": '{"scale":4,"note":"a\\b"}\nµ'},
)


def parsed(text: str):
    """The text as NVIDIA's own schema reads it, which refuses unknown fields, enum values and wrong types."""
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="needs tritonclient, an extra of dev"
    )
    from google.protobuf import text_format

    return schema, text_format.Parse(text, schema.ModelConfig())


def test_text_is_a_message_of_nvidias_schema():
    schema, config = parsed(BATCHED.text())
    assert (config.name, config.platform, config.backend) == ("hasn-x4", "onnxruntime_onnx", "onnxruntime")
    assert config.default_model_filename == "model.onnx"
    assert config.max_batch_size == 8
    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [
        ("input", schema.TYPE_FP32, [3, -1, -1])
    ]
    assert [(t.name, t.data_type, list(t.dims)) for t in config.output] == [
        ("output", schema.TYPE_FP32, [3, -1, -1])
    ]
    (group,) = config.instance_group
    assert (group.kind, group.count) == (schema.ModelInstanceGroup.KIND_GPU, 1)
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.version_policy.latest.num_versions == 1
    (warmup,) = config.model_warmup
    assert warmup.batch_size == 1
    assert list(warmup.inputs["input"].dims) == [3, 180, 320]
    assert warmup.inputs["input"].data_type == schema.TYPE_FP32
    assert warmup.inputs["input"].WhichOneof("input_data_type") == "zero_data"
    assert config.parameters["hasn_edge.1.spec"].string_value == '{"scale":4,"note":"a\\b"}\nµ'


def test_what_is_not_asked_for_is_not_written():
    config = replace(BATCHED, max_batch_size=0, queue_delay_us=None, warmup={}, parameters={}, kind="cpu")
    schema, message = parsed(config.text())
    assert not message.HasField("dynamic_batching")
    assert not message.model_warmup
    assert not message.parameters
    assert message.instance_group[0].kind == schema.ModelInstanceGroup.KIND_CPU
    assert not message.instance_group[0].gpus  # the server refuses GPUs in a group of CPUs


def test_engines():
    _, config = parsed(replace(BATCHED, backend=TENSORRT).text())
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert config.default_model_filename == "model.plan"


def test_every_type_is_one_of_nvidias():
    schema, _ = parsed("")
    for dtype, name in DATA_TYPES.items():
        tensors = {"inputs": (replace(IN, dtype=dtype),), "outputs": (replace(OUT, dtype=dtype),)}
        _, config = parsed(replace(BATCHED, **tensors).text())
        assert config.input[0].data_type == schema.DataType.Value(name)
        assert config.output[0].data_type == schema.DataType.Value(name)


def test_more_parameters_may_follow_a_finished_text():
    text = BATCHED.text() + message_text(parameter_fields({"hasn_edge.2.spec": "two"}))
    _, config = parsed(text)
    assert set(config.parameters) == {"hasn_edge.1.spec", "hasn_edge.2.spec"}
    assert config.max_batch_size == 8


def test_text_without_the_schema():
    """What does not need NVIDIA's package to be seen: quoting, and enums without quotes."""
    text = BATCHED.text()
    assert "  data_type: TYPE_FP32\n  dims: [ 3, -1, -1 ]\n" in text
    assert r'"{\"scale\":4,\"note\":\"a\\b\"}\012\302\265"' in text
    assert text.isascii()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "letters, digits"),
        ({"name": "../up"}, "letters, digits"),
        ({"name": ".hidden"}, "letters, digits"),
        ({"inputs": (replace(IN, dtype="bfloat16"),)}, "has type 'bfloat16'"),
    ],
)
def test_rules(change, said):
    with pytest.raises(ConfigError) as caught:
        replace(BATCHED, **change)
    assert said in str(caught.value)
    assert str(caught.value).startswith("Triton configuration of ")


@pytest.mark.parametrize(
    ("shapes", "batched", "dims"),
    [
        ([(-1, 3, -1, -1), (-1, 3, -1, -1)], True, [(3, -1, -1), (3, -1, -1)]),
        ([(1, 3, -1, -1), (1, 3, -1, -1)], False, [(1, 3, -1, -1), (1, 3, -1, -1)]),
        ([(4, 3, 8, 8), (4, 3, 32, 32)], False, [(4, 3, 8, 8), (4, 3, 32, 32)]),
        # The server joins along the first dimension of every tensor: one that is fixed forbids it.
        ([(-1, 3, -1, -1), (1, 3, -1, -1)], False, [(-1, 3, -1, -1), (1, 3, -1, -1)]),
        ([(-1, 3, -1, -1), (-1,)], False, [(-1, 3, -1, -1), (-1,)]),
    ],
)
def test_batch_dimension(shapes, batched, dims):
    found, tensors = split_batch((str(i), "float32", shape) for i, shape in enumerate(shapes))
    assert found is batched
    assert [tensor.dims for tensor in tensors] == dims
