import pytest
import torch

from hasn_edge.errors import CheckpointError
from hasn_edge.train import run_folder
from hasn_edge.train.run_folder import (
    load_newest,
    load_state,
    prune,
    save_state,
    saved_iterations,
    state_path,
)


def states(run, *iterations):
    for iteration in iterations:
        save_state(state_path(run, iteration), {"iteration": iteration, "x": torch.full((100,), iteration)})


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {"iteration": 3, "x": torch.rand(7, dtype=torch.float64), "nested": {"a": [1, 2.5, "b", None]}}
    save_state(state_path(tmp_path, 3), state)
    back = load_state(state_path(tmp_path, 3))
    assert torch.equal(back.pop("x"), state.pop("x"))
    assert back == state


def test_a_truncated_newest_state_falls_back_to_the_one_before_and_says_so(tmp_path, caplog):
    states(tmp_path, 10, 20, 30)
    path = state_path(tmp_path, 30)
    path.write_bytes(path.read_bytes()[:-100])
    run_folder.log.addHandler(caplog.handler)  # the command line may have ended propagation
    try:
        assert load_newest(tmp_path)["iteration"] == 20
    finally:
        run_folder.log.removeHandler(caplog.handler)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    (text,) = {record.getMessage() for record in caplog.records}
    assert "state-000000030.pt: truncated or damaged" in text


def test_one_flipped_bit_is_noticed(tmp_path):
    states(tmp_path, 10)
    path = state_path(tmp_path, 10)
    content = bytearray(path.read_bytes())
    content[-300] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="do not match its hash"):
        load_state(path)


@pytest.mark.parametrize("content", [b"", b"something else", b"HASN-EDGE TRAINING STATE 1\n"])
def test_other_files_are_refused(tmp_path, content):
    path = state_path(tmp_path, 1)
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=path.name):
        load_state(path)


def test_nothing_saved_is_no_state(tmp_path):
    assert load_newest(tmp_path) is None


def test_pruning_keeps_the_newest_and_those_asked_for(tmp_path):
    states(tmp_path, 10, 20, 30, 40)
    prune(tmp_path, keep=2, always=(10,))
    assert saved_iterations(tmp_path) == [40, 30, 10]
