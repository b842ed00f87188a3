"""A view for machines without a display: the figures on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hasn_edge.live.frame import UpscaledFrame
from hasn_edge.live.notices import Notice
from hasn_edge.live.views.live_view import LiveRun, View

if TYPE_CHECKING:
    from rich.console import Console


class TerminalView(View):
    """Writes the overlay's lines twice a second; without a terminal, only what happens.

    Args:
        console: Where to; standard error, so that results can be piped.
    """

    poll_every_s = 0.5

    def __init__(self, console: Console) -> None:
        self._console = console
        self._run: LiveRun | None = None
        self._drawing: Any = None
        self._notice: Notice | None = None

    def start(self, run: LiveRun) -> None:
        """Begin to draw."""
        from rich.live import Live as Drawing

        self._run = run
        if self._console.is_terminal:
            self._drawing = Drawing(console=self._console, auto_refresh=False, transient=True)
            self._drawing.start()

    def show(self, shown: UpscaledFrame) -> None:
        """Show nothing of the image."""

    def notify(self, notice: Notice | None) -> None:
        """Keep it for the next drawing, or write a line."""
        if self._drawing is None and notice is not None and notice != self._notice:
            self._console.print(notice.text, highlight=False, markup=False)
        self._notice = notice

    def poll(self) -> None:
        """Draw."""
        if self._drawing is not None and self._run is not None:
            from rich.text import Text

            lines = self._run.stats.overlay()
            if self._notice is not None:
                lines.append(self._notice.text)
            self._drawing.update(Text("\n".join(lines)), refresh=True)

    def stop(self) -> None:
        """Clear the lines."""
        if self._drawing is not None:
            self._drawing.stop()
