"""Every way to run the network on this machine's NVIDIA GPU, timed and compared with FP32.

    python benchmarks/gpu.py                   # both networks, three sizes, all cases
    python benchmarks/gpu.py --model hasn-x4-small --size 320x180 --seconds 3
    python benchmarks/gpu.py --rehearse        # on the CPU, to see that it runs; writes no result

PyTorch eager, TorchScript (with and without CUDA graphs) and torch.compile in FP32, FP16 and, eager, TF32;
ONNX Runtime's CUDA provider, TensorRT and TensorRT for RTX where they are installed and take this GPU, in
FP32, FP16 and INT8. Prints a table for each network and size and writes benchmarks/results/<gpu>_<date>.json
with all versions, anew after each case. What does not run is in the result with the words of what refused it.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from gpu_build import Made, build_all, words
from gpu_case import Bench, Case, Output
from rich.console import Console
from rich.table import Table

from hasn_edge.bench.board import Board, find_board
from hasn_edge.errors import HasnEdgeError
from hasn_edge.evaluation.latency import Latency
from hasn_edge.exporters.torchscript import torchscript_from_model
from hasn_edge.files import writing
from hasn_edge.hardware.host import describe_host
from hasn_edge.model.hasn import HASN
from hasn_edge.model.zoo import load_model
from hasn_edge.optional import installed_version
from hasn_edge.spec import Precision

MODELS = ("hasn-x4", "hasn-x4-small")
"""The one of the published network's size, and the small one. Both are trained: with random weights INT8 has
no quality that its gate could measure, and is not built."""

SIZES = "320x180,640x360,960x540"
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
)


def cases(bench: Bench, model: HASN, files: dict[str, Made], x: Output) -> Iterator[Case]:
    """Run every case of one network at one size; yield each when it is done."""
    on_device = torch.from_numpy(x).to(bench.device)
    half = model if bench.rehearsal else HASN(model.spec).eval().to(bench.device)
    if not bench.rehearsal:
        half.load_state_dict(model.state_dict())
        half = half.half()
    for precision in (Precision.FP32, Precision.FP16):
        own = model if precision is Precision.FP32 else half
        tensor = on_device if own is model else on_device.half()
        name = precision.value
        yield run(
            Case(label="PyTorch eager", precision=name),
            lambda case, own=own, tensor=tensor: bench.module(case, own, tensor),
        )
        if precision is Precision.FP32:
            # What only this GPU can tell comes first: whether engines load, and their golden images.
            yield from cases_of_files(bench, files, x)
        if precision is Precision.FP32 and not bench.rehearsal:
            with tf32():
                yield run(
                    Case(label="PyTorch eager", precision="tf32"),
                    lambda case: bench.module(case, model, on_device),
                )
        script = torchscript_from_model(model.cpu(), precision=precision).to(bench.device)
        model.to(bench.device)
        for graphs in (False, True):
            yield run(
                Case(label="TorchScript", precision=name, graphs=graphs),
                lambda case, script=script: bench.module(case, script, on_device.clone()),
            )
        torch.compiler.reset()
        yield run(
            Case(label="torch.compile", precision=name),
            lambda case, own=own, tensor=tensor: bench.module(case, torch.compile(own), tensor),
        )


def cases_of_files(bench: Bench, files: dict[str, Made], x: Output) -> Iterator[Case]:
    """Run what was built; what was not has the words of what refused it."""
    for label, made in files.items():
        name, precision = label.rsplit(" ", 1)
        case = Case(label=name, precision=precision, refused=made.refused)
        if made.path is None:
            case.error = "; ".join(made.refused)
            yield case
        else:
            first = run(case, lambda case, path=made.path: bench.session(case, path, x))
            yield first
            if first.facts and "mapped" in first.facts:  # an engine: the other way to give it memory
                other = not first.facts["mapped"]
                yield run(
                    Case(label=f"{name}, {'mapped' if other else 'copied'}", precision=precision),
                    lambda case, path=made.path, other=other: bench.session(case, path, x, mapped=other),
                )


def run(case: Case, work: Callable[[Case], None]) -> Case:
    """Do the work of a case; a failure of any library becomes its reason."""
    try:
        with torch.inference_mode():
            work(case)
    except HasnEdgeError as exc:
        case.error = words(exc)
    except Exception as exc:
        case.error = f"{type(exc).__name__}: {words(exc)}"
    if case.error:
        case.gpu = case.host = case.enqueue = case.output = None
    return case


@contextmanager
def tf32() -> Iterator[None]:
    """Let convolutions use TF32 inside the block."""
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = False


def table(title: str, found: list[Case]) -> Table:
    """Return one table: a row a case."""
    grid = Table(title=title, title_justify="left")
    for heading in ("", "precision", "graph", "GPU median", "p99", "std", "host median", "p99", "dB", "mJ"):
        grid.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    reference = found[0].output if found else None
    for case in found:
        if case.error:
            grid.add_row(case.label, case.precision, "yes" if case.graphs else "no", *["-"] * 7)
            continue
        difference = case.difference(reference)
        psnr = "-" if difference is None else "equal" if math.isinf(difference[1]) else f"{difference[1]:.1f}"
        energy = "-" if case.joules_per_frame is None else f"{case.joules_per_frame * 1e3:.1f}"
        grid.add_row(
            case.label,
            case.precision,
            "yes" if case.graphs else "no",
            *_three(case.gpu),
            *_three(case.host)[:2],
            psnr,
            energy,
        )
    return grid


def reasons(case: Case) -> list[str]:
    """Return what refused a case, one message each."""
    whole = "; ".join(case.refused)
    return [*case.refused, *([case.error] if case.error and case.error != whole else [])]


def short(text: str | None) -> str:
    """Return the beginning of a message; the result file has it whole."""
    return "" if text is None else text if len(text) <= 300 else text[:300] + " ..."


def _three(latency: Latency | None) -> list[str]:
    if latency is None:
        return ["-"] * 3
    return [f"{v:.3f}" for v in (latency.median_ms, latency.quantile_ms(0.99), latency.std_ms)]


def _sizes(text: str) -> list[tuple[int, int]]:
    pairs = [part.lower().split("x") for part in text.split(",")]
    return [(int(height), int(width)) for width, height in pairs]


@click.command()
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True)
@click.option("--size", "sizes", default=SIZES, show_default=True, help="WxH, comma-separated.")
@click.option("--seconds", default=10.0, show_default=True, help="For each figure, at least.")
@click.option("--runs", default=200, show_default=True, help="Calls of each case, at least.")
@click.option("--rehearse", is_flag=True, help="On the CPU, without a result file unless -o names one.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="Result file.")
def main(
    models: tuple[str, ...], sizes: str, seconds: float, runs: int, rehearse: bool, output: Path | None
) -> None:
    """Time the network in every way this GPU can run it."""
    board = find_board("cpu" if rehearse else "cuda")
    if not rehearse and not torch.cuda.is_available():
        raise click.ClickException(f"PyTorch {torch.__version__} sees no GPU; install its CUDA build")
    torch.backends.cudnn.allow_tf32 = False
    source, no_power = (None, "rehearsal") if rehearse else board.power()
    bench = Bench(device="cpu" if rehearse else "cuda", seconds=seconds, runs=runs, source=source)
    before = board.facts()
    results = []
    console = Console(width=130)
    with tempfile.TemporaryDirectory(prefix="hasn-edge-gpu-") as folder:
        for name in models:
            model = load_model(name).eval()
            for size in _sizes(sizes):
                x = np.random.default_rng(0).random((1, model.spec.channels, *size), dtype=np.float32)
                files = build_all(board.gpu, name, size, Path(folder) / Path(name).stem)
                found: list[Case] = []
                result = {"model": name, "size": {"height": size[0], "width": size[1]}, "cases": []}
                results.append(result)
                for case in cases(bench, model.to(bench.device), files, x):
                    found.append(case)
                    click.echo(f"  {case.label} {case.precision}: {short(case.error) or 'done'}", err=True)
                    # After each case: what ends the process later takes nothing of it along.
                    result["cases"] = [one.to_dict(found[0].output) for one in found]
                    write(board, before, results, no_power, rehearse, output)
                what = "REHEARSAL on a CPU: " if rehearse else ""
                title = f"{what}{name}, {size[1]}x{size[0]}, {board.title}: milliseconds"
                console.print(table(title, found))
                for case in found:
                    for text in reasons(case):
                        click.echo(f"- {case.label} {case.precision}: {short(text)}")
    if source is not None:
        source.close()
    written = write(board, before, results, no_power, rehearse, output)
    if written:
        click.echo(str(written))


def write(
    board: Board,
    before: dict[str, Any],
    results: list[dict[str, Any]],
    no_power: str,
    rehearsal: bool,
    output: Path | None,
) -> Path | None:
    """Write the result file; a rehearsal only where it is asked for by name."""
    today = datetime.date.today()
    if output is None:
        if rehearsal:
            return None
        name = re.sub(r"[^a-z0-9]+", "_", board.title.lower()).strip("_")
        output = Path(__file__).parent / "results" / f"{name}_{today:%Y%m%d}.json"
    content = {
        "schema": 1,
        "rehearsal": rehearsal,
        "device": {"before": before, "after": board.facts(), "power": no_power or "read"},
        "versions": {
            "cuda (PyTorch)": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            **{name: version for name in PACKAGES if (version := installed_version(name))},
        },
        "environment": describe_host(),
        "conventions": list(CONVENTIONS),
        "results": results,
        "date": today.isoformat(),
        "command": "python " + shlex.join(sys.argv),
    }
    with writing(output) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return output


if __name__ == "__main__":
    main()
