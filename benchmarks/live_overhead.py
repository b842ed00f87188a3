"""What the live pipeline costs beyond the network, in time a frame and frames a second.

    python benchmarks/live_overhead.py                             # the bundled model, 320x180, some minutes
    python benchmarks/live_overhead.py --artifact engines/hasn-x4-fp16-rtx.engine --frames 300

In rounds, so that a machine that slows down slows all of them: the session alone on a tensor, the session
alone on pixels, the pipeline over a recording, and the pipeline over a source faster than the network.
Nothing is shown. Exits with 1 where the pipeline costs 5 % or more of a frame, or reaches less than 95 % of
the session's frames a second.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from result_files import origin, publish

from hasn_edge.cli.common import SIZE

CASES = ("session, tensor", "session, pixels", "pipeline, recording", "pipeline, live")
MOST_OVERHEAD, LEAST_FPS = 0.05, 0.95


class Clock:
    """Wall-clock and CPU time of this process between two moments."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def since(self, frames: int) -> tuple[float, float]:
        """Return both, in seconds a frame."""
        wall, cpu = self.start
        return (time.perf_counter() - wall) / frames, (time.process_time() - cpu) / frames


def alone(call, x, frames: int) -> tuple[float, float]:
    """Return wall-clock and CPU seconds a frame of a session that does nothing else."""
    clock = Clock()
    for _ in range(frames):
        call(x)
    return clock.since(frames)


def pipeline(
    session, size: tuple[int, int], frames: int, *, fps: float | None
) -> tuple[tuple[float, float], dict]:
    """Return the same of the pipeline, from its first shown frame on, and its figures.

    With ``fps`` its source is live; with ``None``, a recording.
    """
    from hasn_edge.live.pipeline import Live, lingering_threads
    from hasn_edge.live.sources.frame_source import PatternSource
    from hasn_edge.live.views.live_view import View

    class Timer(View):
        """Measures from the first shown frame to the last one, then stops."""

        def start(self, live: Live) -> None:
            self._live = live
            self._shown = 0

        def show(self, shown: object) -> None:
            if self._shown == 0:
                self._clock = Clock()
            if self._shown == frames:
                self.taken = self._clock.since(frames)
                self._live.stop()
            self._shown += 1

    timer = Timer()
    source = PatternSource(size, live=False) if fps is None else PatternSource(size, fps=fps)
    stats = Live(source, session, [timer]).run()
    if lingering_threads(60):  # on a busy machine the last frame may take longer than a stop waits for
        raise click.ClickException("a stage of the pipeline did not end within a minute")
    return timer.taken, stats.snapshot()


def measure(session, size: tuple[int, int], frames: int, rounds: int) -> tuple[dict, dict, list[dict]]:
    """Return wall-clock and CPU seconds a frame of every case by round, and the pipeline's figures."""
    from hasn_edge.images.arrays import to_tensor
    from hasn_edge.live.sources.frame_source import PatternSource

    with PatternSource(size, live=False) as source:
        frame = source.read()
    tensor, pixels = to_tensor(frame.pixels), frame.pixels[None]
    alone(session.run, tensor, 2)
    wall: dict[str, list[float]] = {case: [] for case in CASES}
    cpu: dict[str, list[float]] = {case: [] for case in CASES}
    figures = []
    camera = max(30.0, 2 / alone(session.run_pixels, pixels, 2)[0])  # faster than the network, as cameras are
    cases: dict[str, Callable[[], tuple[float, float]]] = {
        CASES[0]: lambda: alone(session.run, tensor, frames),
        CASES[1]: lambda: alone(session.run_pixels, pixels, frames),
        CASES[2]: lambda: piped(None),
        CASES[3]: lambda: piped(camera),
    }

    def piped(fps: float | None) -> tuple[float, float]:
        seconds, snapshot = pipeline(session, size, frames, fps=fps)
        figures.append(snapshot)
        return seconds

    for number in range(rounds):
        click.echo(f"round {number + 1} of {rounds}", err=True)
        # Each case comes first, second ... equally often: a machine that slows down favours none.
        first = number % len(CASES)
        for case in CASES[first:] + CASES[:first]:
            seconds = cases[case]()
            wall[case].append(seconds[0])
            cpu[case].append(seconds[1])
    return wall, cpu, figures


def ratio(seconds: dict[str, list[float]], case: str, reference: str) -> float:
    """Return how many times as long ``case`` takes: the median over the rounds of the rounds' ratios."""
    return float(np.median(np.divide(seconds[case], seconds[reference])))


def markdown(wall: dict[str, list[float]], cpu: dict[str, list[float]], notes: list[str]) -> str:
    """Return the table with its conventions."""
    head = ("case", "ms a frame", "frames a second", "times the tensor's", "CPU ms a frame")
    lines = ["# What the live pipeline costs", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case in CASES:
        median = float(np.median(wall[case]))
        share, busy = ratio(wall, case, CASES[0]), 1e3 * float(np.median(cpu[case]))
        lines.append(f"| {case} | {median * 1e3:.2f} | {1 / median:.2f} | {share:.3f} | {busy:.2f} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


@click.command(help=__doc__)
@click.option("--model", default=None, help="Bundled name or weights file.")
@click.option("--artifact", type=click.Path(path_type=Path), default=None)
@click.option("--threads", type=int, default=None)
@click.option("--size", type=SIZE, default="320x180", show_default=True, help="Input's size.")
@click.option("--frames", default=10, show_default=True, help="Frames of a case in each round.")
@click.option("--rounds", default=16, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="Folder for the results.")
def main(
    model: str | None,
    artifact: Path | None,
    threads: int | None,
    size: tuple[int, int],
    frames: int,
    rounds: int,
    output: Path | None,
) -> None:
    """Measure, print, judge."""
    from hasn_edge.hardware.host import describe_host
    from hasn_edge.live.engines import list_engines, open_first
    from hasn_edge.model.zoo import DEFAULT_MODEL

    engines = list_engines(
        model or DEFAULT_MODEL, [artifact] if artifact else [], folder=Path("nowhere"), threads=threads
    )
    name, session = open_first(engines, None, size, lambda text, *cures, note=False: click.echo(text))
    with session:
        wall, cpu, figures = measure(session, size, frames, rounds)
    overhead = ratio(wall, CASES[2], CASES[0]) - 1
    fps = min(1 / ratio(wall, case, CASES[1]) for case in CASES[2:])
    machine = describe_host()
    notes = [
        f"{name}, {size[1]}x{size[0]}, batch 1; {rounds} rounds of {frames} frames a case; medians of rounds "
        "and of their ratios. The test pattern is read and nothing is shown.",
        f"Overhead a frame beyond the network: {overhead:+.1%} (limit {MOST_OVERHEAD:.0%}), of the "
        "pipeline over a recording, against the session on a tensor, which converts no pixels.",
        f"Frames a second: at least {fps:.1%} of what the session reaches on pixels (limit {LEAST_FPS:.0%}).",
        "CPU time is that of all threads of the process: on a busy machine trust it, not the clock.",
        *origin(machine=machine),
    ]
    stem = f"live_overhead_{session.device.partition(':')[0]}_{datetime.date.today():%Y%m}"
    raw = {"wall_s": wall, "cpu_s": cpu, "figures": figures, "notes": notes, "machine": machine}
    publish(markdown(wall, cpu, notes), output, stem, raw)
    sys.exit(0 if overhead < MOST_OVERHEAD and fps >= LEAST_FPS else 1)


if __name__ == "__main__":
    main()
