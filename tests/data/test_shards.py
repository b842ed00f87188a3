import json
import resource

import numpy as np
import pytest

from hasn_edge.data.shards import INDEX, Shards, ShardWriter, combined_fingerprint
from hasn_edge.errors import InputError, OutputError
from hasn_edge.files import CAN_LOCK, claimed


def write(folder, *sizes, seed=0):
    random = np.random.default_rng(seed)

    def noise(height, width):
        return random.integers(256, size=(height, width, 3), dtype=np.uint8)

    pairs = [(noise(h, w), noise(4 * h, 4 * w)) for h, w in sizes]
    writer = ShardWriter(folder, 4)
    with writer:
        for number, (lr, hr) in enumerate(pairs):
            writer.add(f"{number}.png", lr, hr)
    return writer.publish({"note": 1}), pairs


def test_images_come_back_and_are_not_copied(tmp_path):
    shards, pairs = write(tmp_path, (20, 30), (17, 15), (40, 16))
    assert len(shards) == 3
    for number, (lr, hr) in enumerate(pairs):
        assert np.array_equal(shards.lr(number), lr)
        assert np.array_equal(shards.hr(number), hr)
    assert not shards.hr(0).flags.owndata
    assert not shards.hr(0).flags.writeable


def test_the_fingerprint_is_of_names_and_pixels(tmp_path):
    first, _ = write(tmp_path / "a", (20, 30))
    again, _ = write(tmp_path / "b", (20, 30))
    other, _ = write(tmp_path / "c", (20, 30), seed=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert combined_fingerprint([first]) == first.fingerprint
    assert combined_fingerprint([first, other]) != combined_fingerprint([other, first])


@pytest.mark.parametrize("damage", [{"scale": None}, {"images": [{"name": "0.png"}]}])
def test_a_damaged_index_is_one_message(tmp_path, damage):
    write(tmp_path, (20, 30))
    index = {**json.loads((tmp_path / INDEX).read_text()), **damage}
    (tmp_path / INDEX).write_text(json.dumps({key: value for key, value in index.items() if value}))
    with pytest.raises(InputError, match=rf"{INDEX}: damaged .*data prepare"):
        Shards(tmp_path)


def test_an_error_leaves_what_was_there(tmp_path):
    before, _ = write(tmp_path, (20, 30))
    writer = ShardWriter(tmp_path, 4)
    with pytest.raises(InputError, match=r"expected HR 4 times"), writer:
        writer.add("new.png", np.zeros((30, 30, 3), np.uint8), np.zeros((120, 120, 3), np.uint8))
        writer.add("bad.png", np.zeros((20, 20, 3), np.uint8), np.zeros((60, 60, 3), np.uint8))
    assert Shards(tmp_path).fingerprint == before.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hr.u8", "lr.u8", INDEX]


@pytest.mark.parametrize(("limit", "name"), [(5000, "lr.u8"), (20_000, "hr.u8"), (175_000, "hr.u8")])
def test_a_full_disk_is_said_of_the_file_that_it_stopped(tmp_path, limit, name):
    """LR has 10,800 bytes an image, HR 172,800; the system refuses more than ``limit`` in one file."""
    before, _ = write(tmp_path, (10, 10))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(
            OutputError, match=rf"cannot write {tmp_path}/{name}: .*, nothing was left behind"
        ):
            write(tmp_path, (60, 60), (60, 60))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["hr.u8", "lr.u8", INDEX]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Shards(tmp_path).fingerprint == before.fingerprint


def test_an_error_of_another_file_is_not_taken_for_one_of_the_two(tmp_path):
    before, _ = write(tmp_path, (20, 30))
    with pytest.raises(FileNotFoundError, match="photo"), ShardWriter(tmp_path, 4):
        (tmp_path / "photo.png").read_bytes()
    assert Shards(tmp_path).fingerprint == before.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hr.u8", "lr.u8", INDEX]


@pytest.mark.skipif(not CAN_LOCK, reason="nothing can be locked here")
def test_two_do_not_write_one_folder_at_a_time(tmp_path):
    """Of two, LR could be of the one and HR of the other."""
    with (
        claimed(tmp_path / "data"),  # as another process has it
        pytest.raises(OutputError, match="data: another process prepares data there; wait for it, or choose"),
        ShardWriter(tmp_path / "data", 4),
    ):
        pytest.fail("it was to be written")
    shards, _ = write(tmp_path / "data", (20, 30))
    assert len(shards) == 1


def test_damage_is_named_with_its_cure(tmp_path):
    write(tmp_path, (20, 30))
    with (tmp_path / "hr.u8").open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(InputError, match=r"hr\.u8 has 100 bytes, expected 28800; .*data prepare"):
        Shards(tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps({**index, "schema": 99}))
    with pytest.raises(InputError, match="schema 99, this version reads 1"):
        Shards(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(InputError, match="not readable"):
        Shards(tmp_path)
    with pytest.raises(InputError, match=r"no prepared training data .*data prepare"):
        Shards(tmp_path / "nowhere")
