"""What only OpenVINO has: refusing what comes out wrong, devices, sizes, and what it compiled on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import numpy_helper

from hasn_edge.artifact import publish
from hasn_edge.errors import ArtifactError, BuildError, UnsupportedError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.exporters.uint8_io import with_pixels
from hasn_edge.model.zoo import bundled_onnx
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.runtime.open import open_session
from hasn_edge.runtime.openvino import OpenVinoSession, open_openvino
from hasn_edge.sidecar import Kind
from hasn_edge.spec import Precision
from tests.support.samples import details_of
from tests.support.session_contract import SPEC, int8_onnx_bytes, network, noise, onnx_bytes


class CoreWithWrongKernels:
    """OpenVINO on a CPU whose INT8 kernels saturate: what is quantized loses its upper half."""

    def __init__(self, capabilities=("FP32", "INT8")) -> None:
        self.core = openvino.Core()
        self.available_devices = ["CPU"]
        self.capabilities = capabilities

    def get_property(self, device, name):
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return list(self.capabilities)

    def read_model(self, data, weights):
        graph = onnx.load_from_string(data)
        made = {node.input[1] for node in graph.graph.node if node.op_type == "QuantizeLinear"}
        for tensor in graph.graph.initializer:
            if tensor.name in made:
                values = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(values / values.dtype.type(16), tensor.name))
        return self.core.read_model(graph.SerializeToString(), weights)

    def compile_model(self, graph, device, properties):
        return self.core.compile_model(graph, device, properties)


@pytest.mark.slow
def test_int8_that_comes_out_wrong_is_refused_with_the_reason():
    options = {"precision": Precision.INT8, "threads": 1}
    with (
        OnnxRuntimeSession(int8_onnx_bytes(), exact=True, **options) as exact,
        OpenVinoSession(int8_onnx_bytes(), SPEC, core=CoreWithWrongKernels(), **options) as wrong,
    ):
        x = noise(1, 3, 40, 40)
        assert np.sqrt(np.mean((exact.run(x) - wrong.run(x)) ** 2)) > 0.01  # it computes, and nothing raises
    with pytest.raises(
        UnsupportedError,
        match=r"openvino: int8 comes out wrong on this cpu: its output differs by .*; use backend='onnxrunt",
    ):
        open_openvino(int8_onnx_bytes(), core=CoreWithWrongKernels(), **options)


@pytest.mark.slow
def test_the_same_kernels_do_not_harm_floats():
    with open_openvino(onnx_bytes(), core=CoreWithWrongKernels(), threads=1) as session:
        assert session.precision is Precision.FP32


def test_what_the_device_does_not_compute_in_is_refused():
    with pytest.raises(UnsupportedError, match=r"this CPU does not compute in BF16 \(it has FP32, INT8\)"):
        open_openvino(onnx_bytes(), bf16=True, core=CoreWithWrongKernels())


@pytest.mark.parametrize("device", ["gpu:1", "cpu:1", "npu", "fpga"])
def test_a_device_that_openvino_does_not_name_is_refused_with_those_that_it_does(device):
    with pytest.raises(UnsupportedError, match=f"no device called '{device}' here; OpenVINO names: cpu$"):
        open_openvino(onnx_bytes(), device=device, core=CoreWithWrongKernels())


@pytest.mark.slow
def test_a_session_for_one_frame_computes_what_one_for_any_does():
    x = noise(2, 3, 20, 24)
    with open_openvino(onnx_bytes(batch=None), threads=1) as anything:
        expected = anything.run(x)
    with open_openvino(onnx_bytes(batch=None), threads=1, frame=(20, 24)) as session:
        assert (session.size, session.batch) == ((20, 24), 1)
        np.testing.assert_allclose(session.run(x), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_file_of_one_size_and_one_of_pixels():
    with open_openvino(onnx_bytes(size=(16, 20)), threads=1) as fixed:
        assert fixed.size == (16, 20)
        assert fixed.run(noise(1, 3, 16, 20)).shape == (1, 3, 64, 80)
    graph = with_pixels(onnx_from_model(network(), simplify=False)).SerializeToString()
    levels = np.rint(255 * noise(2, 18, 16, 3)).astype(np.uint8)
    with OnnxRuntimeSession(graph, threads=1) as reference:
        expected = reference.run_pixels(levels)
    for in_flight in (1, 2):
        with open_openvino(graph, threads=1, in_flight=in_flight) as session:
            assert session.pixels
            difference = session.run_pixels(levels).astype(int) - expected
            assert np.abs(difference).max() <= 1
            assert np.count_nonzero(difference) <= 1e-3 * difference.size


@pytest.fixture
def artifact(tmp_path):
    return publish(
        onnx_bytes(),
        tmp_path / "net.onnx",
        spec=SPEC,
        precision=Precision.FP32,
        source="",
        details=details_of(Kind.ONNX),
    )


@pytest.mark.slow
def test_what_was_compiled_is_kept_beside_the_file_and_may_be_damaged(artifact):
    outputs = []
    for _ in range(2):
        with open_session(artifact, backend="openvino", threads=1) as session:
            assert session.backend == "openvino"
            outputs.append(session.run(noise(1, 3, 16, 18)))
    (kept,) = [path for path in (artifact.path.parent / "cache" / "openvino").iterdir() if path.is_file()]
    kept.write_bytes(kept.read_bytes()[:100])
    with open_session(artifact, backend="openvino", threads=1) as session:
        outputs.append(session.run(noise(1, 3, 16, 18)))
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


@pytest.mark.slow
def test_nothing_is_written_among_the_packages_own_files():
    onnx_file = bundled_onnx("hasn-x4-small")
    before = sorted(onnx_file.parent.iterdir())
    with open_session(onnx_file, backend="openvino", threads=1) as session:
        assert session.facts() == {"number format": "fp32", "hint": "latency"}
    assert sorted(onnx_file.parent.iterdir()) == before


def test_what_openvino_does_not_have_is_refused(artifact):
    with pytest.raises(UnsupportedError, match="exact arithmetic of Q/DQ is a mode of ONNX Runtime"):
        open_session(artifact, backend="openvino", exact=True)
    with pytest.raises(
        UnsupportedError, match="unknown backend 'ncnn'; choose one of: onnxruntime, openvino, openvino-bf16"
    ):
        open_session(artifact, backend="ncnn")
    with pytest.raises(ArtifactError, match="no such file"):
        open_openvino(Path("absent.onnx"))
    with pytest.raises(ArtifactError, match="not a complete ONNX file"):
        open_openvino(b"no graph")


def test_openvinos_own_words_are_carried():
    with pytest.raises(BuildError, match=r"ONNX graph: OpenVINO refused the graph: .+; use backend='onnxr"):
        OpenVinoSession(b"no graph", SPEC)
    with (
        OpenVinoSession(onnx_bytes(), SPEC, threads=1) as session,
        pytest.raises(BuildError, match=r"openvino: failed on an input of \(1, 4, 16, 16\): ."),
    ):
        session._run(noise(1, 4, 16, 16))


def test_a_failed_input_fails_no_other():
    class Lost:
        def start_async(self, inputs):
            pass

        def wait(self):
            raise RuntimeError("the device is gone")

    session = OpenVinoSession(onnx_bytes(), SPEC, threads=1, in_flight=2)
    first = session._requests[0]
    session._requests[0] = Lost()
    x = noise(1, 3, 16, 16)
    failed, good = session.submit(x), session.submit(x)
    session._requests[0] = first
    later = session.submit(x)  # takes the place of the failed one, for which nobody has asked
    np.testing.assert_array_equal(later.result(), good.result())
    for _ in range(2):
        with pytest.raises(BuildError, match=r"failed on an input of \(1, 3, 16, 16\): the device is gone"):
            failed.result()
    session._requests[1] = Lost()
    forgotten = session.submit(x)
    session.close()
    with pytest.raises(BuildError, match="the device is gone"):
        forgotten.result()
