"""One logger for a module: who listens hears all, and nobody else does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hasn_edge.engine.messages import listening, logger_of
from tests.support.compiling import MakeOnnx, compile_with, target_of
from tests.support.fake_builder import fake_tensorrt


def test_messages_reach_those_who_listen() -> None:
    trt = fake_tensorrt("10.3.0")
    outer: list[tuple[str, str]] = []
    inner: list[tuple[str, str]] = []

    def log(severity: str, text: str) -> None:
        logger_of(trt).log(SimpleNamespace(name=severity), text)

    with listening(trt, lambda *message: outer.append(message)) as logger:
        assert logger is logger_of(trt)
        log("VERBOSE", " a\n")
        with listening(trt, lambda *message: inner.append(message)) as same:
            assert same is logger
            log("INFO", "b ")
        log("ERROR", "c")
    log("ERROR", "d")
    assert outer == [("VERBOSE", "a"), ("INFO", "b"), ("ERROR", "c")]
    assert inner == [("INFO", "b")]


def test_nobody_is_kept_by_a_block_that_fails() -> None:
    trt = fake_tensorrt("10.3.0")
    with pytest.raises(ZeroDivisionError), listening(trt, print):
        raise ZeroDivisionError
    assert logger_of(trt).listeners == []


@pytest.mark.parametrize("verbose", [False, True])
def test_the_most_detailed_messages_come_only_where_they_are_wanted(
    hasn_onnx: MakeOnnx, verbose: bool
) -> None:
    trt = fake_tensorrt("10.3.0")
    said: list[Any] = []
    trt.chatter = [("VERBOSE", "tactic 1"), ("INFO", "done")]
    compile_with(
        trt, hasn_onnx("fp32", form="weakly-typed-trt10"), target_of("10.3.0"), said=said, verbose=verbose
    )
    assert said == trt.chatter[0 if verbose else 1 :]


def test_two_builds_have_one_logger(hasn_onnx: MakeOnnx) -> None:
    """TensorRT warns of a second one, and crashes when the first is gone."""
    trt = fake_tensorrt("10.3.0")
    for _ in range(2):
        said: list[Any] = []
        compile_with(trt, hasn_onnx("fp32", form="weakly-typed-trt10"), target_of("10.3.0"), said=said)
        assert said == []
