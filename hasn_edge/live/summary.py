"""The figures of a live run in words: over the image, and as a table at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hasn_edge.errors import Cure, counted, use
from hasn_edge.live.snapshot import EndReason, Snapshot, Times

if TYPE_CHECKING:
    from rich.table import Table

_STAGES = {
    "capture": "waiting for and decoding a frame",
    "wait": "waiting for the network and the stage behind it",
    "prepare": "fitting it to the network's input",
    "infer": "network, host to host",
    "present": "making the image and handing it to the views",
    "display": "from there until it was on a screen",
    "record": "encoding it",
}
_BEGINS = {"capture": "from capture", "prepare": "from a frame's preparation (a recording is read ahead)"}
_ENDS = {"view": "until handed to the views", "screen": "until on the screen"}


def summary_table(snapshot: Snapshot) -> Table:
    """Return the figures of the whole run, for people."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in table_rows(snapshot):
        table.add_row(name, Text(value))  # file names have brackets, which are no markup
    return table


def table_rows(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return the table's lines."""
    run, frames = snapshot["run"], snapshot["frames"]
    where = f"{_BEGINS[snapshot['latency_begins']]} {_ENDS[snapshot['latency_ends']]}"
    lines = [("source", snapshot["source"]), _engines(snapshot)]
    if snapshot["source_size"] is not None:
        lines.append(("source frames", describe_sizes(snapshot)))
    if snapshot["input"] is not None:
        lines.append(("size", _input_to_output(snapshot)))
    lines += [
        ("time", f"{snapshot['seconds']:.1f} s"),
        ("frames", f"{frames['captured']} captured, {frames['shown']} shown, {frames['dropped']} dropped"),
    ]
    lines += [(f"dropped, {reason}", str(count)) for reason, count in frames["drops"].items() if count]
    lines.append(("frames a second", f"{number(run['fps_in'])} captured, {number(run['fps_out'])} shown"))
    if frames["displayed"] is not None:
        screen = f"{frames['displayed']} of those shown, {number(run['fps_screen'])} a second"
        lines.append(("on the screen", screen))
    of = counted(run["latency_ms"]["count"], "frame")
    lines.append(("latency", f"{_times(run['latency_ms'])}, {where}, of {of}"))
    lines += [
        (stage, f"{_times(times)}, {_STAGES[stage]}")
        for stage, times in run["stages_ms"].items()
        if times["p50"] is not None
    ]
    if snapshot["quality"] is not None:
        quality = snapshot["quality"]
        both = f"{decibels(quality['hasn_mean_db'])}, bicubic {decibels(quality['bicubic_mean_db'])}"
        lines.append(("PSNR-Y", f"{both}, mean of {counted(quality['frames'], 'frame')}"))
    if snapshot["limit"] is not None:
        lines.append(("limited by", snapshot["limit"]["text"]))
    lines += [("reported", text) for text in snapshot["notices"][:5]]
    return lines


def explain_no_frames(snapshot: Snapshot) -> tuple[str, tuple[Cure, ...]]:
    """Return why a run that showed no frame has no figures, and what helps."""
    if not snapshot["frames"]["captured"]:
        return "no frame came", ()
    if snapshot["ended"] != EndReason.TIME:
        return "no frame was shown before the end", ()
    enough = max(10, 4 * round(snapshot["seconds"]))
    return "no frame was shown: the time was too short for the first one", (use(seconds=enough),)


def _engines(snapshot: Snapshot) -> tuple[str, str]:
    """Name what computed; where several engines did, the lines below are of all of them together."""
    frames = snapshot["engines_used"]
    if len(frames) < 2:
        return "engine", snapshot["engine"]
    parts = [f"{name} {counted(count, 'frame')}" for name, count in frames.items()]
    return "engines", f"{', '.join(parts)}; the figures below are of all engines"


def describe_sizes(snapshot: Snapshot) -> str:
    """Return what becomes of the source's frames before the network: what is cut, and how it is resized."""
    source, part, fitted = snapshot["source_size"], snapshot["part"], snapshot["fitted"]
    assert source is not None
    assert part is not None
    assert fitted is not None
    (height, width), (high, wide), (rows, columns) = source, part, fitted
    text = f"{width}x{height}"
    aspect = snapshot["pixel_aspect"]
    if aspect != 1:
        text += f" with pixels of {aspect:.4g}:1"
    if (high, wide) != (height, width):
        text += f", of which the middle {wide}x{high}"
    if (rows, columns) != (high, wide):
        how = "resized" if aspect != 1 else "enlarged" if rows > high else "made smaller"
        text += f", {how} to {columns}x{rows}"
    return text


def overlay(snapshot: Snapshot) -> list[str]:
    """Return the lines over the image: of the last seconds, short."""
    now, frames = snapshot["now"], snapshot["frames"]
    sizes = "" if snapshot["input"] is None else f"  {_input_to_output(snapshot)}"
    stages = {stage: times["p50"] for stage, times in now["stages_ms"].items() if times["p50"] is not None}
    screen = "" if now["fps_screen"] is None else f"{number(now['fps_screen'])} fps on the screen, "
    lines = [
        f"{snapshot['engine']}{sizes}",
        f"{screen}{number(now['fps_out'])} fps shown, {number(now['fps_in'])} captured, "
        f"{frames['dropped']} dropped",
        f"latency {_times(now['latency_ms'])}",
        "  ".join(f"{stage} {number(median)} ms" for stage, median in stages.items()),
    ]
    if snapshot["quality"] is not None:
        hasn, bicubic = snapshot["quality"]["hasn_db"], snapshot["quality"]["bicubic_db"]
        gain = "" if hasn is None or bicubic is None else f" ({hasn - bicubic:+.2f})"
        lines.append(f"PSNR-Y {decibels(hasn)}, bicubic {decibels(bicubic)}{gain}")
    if snapshot["limit"] is not None:
        lines.append(f"limited by {snapshot['limit']['text']}")
    return [line for line in lines if line]


def number(value: float | None) -> str:
    """Write a figure with three digits that mean something."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def decibels(value: float | None) -> str:
    """Write a PSNR; identical images have none."""
    return "-" if value is None else f"{value:.2f} dB"


def _times(times: Times) -> str:
    return f"p50 {number(times['p50'])} ms, p95 {number(times['p95'])} ms"


def _input_to_output(snapshot: Snapshot) -> str:
    size, output = snapshot["input"], snapshot["output"]
    assert size is not None
    assert output is not None
    return f"{size[1]}x{size[0]} to {output[1]}x{output[0]}"
