"""ONNX Runtime: what is asked of it, what it says when it refuses, and that it says nothing otherwise."""

from __future__ import annotations

import subprocess
import sys
import types
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hasn_edge.errors import ArtifactError, BuildError, InputError, ShapeError, UnsupportedError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.model.hasn import HASN
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.spec import SPEC_KEY, ModelSpec

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)


@cache
def proto(**options) -> onnx.ModelProto:
    torch.manual_seed(0)
    return onnx_from_model(HASN(SPEC).eval(), simplify=False, **options)


def edited(change) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto())
    change(copy)
    return copy.SerializeToString()


def opened(data=None, **options) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(proto().SerializeToString() if data is None else data, threads=1, **options)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def test_a_static_graph_knows_its_size():
    with opened(proto(size=(16, 20)).SerializeToString()) as session:
        assert (session.size, session.batch) == ((16, 20), 1)
        assert session.run(noise(2, 3, 16, 20)).shape == (2, 3, 64, 80)
        with pytest.raises(ShapeError, match=r"exactly 16 x 20 pixels .* got 20 x 16"):
            session.run(noise(1, 3, 20, 16))


@pytest.mark.slow
def test_a_file_of_two_images_at_a_time():
    with opened(proto(size=(16, 20), batch=2).SerializeToString()) as session:
        assert session.batch == 2
        assert session.run(noise(2, 3, 16, 20)).shape == (2, 3, 64, 80)
        with pytest.raises(ShapeError, match="takes 2 images at a time, got 1"):
            session.run(noise(1, 3, 16, 20))


@pytest.mark.slow
def test_a_session_for_one_frame_size_is_static_and_computes_the_same():
    x = noise(1, 3, 20, 24)
    with opened(frame=(20, 24)) as one, opened() as any_size:
        assert (one.size, any_size.size) == ((20, 24), None)
        np.testing.assert_allclose(one.run(x), any_size.run(x), rtol=0, atol=1e-5)
        with pytest.raises(ShapeError, match="takes exactly 20 x 24 pixels .* got 24 x 20"):
            one.run(noise(1, 3, 24, 20))


def test_sidecar_and_graph_must_agree_on_the_size():
    with pytest.raises(ArtifactError, match=r"takes any pixels, its sidecar states \(16, 20\)"):
        opened(size=(16, 20))
    opened(proto(size=(16, 20)).SerializeToString(), size=(16, 20)).close()


def test_optimizations_are_off_in_exact_mode_only():
    asked = []
    for session in (opened(exact=True), opened(), OnnxRuntimeSession(proto().SerializeToString())):
        asked.append(session._session.get_session_options())
        session.close()
    levels = onnxruntime.GraphOptimizationLevel
    assert [o.graph_optimization_level for o in asked] == [
        levels.ORT_DISABLE_ALL,
        levels.ORT_ENABLE_ALL,
        levels.ORT_ENABLE_ALL,
    ]
    assert [o.intra_op_num_threads for o in asked[:2]] == [1, 1]
    assert asked[2].intra_op_num_threads >= 1  # 0 would let ONNX Runtime pin threads
    assert not any(o.enable_mem_pattern for o in asked)
    assert all(o.enable_cpu_mem_arena for o in asked)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            b"no protobuf",
            ArtifactError,
            "ONNX graph: not a complete ONNX file; call hasn_edge.export",
        ),
        (b"", ArtifactError, "not a complete ONNX file"),
        (lambda p: p.metadata_props.clear(), ArtifactError, f"metadata has no '{SPEC_KEY}', so scale"),
        (
            lambda p: setattr(next(m for m in p.metadata_props if m.key == SPEC_KEY), "value", "{"),
            ArtifactError,
            "is damaged",
        ),
        (
            lambda p: setattr(next(n for n in p.graph.node if n.op_type == "Conv"), "op_type", "Convolve"),
            BuildError,
            r"ONNX Runtime refused the graph: .*Convolve",
        ),
    ],
)
def test_bad_graphs_are_refused(data, error, message):
    with pytest.raises(error, match=message):
        opened(edited(data) if callable(data) else data)


def test_a_truncated_file_is_named(tmp_path: Path):
    path = tmp_path / "ünï code.onnx"
    whole = proto().SerializeToString()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"ünï code\.onnx: not a complete ONNX file"):
        opened(path)
    path.write_bytes(whole)
    opened(path).close()
    with pytest.raises(ArtifactError, match=r"gone\.onnx: no such file"):
        opened(tmp_path / "gone.onnx")


def test_another_networks_graph_is_refused():
    with pytest.raises(ArtifactError, match=r"expected one float32 input \(N, 1, H, W\).*got input tensor"):
        opened(spec=ModelSpec(channels=1))


def test_a_spec_of_another_scale_shows_at_the_first_run():
    with (
        opened(spec=ModelSpec(scale=2)) as session,
        pytest.raises(
            ArtifactError, match=r"output is float32 \(1, 3, 60, 60\), .* states float32 \(1, 3, 30, 30\)"
        ),
    ):
        session.run(noise(1, 3, 15, 15))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:0", ""])
def test_unknown_devices(device):
    with pytest.raises(UnsupportedError, match=f"no device called {device!r}; choose cpu, cuda"):
        opened(device=device)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "tensorrt"])
def test_missing_providers_name_the_package_where_there_is_a_gpu(lab, device):
    with pytest.raises(UnsupportedError, match="lacks; replace the package .* pip install onnxruntime-gpu"):
        opened(device=device)
    lab.driver = None
    with pytest.raises(
        UnsupportedError, match="lacks, and no NVIDIA GPU answers on this machine; use device='cpu'"
    ):
        opened(device=device)


def test_a_provider_that_silently_falls_back_is_an_error(monkeypatch):
    asked = []

    class Fallen:
        def __init__(self, source, options, providers, disabled_optimizers):
            asked.append(providers)

        def get_providers(self):
            return ["CPUExecutionProvider"]

    with_cuda = types.SimpleNamespace(
        **{
            **vars(onnxruntime),
            "get_available_providers": lambda: ["CUDAExecutionProvider"],
            "InferenceSession": Fallen,
        }
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", with_cuda)
    with pytest.raises(BuildError, match="CUDAExecutionProvider did not start, .* fell back to CPUExecution"):
        opened(device="cuda:1")
    assert asked == [[("CUDAExecutionProvider", {"device_id": "1"}), ("CPUExecutionProvider", {})]]


def test_errors_while_running_are_translated():
    session = opened()

    def fail(message):
        def run(*args):
            raise RuntimeError(message)

        session._session = types.SimpleNamespace(run=run)

    fail("Failed to allocate memory for requested buffer of size 409600000")
    with pytest.raises(InputError, match=r"not enough memory for an input of 16 x 20 .*Upscaler\(tile=256\)"):
        session.run(noise(1, 3, 16, 20))
    fail("the kernel is unwell")
    with pytest.raises(BuildError, match=r"failed on an input of \(1, 3, 16, 20\): the kernel is unwell"):
        session.run(noise(1, 3, 16, 20))


CHILD = """
import resource, sys
from pathlib import Path
import numpy as np
from hasn_edge.errors import HasnEdgeError
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
session = OnnxRuntimeSession(Path(sys.argv[1]), threads=1)
session.run(np.zeros((1, 3, 16, 16), np.float32))
try:
    OnnxRuntimeSession(b"rubbish")
except HasnEdgeError:
    pass
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000,) * 2)
try:
    session.run(np.zeros((1, 3, 700, 700), np.float32))
except HasnEdgeError as exc:
    print(exc)
assert not {"torch", "onnx", "cv2"} & set(sys.modules)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_nothing_is_printed_and_a_real_shortage_of_memory_is_one_message(tmp_path: Path):
    path = tmp_path / "tiny.onnx"
    path.write_bytes(proto().SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.startswith("onnxruntime: not enough memory for an input of 700 x 700 pixels")
    assert len(done.stdout.splitlines()) == 1


def one_quantized_convolution(biases, kind) -> bytes:
    """A graph of any size whose 1x1 convolution has weights of 0, so that each channel is its bias."""
    make, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    count = len(biases)
    constants = {
        "x_scale": kind(2.0**-7),
        "y_scale": kind(2.0**-8),
        "zero": np.int8(0),
        "scales": np.full(count, 2.0**-12, kind),
        "zeros": np.zeros(count, np.int8),
        "weights": np.zeros((count, 3, 1, 1), kind),
        "biases": np.array(biases, kind),
    }
    nodes = [
        make("Cast", ["input"], ["x"], to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))),
        make("QuantizeLinear", ["x", "x_scale", "zero"], ["x_codes"]),
        make("DequantizeLinear", ["x_codes", "x_scale", "zero"], ["x_rounded"]),
        make("QuantizeLinear", ["weights", "scales", "zeros"], ["codes"], axis=0),
        make("DequantizeLinear", ["codes", "scales", "zeros"], ["rounded"], axis=0),
        make("Conv", ["x_rounded", "rounded", "biases"], ["y"]),
        make("QuantizeLinear", ["y", "y_scale", "zero"], ["y_codes"]),
        make("DequantizeLinear", ["y_codes", "y_scale", "zero"], ["y_rounded"]),
        make("Cast", ["y_rounded"], ["z"], to=onnx.TensorProto.FLOAT),
        make("DepthToSpace", ["z"], ["output"], blocksize=2, mode="CRD"),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "one",
        [value("input", onnx.TensorProto.FLOAT, [1, 3, "height", "width"])],
        [value("output", onnx.TensorProto.FLOAT, None)],
        [tensor(np.asarray(values), name) for name, values in constants.items()],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_large_biases_of_quantized_convolutions_stay_what_they_are(kind):
    codes = np.array([1000, 3001, 65000, 65536, 70000, -70000, 200000, 131072, 0, 512, -512, 2048])
    biases = codes * 2.0**-19  # in units of the product of both scales, of which FP16 has up to 65504
    spec = ModelSpec(features=8, blocks=1, esa_channels=4, scale=2)
    with opened(one_quantized_convolution(biases, kind), spec=spec) as session:
        y = session.run(np.zeros((1, 3, 16, 16), np.float32))
    # Each output channel holds four biases, one a place of its squares of 2x2 pixels.
    found = y[0, :, :2, :2].reshape(-1)
    assert np.abs(found - biases).max() <= 2.0**-9 * 1.01
