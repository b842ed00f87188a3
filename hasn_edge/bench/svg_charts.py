"""Plots as SVG for the page of a benchmark: their colours are the page's, so that they are light and dark.

Every mark carries a ``<title>``, which browsers show on hover. Nothing here loads a plotting package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 14, 42
"""Margins around what is plotted; the axes' numbers and names stand in them."""


RADIUS = 11
"""Of a disc."""


@dataclass(frozen=True)
class Axis:
    """Values that are laid along a line of the plot."""

    name: str
    low: float
    high: float
    log: bool = False

    @classmethod
    def of(
        cls, name: str, values: Sequence[float], *, zero: bool = False, least: float = 0.0, log: bool = False
    ) -> Axis:
        """Return an axis with room around ``values``.

        Args:
            name: What it measures, with its unit.
            values: All that it has to hold.
            zero: It begins at 0.
            least: How much it spans at least.
            log: Use a logarithmic axis where the values span more than a factor of six.
        """
        low, high = min(values), max(values)
        if log and low > 0 and high / low > 6:
            return cls(name, low / 1.25, high * 1.25, log=True)
        pad = max(high - low, least, 1e-9) * 0.12
        middle, half = (low + high) / 2, max(high - low, least) / 2 + pad
        return cls(name, 0.0, max(high * 1.06, 1e-9)) if zero else cls(name, middle - half, middle + half)

    def place(self, value: float, start: float, end: float) -> float:
        """Return where ``value`` stands between ``start`` and ``end``."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        return start + (end - start) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Return four to eight round values within the axis."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = [one * 10.0**power for power in powers for one in (1, 2, 5)]
            return [value for value in steps if self.low <= value <= self.high]
        raw = (self.high - self.low) / 5
        power = 10 ** math.floor(math.log10(raw))
        step = next(one * power for one in (1, 2, 5, 10) if one * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def written(self, value: float) -> str:
        """Return a tick's value with as many decimals as the ticks differ in."""
        if self.log:
            return f"{value:g}"
        places = self.ticks()
        step = places[1] - places[0] if len(places) > 1 else 1.0
        return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


@dataclass
class Plot:
    """A frame with two axes; marks are added to it, then it is written."""

    x: Axis
    y: Axis
    label: str
    """What the plot shows, for those who do not see it."""
    height: int = HEIGHT
    names: Sequence[str] = ()
    """Instead of the y axis' numbers: what stands at 0, 1, 2, ..., from the top."""
    marks: list[str] = field(default_factory=list)
    taken: list[tuple[float, float]] = field(default_factory=list)
    """Where discs are."""

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point."""
        bottom = self.height - BOTTOM
        vertical = (bottom, TOP) if not self.names else (TOP, bottom)
        return self.x.place(x, LEFT, WIDTH - RIGHT), self.y.place(y, *vertical)

    def dot(self, x: float, y: float, text: str, title: str, kind: str) -> None:
        """Add a disc with a short text in it, aside where others are in its place."""
        px, py = self.at(x, y)
        true = py
        while any(math.hypot(px - other, py - there) < 2 * RADIUS for other, there in self.taken):
            py += 2 * RADIUS + 1 if true < self.height / 3 else -2 * RADIUS - 1
        self.taken.append((px, py))
        lead = f'<line class="lead" x1="{px:.1f}" x2="{px:.1f}" y1="{true:.1f}" y2="{py:.1f}"/>'
        self.marks.append(
            f'<g class="dot {kind}"><title>{escape(title)}</title>{lead if py != true else ""}'
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{RADIUS}"/>'
            f'<text x="{px:.1f}" y="{py + 4:.1f}" text-anchor="middle">{escape(text)}</text></g>'
        )

    def line(self, points: Sequence[tuple[float, float]], kind: str, title: str = "") -> None:
        """Add a line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        title = f"<title>{escape(title)}</title>"
        self.marks.append(f'<polyline class="line {kind}" points="{path}">{title}</polyline>')

    def tick(self, x: float, y: float, half: float, kind: str, title: str = "") -> None:
        """Add an upright stroke, ``half`` pixels to both sides of a point."""
        px, py = self.at(x, y)
        self.marks.append(
            f'<line class="tick {kind}" x1="{px:.1f}" x2="{px:.1f}" '
            f'y1="{py - half:.1f}" y2="{py + half:.1f}">'
            f"<title>{escape(title)}</title></line>"
        )

    def bar(self, x: float, y: float, title: str, kind: str) -> None:
        """Add a bar from the x axis up to ``y``, one unit of x wide."""
        left, top = self.at(x, min(y, self.y.high))
        right, bottom = self.at(x + 1, self.y.low)
        gap = 0.5 if right - left > 3 else 0.0
        self.marks.append(
            f'<rect class="bar {kind}" x="{left + gap:.2f}" y="{top:.1f}" '
            f'width="{right - left - 2 * gap:.2f}" '
            f'height="{max(0.0, bottom - top):.1f}"><title>{escape(title)}</title></rect>'
        )

    def svg(self) -> str:
        """Return the plot as an ``<svg>`` element."""
        marks = "".join([*self._frame(), *self.marks])
        label = escape(self.label, quote=True)
        return f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{label}">{marks}</svg>'

    def _frame(self) -> Iterator[str]:
        bottom = self.height - BOTTOM
        for value in self.x.ticks() if self.x.name else ():
            px = self.x.place(value, LEFT, WIDTH - RIGHT)
            yield f'<line class="grid" x1="{px:.1f}" x2="{px:.1f}" y1="{TOP}" y2="{bottom}"/>'
            yield f'<text x="{px:.1f}" y="{bottom + 16}" text-anchor="middle">{self.x.written(value)}</text>'
        rows = [(float(index), name) for index, name in enumerate(self.names)]
        for value, text in rows or [(one, self.y.written(one)) for one in self.y.ticks()]:
            py = self.at(self.x.low, value)[1]
            if not self.names:
                yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>'
            yield f'<text x="{LEFT - 7}" y="{py + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        yield f'<text class="name" x="{WIDTH - RIGHT}" y="{self.height - 6}" text-anchor="end">'
        yield f"{escape(self.x.name)}</text>"
        if self.y.name:
            yield f'<text class="name" x="{LEFT}" y="{self.height - 6}">↑ {escape(self.y.name)}</text>'
