"""Images of every size and kind through the upscaler: what comes out, and that tiles join."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError, OutOfMemoryError, ShapeError, UnsupportedError
from hasn_edge.model.hasn import HASN
from hasn_edge.runtime.pytorch import PyTorchSession
from hasn_edge.runtime.tiling import Size
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.spec import ModelSpec, NetworkSpec, SizeRule
from tests.support.fake_session import FakeSession

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)
PLAIN = ModelSpec(features=6, blocks=1, kernel_size=3, esa=False, cab=False)


def session(spec: ModelSpec = SPEC) -> PyTorchSession:
    torch.manual_seed(0)
    return PyTorchSession(HASN(spec).eval(), threads=1)


def image(*shape: int, dtype=np.uint8) -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, np.iinfo(dtype).max, (4, 5, *shape[2:]), dtype=dtype, endpoint=True)
    return imresize(coarse, size=shape[:2])


def repeated(pixels: np.ndarray, scale: int = 4) -> np.ndarray:
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (14, 15), (16, 23)])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_survive_exactly(size, channels, dtype):
    pixels = np.random.default_rng(0).integers(
        0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True
    )
    out = Upscaler(FakeSession(SPEC))(pixels)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, repeated(pixels))


def test_small_images_are_padded_with_their_edges_and_cropped():
    fake = FakeSession(SPEC)
    upscaler = Upscaler(fake)
    seen = []
    run = fake._run
    fake._run = lambda x: (seen.append(x.copy()), run(x))[1]
    pixels = image(3, 20, 3)
    upscaler(pixels)
    (x,) = seen
    assert x.shape == (1, 3, 15, 20)
    expected = np.concatenate([pixels, np.repeat(pixels[-1:], 12, axis=0)]).transpose(2, 0, 1)
    np.testing.assert_allclose(x[0], expected / 255, atol=1e-7)
    report = upscaler.last_report
    assert report is not None
    assert (report.size, report.padded, report.tiles, report.reason) == ((3, 20), (12, 0), 1, None)


@pytest.mark.parametrize(
    ("given", "name"), [(None, "NoneType"), ("x.png", "str"), ([[1]], "list"), (torch.zeros(9, 9), "Tensor")]
)
def test_what_is_no_array_is_refused(given, name):
    upscaler = Upscaler(FakeSession(SPEC))
    message = rf"expected an image as a NumPy array \(H, W, C\) of uint8 or uint16, got {name}; hasn_edge"
    for upscale in (upscaler, upscaler.upscale, upscaler.tile_drift):
        with pytest.raises(ShapeError, match=message):
            upscale(given)


def test_result_is_the_networks_rounded():
    network = session()
    pixels = image(17, 21, 3)
    x = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255
    expected = np.rint(np.clip(network.run(x)[0], 0, 1) * 255).transpose(1, 2, 0)
    np.testing.assert_array_equal(Upscaler(network)(pixels), expected)


def test_gray_is_the_mean_of_three_channels_before_rounding():
    network = session()
    gray = image(16, 18)
    y = network.run(np.repeat(gray[None, None].astype(np.float32) / 255, 3, axis=1))[0]
    expected = np.rint(np.clip(y.mean(axis=0), 0, 1) * 255)
    flat = Upscaler(network)(gray)
    assert flat.shape == (64, 72)
    np.testing.assert_array_equal(flat, expected)
    np.testing.assert_array_equal(Upscaler(network)(gray[:, :, None])[:, :, 0], flat)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_resized_on_its_own_and_kept(channels, dtype):
    pixels = np.maximum(image(16, 18, channels, dtype=dtype), 1)
    out = Upscaler(FakeSession(SPEC))(pixels)
    assert out.shape == (64, 72, channels)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out[..., -1], imresize(pixels[..., -1], scale=4.0))
    np.testing.assert_array_equal(out[..., :-1], repeated(pixels[..., :-1]))


def test_opaque_stays_opaque():
    pixels = image(16, 18, 4)
    pixels[..., 3] = 255
    assert (Upscaler(session())(pixels)[..., 3] == 255).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_colours_under_full_transparency_do_not_reach_the_network(channels, dtype):
    pixels = image(60, 70, channels, dtype=dtype)
    pixels[..., -1] = 0
    pixels[20:35, 25:45, -1] = np.iinfo(dtype).max
    other = pixels.copy()
    other[pixels[..., -1] == 0] = 0
    upscaler = Upscaler(session())
    first, second = upscaler(pixels), upscaler(other)
    np.testing.assert_array_equal(first, second)
    assert upscaler.last_report.size == (15 + 32, 20 + 32)  # the rest costs nothing
    fake = Upscaler(FakeSession(SPEC))(pixels)
    np.testing.assert_array_equal(fake[80:140, 100:180, :-1], repeated(pixels[20:35, 25:45, :-1]))
    assert not fake[:, :36].any()


def test_an_image_of_which_nothing_is_visible_is_not_computed():
    pixels = image(20, 30, 4)
    pixels[..., 3] = 0
    network = FakeSession(SPEC)
    out = Upscaler(network)(pixels)
    assert (out.shape, out.any(), network.calls) == ((80, 120, 4), False, [])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4, 5), np.uint8), "1 to 4 channels"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4, 3), np.int32), "uint8 or uint16, got int32"),
        (np.zeros((1, 4, 4, 3), np.uint8), "expected an image"),
    ],
)
def test_what_is_no_image_is_refused(pixels, message):
    with pytest.raises(ShapeError, match=message):
        Upscaler(FakeSession(SPEC))(pixels)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 3, 0, 4), np.float32), "at least one pixel"),
        (np.zeros((3, 4, 4), np.float32), "3 dimensions"),
        (np.zeros((1, 3, 4, 4)), "float64"),
        (np.full((1, 3, 4, 4), np.nan, np.float32), "not finite"),
        ([[1]], "NumPy array, got list"),
    ],
)
def test_what_is_no_tensor_is_refused(x, message):
    with pytest.raises(InputError, match=message):
        Upscaler(FakeSession(SPEC)).run(x)


def test_run_takes_any_size_and_batch():
    x = np.random.default_rng(0).random((2, 3, 3, 70), dtype=np.float32)
    expected = x.repeat(4, axis=2).repeat(4, axis=3)
    for tile in (None, 32):
        y = Upscaler(FakeSession(SPEC), tile=tile).run(x)
        assert y.flags.c_contiguous
        np.testing.assert_allclose(y, expected, atol=2e-7)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 5, 16, 31])
@pytest.mark.parametrize("size", [(70, 100), (32, 33), (20, 90), (7, 64)])
def test_tiles_join_without_a_trace_where_the_network_is_local(size, overlap):
    fake = FakeSession(SPEC)
    upscaler = Upscaler(fake, tile=32, overlap=overlap)
    pixels = image(*size, 3)
    np.testing.assert_array_equal(upscaler(pixels), repeated(pixels))
    report = upscaler.last_report
    assert report is not None
    assert report.tiles == len(fake.calls) > 1
    assert report.reason == "asked"
    assert set(fake.calls) == {(1, 3, max(15, min(32, size[0])), 32)}  # all of one size


def test_plain_networks_are_exact_in_tiles_with_twice_the_receptive_radius():
    network = session(PLAIN)
    # Two depthwise convolutions a block, and three 3x3 ones outside the blocks.
    radius = 3 + 2 * PLAIN.blocks * (PLAIN.kernel_size // 2)
    assert radius == 5

    def difference(overlap: int) -> float:
        step = 32 - overlap  # sizes at which no tile shares more than asked
        x = np.random.default_rng(0).random((1, 3, 32 + step, 32 + 2 * step), dtype=np.float32)
        upscaler = Upscaler(network, tile=32, overlap=overlap)
        tiled = upscaler.run(x)
        assert upscaler.last_report is not None
        assert upscaler.last_report.tiles == 6
        return float(np.abs(tiled - network.run(x)).max())

    assert difference(2 * radius) < 1e-6
    assert difference(2 * radius + 7) < 1e-6
    # The radius is not larger than it must be.
    assert difference(2 * radius - 2) > 1e-5


def test_drift_of_tiles_is_measured():
    network = session()
    pixels = image(60, 70, 3)
    upscaler = Upscaler(network, tile=32)
    drift = upscaler.tile_drift(pixels)
    x = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255
    expected = peak_signal_noise_ratio(
        np.clip(network.run(x), 0, 1), np.clip(upscaler.run(x), 0, 1), data_range=1.0
    )
    assert drift.psnr_db == pytest.approx(expected, abs=1e-3)
    assert (drift.region, drift.tile) == ((60, 70), (32, 32))
    assert str(drift) == f"{drift.psnr_db:.1f} dB (middle 70x60 in tiles of 32x32)"
    assert 20 < expected < 100


def test_drift_where_a_tile_fills_the_memory_uses_smaller_ones():
    upscaler = Upscaler(session(), memory_limit_bytes=6_000_000)
    pixels = image(110, 120, 4)
    upscaler(pixels)
    report = upscaler.last_report
    assert report is not None
    assert report.tiles > 1
    assert report.reason == "memory"
    drift = upscaler.tile_drift(pixels)
    assert drift.psnr_db is not None
    assert drift.region == report.tile
    assert drift.tile < drift.region


def test_drift_of_a_frame_that_is_padded():
    upscaler, pixels = Upscaler(FakeSession(SPEC), tile=32), image(10, 90, 3)
    upscaler(pixels)
    drift = upscaler.tile_drift(pixels)
    assert drift.psnr_db > 100  # the fake one repeats pixels, in tiles too
    assert (drift.region, drift.tile) == ((15, 90), (15, 32))


def test_drift_that_cannot_be_measured_says_why():
    # The tiles may have been asked for because the whole frame does not fit.
    short, pixels = Upscaler(ShortOfMemory(5000, OutOfMemoryError), tile=64), image(100, 90, 3)
    np.testing.assert_array_equal(short(pixels), repeated(pixels))
    assert str(short.tile_drift(pixels)) == "not measured (memory does not suffice for 90x100 pixels)"
    whole = Upscaler(FakeSession(SPEC)).tile_drift(image(20, 20))
    assert (whole.psnr_db, str(whole)) == (None, "not measured (the frame is computed whole)")
    static = Upscaler(FakeSession(SPEC, size=(20, 20))).tile_drift(image(20, 50, 3))
    assert static.psnr_db is None
    assert "no larger size" in str(static)
    assert str(static).endswith("leave out the artifact, or build without a size)")


def test_static_sessions_pad_and_tile_with_their_size():
    fake = FakeSession(SPEC, size=(20, 32))
    upscaler = Upscaler(fake)
    for size, tiles, padded in (((20, 32), 1, (0, 0)), ((3, 30), 1, (17, 2)), ((15, 90), 5, (5, 0))):
        fake.calls.clear()
        pixels = image(*size, 3)
        np.testing.assert_array_equal(upscaler(pixels), repeated(pixels))
        report = upscaler.last_report
        assert report is not None
        assert (report.tiles, report.padded, len(fake.calls)) == (tiles, padded, tiles)
        assert report.reason == ("static size" if tiles > 1 else None)


def test_self_ensemble_is_the_mean_over_eight_views_in_float():
    network = session()
    pixels = image(15, 18, 3)
    x = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()).float() / 255
    total = torch.zeros(1, 3, 60, 72)
    for mirrored in (False, True):
        for turned in (False, True):
            for upside_down in (False, True):
                view = x.flip(3) if mirrored else x
                view = view.flip(2) if upside_down else view
                view = view.transpose(2, 3) if turned else view
                y = torch.from_numpy(network.run(view.contiguous().numpy()))
                y = y.transpose(2, 3) if turned else y
                y = y.flip(2) if upside_down else y
                total += y.flip(3) if mirrored else y
    expected = total[0].permute(1, 2, 0).numpy() / 8
    upscaler = Upscaler(network, self_ensemble=True)
    np.testing.assert_allclose(upscaler.run(x.numpy())[0].transpose(1, 2, 0), expected, atol=1e-6)
    rounded = np.clip(expected, 0, 1) * 255
    assert np.abs(upscaler(pixels) - rounded).max() <= 0.5001


@pytest.mark.parametrize(
    ("options", "fake", "error", "message"),
    [
        ({"tile": 14}, {}, InputError, "tiles of 14 pixels are too small: this network needs at least 15"),
        ({"tile": 32, "overlap": 32}, {}, InputError, "overlap of 32 .* tiles of 32; choose 0 to 31"),
        ({"overlap": -1}, {}, InputError, "overlap of -1"),
        ({"overlap": 20}, {"size": (20, 32)}, InputError, "overlap of 20 .* tiles of 20; choose 0 to 19"),
        ({"self_ensemble": True}, {"size": (20, 32)}, UnsupportedError, "on its side, .* only 32x20"),
        ({}, {"batch": 4}, UnsupportedError, "takes 4 images at a time"),
    ],
)
def test_options_that_do_not_go_together(options, fake, error, message):
    with pytest.raises(error, match=message):
        Upscaler(FakeSession(SPEC, **fake), **options)


def test_closing_closes_the_session():
    fake = FakeSession(SPEC)
    with Upscaler(fake) as upscaler:
        upscaler.close()
    assert fake.closed
    with pytest.raises(InputError, match="this session is closed"):
        upscaler(image(16, 16, 3))


def test_tile_is_a_size():
    upscaler = Upscaler(FakeSession(SPEC), tile=40)
    upscaler(image(50, 30, 3))
    assert upscaler.last_report is not None
    assert upscaler.last_report.tile == Size(height=40, width=30)
    assert str(upscaler.last_report.tile) == "30x40"


class Ranged(FakeSession):
    """Takes sizes of a range, as an engine does."""

    def __init__(self, smallest: tuple[int, int], largest: tuple[int, int]) -> None:
        super().__init__(SPEC)
        self.smallest, self.largest = smallest, largest


@pytest.mark.parametrize(
    ("size", "tile", "tiles", "padded"),
    [
        ((64, 96), (64, 96), 1, (0, 0)),
        ((20, 30), (32, 48), 1, (12, 18)),
        ((100, 96), (58, 96), 2, (0, 0)),
        ((64, 100), (64, 58), 2, (0, 0)),
        ((200, 20), (62, 48), 4, (0, 28)),
        ((130, 200), (54, 78), 9, (0, 0)),
    ],
)
def test_engines_of_a_range_are_given_what_they_take(size, tile, tiles, padded):
    pixels = image(*size, 3)
    with Upscaler(Ranged((32, 48), (64, 96)), overlap=16) as upscaler:
        np.testing.assert_array_equal(upscaler(pixels), repeated(pixels))
        report = upscaler.last_report
        assert (report.tile, report.tiles, report.padded) == (tile, tiles, padded)
        assert report.reason == ("engine size" if tiles > 1 else None)
        drift = upscaler.tile_drift(pixels)
        assert drift.reason == (
            "this file takes no larger size than that of its tiles; a file of any size computes the whole "
            "frame: leave out the artifact, or build for larger sizes"
            if tiles > 1
            else "the frame is computed whole"
        )
        assert set(upscaler.session.calls) == {(1, 3, *tile)}


def test_engines_of_a_range_and_their_own_options():
    ranged = Ranged((32, 48), (64, 96))
    pixels = image(130, 70, 3)
    with Upscaler(ranged, overlap=8, self_ensemble=True) as upscaler:
        np.testing.assert_array_equal(upscaler(pixels), repeated(pixels))
    assert {max(shape[2:]) for shape in ranged.calls} <= set(range(48, 65))
    assert min(min(shape[2:]) for shape in ranged.calls) >= 48
    with pytest.raises(InputError, match="tiles of 40 pixels are too small: this network needs at least 48"):
        Upscaler(Ranged((32, 48), (64, 96)), tile=40)
    with pytest.raises(InputError, match="overlap of 64 pixels does not go with tiles of 64"):
        Upscaler(Ranged((32, 48), (64, 96)), overlap=64)
    with Upscaler(Ranged((32, 48), (64, 96)), tile=50, overlap=4) as upscaler:
        upscaler(pixels)
        assert (upscaler.last_report.tile, upscaler.last_report.reason) == ((50, 50), "asked")
        drift = upscaler.tile_drift(pixels)  # on as much as the engine takes
        assert drift.psnr_db > 100
        assert (drift.region, drift.tile) == ((64, 70), (50, 50))


class Multiples(NetworkSpec):
    size = SizeRule(minimum=8, multiple=8)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("overlap", [47, 48, 57, 63, 64])
def test_tiles_of_a_multiple_are_larger_than_their_overlap(asked, overlap):
    fake = FakeSession(Multiples(arch="onnx", scale=2))
    fake.smallest, fake.largest = (8, 8), None if asked else (71, 71)
    tile = 55 if asked else None
    if overlap >= (48 if asked else 64):
        message = f"overlap of {overlap} .* tiles of {48 if asked else 64}, as .* multiples of 8; choose 0 to"
        with pytest.raises(InputError, match=message):
            Upscaler(fake, tile=tile, overlap=overlap)
        return
    upscaler = Upscaler(fake, tile=tile, overlap=overlap)
    for size in [(72, 80), (100, 30)]:
        np.testing.assert_array_equal(upscaler(image(*size, 3)), repeated(image(*size, 3), 2))
    fake.largest = (64, 64)  # drift is measured on this much
    upscaler.tile = upscaler.tile or 64
    drift = upscaler.tile_drift(image(72, 80, 3))
    assert drift.psnr_db > 100 if overlap < 56 else "no smaller tiles" in drift.reason


def test_engines_need_memory_for_what_goes_in_and_out_only():
    from hasn_edge.runtime.memory import bytes_per_pixel

    assert bytes_per_pixel(ModelSpec(), "tensorrt") == 2 * 4 * (3 + 3 * 16)


def test_the_images_of_a_batch_share_the_memory():
    from hasn_edge.runtime.memory import bytes_per_pixel

    x = np.zeros((4, 3, 150, 200), np.float32)
    limit = 70_000_000  # one of these images would be computed whole
    fake = FakeSession(SPEC)
    y = Upscaler(fake, memory_limit_bytes=limit).run(x)
    count, _, height, width = max(fake.calls)
    taken = count * height * width * bytes_per_pixel(SPEC, "fake") + x.nbytes + y.nbytes
    assert 0.7 * limit < taken <= limit


class ShortOfMemory(FakeSession):
    """Has memory for inputs of so many pixels only, whatever is estimated."""

    def __init__(self, pixels: int, error: type[Exception], **more) -> None:
        super().__init__(**more)
        self.pixels_that_fit, self.error = pixels, error

    def _run(self, x_NCHW):
        if x_NCHW.shape[2] * x_NCHW.shape[3] > self.pixels_that_fit:
            raise self.error("no room")
        return super()._run(x_NCHW)


@pytest.mark.parametrize("error", [MemoryError, OutOfMemoryError])
def test_smaller_tiles_are_tried_where_memory_does_not_suffice(error, caplog):
    pixels = image(200, 300, 3)
    session = ShortOfMemory(5000, error)
    upscaler = Upscaler(session)
    np.testing.assert_array_equal(upscaler(pixels), repeated(pixels))
    report = upscaler.last_report
    assert report.tile.height * report.tile.width <= 5000
    assert report.reason == "memory"
    assert "memory did not suffice for 300x200 pixels" in caplog.text
    x = np.random.default_rng(0).random((1, 3, 200, 300), np.float32)
    assert np.abs(upscaler.run(x) - x.repeat(4, 2).repeat(4, 3)).max() < 1e-6
    # the next image is tried whole again: only whole frames are exact
    session.pixels_that_fit = 60000
    np.testing.assert_array_equal(upscaler(pixels), repeated(pixels))
    assert upscaler.last_report.tiles == 1


@pytest.mark.parametrize("given", [{"tile": 64}, {}])
def test_there_is_an_end_to_smaller_tiles(given):
    with pytest.raises(OutOfMemoryError, match="no room"):
        Upscaler(ShortOfMemory(10, OutOfMemoryError), **given)(image(200, 300, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_float32_images_are_upscaled_in_float(channels):
    pixels = np.random.default_rng(0).random((17, 23, channels), np.float32)
    upscaler = Upscaler(session())
    y = upscaler(pixels)
    assert (y.shape, y.dtype) == ((68, 92, channels), np.float32)
    planes = np.broadcast_to(pixels.transpose(2, 0, 1)[None], (1, 3, 17, 23))
    expected = np.clip(upscaler.run(np.ascontiguousarray(planes)), 0, 1)[0].transpose(1, 2, 0)
    # as uint8 of the same values it is the same image, rounded
    if channels == 3:
        np.testing.assert_array_equal(y, expected)
        rough = np.rint(pixels * 255).astype(np.uint8)
        finer = upscaler(rough.astype(np.float32) / 255)
        assert np.abs(np.rint(finer * 255) - upscaler(rough)).max() <= 1
    else:
        assert upscaler(pixels[:, :, 0]).shape == (68, 92)
    assert upscaler(pixels.astype(np.float64)).dtype == np.float32


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((9, 9, 4), np.float32), "expected a float32 image"),
        (np.full((9, 9, 3), 255.0, np.float32), "divide by 255"),
        (np.full((9, 9, 3), np.nan, np.float32), "not"),
    ],
)
def test_float_images_that_are_refused(pixels, message):
    with pytest.raises(InputError, match=message):
        Upscaler(FakeSession())(pixels)
