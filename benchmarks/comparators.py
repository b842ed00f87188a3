"""What HASN costs beside networks of other papers: counts by one convention, and what an engine moves.

    python benchmarks/comparators.py              # a few minutes; engines need TensorRT for RTX, and no GPU
    python benchmarks/comparators.py --time 20    # times on this CPU as well, in rounds: on a quiet machine

All at x4 and random weights, which change no cost. Prints a table and writes it to benchmarks/results/.
"""

from __future__ import annotations

import datetime
import io
import statistics
import warnings
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from hasn_edge.bench.table import markdown_table
from hasn_edge.engine.compile import kernels_from_onnx
from hasn_edge.engine.target import load_target
from hasn_edge.evaluation.latency import Round, latency_of
from hasn_edge.exporters import onnx_graph
from hasn_edge.files import writing
from hasn_edge.hardware.host import describe_host
from hasn_edge.model.comparators import NAMES, make_comparator
from hasn_edge.model.complexity import count
from hasn_edge.model.hasn import HASN
from hasn_edge.model.zoo import load_model_checkpoint
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
from hasn_edge.spec import Precision

OWN = ("hasn-x4", "hasn-x4-small")
SIZE = (180, 320)
HEADINGS = (
    "network", "parameters", "GMACs, 256x256", "GMACs, 320x180", "M activations, 256x256", "convolutions",
    "RTX FP16 kernels", "MB moved", "CPU, ms", "Set5 PSNR-Y, dB (cited)",
)  # fmt: skip


def graph_of(network: nn.Module, channels: int) -> onnx.ModelProto:
    """Return the FP32 graph of one size, of opset 20."""
    stream = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(1, channels, *SIZE),), stream, input_names=["input"],
            output_names=["output"], opset_version=20, dynamo=False,
        )  # fmt: skip
    return onnx_graph.canonical(onnx.load_from_string(stream.getvalue()))


def time_all(graphs: dict[str, onnx.ModelProto], rounds: int) -> dict[str, float]:
    """Return the median milliseconds a frame in ONNX Runtime, all cases in each round."""
    import time

    sessions = {name: ort.InferenceSession(graph.SerializeToString()) for name, graph in graphs.items()}
    samples: dict[str, list[Round]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, session in sessions.items():
            shape = [int(side) for side in session.get_inputs()[0].shape]
            x = np.random.default_rng(0).random(shape, dtype=np.float32)
            session.run(None, {"input": x})
            begin = time.perf_counter()
            session.run(None, {"input": x})
            samples[name].append(Round(total=(time.perf_counter() - begin,)))
    latencies = {name: latency_of(found) for name, found in samples.items()}
    return {name: statistics.median(one.seconds) * 1e3 for name, one in latencies.items() if one}


@click.command()
@click.option("--time", "rounds", type=int, default=0, help="Rounds of timing on this CPU; none by default.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(rounds: int, output: Path) -> None:
    """Count, compile and, where asked, time; print and write the table."""
    networks: dict[str, tuple[nn.Module, int]] = {}
    counts = {}
    for name in OWN:
        spec = load_model_checkpoint(name).spec
        networks[name] = (HASN(spec).eval(), 3)
        counts[name] = (count(spec, 256, 256), count(spec, *SIZE))
    for name in NAMES:
        network = make_comparator(name)
        networks[name] = (network, network.channels)
        counts[name] = (network.counts(256, 256), network.counts(*SIZE))
    graphs = {name: graph_of(*one) for name, one in networks.items()}
    times = time_all(graphs, rounds) if rounds else {}
    target = load_target("rtx").with_size(*SIZE)
    rows = []
    for name, (network, _) in networks.items():
        half = fp16_onnx_from_onnx(graphs[name]).SerializeToString()
        kernels = kernels_from_onnx(half, target, precision=Precision.FP16)
        square, frame = counts[name]
        convolutions = sum(isinstance(one, nn.Conv2d | nn.ConvTranspose2d) for one in network.modules())
        published = getattr(network, "published", None)
        rows.append(
            [
                name if published is None else published.paper,
                f"{square.parameters:,}",
                f"{square.macs / 1e9:.2f}",
                f"{frame.macs / 1e9:.2f}",
                f"{square.activations / 1e6:.1f}",
                str(convolutions),
                str(kernels.all),
                "-" if kernels.moved_bytes is None else f"{kernels.moved_bytes / 1e6:.0f}",
                f"{times[name]:.0f}" if name in times else "-",
                "-" if published is None or published.set5_db is None else f"{published.set5_db:.2f}",
            ]
        )
    lines = ["# Networks of other papers beside HASN, x4", ""]
    lines += markdown_table(HEADINGS, rows)
    lines += [
        "",
        "MACs of HASN by fvcore's rules, of the others of their convolutions alone, a transposed one at its "
        "output's size. FSRCNN computes luma alone. Kernels and bytes: an FP16 engine of TensorRT for RTX at "
        "320x180, as its compiler lists them; nothing was executed. HASN is exported as it is, "
        "without the fusion rules of its engines. PSNR is what the papers state.",
        "",
        f"Printed by `python benchmarks/comparators.py{f' --time {rounds}' if rounds else ''}` on "
        f"{datetime.date.today().isoformat()}; {'; '.join(f'{k} {v}' for k, v in describe_host().items())}.",
    ]
    text = "\n".join(lines) + "\n"
    click.echo(text)
    with writing(output / "comparators_202611.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
