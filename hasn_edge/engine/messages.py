"""What TensorRT reports: one logger for a module, which hands its messages on to whoever listens."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hasn_edge.interrupt import CALLED_BACK

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


class Kept:
    """The first exception of the Python functions that TensorRT calls.

    Its bindings print what such a function raises, and go on without it: the build ends without a reason, or
    the message is lost. So each keeps it here, and who called TensorRT raises it afterwards.
    """

    error: BaseException | None = None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep what the block raises instead of raising it."""
        try:
            yield
        except BaseException as exc:
            self.error = self.error or exc

    def raise_first(self) -> None:
        """Raise what was kept, once."""
        error, self.error = self.error, None
        if error is not None:
            raise error


@contextmanager
def listening(trt: Any, on_message: OnMessage) -> Iterator[Any]:
    """Hand the module's messages to ``on_message`` while the block runs; gives the logger.

    What ``on_message`` raises is raised at the end of the block.
    """
    kept = Kept()

    def listen(severity: str, text: str) -> None:
        with kept.keeping():
            on_message(severity, text)

    logger = logger_of(trt)
    logger.listeners.append(listen)
    try:
        yield logger
    except Exception:
        kept.raise_first()  # which came first, and is the reason
        raise
    finally:
        logger.listeners.remove(listen)
    kept.raise_first()


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # without this call a pybind subclass crashes
            self.listeners: list[OnMessage] = []
            """They raise nothing: :class:`Kept`."""

        def log(self, severity: Any, text: str) -> None:
            for listener in tuple(self.listeners):
                listener(severity.name, text.strip())

    CALLED_BACK.add(Logger.log.__code__)
    return Logger()
