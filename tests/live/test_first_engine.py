"""Which engine is opened first: the one that was named, or the best that works."""

from __future__ import annotations

import pytest

from hasn_edge.errors import BuildError, InputError
from hasn_edge.live.engines import EngineChoice, open_first
from tests.support.fake_session import FakeSession
from tests.support.live_rig import Told


def working(name: str, opened: list) -> EngineChoice:
    def open_(size):
        opened.append((name, size))
        return FakeSession()

    return EngineChoice(open=open_)


def broken(size):
    raise BuildError("made for another GPU")


def test_what_does_not_work_here_is_left_out_and_said():
    opened, told = [], Told()
    choice = {"trt": EngineChoice(open=broken), "own": working("own", opened)}
    name, session = open_first(choice, None, (180, 320), told)
    assert name == "own"
    assert isinstance(session, FakeSession)
    assert opened == [("own", (180, 320))]
    assert told == ["trt is left out: made for another GPU", "own: computed by fake on cpu"]


def test_the_one_that_was_named_must_work():
    opened = []
    choice = {"trt": EngineChoice(open=broken), "own": working("own", opened)}
    with pytest.raises(BuildError, match="another GPU"):
        open_first(choice, "trt", None, print)
    assert open_first(choice, "own", None, print)[0] == "own"
    with pytest.raises(InputError, match="no engine called 'x'; choose one of: trt, own"):
        open_first(choice, "x", None, print)


def test_the_ending_of_a_file_may_be_left_out_where_one_file_can_be_meant():
    """The bundled model and a file exported of it differ by more than a hyphen."""
    names = ("hasn-x4-fp32.onnx", "hasn-x4-fp32.onnx cpu", "hasn-x4 fp32", "two.onnx", "two.engine", "one.ts")
    choice = {name: working(name, []) for name in names}
    for wanted, meant in {
        "hasn-x4-fp32": "hasn-x4-fp32.onnx",
        "hasn-x4-fp32 cpu": "hasn-x4-fp32.onnx cpu",
        "hasn-x4-fp32.onnx": "hasn-x4-fp32.onnx",
        "hasn-x4 fp32": "hasn-x4 fp32",
        "one": "one.ts",
    }.items():
        assert open_first(choice, wanted, None, Told())[0] == meant
    with pytest.raises(InputError, match=r"'two' may be any of two.onnx, two.engine; name one"):
        open_first(choice, "two", None, print)
    for wanted in ("two cpu", "one.onnx", ".ts", ""):
        with pytest.raises(InputError, match="no engine called"):
            open_first(choice, wanted, None, print)


def test_the_last_one_must_work():
    with pytest.raises(BuildError, match="another GPU"):
        open_first({"trt": EngineChoice(open=broken)}, None, None, print)
