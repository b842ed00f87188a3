"""HASN beside the networks of its paper's Table 1: counts, what an engine moves, times, and which to choose.

    python benchmarks/comparators.py                            # everything
    python benchmarks/comparators.py --only counts              # minutes; engines need no GPU
    python benchmarks/comparators.py --only times --threads 2   # under six minutes, on a quiet machine

Engines are compiled by TensorRT for RTX, whose wheels have to be installed. A part keeps what the other
has written. All at x4 and random weights, which change no cost: 320x180 pixels become 1280x720. Prints the
table and writes it with its figures to benchmarks/results/.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from result_files import machine_words, publish
from torch import nn

from hasn_edge.bench.table import GAP, markdown_table
from hasn_edge.engine.compile import kernels_from_onnx
from hasn_edge.engine.target import load_target
from hasn_edge.errors import HasnEdgeError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.fuse.apply import DEFAULT_RULES, fuse
from hasn_edge.hardware.host import compute_cores
from hasn_edge.model.comparators import NETWORKS, RANDOM, load_comparator
from hasn_edge.model.complexity import NetworkCounts, count
from hasn_edge.model.hasn import HASN
from hasn_edge.model.zoo import load_model_checkpoint
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.spec import Precision

OWN = ("hasn-x4", "hasn-x4-small")
CITED = {"hasn-x4": (32.17, 28.59)}
"""Of our own, Set5 and Set14: the paper's Table 9, without the self-ensemble of its Table 1."""

SQUARE, FRAME = (256, 256), (180, 320)

LONGEST = 1e12
"""MACs a frame above which a network is not timed here: it takes ten seconds and more."""

AS_GOOD_DB = 0.05
"""dB below HASN on Set5 that still count as good as HASN."""

CLEARLY = 0.9
"""Share of what HASN takes below which another counts as less."""

HEADINGS = (
    "network", "parameters", "GMACs, 256x256", "GMACs, 320x180", "M activations, 256x256", "convolutions",
    "RTX FP16 kernels", "MB moved", "CPU, ms", "times HASN's", "Set5, dB (cited)", "Set14, dB (cited)",
)  # fmt: skip

Row = dict[str, Any]


def network_of(name: str, backend: str) -> nn.Module:
    """Return a network as a backend runs it: ours with the fusion rules that are its default."""
    if name in OWN:
        return fuse(HASN(load_model_checkpoint(name).spec).eval(), DEFAULT_RULES[backend])[0]
    return load_comparator(name, RANDOM)


def counts_of(name: str, size: tuple[int, int]) -> NetworkCounts:
    """Return the counts of a network, as it is published."""
    if name in OWN:
        return count(load_model_checkpoint(name).spec, *size)
    network = load_comparator(name, RANDOM)
    return network.network.counts(*size)


def convolutions_of(graph: onnx.ModelProto) -> int:
    """Return how many convolutions a graph runs, without those that enlarge an image."""
    return sum(
        node.op_type in ("Conv", "ConvTranspose") and "enlarge" not in node.name for node in graph.graph.node
    )


def add_counts(rows: Mapping[str, Row]) -> None:
    """Count each network and compile its engine."""
    target = load_target("rtx").with_size(*FRAME)
    for name, row in rows.items():
        square, frame = counts_of(name, SQUARE), counts_of(name, FRAME)
        own = HASN(load_model_checkpoint(name).spec).eval() if name in OWN else network_of(name, "")
        row["parameters"], row["macs"] = square.parameters, [square.macs, frame.macs]
        row["activations"] = square.activations
        row["convolutions"] = convolutions_of(onnx_from_model(own, opset=20, simplify=False))
        graph = onnx_from_model(network_of(name, "rtx"), opset=20, size=FRAME)
        row["kernels"] = row["moved"] = None
        try:
            half = fp16_onnx_from_onnx(graph).SerializeToString()
            found = kernels_from_onnx(half, target, precision=Precision.FP16)
            row["kernels"], row["moved"] = found.all, found.moved_bytes
        except HasnEdgeError as exc:
            row["no_engine"] = str(exc).splitlines()[0]
        click.echo(f"{name}: {row['convolutions']} convolutions, {row['kernels']} kernels", err=True)


def add_times(rows: Mapping[str, Row], rounds: int, threads: int) -> None:
    """Time all networks in each round, and set the median and the median ratio to HASN within a round."""
    sessions = {}
    for name in rows:
        if counts_of(name, FRAME).macs <= LONGEST:
            graph = onnx_from_model(network_of(name, "onnxruntime"), opset=17, size=FRAME)
            sessions[name] = OnnxRuntimeSession(graph.SerializeToString(), threads=threads)
    x = np.random.default_rng(0).random((1, 3, *FRAME), dtype=np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for index in range(rounds + 1):
        for name, session in sessions.items():
            begin = time.perf_counter()
            session.run(x)
            if index:  # the first round warms up
                seconds[name].append(time.perf_counter() - begin)
        click.echo(f"round {index} of {rounds}", err=True)
    for name, row in rows.items():
        own = seconds.get(name)
        row["ms"] = own and statistics.median(own) * 1e3
        ratios = own and [one / base for one, base in zip(own, seconds[OWN[0]], strict=True)]
        row["ratio"] = ratios and statistics.median(ratios)
        row["ratio_range"] = ratios and [min(ratios), max(ratios)]


def cells(name: str, row: Row) -> list[str]:
    """Return a row of the table."""

    def written(value: float | None, form: str, factor: float = 1.0) -> str:
        return GAP if value is None else format(value * factor, form)

    square, frame = row.get("macs", (None, None))
    cited = row["cited"]
    return [
        row["title"],
        written(row.get("parameters"), ",d", 1),
        written(square, ",.2f", 1e-9),
        written(frame, ",.2f", 1e-9),
        written(row.get("activations"), ",.1f", 1e-6),
        written(row.get("convolutions"), "d", 1),
        written(row.get("kernels"), "d", 1),
        written(row.get("moved"), ",.0f", 1e-6),
        written(row.get("ms"), ",.0f"),
        written(row.get("ratio"), ".2f"),
        written(cited[0], ".2f"),
        written(cited[1], ".2f"),
    ]


def answers(rows: Mapping[str, Row]) -> Iterator[str]:
    """Yield where HASN is not the one to choose, as the figures have it."""
    own = rows[OWN[0]]
    least = own["cited"][0] - AS_GOOD_DB
    alike = {name: row for name, row in rows.items() if name not in OWN and (row["cited"][0] or 0) >= least}
    yield (
        f"As good by their papers (Set5 at least {least:.2f} dB, {AS_GOOD_DB} below the paper's HASN without "
        f"self-ensemble): {', '.join(alike)}."
    )
    yield (
        "Table 1 gives HASN 32.23 and 28.66 dB with a self-ensemble, which runs it eight times: at eight "
        "times these costs."
    )
    for key, unit, factor, what in (
        ("moved", "MB", 1e-6, "On an RTX GPU, where networks of this kind wait for memory"),
        ("ms", "ms", 1.0, "On this CPU"),
        ("parameters", "k parameters", 1e-3, "Where the file has to be small"),
    ):
        if own.get(key) is None:
            continue
        limit = CLEARLY * own[key]
        better = {name: row[key] for name, row in alike.items() if (row.get(key) or 9e99) < limit}
        listed = ", ".join(
            f"{name} ({value * factor:,.0f})"
            for name, value in sorted(better.items(), key=lambda one: one[1])
        )
        yield (
            f"{what}, these come before HASN with its {own[key] * factor:,.0f} {unit}: {listed}."
            if better
            else f"{what}, none of them is clearly below HASN's {own[key] * factor:,.0f} {unit}: choose HASN."
        )
    yield (
        "What is measured of HASN here and is not of the others: quality of the weights that ship, INT8 "
        "within a budget, and what a board is expected to do."
    )


def page(content: Mapping[str, Any]) -> str:
    """Return the result as Markdown."""
    rows = content["rows"]
    lines = ["# HASN beside the networks of its paper's Table 1, x4", ""]
    lines += markdown_table(HEADINGS, [cells(name, row) for name, row in rows.items()])
    lines += ["", *(f"- {text}" for text in answers(rows))]
    lines += [
        "",
        "MACs of HASN by fvcore's rules, of the others of their convolutions alone, a transposed one at its "
        "output's size, of luma where a network computes luma; recursive ones count and run as often as they "
        "repeat. Kernels, bytes and times are of the whole way from RGB to RGB, the bicubic enlargement "
        "included; kernels and bytes of an FP16 engine of TensorRT for RTX at 320x180, as its compiler lists "
        "them: nothing was executed. HASN has the fusion rules of each backend. PSNR is cited: of the others "
        "from Table 1 of HASN's paper, of HASN from its Table 9; nothing of it was measured here, and the "
        "weights that are bundled as hasn-x4 reach less (their card).",
        "",
        f"CPU: ONNX Runtime FP32 at 320x180, median of the rounds; the ratio is the median of those within a "
        f"round. Networks above {LONGEST / 1e9:,.0f} GMACs are not timed.",
    ]
    failed = [
        f"No engine of {name}: {row['no_engine']}." for name, row in rows.items() if row.get("no_engine")
    ]
    lines += ["", *failed] if failed else []
    for part, facts in content["printed"].items():
        lines += ["", f"{part.capitalize()} printed by {facts}."]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--only", type=click.Choice(["counts", "times"]), default=None, help="One part of it.")
@click.option("--rounds", type=click.IntRange(2), default=12, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=None, help="[default: one a core]")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(only: str | None, rounds: int, threads: int | None, output: Path) -> None:
    """Count, compile and time; print and write the table."""
    store = output / "comparators_202611.json"
    rows: dict[str, Row] = {}
    for name in (*OWN, *NETWORKS):
        published = NETWORKS.get(name)
        cited = (published.set5_db, published.set14_db) if published else CITED.get(name, (None, None))
        rows[name] = {"title": published.paper if published else name, "cited": cited}
    printed: dict[str, str] = {}
    if only is not None and store.is_file():
        before = json.loads(store.read_text(encoding="utf-8"))
        printed = before["printed"]
        for name, row in rows.items():
            row |= {key: value for key, value in before["rows"].get(name, {}).items() if key not in row}
    machine = machine_words()
    day = datetime.date.today().isoformat()
    if only != "times":
        add_counts(rows)
        printed["counts"] = f"`python benchmarks/comparators.py --only counts` on {day}; {machine}"
    if only != "counts":
        threads = threads or compute_cores()
        pinned = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "any"
        add_times(rows, rounds, threads)
        command = f"python benchmarks/comparators.py --only times --rounds {rounds} --threads {threads}"
        printed["times"] = f"`{command}` on {day}, {threads} threads on the cores {pinned}; {machine}"
    content = {"rows": rows, "printed": printed}
    publish(page(content), output, store.stem, content)


if __name__ == "__main__":
    main()
