"""One logger for a module: who listens hears all, and nobody else does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hasn_edge.engine.builder import compile_plan
from hasn_edge.engine.capabilities import load_tensorrt
from hasn_edge.engine.messages import listening, logger_of
from hasn_edge.engine.target import EngineRuntime
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


def test_what_a_listener_raises_comes_after_the_call() -> None:
    """TensorRT's bindings print it and go on; the other listeners get the message all the same."""
    trt = fake_tensorrt("10.3.0")
    heard: list[str] = []

    def interrupted(severity: str, text: str) -> None:
        raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt, match="first"), listening(trt, lambda _, text: heard.append(text)):
        with listening(trt, interrupted) as logger:
            logger.log(SimpleNamespace(name="INFO"), "first")
            logger.log(SimpleNamespace(name="INFO"), "second")
        raise AssertionError
    assert heard == ["first", "second"]
    assert logger.listeners == []


@pytest.mark.parametrize(
    ("ending", "raised"), [(OSError, ValueError), (KeyboardInterrupt, KeyboardInterrupt)]
)
def test_what_a_listener_raises_is_the_reason_but_not_of_an_interrupt(ending: Any, raised: Any) -> None:
    def fails(severity: str, text: str) -> None:
        raise ValueError(text)

    with pytest.raises(raised), listening(fake_tensorrt("10.3.0"), fails) as logger:
        logger.log(SimpleNamespace(name="INFO"), "text")
        raise ending
    assert logger.listeners == []


@pytest.mark.parametrize("where", ["message", "step"])
def test_what_fails_in_a_build_is_raised_by_the_real_bindings_too(hasn_onnx: MakeOnnx, where: str) -> None:
    trt, capabilities = load_tensorrt(EngineRuntime.RTX)
    steps: list[str] = []

    def on_message(severity: str, text: str) -> None:
        if where == "message":
            raise ValueError("of mine")

    def on_step(phase: str, done: int, count: int) -> bool:
        if where == "step" and phase != "reading the graph":
            steps.append(phase)
            raise ValueError("of mine")
        return True

    with pytest.raises(ValueError, match="of mine"):
        compile_plan(
            trt,
            capabilities,
            hasn_onnx("fp32"),
            target_of("rtx"),
            on_message=on_message,
            on_step=on_step,
        )
    assert len(steps) < 5, "the build went on"
