"""Ten minutes of live video: memory stays flat, every drop is explained, latency does not drift.

    python benchmarks/soak.py                               # the bundled model on the test pattern, 160x90
    python benchmarks/soak.py --minutes 60 --source rtsp://camera.local/stream --record soak.mp4

Resident memory and the figures of the last five seconds are taken every two seconds; the first tenth of the
time is warm-up. Exits with 1 where memory grows by 20 MB or more, a captured frame is neither shown nor
counted as dropped, or the median latency of the last third is 1.5 times that of the first one.
"""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
from result_files import origin, publish

from hasn_edge.cli.common import SIZE

MOST_GROWTH_MB, MOST_DRIFT = 20.0, 1.5
EVERY_S = 2.0


def resident_mb() -> float:
    """Return the resident memory of this process, 1 MB = 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def sampler():
    """Return a view that takes a sample every two seconds, in the main thread."""
    from hasn_edge.live.views.live_view import View

    class Sampler(View):
        poll_every_s = EVERY_S

        def __init__(self) -> None:
            self.samples: list[dict] = []

        def start(self, live) -> None:
            self._live = live
            self._begin = time.monotonic()

        def poll(self) -> None:
            snapshot = self._live.stats.snapshot()
            now = snapshot["now"]
            self.samples.append(
                {
                    "seconds": time.monotonic() - self._begin,
                    "resident_mb": resident_mb(),
                    "latency_p50_ms": now["latency_ms"]["p50"],
                    "latency_p95_ms": now["latency_ms"]["p95"],
                    "fps_out": now["fps_out"],
                    "frames": snapshot["frames"],
                }
            )

    return Sampler()


def judged(samples: list[dict], frames: dict, seconds: float) -> list[tuple[str, bool]]:
    """Return each finding in words, and whether it is as it should be."""
    warm = [s for s in samples if s["seconds"] >= 0.1 * seconds and s["latency_p50_ms"] is not None]
    if len(warm) < 6:
        raise click.ClickException(f"{len(warm)} samples after warming up; run it for longer")
    third = len(warm) // 3

    def change(key: str) -> tuple[float, float]:
        values = [sample[key] for sample in warm]
        return float(np.median(values[:third])), float(np.median(values[-third:]))

    before, after = change("resident_mb")
    first, last = change("latency_p50_ms")
    unexplained = frames["captured"] - frames["shown"] - frames["dropped"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in frames["drops"].items())
    return [
        (
            f"memory: {before:.1f} MB in the first third, {after:.1f} MB in the last one, growth "
            f"{after - before:+.1f} MB (limit {MOST_GROWTH_MB:.0f})",
            after - before < MOST_GROWTH_MB,
        ),
        (
            f"frames: {frames['captured']} captured, {frames['shown']} shown, {frames['dropped']} dropped "
            f"({reasons}), {unexplained} unexplained",
            unexplained == 0 and frames["shown"] > 0,
        ),
        (
            f"latency p50: {first:.1f} ms in the first third, {last:.1f} ms in the last one, "
            f"{last / first:.2f} times (limit {MOST_DRIFT})",
            last / first < MOST_DRIFT,
        ),
    ]


@click.command(help=__doc__)
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--source", default="pattern", show_default=True)
@click.option("--size", type=SIZE, default="160x90", show_default=True, help="Input's size.")
@click.option("--view", type=click.Choice(["none", "web", "window"]), default="none", show_default=True)
@click.option("--record/--no-record", default=False, help="Also record, to a file that is thrown away.")
@click.option("--self-test", is_flag=True)
@click.option("--model", default=None, help="Bundled name or weights file.")
@click.option("--artifact", type=click.Path(path_type=Path), default=None)
@click.option("--threads", type=int, default=None)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="Folder for the results.")
def main(
    minutes: float, size: tuple[int, int], record: bool, model: str | None, artifact: Path | None, **options
) -> None:
    """Run, sample, judge."""
    from hasn_edge.errors import with_cures
    from hasn_edge.hardware.host import describe_host
    from hasn_edge.live.launch import DemoOptions, open_live
    from hasn_edge.model.zoo import DEFAULT_MODEL

    output = options.pop("output")
    sampling = sampler()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        request = DemoOptions(
            model=model or DEFAULT_MODEL,
            artifacts=() if artifact is None else (artifact,),
            size=size,
            seconds=60 * minutes,
            record=folder / "soak.mp4" if record else None,
            **options,
        )
        live = open_live(
            request,
            stack,
            lambda text, *cures, note=False: click.echo(with_cures(text, map(str, cures)), err=True),
            (sampling,),
        )
        snapshot = live.run().snapshot()
        findings = judged(sampling.samples, snapshot["frames"], snapshot["seconds"])
    machine = describe_host()
    lines = [f"# Soak: {snapshot['seconds'] / 60:.1f} minutes of live video", ""]
    lines += [f"- {'good' if good else 'BAD'}: {text}" for text, good in findings]
    lines += [
        f"- {snapshot['engine']}, {size[1]}x{size[0]}, source {snapshot['source']}, "
        f"{snapshot['run']['fps_out']:.2f} frames a second; limited by {snapshot['limit']['text']}",
        *(f"- {note}" for note in origin(machine=machine)),
    ]
    raw = {"samples": sampling.samples, "run": snapshot, "machine": machine}
    publish("\n".join([*lines, ""]), output, f"soak_{datetime.date.today():%Y%m}", raw)
    sys.exit(0 if all(good for _, good in findings) else 1)


if __name__ == "__main__":
    main()
