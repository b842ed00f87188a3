"""Every backend on a CPU keeps the contract of sessions."""

from __future__ import annotations

import io
import shutil
from functools import cache

import numpy as np
import pytest
import torch

from hasn_edge.errors import BuildError, ShapeError
from hasn_edge.exporters.pt2 import compiled_bytes, program_bytes, program_from_model
from hasn_edge.exporters.torchscript import quiet_jit, torchscript_from_model
from hasn_edge.hardware.host import has_bf16, has_integer_dot_product
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.runtime.openvino import open_openvino
from hasn_edge.runtime.pt2 import CompiledSession, ProgramSession, package_host
from hasn_edge.runtime.pytorch import PyTorchSession
from hasn_edge.runtime.session import Pending
from hasn_edge.runtime.torchscript import TorchScriptSession
from hasn_edge.spec import Precision
from tests.support.fake_session import FakeSession
from tests.support.session_contract import (
    SPEC,
    SessionContract,
    fp16_onnx_bytes,
    int8_onnx_bytes,
    network,
    noise,
    onnx_bytes,
)


class TestFake(SessionContract):
    backend = "fake"
    tolerance = None

    def open(self):
        return FakeSession(SPEC)

    def test_repeats_pixels(self, session):
        x = noise(1, 3, 15, 16)
        np.testing.assert_array_equal(session.run(x)[:, :, 1::4, 2::4], x)
        assert session.calls == [(1, 3, 15, 16)]

    def test_backends_are_closed_once(self):
        closed = []

        class Counting(FakeSession):
            def _close(self):
                closed.append(self)

        with Counting(SPEC) as session:
            session.close()
        assert closed == [session]

    def test_fixed_size_and_batch(self):
        session = FakeSession(SPEC, size=(16, 20), batch=2)
        assert session.run(noise(2, 3, 16, 20)).shape == (2, 3, 64, 80)
        with pytest.raises(
            ShapeError, match=r"exactly 16 x 20 pixels .* got 20 x 16; use Upscaler, which pads"
        ):
            session.run(noise(2, 3, 20, 16))
        with pytest.raises(ShapeError, match="2 images at a time, got 3"):
            session.run(noise(3, 3, 16, 20))


class TestPyTorch(SessionContract):
    backend = "pytorch"
    tolerance = 0  # the reference itself

    def open(self):
        return PyTorchSession(network(), threads=1)


class TestPyTorchChannelsLast(SessionContract):
    backend = "pytorch"

    def open(self):
        return PyTorchSession(network(), channels_last=True, threads=1)


class TestPyTorchFp16(SessionContract):
    backend = "pytorch"
    precision = Precision.FP16
    tolerance = 2e-3
    batch_tolerance = 1e-3

    def open(self):
        return PyTorchSession(network().half(), threads=1)


@cache
def torchscript_bytes(precision: Precision) -> bytes:
    buffer = io.BytesIO()
    with quiet_jit():
        torch.jit.save(torchscript_from_model(network(), precision=precision), buffer)
    return buffer.getvalue()


@cache
def program(precision: Precision) -> bytes:
    return program_bytes(program_from_model(network(), precision=precision))


@cache
def compiled() -> bytes:
    return compiled_bytes(program_from_model(network()))


class TestTorchScript(SessionContract):
    backend = "torchscript"

    def open(self):
        return TorchScriptSession(torchscript_bytes(Precision.FP32), SPEC, threads=1)


class TestTorchScriptFp16(SessionContract):
    backend = "torchscript"
    precision = Precision.FP16
    tolerance = 2e-3
    batch_tolerance = 1e-3

    def open(self):
        data = torchscript_bytes(self.precision)
        return TorchScriptSession(data, SPEC, precision=self.precision, threads=1)


class OpenedOnce:
    """For what takes a second to open: the tests of a class share one, and open those that they close."""

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls):
        with cls().open() as session:
            yield session


@pytest.mark.slow
class TestProgram(OpenedOnce, SessionContract):
    backend = "pt2"
    least = 21

    def open(self):
        return ProgramSession(program(Precision.FP32), SPEC, least_side=21, threads=1)


@pytest.mark.slow
class TestProgramFp16(OpenedOnce, SessionContract):
    backend = "pt2"
    precision = Precision.FP16
    least = 21
    tolerance = 2e-3
    batch_tolerance = 1e-3

    def open(self):
        data = program(self.precision)
        return ProgramSession(data, SPEC, precision=self.precision, least_side=21, threads=1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles with g++")
class TestCompiled(OpenedOnce, SessionContract):
    backend = "aoti"
    least = 21

    def open(self):
        host = package_host("cpu")
        return CompiledSession(compiled(), SPEC, compiled_for=host, device="cpu", least_side=21, threads=1)


class TestOnnxRuntime(SessionContract):
    backend = "onnxruntime"

    def open(self):
        return OnnxRuntimeSession(onnx_bytes(batch=None), SPEC, threads=1)


class TestOnnxRuntimeExactOneImageAtATime(SessionContract):
    """As exported by default: batch 1, run image by image; without graph optimizations."""

    backend = "onnxruntime"
    batch_tolerance = 0

    def open(self):
        return OnnxRuntimeSession(onnx_bytes(), exact=True, threads=1)

    def test_spec_came_from_the_metadata(self, session):
        assert (session.spec, session.batch, session.exact) == (SPEC, 1, True)


class TestOnnxRuntimeFp16(SessionContract):
    backend = "onnxruntime"
    precision = Precision.FP16
    tolerance = 2e-3
    batch_tolerance = 1e-3

    def open(self):
        return OnnxRuntimeSession(fp16_onnx_bytes(), SPEC, precision=self.precision, threads=1)


class TestOnnxRuntimeInt8(SessionContract):
    backend = "onnxruntime"
    precision = Precision.INT8
    tolerance = 0.2
    batch_tolerance = 0.05  # integer kernels may round another way

    def open(self):
        return OnnxRuntimeSession(int8_onnx_bytes(), SPEC, precision=self.precision, threads=1)


class TestOnnxRuntimeInt8Exact(SessionContract):
    backend = "onnxruntime"
    precision = Precision.INT8
    tolerance = 0.2

    def open(self):
        return OnnxRuntimeSession(int8_onnx_bytes(), precision=self.precision, exact=True, threads=1)


class TestOpenVino(SessionContract):
    backend = "openvino"

    def open(self):
        return open_openvino(onnx_bytes(batch=None), threads=1)


@pytest.mark.slow
class TestOpenVinoThreeInFlight(SessionContract):
    """The throughput hint: images are computed beside one another."""

    backend = "openvino"

    def open(self):
        return open_openvino(onnx_bytes(), threads=1, in_flight=3)

    def test_spec_came_from_the_metadata(self, session):
        assert (session.spec, session.batch, session.in_flight) == (SPEC, 1, 3)


class TestOpenVinoBf16(SessionContract):
    backend = "openvino"
    tolerance = 0.02
    batch_tolerance = 0.01

    @pytest.fixture(autouse=True)
    def machine(self):
        if not has_bf16():
            pytest.skip("this CPU does not compute in BF16")

    def open(self):
        return open_openvino(onnx_bytes(batch=None), threads=1, bf16=True)


class TestOpenVinoInt8(SessionContract):
    backend = "openvino"
    precision = Precision.INT8
    tolerance = 0.2
    batch_tolerance = 0.05

    @pytest.fixture(autouse=True)
    def machine(self):
        if not has_integer_dot_product():
            pytest.skip("this CPU has no VNNI, and OpenVINO's INT8 is wrong without it")

    def open(self):
        return open_openvino(int8_onnx_bytes(), precision=self.precision, threads=1)


def test_pending_waits_once_and_keeps_the_result():
    calls = []

    def wait():
        calls.append(1)
        return np.arange(3)

    pending = Pending(wait)
    assert calls == []
    assert pending.result() is pending.result()
    assert calls == [1]


def test_an_error_of_pending_is_raised_by_every_call():
    calls = []

    def wait():
        calls.append(1)
        raise BuildError("the device is gone")

    pending = Pending(wait)
    for _ in range(2):
        with pytest.raises(BuildError, match="the device is gone"):
            pending.result()
    assert calls == [1]


def test_pending_joined_and_changed_waits_only_when_asked():
    order = []

    def part(value):
        return Pending(lambda: order.append(value) or np.full((1, 2), value))

    joined = Pending.join(part(i) for i in range(3)).then(lambda y: y * 10)
    assert order == []
    np.testing.assert_array_equal(joined.result()[:, 0], [0, 10, 20])
    assert order == [0, 1, 2]


def test_sessions_answer_in_any_order():
    x = np.random.default_rng(0).random((3, 1, 3, 16, 16), dtype=np.float32)
    with FakeSession() as session:
        pending = [session.submit(one) for one in x]
        expected = [session.run(one) for one in x]
        for i in (2, 0, 1):
            np.testing.assert_array_equal(pending[i].result(), expected[i])
        levels = np.rint(x[0] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(session.submit_pixels(levels).result(), session.run_pixels(levels))
