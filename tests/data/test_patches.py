import numpy as np
import pytest

from hasn_edge.data.degrade import Degradation
from hasn_edge.data.patches import PatchSource, Prefetcher, orient
from hasn_edge.data.shards import ShardWriter
from hasn_edge.errors import InputError


@pytest.fixture
def coordinates(tmp_path):
    """Images whose pixels are their own coordinates: LR (y, x, image), HR (y // 4, x // 4, image)."""
    writer = ShardWriter(tmp_path, 4)
    with writer:
        for number, (height, width) in enumerate(((20, 30), (40, 25))):
            y, x = np.mgrid[:height, :width]
            lr = np.stack([y, x, np.full_like(y, number)], axis=-1).astype(np.uint8)
            writer.add(f"{number}.png", lr, lr.repeat(4, axis=0).repeat(4, axis=1))
    return writer.publish({})


def test_lr_and_hr_show_the_same_place_in_the_same_orientation(coordinates):
    batch = PatchSource([coordinates], seed=3).batch(0, 64, 8)
    assert batch.lr.shape == (64, 3, 8, 8)
    assert batch.hr.shape == (64, 3, 32, 32)
    assert np.array_equal(batch.hr[:, :, ::4, ::4], batch.lr)
    assert np.array_equal(batch.hr[:, :, 3::4, 1::4], batch.lr)
    assert [f"{n}.png" for n in batch.lr[:, 2, 0, 0]] == list(batch.names)


def test_the_eight_orientations_are_all_different_and_all_used(coordinates):
    square = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    turned = {orient(square, turn).tobytes() for turn in range(8)}
    assert len(turned) == 8
    expected = {
        np.rot90(flip, k).transpose(2, 0, 1).tobytes() for flip in (square, square[:, ::-1]) for k in range(4)
    }
    assert turned == expected
    batch = PatchSource([coordinates], seed=0).batch(0, 256, 8)
    # Which coordinate grows downwards and which to the right, and which way, tells an orientation.
    values = batch.lr[:, :2, :2, :2].astype(int)
    down, right = values[:, :, 1, 0] - values[:, :, 0, 0], values[:, :, 0, 1] - values[:, :, 0, 0]
    steps = {(*a, *b) for a, b in zip(down.tolist(), right.tolist(), strict=True)}
    assert len(steps) == 8


@pytest.mark.slow
def test_every_position_is_equally_likely(coordinates):
    source = PatchSource([coordinates], seed=1)
    corners = np.concatenate([source.batch(n, 512, 15).lr[:, :, :, :].min(axis=(2, 3)) for n in range(40)])
    places = {(0, y, x): 0 for y in range(6) for x in range(16)} | {
        (1, y, x): 0 for y in range(26) for x in range(11)
    }
    for y, x, image in corners:
        places[int(image), int(y), int(x)] += 1
    counts = np.array(list(places.values()))
    expected = counts.sum() / len(counts)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    assert abs(chi_squared - freedom) < 5 * np.sqrt(2 * freedom)


def test_a_batch_is_decided_by_seed_and_number_alone(coordinates):
    source, again = PatchSource([coordinates], seed=5), PatchSource([coordinates], seed=5)
    again.batch(0, 16, 10)
    assert np.array_equal(source.batch(7, 8, 10).hr, again.batch(7, 8, 10).hr)
    assert not np.array_equal(source.batch(7, 8, 10).hr, source.batch(8, 8, 10).hr)
    assert not np.array_equal(
        source.batch(7, 8, 10).hr, PatchSource([coordinates], seed=6).batch(7, 8, 10).hr
    )


def test_parts_are_slices_of_the_whole(coordinates):
    source = PatchSource([coordinates], seed=0)
    whole = source.batch(4, 10, 9)
    parts = [source.batch(4, 10, 9, part=slice(a, a + 5)) for a in (0, 5)]
    assert np.array_equal(np.concatenate([p.hr for p in parts]), whole.hr)
    assert parts[0].names + parts[1].names == whole.names


def test_a_patch_that_does_not_fit_is_refused(coordinates):
    source = PatchSource([coordinates], seed=0)
    assert source.smallest_side() == 20
    assert source.batch(0, 4, 20).lr.shape[-1] == 20
    with pytest.raises(InputError, match="patch of 21 pixels does not fit into an image of 20"):
        source.batch(0, 4, 21)


def test_folders_of_different_scales_do_not_mix(coordinates, tmp_path):
    writer = ShardWriter(tmp_path / "x2", 2)
    with writer:
        writer.add("a", np.zeros((20, 20, 3), np.uint8), np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(InputError, match=r"different scales \[2, 4\]"):
        PatchSource([coordinates, writer.publish({})], seed=0)
    with pytest.raises(InputError, match="at least one folder"):
        PatchSource([], seed=0)


def test_prefetching_keeps_the_order_passes_errors_on_and_stops():
    assert list(Prefetcher(iter(range(20)))) == list(range(20))

    def broken():
        yield 1
        raise InputError("disk gone")

    items = iter(Prefetcher(broken()))
    assert next(items) == 1
    with pytest.raises(InputError, match="disk gone"):
        next(items)

    def endless():
        while True:
            yield 0

    prefetcher = Prefetcher(endless(), depth=2)
    next(iter(prefetcher))
    prefetcher.close()
    assert not prefetcher._thread.is_alive()


def test_degraded_patches_are_decided_by_seed_and_number_and_hr_stays(coordinates):
    settings = Degradation(share=1.0)
    plain, source = (PatchSource([coordinates], seed=0, degradation=d) for d in (None, settings))
    whole = source.batch(4, 10, 9)
    assert np.array_equal(whole.hr, plain.batch(4, 10, 9).hr)
    assert not np.array_equal(whole.lr, plain.batch(4, 10, 9).lr)
    source.batch(5, 10, 9)
    assert np.array_equal(source.batch(4, 10, 9).lr, whole.lr)
    parts = [source.batch(4, 10, 9, part=slice(a, a + 5)) for a in (0, 5)]
    assert np.array_equal(np.concatenate([p.lr for p in parts]), whole.lr)
    unchanged = PatchSource([coordinates], seed=0, degradation=Degradation(share=0.0))
    assert np.array_equal(unchanged.batch(4, 10, 9).lr, plain.batch(4, 10, 9).lr)
