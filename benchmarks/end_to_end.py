"""Frames a second of whole commands beside the network alone: `upscale` of a clip, `demo` from 1080p.

    hasn-edge build --precision auto --target cpu
    python benchmarks/end_to_end.py --clip traffic.mp4 -o benchmarks/results

In turns, so that a machine that slows down slows all of them: the session alone on pixels, opened as the
commands open it (what `build --precision auto` chose in ./engines, else the model), then `hasn-edge upscale`
of a clip of the same size into H.264, and `hasn-edge demo` on a 1920x1080 clip that it reduces to this size,
without a view. Both clips are made from the one that is given. A command's time is its own figure, from the
first frame that is read to the last one that is written; starting Python and opening the model are not in it.
"""

from __future__ import annotations

import datetime
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import cv2
import numpy as np
from result_files import origin, publish

from hasn_edge.cli.common import SIZE
from hasn_edge.hardware.host import describe_host
from hasn_edge.model.zoo import DEFAULT_MODEL
from hasn_edge.runtime.choice import find_choice
from hasn_edge.runtime.open import open_model, open_session
from hasn_edge.runtime.session import Session

SOURCE = (1920, 1080)
CASES = ("session alone", "upscale", "demo")
LEAST = 0.85


def make_clip(clip: Path, size: tuple[int, int], frames: int, target: Path) -> None:
    """Write the first frames of ``clip``, resized to (width, height)."""
    source = cv2.VideoCapture(str(clip))
    target_file = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, size)
    for number in range(frames):
        found, frame = source.read()
        if not found:
            raise click.ClickException(f"{clip} has {number} frames; expected at least {frames}")
        target_file.write(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
    target_file.release()


def open_alone(model: str, size: tuple[int, int]) -> tuple[Session, str]:
    """Return the session that the commands take here, and its name."""
    choice = find_choice(model, size=size)
    if choice is None:
        session = open_model(model)
        return session, f"{model}, {session.backend} {session.number_format}"
    session = open_session(choice.artifact, backend=choice.backend, frame=size)
    return session, f"{choice.artifact.path.name}, {session.backend} {session.number_format}"


def alone(model: str, size: tuple[int, int], frames: int) -> tuple[float, float, str]:
    """Return frames a second and CPU seconds a frame of the session, and its name."""
    session, name = open_alone(model, size)
    with session:
        pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
        session.run_pixels(pixels)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(frames):
            session.run_pixels(pixels)
        return frames / (time.perf_counter() - wall), (time.process_time() - cpu) / frames, name


def command(folder: Path, *words: str) -> tuple[dict, float]:
    """Run hasn-edge; return its JSON and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = folder / "answer.json"
    subprocess.run(
        [sys.executable, "-m", "hasn_edge", *words, "--json", str(answer)], check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(answer.read_text()), cpu


@click.command(help=__doc__)
@click.option("--clip", type=click.Path(path_type=Path, exists=True), required=True, help="Any video.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Bundled name or weights file.")
@click.option("--size", default="320x180", show_default=True, help="Network's input, WIDTHxHEIGHT.")
@click.option("--frames", default=60, show_default=True, help="Frames of each case in a turn.")
@click.option("--turns", default=3, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the results.")
def main(clip: Path, model: str, size: str, frames: int, turns: int, output: Path | None) -> None:
    """Measure, print, write."""
    height, width = SIZE(size)
    machine = describe_host()
    rates: dict[str, list[float]] = {case: [] for case in CASES}
    cpu: dict[str, list[float]] = {case: [] for case in CASES}
    parts: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = folder / "small.mp4", folder / "large.mp4"
        make_clip(clip, (width, height), frames, small)
        make_clip(clip, SOURCE, frames, large)
        for turn in range(turns):
            rate, own, session = alone(model, (height, width), frames)
            rates["session alone"].append(rate)
            cpu["session alone"].append(own)
            found, own = command(
                folder, "upscale", str(small), "-o", str(folder / f"x4-{turn}.mp4"), "--model", model
            )
            (result,) = found["results"]
            rates["upscale"].append(result["frames"] / result["seconds"])
            cpu["upscale"].append(own / frames)
            run, own = command(
                folder, "demo", "--source", str(large), "--size", size, "--view", "none", "--model", model
            )
            rates["demo"].append(run["frames"]["shown"] / run["seconds"])
            cpu["demo"].append(own / frames)
            parts.append({part: each["p50"] for part, each in run["now"]["stages_ms"].items()})
            click.echo(f"turn {turn + 1} of {turns}: {session}", err=True)
    text = page((width, height), f"{session}; {turns} turns of {frames} frames a case", rates, cpu, parts)
    typed = f"--clip {clip.name} --size {size} --frames {frames} --turns {turns}"
    text += "".join(f"- {note}\n" for note in origin(f"benchmarks/end_to_end.py {typed}", machine))
    figures = {"rates": rates, "cpu_seconds": cpu, "stages_ms": parts, "machine": machine}
    publish(text, output, f"end_to_end_cpu_{datetime.date.today():%Y%m}", figures)


def page(
    size: tuple[int, int],
    measured: str,
    rates: dict[str, list[float]],
    cpu: dict[str, list[float]],
    parts: list[dict[str, float]],
) -> str:
    """Return the results as Markdown.

    Args:
        size: Width and height of the network's input.
        measured: What ran, and how often.
        rates: By case, frames a second of each turn.
        cpu: By case, CPU seconds a frame of each turn.
        parts: Of each turn of the demo, median ms of its stages.
    """
    width, height = size
    lines = [
        f"# Whole commands beside the network alone, {width}x{height} -> {width * 4}x{height * 4}",
        "",
        "| case | frames/s | of the session's | CPU ms a frame | CPU ms beyond the session's |",
        "|---|---|---|---|---|",
    ]
    shares = {}
    for case in CASES:
        ratios = [one / base for one, base in zip(rates[case], rates["session alone"], strict=True)]
        shares[case] = statistics.median(ratios)
        own, base = statistics.median(cpu[case]), statistics.median(cpu["session alone"])
        lines.append(
            f"| {case} | {statistics.median(rates[case]):.2f} | {shares[case]:.3f} ({min(ratios):.3f} to "
            f"{max(ratios):.3f}) | {own * 1e3:.1f} | {(own - base) * 1e3:.1f} |"
        )
    stages = ", ".join(
        f"{part} {statistics.median(each[part] for each in parts):.1f}"
        for part in parts[0]
        if all(each[part] is not None for each in parts)
    )
    reached = all(share >= LEAST for share in shares.values())
    lines += [
        "",
        f"- {measured}; medians of turns, and of their ratios with the least and the largest. CPU time is "
        "that of all threads; a command's includes starting Python and opening the model.",
        f"- {'All are' if reached else 'NOT all are'} at least {LEAST:g} of the session's frames a second.",
        "- upscale decodes, encodes H.264 and writes MP4; demo reads a 1920x1080 clip and reduces its "
        f"frames. Its stages, median ms a frame, which overlap: {stages}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
