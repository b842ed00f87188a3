"""What the live pipeline needs of whatever shows its frames."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hasn_edge.live.frame import UpscaledFrame
    from hasn_edge.live.notices import Notice
    from hasn_edge.live.stats import Stats


class LiveRun(Protocol):
    """What a view may use of the run that it shows, from any thread."""

    stats: Stats
    """For :meth:`~hasn_edge.live.stats.Stats.snapshot` and :meth:`~hasn_edge.live.stats.Stats.overlay`."""
    scale: int
    """How many times as wide and high a frame becomes."""

    @property
    def engines(self) -> tuple[str, ...]:
        """Names that can be chosen."""

    @property
    def engine(self) -> str:
        """The one that computes now."""

    def select(self, name: str) -> None:
        """Change the engine; returns at once, and a failure comes as a notice."""

    def stop(self) -> None:
        """End the run soon."""


class View:
    """A place where frames are shown; each method does nothing here and is overridden as needed.

    ``start``, ``poll`` and ``stop`` are called in the thread that called ``Live.run``, in this order and
    ``stop`` exactly once for every view whose ``start`` returned; ``show`` and ``notify`` in threads of the
    pipeline, between them. An exception from any of them ends the run, with the view's class in its message.

    A view that measures when an image really is on the screen reports it by ``run.stats.displayed(shown)``,
    once for each; latency then ends there instead of where the image was handed over, and the figures
    count how many came that far.
    """

    poll_every_s: float | None = None
    """How often ``poll`` wants to be called, in seconds; ``None`` for never. For toolkits that insist on
    the main thread."""

    watched: threading.Event | None = None
    """Set once somebody watches; ``None`` where that is not known, or somebody does from the start."""

    def start(self, run: LiveRun) -> None:
        """Get ready; raises what keeps the view from working."""

    def show(self, shown: UpscaledFrame) -> None:
        """Take a frame to show and return at once: keep it for a thread of the view's own, drop older ones.

        Nothing may block here, whatever the viewer does: the pipeline waits for it.
        """

    def notify(self, notice: Notice | None) -> None:
        """Show the notice's text over the image until ``None`` comes; only its state decides anything."""

    def poll(self) -> None:
        """Do what must be done in the main thread; returns within a frame's time."""

    def close(self) -> None:
        """Let go of what was claimed before ``start``, which may never have come; safe to call twice."""

    def stop(self) -> None:
        """Close. Nothing of the view runs any more when this returns, within a second."""
