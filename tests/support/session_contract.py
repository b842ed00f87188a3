"""One contract for every session: what a caller may rely on whichever backend is behind it."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch

from hasn_edge.errors import InputError, ShapeError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.model.hasn import HASN
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
from hasn_edge.quantize.graph import convolutions
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.observers import Observer
from hasn_edge.quantize.ranges import Ranges
from hasn_edge.quantize.recipe import QuantRecipe
from hasn_edge.spec import ModelSpec, Precision

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)


def network(spec: ModelSpec = SPEC) -> HASN:
    torch.manual_seed(0)
    return HASN(spec).eval()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


@cache
def onnx_bytes(**options) -> bytes:
    return onnx_from_model(network(), simplify=False, **options).SerializeToString()


@cache
def fp16_onnx_bytes() -> bytes:
    proto = onnx_from_model(network(), opset=20, batch=None, simplify=False)
    return fp16_onnx_from_onnx(proto).SerializeToString()


@cache
def int8_onnx_bytes() -> bytes:
    recipe = QuantRecipe(observer=Observer.MINMAX)
    proto = onnx_from_model(network(), batch=None, simplify=False)
    names = [conv.name for conv in convolutions(proto)]
    limits = dict.fromkeys(names, 4.0)
    ranges = Ranges(
        values=limits, peaks=limits, observer=recipe.observer, percentile=None, fingerprint="", images=0
    )
    return int8_onnx_from_onnx(proto, ranges, recipe).SerializeToString()


@cache
def expected(size: tuple[int, int]) -> np.ndarray:
    """PyTorch's own output for :func:`noise` of this size, without any of our code around it."""
    with torch.no_grad():
        return network()(torch.from_numpy(noise(1, 3, *size))).numpy()


class SessionContract:
    """Subclasses say how to open a session, and how far its output may be from PyTorch's in FP32."""

    tolerance = 1e-5
    backend = ""
    least = 15
    """Least side that the file takes."""
    precision = Precision.FP32
    device = "cpu"

    @pytest.fixture(autouse=True)
    def machine(self):
        """What the backend needs around it."""

    def open(self):
        raise NotImplementedError

    @pytest.fixture
    def session(self):
        with self.open() as session:
            yield session

    @pytest.mark.slow
    def test_says_what_it_is(self, session):
        assert (session.spec, session.backend, session.precision) == (SPEC, self.backend, self.precision)
        assert session.device == self.device
        assert session.size is None
        assert not session.closed
        assert self.backend in repr(session)

    @pytest.mark.parametrize("size", [(15, 15), (17, 29), (31, 16)])
    def test_output_is_the_networks(self, session, size):
        size = tuple(side + self.least - 15 for side in size)
        x = noise(1, 3, *size)
        y = session.run(x)
        assert y.dtype == np.float32
        assert y.flags.c_contiguous
        assert y.shape == (1, 3, 4 * size[0], 4 * size[1])
        if self.tolerance is not None:
            np.testing.assert_allclose(y, expected(size), rtol=0, atol=self.tolerance)

    def test_every_session_reports_its_times_and_how_it_runs(self, session):
        for x in (noise(1, 3, 22, 24), np.zeros((1, 22, 24, 3), np.uint8)):
            times = session.times(x)
            assert times.total_s > 0
            for part in (times.gpu_s, times.enqueue_s, times.to_device_s, times.to_host_s):
                assert part is None or part >= 0
        with pytest.raises(ShapeError, match="as a NumPy array, got list"):
            session.times([1])
        assert session.in_flight >= 1
        assert json.loads(json.dumps(session.facts())) == session.facts()

    def test_two_runs_are_equal_bit_for_bit(self, session):
        x = noise(1, 3, 21, 23)
        np.testing.assert_array_equal(session.run(x), session.run(x))

    def test_output_belongs_to_the_caller_and_input_is_left_alone(self, session):
        x = noise(1, 3, 22, 22)
        before = x.copy()
        first = session.run(x)
        kept = first.copy()
        session.run(1 - x)
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(x, before)
        first[:] = 0  # writable
        np.testing.assert_array_equal(session.run(x), kept)

    def test_batch_equals_its_images_one_by_one(self, session):
        x = noise(3, 3, 22, 24)
        singles = np.concatenate([session.run(one[None]) for one in x])
        np.testing.assert_allclose(session.run(x), singles, rtol=0, atol=self.batch_tolerance)

    batch_tolerance = 1e-6

    def test_submitted_inputs_answer_in_any_order_and_may_be_overwritten(self, session):
        inputs = [noise(1, 3, 22, 24), noise(1, 3, 23, 21), noise(1, 3, 22, 24)[..., ::-1].copy()]
        wanted = [session.run(x) for x in inputs]
        pending = []
        for x in inputs:
            held = x.copy()
            pending.append(session.submit(held))
            held[:] = 0.5
        for i in (1, 2, 0):
            np.testing.assert_array_equal(pending[i].result(), wanted[i])
            assert pending[i].result() is pending[i].result()

    def test_pixels_are_the_tensors_rounded(self, session):
        levels = np.rint(255 * noise(2, 22, 24, 3)).astype(np.uint8)
        y = session.run(np.ascontiguousarray(levels.transpose(0, 3, 1, 2)) / np.float32(255))
        got = session.run_pixels(levels)
        assert got.dtype == np.uint8
        difference = got - 255 * np.clip(y, 0, 1).transpose(0, 2, 3, 1)
        assert np.abs(difference).max() <= 0.5 + 255 * self.batch_tolerance
        np.testing.assert_array_equal(session.submit_pixels(levels).result(), got)

    def test_strides_and_read_only_input_do_not_matter(self, session):
        x = noise(1, 3, 22, 26)
        expected = session.run(x)
        channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        flipped = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
        frozen = x.copy()
        frozen.flags.writeable = False
        for view in (channels_last, flipped, frozen):
            np.testing.assert_array_equal(session.run(view), expected)

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (torch.zeros(1, 3, 16, 16), r"as a NumPy array, got Tensor"),
            (noise(3, 16, 16), r"expected float32 \(N, 3, H, W\), got 3 dimensions \(3, 16, 16\)"),
            (noise(1, 1, 16, 16), r"got 1 channels \(1, 1, 16, 16\)"),
            (noise(1, 16, 16, 3), r"transpose it, it looks like \(N, H, W, C\)"),
            (noise(1, 3, 22, 22).astype(np.float64), r"got float64; .* \.astype\(numpy\.float32\)"),
            (np.zeros((1, 3, 16, 16), np.uint8), r"got uint8; .* hasn_edge\.images\.arrays\.to_tensor"),
            (noise(0, 3, 16, 16), r"at least one pixel, got \(0, 3, 16, 16\)"),
            (
                noise(1, 3, 14, 16),
                r"at least (15 x 15|21 x 21) pixels, got 14 x 16 .*use Upscaler, which pads",
            ),
            (noise(1, 3, 16, 0), r"at least one pixel, got \(1, 3, 16, 0\)"),
        ],
    )
    def test_wrong_shapes_are_named(self, session, x, message):
        with pytest.raises(ShapeError, match=f"^{self.backend}: .*{message}"):
            session.run(x)

    @pytest.mark.parametrize(
        ("value", "message"),
        [(np.nan, "not finite"), (-np.inf, "not finite"), (255, r"got .* to 255; divide by 255")],
    )
    def test_wrong_values_are_named(self, session, value, message):
        x = noise(1, 3, 22, 22)
        x[0, 1, 5, 7] = value
        with pytest.raises(InputError, match=f"^{self.backend}: .*{message}"):
            session.run(x)

    def test_close_twice_then_run(self):
        session = self.open()
        session.close()
        session.close()
        assert session.closed
        with pytest.raises(InputError, match=f"{self.backend}: this session is closed; open it again"):
            session.run(noise(1, 3, 22, 22))

    def test_context_manager_closes_also_on_errors(self):
        with pytest.raises(ZeroDivisionError), self.open() as session:
            assert session.run(noise(1, 3, 21, 21)).shape == (1, 3, 84, 84)
            raise ZeroDivisionError
        assert session.closed

    def test_a_refused_input_does_not_harm(self, session):
        x = noise(1, 3, 22, 22)
        before = session.run(x)
        with pytest.raises(ShapeError):
            session.run(x[:, :2])
        np.testing.assert_array_equal(session.run(x), before)
