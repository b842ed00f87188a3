"""What TensorRT reports: one logger for a module, which hands its messages on to whoever listens."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

OnMessage = Callable[[str, str], object]
"""Called with a severity (``"ERROR"``, ``"VERBOSE"``, ...) and TensorRT's text, from any thread."""

_NO_MEMORY = (
    "bad_alloc",
    "out of memory",
    "outofmemory",
    "out_of_memory",
    "insufficient memory",
    "insufficient workspace",
    "memory could not be allocated",
    "memoryallocation",
    "failed to allocate",
    "nvmapmemalloc",  # a Jetson's allocator
    "could not find any implementation",  # where no kernel fits into what is free
)
"""How TensorRT, CUDA and the system word that memory does not suffice, in lower case."""

_NAME = "_hasn_edge_logger"
_LOCK = threading.Lock()


def means_no_memory(text: str) -> bool:
    """Whether a message of TensorRT, CUDA or the system reports that memory did not suffice."""
    lower = re.sub(r"\([\d.]+ \w+\) ", "", text.lower())  # TensorRT puts the bytes between two of the words
    return any(words in lower for words in _NO_MEMORY)


def logger_of(trt: Any) -> Any:
    """Return the one logger of a TensorRT module. Its ``listeners`` may be changed at any time.

    The library keeps a plain pointer to the first logger that it is given, and uses it in calls that belong
    to no builder or runtime: were it freed with the first engine, those would crash. So there is one, for
    ever.
    """
    with _LOCK:
        if _NAME not in vars(trt):
            setattr(trt, _NAME, _make_logger(trt))
    return vars(trt)[_NAME]


@contextmanager
def listening(trt: Any, on_message: OnMessage) -> Iterator[Any]:
    """Hand the module's messages to ``on_message`` while the block runs; gives the logger."""
    logger = logger_of(trt)
    logger.listeners.append(on_message)
    try:
        yield logger
    finally:
        logger.listeners.remove(on_message)


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # without this call a pybind subclass crashes
            self.listeners: list[OnMessage] = []

        def log(self, severity: Any, text: str) -> None:
            for listener in tuple(self.listeners):
                listener(severity.name, text.strip())

    return Logger()
