"""The first minutes on an NVIDIA GPU: whether engines load, what they compute, and how fast each way is.

    python benchmarks/gpu.py                   # both networks, 320x180 and 640x360, 8 minutes at most
    python benchmarks/gpu.py --model hasn-x4-small --size 320x180 --seconds 3 --deadline 180
    python benchmarks/gpu.py --deadline 7200   # on a Jetson, which compiles an engine for minutes
    python benchmarks/gpu.py --rehearse        # each call twice on the CPU; writes no result

Needs ``pip install 'hasn-edge[export,rtx,cuda,nvml]'``: PyTorch, where a build for the CPU will do, a
compiler of engines, CUDA from Python, and what reads the power.

In this order, each step in a process of its own that builds what it needs: does an engine load; the golden
image; FP16 against INT8 against torch.compile and eager at each size; CUDA graphs; mapped memory; what
TensorRT's inspector states on the device; then the rest (TF32, TorchScript, ONNX Runtime's CUDA provider,
FP32). A step that fails, crashes or hangs is in the result with its reason, and the next one follows. Engines
are those of TensorRT for RTX, on a Jetson of TensorRT, elsewhere of both where both are installed. Writes
benchmarks/results/<gpu>_<date>.json with all versions, anew after each step, and prints a table.
"""

from __future__ import annotations

import datetime
import json
import re
import shlex
import signal
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from gpu_isolate import BUILD_LIMIT_S, LIMIT_S, run_steps
from rich.console import Console
from rich.table import Table

from hasn_edge.bench.board import Board, find_board
from hasn_edge.cli.common import SIZE
from hasn_edge.errors import HasnEdgeError
from hasn_edge.files import writing
from hasn_edge.hardware.host import describe_host
from hasn_edge.interrupt import HANG_UP
from hasn_edge.optional import installed_version

MODELS = ("hasn-x4", "hasn-x4-small")
"""The one of the published network's size, and the small one. Both are trained: with random weights INT8 has
no quality that its gate could measure, and is not built."""

SIZES = "320x180,640x360"
DEADLINE_S = 480.0
PACKAGES = (
    "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13-bindings", "cuda-python",
    "pycuda", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "triton",
)  # fmt: skip

CONVENTIONS = (
    "batch 1, float32 NCHW; GPU: between two CUDA events around one call, input on the GPU already; host: "
    "array in the CPU's memory to array there, copies included",
    "fp32 without TF32; tf32: convolutions may round their inputs to 10 bits of mantissa",
    "difference: largest absolute one from PyTorch eager fp32 on the same noise, and its PSNR (range 1)",
    "energy: all that the card drew while the calls were timed (host to host) over all frames",
    "moved bytes: all tensors that an engine's kernels read and write, whole, constants too",
)


def table(title: str, steps: list[dict[str, Any]]) -> Table:
    """Return one table: a row a case, or a step that has none."""
    grid = Table(title=title, title_justify="left")
    columns = ("", "precision", "size", "graph", "GPU median", "p99", "std", "host median", "p99", "dB", "mJ")
    for heading in columns:
        grid.add_column(heading, justify="left" if not heading else "right", overflow="fold")
    for step in steps:
        cases = (step["result"] or {}).get("cases")
        if cases is None:
            grid.add_row(f"{step['name']}: {step['state']}", *["-"] * (len(columns) - 1))
            continue
        for case in cases:
            energy = case["joules_per_frame"]
            grid.add_row(
                case["label"],
                case["precision"],
                f"{case['size']['width']}x{case['size']['height']}",
                "yes" if case["cuda_graphs"] else "no",
                *(_number(case["gpu"], name) for name in ("median_ms", "p99_ms", "std_ms")),
                *(_number(case["host"], name) for name in ("median_ms", "p99_ms")),
                "equal" if case["max_abs_difference"] == 0 else _number(case, "psnr_db", digits=1),
                "-" if energy is None else f"{energy * 1e3:.1f}",
            )
    return grid


def _number(values: dict[str, Any] | None, name: str, *, digits: int = 3) -> str:
    return "-" if values is None or values[name] is None else f"{values[name]:.{digits}f}"


def reasons(steps: list[dict[str, Any]]) -> list[str]:
    """Return what kept steps and cases from running, one message each."""
    found = []
    for step in steps:
        found += [f"{step['name']}: {step['reason']}"] if step["reason"] else []
        for case in (step["result"] or {}).get("cases", ()):
            found += [f"{step['name']}, {case['label']}: {case['error']}"] if case["error"] else []
    return found


def short(text: str | None) -> str:
    """Return the beginning of a message; the result file has it whole."""
    return "" if text is None else text if len(text) <= 300 else text[:300] + " ..."


def engine_runtimes(board: Board) -> list[str]:
    """Return what compiles engines here, that whose answer is looked for first."""
    from gpu_steps import RTX, TENSORRT

    if board.jetson is not None:
        return [TENSORRT]
    return [RTX, TENSORRT] if find_spec("tensorrt") is not None else [RTX]


def _sizes(text: str) -> list[tuple[int, int]]:
    return [SIZE(part) for part in text.split(",")]


@click.command()
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True)
@click.option("--size", "sizes", default=SIZES, show_default=True, help="WxH, comma-separated.")
@click.option("--seconds", default=3.0, show_default=True, help="For each figure, at least.")
@click.option("--runs", default=100, show_default=True, help="Calls of each case, at least.")
@click.option(
    "--deadline", default=DEADLINE_S, show_default=True, help="Seconds in all; what is left then is skipped."
)
@click.option(
    "--limit",
    type=float,
    default=None,
    help=f"Seconds for one step; {LIMIT_S:g}, {BUILD_LIMIT_S:g} where it may build an engine first, on a "
    "Jetson the deadline alone.",
)
@click.option("--rehearse", is_flag=True, help="On the CPU, without a result file unless -o names one.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="Result file.")
def main(
    models: tuple[str, ...],
    sizes: str,
    seconds: float,
    runs: int,
    deadline: float,
    limit: float | None,
    rehearse: bool,
    output: Path | None,
) -> None:
    """Ask the GPU here what only a GPU tells."""
    begin = time.monotonic()
    try:
        board = find_board("cpu" if rehearse else "cuda")
    except HasnEdgeError as exc:
        raise click.ClickException(f"{exc.message}; --rehearse goes through the steps on this CPU") from exc
    if find_spec("torch") is None:
        raise click.ClickException("every step needs PyTorch; install one, a build for the CPU will do")
    from gpu_steps import Setting, steps_of

    if rehearse:  # a CPU needs seconds for what takes a GPU milliseconds
        seconds, runs = 0.0, min(runs, 2)
    if limit is None and board.jetson is not None:
        limit = deadline
    no_power = "rehearsal" if rehearse else _why_no_power(board)
    before = board.facts()
    with tempfile.TemporaryDirectory(prefix="hasn-edge-gpu-") as folder:
        of_models = []
        for name in models:
            setting = Setting(
                model=name,
                device="cpu" if rehearse else "cuda",
                seconds=seconds,
                runs=runs,
                folder=Path(folder),
            )
            of_models.append(steps_of(setting, _sizes(sizes), engine_runtimes(board), limit_s=limit))
        # What matters most of each network comes before what matters less of the first.
        steps = [step for alike in zip(*of_models, strict=True) for step in alike]
        last = ""

        def report(found: list[dict[str, Any]]) -> None:
            nonlocal last
            write(board, before, found, no_power, rehearse, output)
            ended = [entry for entry in found if entry["state"] not in ("waiting", "running")]
            if ended and ended[-1]["name"] != last:
                last = ended[-1]["name"]
                click.echo(f"  {last}: {short(ended[-1]['reason']) or ended[-1]['state']}", err=True)

        found = run_steps(steps, deadline_s=deadline - (time.monotonic() - begin), report=report)
    what = "REHEARSAL on a CPU: " if rehearse else ""
    Console(width=140).print(table(f"{what}{board.title}: milliseconds", found))
    for text in reasons(found):
        click.echo(f"- {short(text)}")
    written = write(board, before, found, no_power, rehearse, output)
    if written:
        click.echo(str(written))


def _why_no_power(board: Board) -> str:
    """Return why power cannot be read; nothing where it can, for each step opens its own source."""
    source, reason = board.power()
    if source is not None:
        source.close()
    return reason


def write(
    board: Board,
    before: dict[str, Any],
    steps: list[dict[str, Any]],
    no_power: str,
    rehearsal: bool,
    output: Path | None,
) -> Path | None:
    """Write the result file, whole or not at all; a rehearsal only where it is asked for by name."""
    today = datetime.date.today()
    if output is None:
        if rehearsal:
            return None
        name = re.sub(r"[^a-z0-9]+", "_", board.title.lower()).strip("_")
        output = Path(__file__).parent / "results" / f"{name}_{today:%Y%m%d}.json"
    content = {
        "schema": 2,
        "rehearsal": rehearsal,
        "device": {"before": before, "after": board.facts(), "power": no_power or "read"},
        "versions": {name: version for name in PACKAGES if (version := installed_version(name))},
        "environment": describe_host(),
        "conventions": list(CONVENTIONS),
        "steps": steps,
        "date": today.isoformat(),
        "command": "python " + shlex.join(sys.argv),
    }
    with writing(output) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return output


def end_by_signals() -> None:
    """Let SIGTERM and a lost connection end the step under way too, unless they are ignored (nohup)."""
    for number in (signal.SIGTERM, *HANG_UP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    end_by_signals()
    main()
