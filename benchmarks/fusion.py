"""Which fusion rules pay on which CPU backend: all combinations timed in rounds, ratios taken within a round.

    python benchmarks/fusion.py                    # the published network, 320x180, a few minutes
    python benchmarks/fusion.py --rounds 3 --backend onnxruntime
    python benchmarks/fusion.py --backend onnxruntime --backend openvino --only-fixed --name openvino
    python benchmarks/fusion.py --rounds 30 --rules unfused --rules compose_esa --name few
    python benchmarks/fusion.py --backend onnxruntime --backend ncnn --backend torch.compile --name others

Times do not depend on the weights, so without --model the published network is timed as PyTorch initialises
it. torch.compile needs minutes and a C++ compiler, ncnn `pip install --no-deps ncnn pnnx`: both run only
where they are asked for. Prints a table and writes it, with every raw sample, to benchmarks/results/.
"""

from __future__ import annotations

import datetime
import random
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch
from result_files import origin, write
from rich.console import Console
from rich.table import Table

from hasn_edge.cli.common import SIZE
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.exporters.torchscript import torchscript_bytes, torchscript_from_model
from hasn_edge.fuse.apply import DEFAULT_RULES, RULES, fuse
from hasn_edge.hardware.host import compute_cores, describe_host, has_bf16
from hasn_edge.model.hasn import HASN
from hasn_edge.model.zoo import load_model
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.runtime.openvino import OpenVinoSession
from hasn_edge.runtime.pytorch import PyTorchSession
from hasn_edge.runtime.session import Session
from hasn_edge.runtime.torchscript import TorchScriptSession

TOLERANCE = 2e-5
"""Largest accepted difference of a case's output from the unfused network's; a case beyond it is a bug."""

BF16_TOLERANCE = 0.05
"""The same in BF16, which has 8 bits."""

TWO, CPU, ALL = ("norm_affine", "compose_esa"), DEFAULT_RULES["onnxruntime"], tuple(RULES)


@dataclass(kw_only=True)
class Case:
    """One backend with one set of rules."""

    backend: str
    rules: tuple[str, ...] = ()
    channels_last: bool = False
    static: bool = False
    decompose_norm: bool = False
    as_stated: bool = False
    """In OpenVINO: not in the forms that are faster on CPUs."""
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Rules and options as text."""
        words = ["+".join(self.rules) if self.rules else "unfused"]
        words += ["channels-last"] if self.channels_last else []
        words += ["fixed size"] if self.static else []
        words += ["norm decomposed"] if self.decompose_norm else []
        words += ["as stated"] if self.as_stated else []
        return ", ".join(words)

    def session(self, model: HASN, size: tuple[int, int], threads: int, folder: Path) -> Session:
        """Return what runs this case."""
        network = fuse(model, self.rules)[0] if self.rules else model
        if self.backend == "pytorch":
            return PyTorchSession(network, channels_last=self.channels_last, threads=threads)
        if self.backend == "torch.compile":
            return PyTorchSession(network, threads=threads, compiled=True)
        if self.backend == "ncnn":
            return NcnnSession(network, size, threads, folder)
        if self.backend == "torchscript":
            path = folder / "case.ts"
            module = torchscript_from_model(network, channels_last=self.channels_last)
            path.write_bytes(torchscript_bytes(module))
            return TorchScriptSession(path, model.spec, threads=threads)
        graph = onnx_from_model(
            network, size=size if self.static else None, decompose_norm=self.decompose_norm
        )
        data = graph.SerializeToString()
        if self.backend == "onnxruntime":
            return OnnxRuntimeSession(data, threads=threads)
        bf16 = self.backend == "openvino-bf16"
        return OpenVinoSession(data, model.spec, threads=threads, bf16=bf16, as_stated=self.as_stated)


class NcnnSession(Session):
    """The network in Tencent's ncnn on a CPU, in FP32, converted by its own tool from a traced network."""

    backend = "ncnn"

    def __init__(self, network: HASN, size: tuple[int, int], threads: int, folder: Path) -> None:
        import ncnn

        script, (height, width) = folder / "ncnn.pt", size
        torch.jit.trace(network, torch.zeros(1, network.spec.channels, height, width)).save(script)
        shape = f"inputshape=[1,{network.spec.channels},{height},{width}]"
        subprocess.run(
            ["pnnx", script.name, shape, "fp16=0"], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        self.net = ncnn.Net()
        self.net.opt.num_threads = threads
        # Otherwise it keeps activations with 16 bits where the CPU can.
        self.net.opt.use_fp16_packed = self.net.opt.use_fp16_storage = self.net.opt.use_bf16_storage = False
        self.net.load_param(str(folder / "ncnn.ncnn.param"))
        self.net.load_model(str(folder / "ncnn.ncnn.bin"))
        self.matrix = ncnn.Mat
        super().__init__(network.spec, size=size)

    def _run(self, x_NCHW: np.ndarray) -> np.ndarray:
        extractor = self.net.create_extractor()
        extractor.input("in0", self.matrix(x_NCHW[0]))
        return np.array(extractor.extract("out0")[1])[None]

    def _close(self) -> None:
        self.net = None


ONLY_ASKED = ("torch.compile", "ncnn")
"""Backends that take minutes or packages that no other case needs."""


def cases() -> list[Case]:
    """Return every case; the first of each backend is the unfused network there."""
    made = [Case(backend="pytorch", rules=rules) for rules in ((), TWO)]
    made.append(Case(backend="pytorch", channels_last=True))
    made += [Case(backend="torchscript", rules=rules) for rules in ((), TWO)]
    made.append(Case(backend="torchscript", rules=TWO, channels_last=True))
    made += [
        Case(backend="onnxruntime", rules=rules) for rules in ((), *((r,) for r in RULES), TWO, CPU, ALL)
    ]
    made.append(Case(backend="onnxruntime", rules=CPU, decompose_norm=True))
    made += [Case(backend="onnxruntime", rules=rules, static=True) for rules in ((), TWO, CPU, ALL)]
    made.append(Case(backend="onnxruntime", rules=CPU, static=True, decompose_norm=True))
    for backend in ("openvino", *(["openvino-bf16"] if has_bf16() else [])):
        made += [Case(backend=backend, rules=rules, static=True) for rules in ((), TWO, CPU, ALL)]
        for rules in ((), TWO, CPU):
            made.append(Case(backend=backend, rules=rules, static=True, as_stated=True))
        made.append(Case(backend=backend, rules=CPU, static=True, as_stated=True, decompose_norm=True))
        made.append(Case(backend=backend, rules=CPU))
    made += [Case(backend=backend, static=True) for backend in ONLY_ASKED]
    return made


def measure(
    chosen: list[Case], model: HASN, size: tuple[int, int], threads: int, rounds: int, console: Console
) -> None:
    """Run all cases in rounds, in another order each time; check each output once."""
    torch.set_num_threads(threads)
    x = np.random.default_rng(0).random((1, model.spec.channels, *size), dtype=np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
    sessions: list[Session] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in chosen:
            session = case.session(model, size, threads, Path(folder))
            # TorchScript specialises itself during its second call.
            for _ in range(2 if case.backend == "torchscript" else 1):
                difference = float(np.abs(session.run(x) - expected).max())
            if not difference <= (BF16_TOLERANCE if case.backend == "openvino-bf16" else TOLERANCE):
                raise click.ClickException(
                    f"{case.backend}, {case.label}: output differs by {difference:.2g}"
                )
            sessions.append(session)
    order = list(range(len(chosen)))
    shuffled = random.Random(0)
    for number in range(rounds):
        shuffled.shuffle(order)
        for index in order:
            # Threads of the case before may still spin for a moment, waiting for work.
            time.sleep(0.02)
            wall, cpu = time.perf_counter(), time.process_time()
            sessions[index].run(x)
            chosen[index].seconds.append(time.perf_counter() - wall)
            chosen[index].cpu_seconds.append(time.process_time() - cpu)
        console.print(f"round {number + 1} of {rounds}", style="dim")


def ratio(of: list[float], to: list[float]) -> float:
    """Return how many times faster ``to`` is than ``of``: the median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def spread(of: list[float], to: list[float]) -> str:
    """Return :func:`ratio` with the quartiles of the rounds' ratios."""
    low, high = np.quantile([a / b for a, b in zip(of, to, strict=True)], (0.25, 0.75))
    return f"{ratio(of, to):.2f} ({low:.2f}-{high:.2f})"


def rows(chosen: list[Case]) -> list[tuple[str, ...]]:
    """Return one row a case: backend, case, milliseconds, and four ratios, the last two to the first case."""
    first = {case.backend: case for case in reversed(chosen)}
    reference = chosen[0]
    return [
        (
            case.backend,
            case.label,
            f"{statistics.median(case.seconds) * 1e3:.0f}",
            f"{min(case.seconds) * 1e3:.0f}",
            f"{ratio(first[case.backend].seconds, case.seconds):.2f}",
            spread(first[case.backend].cpu_seconds, case.cpu_seconds),
            f"{ratio(reference.seconds, case.seconds):.2f}",
            spread(reference.cpu_seconds, case.cpu_seconds),
        )
        for case in chosen
    ]


HEADINGS = (
    "backend",
    "rules",
    "median, ms",
    "fastest, ms",
    "speed-up in this backend",
    "in CPU time",
    "speed-up over the first row",
    "in CPU time",
)


def markdown(chosen: list[Case], notes: list[str], title: str) -> str:
    """Return the table with its conventions."""
    lines = [f"# {title}", "", "| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(chosen)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def conventions(model: str | None, threads: int, rounds: int, machine: dict[str, str]) -> list[str]:
    """Return what a reader needs to know to trust or repeat the figures."""
    return [
        f"FP32, batch 1, host to host, {threads} thread(s), {rounds} rounds; warm-up calls not counted.",
        "All cases run in rounds in one process, in another order each time. A speed-up is the median over "
        "rounds of the ratio within a round, which other work on the machine disturbs less than the times.",
        "CPU time is summed over threads; in brackets the quartiles over rounds. With one thread it is what "
        "other work disturbs least; with several, PyTorch's threads wait actively for one another and lose "
        "more than others on a busy machine, so believe such a run only where the machine was idle.",
        f"Every output was within {TOLERANCE:.0e} of the unfused network's in PyTorch, in BF16 within "
        f"{BF16_TOLERANCE:g}.",
        f"Model: {model or 'the published network as PyTorch initialises it'}.",
        "Not measured: TensorRT and TensorRT for RTX (no GPU).",
        *origin(machine=machine),
    ]


@click.command(help=__doc__)
@click.option("--model", default=None, help="Bundled name or weights file; default: the published network.")
@click.option("--size", type=SIZE, default="320x180", show_default=True, help="Input's size.")
@click.option("--rounds", default=8, show_default=True, help="Times that every case is timed.")
@click.option(
    "--threads", default=compute_cores(), show_default=True, help="One resists a busy machine best."
)
@click.option("--backend", "backends", multiple=True, help="Only these backends; repeatable.")
@click.option(
    "--rules", "labels", multiple=True, help="Only these cases, as the table names them; repeatable."
)
@click.option("--only-fixed", is_flag=True, help="Only cases of a fixed size, as for a video.")
@click.option("--name", default="fusion_cpu", show_default=True, help="Start of the result files' names.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(
    model: str | None,
    size: tuple[int, int],
    rounds: int,
    threads: int,
    backends: tuple[str, ...],
    labels: tuple[str, ...],
    only_fixed: bool,
    name: str,
    output: Path,
) -> None:
    """Measure, print, write."""
    console = Console()
    height, width = size
    torch.manual_seed(0)
    network = (load_model(model) if model else HASN()).eval().requires_grad_(False)
    chosen = [
        case
        for case in cases()
        if (case.backend in backends if backends else case.backend not in ONLY_ASKED)
        and (not labels or case.label in labels)
        and (case.static or not only_fixed)
    ]
    machine = describe_host()
    measure(chosen, network, size, threads, rounds, console)
    title = f"Fusion on a CPU, {width}x{height} -> {width * network.spec.scale}x{height * network.spec.scale}"
    notes = conventions(model, threads, rounds, machine)
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if index < 2 else "right")
    for row in rows(chosen):
        table.add_row(*row)
    console.print(table)
    for note in notes:
        console.print(f"- {note}")
    stem = f"{name}_{datetime.date.today():%Y%m}"
    raw = {
        "title": title,
        "notes": notes,
        "machine": machine,
        "cases": [
            {
                "backend": case.backend,
                "case": case.label,
                "seconds": case.seconds,
                "cpu_seconds": case.cpu_seconds,
            }
            for case in chosen
        ],
    }
    write(markdown(chosen, notes, title), output, stem, raw)
    console.print(f"written: {output / stem}.json and .md")


if __name__ == "__main__":
    main()
