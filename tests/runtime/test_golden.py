"""The image whose result is known: what it tells apart, and that graphs are asked for it too."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from hasn_edge.errors import ArtifactError, say
from hasn_edge.runtime.golden import check_golden, golden_input, make_golden
from hasn_edge.runtime.session import Session
from hasn_edge.runtime.tensorrt.engine_session import TensorRTSession
from hasn_edge.spec import ModelSpec, Precision
from tests.support.fake_session import FakeSession

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)
SIZE = (32, 48)


class Changed(FakeSession):
    """Gives what a function makes of the right result."""

    def __init__(self, change, **options) -> None:
        super().__init__(SPEC, **options)
        self._change = change

    def _run(self, x_NCHW):
        return self._change(super()._run(x_NCHW)).astype(np.float32)


@pytest.fixture(scope="module")
def golden():
    with FakeSession(SPEC) as session:
        return make_golden(session, SIZE)


def test_the_input_is_a_image_of_8_bits_and_the_same_everywhere():
    x = golden_input((2, 3, 40, 60))
    assert x.dtype == np.float32
    assert x.shape == (2, 3, 40, 60)
    levels = x * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert 0.02 < x.min() < 0.15
    assert 0.85 < x.max() < 0.98
    planes = x.reshape(6, -1)
    for i in range(6):
        for j in range(i):
            assert np.sqrt(np.mean((planes[i] - planes[j]) ** 2)) > 0.1
    # The formula by hand, at one pixel.
    v, u, turn = 7.5 / 40, 11.5 / 60, 0.17 + 2 / 3
    wave = 0.5 + 0.22 * np.cos(2 * np.pi * (1.5 * u + 0.5 * v + turn))
    wave += 0.16 * np.cos(2 * np.pi * (2.5 * v - u + 2 * turn))
    wave += 0.08 * np.cos(2 * np.pi * (7 * 0.11 + 11 * 0.07 + turn))
    assert x[1, 2, 7, 11] == pytest.approx(np.rint(255 * wave) / 255, abs=1e-6)


def test_what_is_stored(golden):
    assert golden.shape == (1, 3, 32, 48)
    assert len(golden.points) == 64 * 3
    assert len(golden.cells) == 16 * 3
    x = golden_input((1, 3, *SIZE))
    cell = x[0, 1, 8:16, 24:36].mean()  # second row, third column of the middle channel
    assert golden.cells[16 + 4 + 2] == pytest.approx(cell, abs=1e-5)
    row, column = int(0.7548776662466927 % 1 * 128), int(0.5698402909980532 % 1 * 192)
    assert golden.points[0] == pytest.approx(x[0, 0, row // 4, column // 4], abs=1e-5)
    assert len(msgspec.json.encode(golden)) < 4000


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y,
        lambda y: np.rint(y.clip(0, 1) * 255) / 255,
        lambda y: y + np.random.default_rng(0).normal(0, 5e-4, y.shape),
    ],
)
def test_rounding_passes(golden, change):
    check_golden(Changed(change), golden)


def without_a_corner(y):
    y = y.copy()
    y[:, 2, :32, :48] = 0
    return y


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.zeros_like, "its output is all zeros"),
        (lambda y: np.full_like(y, np.nan), "not finite"),
        (lambda y: y * 0.97, "differs by"),
        (lambda y: y[:, ::-1], "differs by"),
        (lambda y: np.roll(y, 4, axis=3), "differs by"),
        (lambda y: y.transpose(0, 1, 3, 2).reshape(y.shape), "differs by"),
        (without_a_corner, "differs by"),
    ],
)
def test_something_else_does_not(golden, change, message):
    with pytest.raises(
        ArtifactError,
        match=f"^the engine: it loads, but computes something else .*{message}.*; make it again$",
    ):
        check_golden(Changed(change), golden, name="the engine", cure=say("make it again"))


@pytest.mark.parametrize("precision", list(Precision))
def test_the_tolerance_is_the_precisions(precision):
    with FakeSession(SPEC, precision=precision) as session:
        golden = make_golden(session, SIZE)
    rms = golden.tolerance.rms
    check_golden(Changed(lambda y: y + 0.9 * rms), golden)
    with pytest.raises(ArtifactError, match=f"{rms:g} allowed"):
        check_golden(Changed(lambda y: y + 1.1 * rms), golden)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: None,
        lambda g: replace(g, schema=2),
        lambda g: replace(g, input="noise"),
    ],
)
def test_nothing_to_compare_with_is_no_pass(golden, change):
    with pytest.raises(ArtifactError, match="has no image whose result is known, .*; call hasn_edge.build"):
        check_golden(FakeSession(SPEC), change(golden))


def test_points_that_are_no_numbers_are_no_pass(golden):
    with pytest.raises(ArtifactError, match="differs by nan"):
        check_golden(FakeSession(SPEC), replace(golden, points=(math.nan,) * len(golden.points)))


def test_a_golden_of_another_number_of_points(golden):
    with pytest.raises(ArtifactError, match="another number of channels"):
        check_golden(FakeSession(SPEC), replace(golden, points=golden.points[:64]))


def test_batches():
    with FakeSession(SPEC, size=SIZE, batch=3) as session:
        golden = make_golden(session, SIZE)
        assert golden.shape == (3, 3, 32, 48)
        check_golden(session, golden)
        with pytest.raises(ArtifactError, match="differs by"):
            check_golden(Changed(lambda y: y[[0, 1, 1]], size=SIZE, batch=3), golden)


@pytest.mark.parametrize("cuda", ["cuda-python", "pycuda", "torch"])
@pytest.mark.parametrize("dtype", ["FLOAT", "UINT8"])
def test_every_execution_is_checked_also_by_its_graph(lab, golden, cuda, dtype):
    lab.set_up(cuda)
    with TensorRTSession(lab.engine(dtype=dtype), cuda=cuda, in_flight=2) as session:
        check_golden(session, golden)
        assert lab.gpu.calls.count("launch") == (0 if cuda == "pycuda" else 2)
        assert lab.gpu.calls.count("synchronize") == 4


@pytest.mark.parametrize("cuda", ["cuda-python", "torch"])
@pytest.mark.parametrize("broken", [0, 1])
def test_a_graph_that_replays_old_buffers_is_found(lab, golden, cuda, broken):
    """TensorRT says yes and CUDA says yes, and nothing was recorded: the output stays what it was."""
    lab.set_up(cuda)
    with TensorRTSession(lab.engine(), cuda=cuda, in_flight=2) as session:
        real = lab.gpu.end_capture
        count = []

        def end_capture(handle: int):
            if len(count) == broken:
                lab.gpu.fail["empty graph"] = "yes"
            count.append(handle)
            return real(handle)

        lab.gpu.end_capture = end_capture
        with pytest.raises(ArtifactError, match="computes something else"):
            check_golden(session, golden)
        lab.gpu.end_capture = real


@pytest.mark.parametrize(
    ("behaviour", "message"), [("zeros", "all zeros"), ("nan", "not finite"), ("dark", "by")]
)
def test_engines_that_load_and_lie(lab, golden, behaviour, message):
    lab.set_up()
    with (
        TensorRTSession(lab.engine(behaviour=behaviour), cuda="cuda-python") as session,
        pytest.raises(ArtifactError, match=message),
    ):
        check_golden(session, golden)


def test_the_sessions_own_errors_pass_through(golden):
    class Failing(FakeSession):
        def _run(self, x_NCHW):
            raise ArtifactError("the file is broken")

    with pytest.raises(ArtifactError, match="^the file is broken$"):
        check_golden(Failing(SPEC), golden)
    assert issubclass(FakeSession, Session)
