"""Where OpenVINO's time on a CPU goes, by kernel, beside the rates that this CPU reaches at best.

    python benchmarks/openvino_profile.py hasn-x4
    python benchmarks/openvino_profile.py hasn-x4 --int8 engines/hasn-x4-int8-cpu.onnx

Times are OpenVINO's own counters of each node, the least of some runs, added up by the kernel that it chose,
in the form that the session compiles and as the graph states it. What the CPU reaches at best is measured in
a 3x3 convolution of 64 to 64 channels, which leave no vector half empty. The floor is what the network's
convolutions would take at these rates; a channel count that does not fill vectors counts as the filled one.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import openvino
import openvino.opset13 as ops
from result_files import origin, publish

from hasn_edge.cli.common import SIZE
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.fuse.apply import DEFAULT_RULES, fuse
from hasn_edge.hardware.host import has_bf16
from hasn_edge.model.zoo import load_model
from hasn_edge.runtime.openvino_forms import rewrite

LANES = 16
FORMATS = ("f32", "bf16", "i8")


@dataclass(frozen=True)
class Kernel:
    """One node as it ran."""

    kind: str
    name: str
    ms: float

    @property
    def format(self) -> str:
        """What it computes in."""
        return next((each for each in FORMATS if self.name.lower().endswith(each)), "f32")


def counters(graph: Any, hint: str, threads: int, runs: int) -> list[Kernel]:
    """Return every node that ran, in the least of its times over some runs."""
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
    request = openvino.Core().compile_model(graph, "CPU", options).create_infer_request()
    x = np.random.default_rng(0).random(tuple(graph.inputs[0].shape), dtype=np.float32)
    found: dict[str, Kernel] = {}
    for number in range(runs + 1):
        request.infer([x])
        for node in request.profiling_info if number else ():
            ms = node.real_time.total_seconds() * 1e3
            if ms and (node.node_name not in found or ms < found[node.node_name].ms):
                found[node.node_name] = Kernel(node.node_type, node.exec_type, ms)
    return list(found.values())


def best_rates(threads: int, runs: int) -> dict[str, float]:
    """Return GFLOP/s (two a multiply-accumulate) by number format in convolutions without idle lanes."""
    rng, (height, width), channels = np.random.default_rng(0), (180, 320), 64
    work = 2 * channels**2 * 9 * height * width
    rates = {}
    for number_format in FORMATS if has_bf16() else ("f32", "i8"):
        x = ops.parameter([1, channels, height, width], np.float32)
        y: Any = x
        for _ in range(3):
            if number_format == "i8":
                low, high = np.float32(-1), np.float32(127 / 128)
                y = ops.fake_quantize(y, low, high, low, high, 256)
                codes = ops.constant(rng.integers(-127, 128, (channels, channels, 3, 3)).astype(np.int8))
                scales = ops.constant(np.full((channels, 1, 1, 1), 3e-4, np.float32))
                weights: Any = ops.multiply(ops.convert(codes, "f32"), scales)
            else:
                values = rng.standard_normal((channels, channels, 3, 3)) / 24
                weights = ops.constant(values.astype(np.float32))
            y = ops.convolution(y, weights, [1, 1], [1, 1], [1, 1], [1, 1])
        kernels = counters(
            openvino.Model([y], [x]), "f32" if number_format == "f32" else "bf16", threads, runs
        )
        convolutions = [each for each in kernels if each.kind == "Convolution"]
        if all(each.format != number_format for each in convolutions):
            continue
        rates[number_format] = work / min(each.ms for each in convolutions) / 1e6
    return rates


def padded_work(graph: Any, hint: str) -> dict[str, float]:
    """Return GFLOP of a graph's convolutions by number format, output channels filled up to whole vectors.

    Depthwise ones multiply in FP32 whatever they read; ``hint`` is what the graph's floats are computed in.
    """
    work: dict[str, float] = defaultdict(float)
    for node in graph.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            outputs, height, width = tuple(node.get_output_shape(0))[1:]
            kernel = tuple(node.input_value(1).get_shape())
            inputs = int(np.prod(kernel[2:] if len(kernel) == 5 else kernel[1:]))
            filled = -(-outputs // LANES) * LANES
            kinds = {node.input_value(index).get_node().get_type_name() for index in (0, 1)}
            number_format = "f32" if len(kernel) == 5 else "i8" if kinds == {"Multiply"} else hint
            work[number_format] += 2e-9 * filled * inputs * height * width
    return work


@click.command(help=__doc__)
@click.argument("model")
@click.option("--int8", type=click.Path(path_type=Path, exists=True), help="Its INT8 graph for the CPU.")
@click.option("--size", type=SIZE, default="320x180", show_default=True, help="Input's size.")
@click.option("--threads", default=1, show_default=True, help="One resists a busy machine best.")
@click.option("--runs", default=10, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(model: str, int8: Path | None, size: tuple[int, int], threads: int, runs: int, output: Path) -> None:
    """Measure, print, write."""
    height, width = size
    network, _ = fuse(load_model(model).eval().requires_grad_(False), DEFAULT_RULES["onnxruntime"])
    data = onnx_from_model(network, size=size).SerializeToString()
    cases = [("FP32", data, "f32")]
    if has_bf16():
        cases.append(("BF16", data, "bf16"))
    if int8 is not None:
        cases.append(("INT8 and BF16" if has_bf16() else "INT8", int8.read_bytes(), cases[-1][2]))
    by_threads = {count: best_rates(count, runs) for count in sorted({1, threads})}
    rates = by_threads[threads]
    lines = [f"# Where OpenVINO's time goes, {model}, {width}x{height}, {threads} thread(s)\n"]
    for count, each in by_threads.items():
        found = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in each.items())
        lines.append(f"At best with {count} thread(s): {found}.\n")
    for title, graph_bytes, hint in cases:
        sums = []
        for stated in (True, False):
            graph = openvino.Core().read_model(graph_bytes, b"")
            graph.reshape([1, network.spec.channels, height, width])
            if not stated:
                rewrite(graph)
            kernels = counters(graph, hint, threads, runs)
            sums.append(sum(each.ms for each in kernels))
        work = padded_work(graph, hint)
        floor = "not known, because a rate above is missing"
        if work.keys() <= rates.keys():
            floor = f"{sum(1e3 * gflop / rates[each] for each, gflop in work.items()):.0f} ms"
        lines += [
            f"\n## {title}",
            "",
            f"Sum of all nodes {sums[1]:.0f} ms, as stated {sums[0]:.0f} ms. Convolutions at the best rates, "
            f"depthwise ones at that of f32, idle lanes included: {floor}.",
            "",
            "| node | kernel | nodes | ms | share |",
            "|---|---|---|---|---|",
        ]
        groups: dict[tuple[str, str], list[float]] = defaultdict(list)
        for each in kernels:
            groups[each.kind, each.name].append(each.ms)
        for (kind, name), times in sorted(groups.items(), key=lambda group: -sum(group[1])):
            if sum(times) >= 0.001 * sums[1]:
                lines.append(
                    f"| {kind} | {name} | {len(times)} | {sum(times):.1f} | {sum(times) / sums[1]:.1%} |"
                )
    lines += ["", *(f"- {note}" for note in origin()), ""]
    publish("\n".join(lines), output, f"openvino_profile_{datetime.date.today():%Y%m}")


if __name__ == "__main__":
    main()
