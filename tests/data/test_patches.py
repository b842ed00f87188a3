import numpy as np
import pytest

from hasn_edge.data.degrade import Degradation
from hasn_edge.data.patches import Augmentation, PatchSource, Prefetcher, orient
from hasn_edge.data.resize import imresize
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


@pytest.fixture
def noise(tmp_path):
    """Two images of noise with their MATLAB-bicubic LR, one dark and one bright."""
    random = np.random.default_rng(0)
    writer = ShardWriter(tmp_path / "noise", 4)
    with writer:
        for low, high in ((0, 60), (180, 255)):
            hr = random.integers(low, high, (160, 160, 3), dtype=np.uint8)
            writer.add(f"{low}.png", imresize(hr, scale=1 / 4), hr)
    return writer.publish({})


@pytest.mark.parametrize("name", ["colors", "negative", "blend"])
def test_augmented_lr_is_the_reduced_augmented_hr(noise, name):
    plain = PatchSource([noise], seed=2).batch(3, 48, 16)
    changed = PatchSource([noise], seed=2, augmentation=Augmentation(**{name: 1.0})).batch(3, 48, 16)
    assert not np.array_equal(changed.hr, plain.hr)
    for lr, hr in zip(changed.lr, changed.hr, strict=True):
        reduced = imresize(np.ascontiguousarray(hr.transpose(1, 2, 0)), scale=1 / 4).transpose(2, 0, 1)
        inside = (slice(None), slice(2, -2), slice(2, -2))  # the patch's border saw its neighbours
        assert np.abs(lr[inside].astype(int) - reduced[inside]).max() <= 1


def test_what_each_augmentation_does(noise):
    plain = PatchSource([noise], seed=2).batch(3, 256, 8)

    def changed(**shares):
        return PatchSource([noise], seed=2, augmentation=Augmentation(**shares)).batch(3, 256, 8).hr

    assert np.array_equal(changed(negative=1.0), 255 - plain.hr)
    colors = changed(colors=1.0)
    orders = {
        tuple(next(c for c in range(3) if np.array_equal(own[c], channel)) for channel in new)
        for own, new in zip(plain.hr, colors, strict=True)
    }
    assert len(orders) == 6
    blended = changed(blend=1.0).mean((1, 2, 3))
    own = plain.hr.mean((1, 2, 3))
    assert blended[own < 60].max() == pytest.approx(30 + (217 - 30) / 2, abs=4)  # at most half of the other
    assert blended[own > 180].min() == pytest.approx(217 - (217 - 30) / 2, abs=4)
    half = (changed(negative=0.5) != plain.hr).any((1, 2, 3)).mean()
    assert 0.4 < half < 0.6


def test_augmented_batches_are_decided_by_seed_and_number_and_shares_of_zero_change_nothing(noise):
    every = Augmentation(colors=1.0, negative=0.5, blend=0.5)
    source = PatchSource([noise], seed=5, augmentation=every)
    whole = source.batch(9, 12, 10)
    again = PatchSource([noise], seed=5, augmentation=every).batch(9, 12, 10, part=slice(4, 9))
    assert np.array_equal(again.hr, whole.hr[4:9])
    assert np.array_equal(again.lr, whole.lr[4:9])
    assert len({tuple(hr.mean((1, 2)).argsort()) for hr in whole.hr}) > 1  # not one change for all
    assert not np.array_equal(source.batch(8, 12, 10).hr, whole.hr)
    nothing = PatchSource([noise], seed=5, augmentation=Augmentation()).batch(9, 12, 10)
    plain = PatchSource([noise], seed=5).batch(9, 12, 10)
    assert np.array_equal(nothing.hr, plain.hr)
    assert np.array_equal(nothing.lr, plain.lr)


def test_colours_change_their_order_before_noise_and_jpeg(noise):
    """What is done to the other colours is what would be done to an image that has them."""
    degradation = Degradation(share=1.0, blur=(0.0, 0.0), read_noise=(0.0, 0.0), shot_noise=(0.0, 0.0))
    settings = {"seed": 4, "degradation": degradation}
    plain = PatchSource([noise], **settings).batch(1, 32, 8)
    colors = PatchSource([noise], **settings, augmentation=Augmentation(colors=1.0)).batch(1, 32, 8)
    same = (colors.hr == plain.hr).all((1, 2, 3))
    assert 0 < same.sum() < 32
    assert np.array_equal(colors.lr[same], plain.lr[same])
    # JPEG keeps green best: another order is compressed in another way.
    anew = []
    for number in np.flatnonzero(~same):
        order = [
            next(c for c in range(3) if np.array_equal(plain.hr[number, c], h)) for h in colors.hr[number]
        ]
        anew.append(not np.array_equal(colors.lr[number], plain.lr[number][order]))
    assert np.mean(anew) > 0.5  # bright and even patches may come out alike
