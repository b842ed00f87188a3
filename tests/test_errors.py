"""Errors cross the border of a process whole."""

from __future__ import annotations

import json

import pytest

from hasn_edge.errors import (
    BuildError,
    HasnEdgeError,
    InputError,
    MissingDependencyError,
    NoCudaError,
    StageError,
    VerificationError,
    counted,
    error_from_values,
    error_to_values,
    listed,
    say,
    use,
)


@pytest.mark.parametrize(
    "error",
    [
        BuildError("two\nlines", say("this"), use(device="cpu")),
        NoCudaError("none"),
        VerificationError("missed"),
        MissingDependencyError("onnx", extra="export", needed_for="Exporting", install="pip install onnx"),
        StageError("infer", InputError("too large", use(tile=256)), 7),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_in_another_process(error: HasnEdgeError) -> None:
    again = error_from_values(json.loads(json.dumps(error_to_values(error))))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.exit_code == error.exit_code
    assert vars(again) == vars(error)


@pytest.mark.parametrize(("number", "text"), [(0, "0 patches"), (1, "1 patch"), (2, "2 patches")])
def test_one_of_a_kind_and_several(number: int, text: str) -> None:
    assert counted(number, "patch", "patches") == text
    assert counted(number, "image") == text.replace("patches", "images").replace("patch", "image")


@pytest.mark.parametrize(("most", "text"), [(3, "a, b, c"), (2, "a, b and 1 more"), (1, "a and 2 more")])
def test_of_many_things_the_first_are_named(most: int, text: str) -> None:
    assert listed("abc", most) == text
