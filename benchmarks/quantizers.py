"""Our INT8 beside other quantizers of ONNX graphs: same network, same calibration images, same emulation.

    python benchmarks/quantizers.py --model HASN.pth --data Set5=DIR --data Set14=DIR
    python benchmarks/quantizers.py ... --only search            one row again, the others stay

ONNX Runtime's static quantizer comes with the extra [export]; NNCF and AIMET are measured where they are
installed (extra [benchmarks]; both run on a CPU). Each quantizes every convolution, and then only those of
our default recipe, so that observer and placement are told apart. Everything is INT8 and symmetric, as
TensorRT wants it. Two that search have a bounded budget, which their rows name: AIMET's AdaRound learns how
to round the weights of each convolution in so many iterations (its authors advise 10,000, hours on a CPU),
and NNCF's accuracy control leaves operations in float, round by round, until half of the held-out images keep
the drop.

The figures are kept in JSON beside the table: a run replaces the rows that it measures and keeps the others.
"""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import onnx
from onnx import ModelProto
from result_files import typed_command, write

from hasn_edge.data.calibration import CalibrationData, load_calibration
from hasn_edge.data.pairs import EvalSet, Pair, held_out_sets, load_eval_set
from hasn_edge.evaluation.evaluate import Scores, drift, score_images
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.hardware.host import describe_host
from hasn_edge.model.checkpoint import Checkpoint
from hasn_edge.model.zoo import load_model_checkpoint, model_name
from hasn_edge.optional import installed_version
from hasn_edge.pipeline.graph_exporter import GraphExporter
from hasn_edge.quantize.graph import conv_macs, convolutions
from hasn_edge.quantize.recipe import load_quant_recipe
from hasn_edge.sidecar import Form
from hasn_edge.spec import Precision

Quantizer = Callable[[], ModelProto]

PACKAGES = ("onnxruntime", "nncf", "aimet-onnx")

DROP, ROUNDS = 0.03, 15
"""What NNCF's accuracy control may lose in dB, and its rounds: in each it leaves some operations in float."""


def ours(checkpoint: Checkpoint, data: CalibrationData, name: str) -> ModelProto:
    """Quantize by a recipe."""
    recipe = load_quant_recipe(name)
    exporter = GraphExporter.for_int8(checkpoint, (), data, recipe)
    ranges = exporter.measure_ranges(data, recipe)
    return exporter.export(Form.WEAKLY_TYPED, Precision.INT8, ranges=ranges, recipe=recipe)


def by_onnxruntime(graph: ModelProto, data: CalibrationData, method: str, nodes: list[str]) -> ModelProto:
    """Quantize with ONNX Runtime's static quantizer: Q/DQ, symmetric, weights per channel."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    class Reader:
        def __init__(self) -> None:
            self.rest = iter(data)

        def get_next(self) -> dict[str, object] | None:
            batch = next(self.rest, None)
            return None if batch is None else {graph.graph.input[0].name: batch}

    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "int8.onnx")
        copy = ModelProto()
        copy.CopyFrom(graph)
        quantize_static(
            copy,
            result,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
        return onnx.load(result)


def by_nncf(graph: ModelProto, data: CalibrationData, nodes: list[str]) -> ModelProto:
    """Quantize with NNCF's post-training quantization: symmetric, fast bias correction.

    Its accurate bias correction fails on this graph (a subgraph defines LayerNorm's Transpose twice).
    """
    import nncf

    others = [conv.name for conv in convolutions(graph) if conv.name not in nodes]
    copy = ModelProto()
    copy.CopyFrom(graph)
    name = graph.graph.input[0].name
    images = nncf.Dataset(list(data), lambda batch: {name: batch})
    return nncf.quantize(
        copy,
        images,
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(data),
        ignored_scope=nncf.IgnoredScope(names=others, validate=False),
    )


def by_nncf_with_control(graph: ModelProto, data: CalibrationData, parts: Sequence[EvalSet]) -> ModelProto:
    """Quantize as `by_nncf`, then leave in float what costs most until the validation images keep `DROP`.

    These are every other one of ``parts``; what costs most is ranked on the four of them that lose most.
    """
    import nncf

    scale = parts[0].scale

    def validate(model: ModelProto, pairs: Iterable[Pair]) -> tuple[float, list[float]]:
        chosen = EvalSet(name="validation", scale=scale, pairs=tuple(pairs))
        scores = score_images(Emulator(model, exact=True).run, chosen, keep_outputs=False)
        return scores.psnr_y, [image.psnr_y for image in scores.images]

    copy = ModelProto()
    copy.CopyFrom(graph)
    name = graph.graph.input[0].name
    return nncf.quantize_with_accuracy_control(
        copy,
        nncf.Dataset(list(data), lambda batch: {name: batch}),
        nncf.Dataset([pair for part in parts for pair in part.pairs[::2]]),
        validate,
        max_drop=DROP,
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(data),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
            max_num_iterations=ROUNDS, ranking_subset_size=4, num_ranking_workers=1
        ),
    )


def by_aimet(
    graph: ModelProto, data: CalibrationData, nodes: list[str], *, equalized: bool = False, adaround: int = 0
) -> ModelProto:
    """Quantize with AIMET: its "enhanced" ranges, symmetric, weights per channel; convolutions alone."""
    import aimet_onnx
    from aimet_onnx.adaround.adaround_weight import Adaround
    from aimet_onnx.cross_layer_equalization import equalize_model
    from aimet_onnx.quantsim import QuantizationSimModel

    copy, name = ModelProto(), graph.graph.input[0].name
    copy.CopyFrom(graph)
    if equalized:
        equalize_model(copy)
    settings = Path(aimet_onnx.__file__).parent / "common" / "quantsim_config"
    sim = QuantizationSimModel(
        copy,
        quant_scheme="tf_enhanced",
        config_file=str(settings / "default_config_per_channel.json"),
        providers=["CPUExecutionProvider"],
    )
    chosen = [conv for conv in convolutions(graph) if conv.name in nodes]
    wanted = {name for conv in chosen for name in (moved_from(graph, conv.input), conv.weight)}
    for tensor, quantizer in sim.qc_quantize_op_dict.items():
        quantizer.enabled = tensor in wanted
        if quantizer.enabled:
            quantizer.use_symmetric_encodings = True
    batches = [{name: batch} for batch in data]
    if adaround:
        # Left to itself, AIMET measures the weights with an image of 1 x 1, smaller than the network takes.
        sim._compute_param_encodings(dummy_input=batches[0])
        Adaround.apply_adaround(sim, batches, adaround, nodes_to_include=nodes)
    sim.compute_encodings(batches)
    return sim.to_onnx_qdq(force_activation_as="signed")


def moved_from(graph: ModelProto, tensor: str) -> str:
    """Return the tensor whose values another one has in another order: what LayerNorm wrote, transposed."""
    makers = {output: node for node in graph.graph.node for output in node.output}
    while tensor in makers and makers[tensor].op_type == "Transpose":
        tensor = makers[tensor].input[0]
    return tensor


def int8_share(quantized: ModelProto, macs: dict[str, int]) -> float:
    """Return the share of multiply-accumulates whose input and weights come from DequantizeLinear."""
    makers = {output: node.op_type for node in quantized.graph.node for output in node.output}
    int8 = {
        node.name
        for node in quantized.graph.node
        if node.op_type == "Conv"
        and all(makers.get(moved_from(quantized, name)) == "DequantizeLinear" for name in node.input[:2])
    }
    return sum(macs[name] for name in int8 & set(macs)) / sum(macs.values())


def quantizers(
    checkpoint: Checkpoint, data: CalibrationData, parts: tuple[EvalSet, ...], adaround: int
) -> Iterator[tuple[str, str, Quantizer]]:
    """Yield each quantizer's package, its name and itself, those of every convolution first."""
    graph = GraphExporter(checkpoint).fp32()
    every = [conv.name for conv in convolutions(graph)]
    default = list(load_quant_recipe().select(every))
    for where, nodes in (("every convolution", every), ("those of `default`", default)):
        for recipe in ("search", "extensive") if nodes is every else ("default",):
            yield "onnx", f"hasn-edge, `{recipe}`", lambda recipe=recipe: ours(checkpoint, data, recipe)
        yield "nncf", f"NNCF, {where}", lambda n=nodes: by_nncf(graph, data, n)
        if nodes is every:
            name = f"NNCF, accuracy control, {DROP} dB, at most {ROUNDS} rounds"
            yield "nncf", name, lambda: by_nncf_with_control(graph, data, parts)
        yield "aimet-onnx", f"AIMET, {where}", lambda n=nodes: by_aimet(graph, data, n)
        if nodes is every:
            name = f"AIMET, equalized, {where}"
            yield "aimet-onnx", name, lambda: by_aimet(graph, data, every, equalized=True)
            name = f"AIMET, AdaRound of {adaround} iterations a layer"
            yield "aimet-onnx", name, lambda: by_aimet(graph, data, every, adaround=adaround)
        for method in ("MinMax", "Percentile"):
            name = f"ONNX Runtime, {method}, {where}"
            yield "onnxruntime", name, lambda m=method, n=nodes: by_onnxruntime(graph, data, m, n)


def select(names: list[str], only: tuple[str, ...]) -> list[str]:
    """Return the names that hold a part of ``only``; all of them where it is empty.

    Raises:
        BadParameter: no name holds a part.
    """
    for part in only:
        if not any(part in name for name in names):
            known = "\n".join(f"  {name}" for name in names)
            raise click.BadParameter(
                f"no row's name holds {part!r}; the rows are\n{known}", param_hint="--only"
            )
    return [name for name in names if not only or any(part in name for part in only)]


def page(title: str, kept: dict[str, Any]) -> str:
    """Return the table of all rows that are kept, and below it which command printed which row."""
    sets = list(dict.fromkeys(name for row in kept["rows"].values() for name in row["sets"]))
    lines = [
        f"# {title}",
        "",
        f"| quantizer | MACs in INT8 | CPU minutes | {' | '.join(sets)} | run |",
        "|---" * (len(sets) + 4) + "|",
    ]
    runs = list(dict.fromkeys(row["run"] for row in kept["rows"].values()))
    for name, row in kept["rows"].items():
        lost = [row["sets"].get(each) for each in sets]
        drops = [f"{each[0]:+.4f} ({each[1]} {each[2]:+.3f})" if each else "not run" for each in lost]
        cells = [f"{row['int8_share']:.1%}", f"{row['cpu_minutes']:.2f}", *drops]
        lines.append(f"| {name} | {' | '.join(cells)} | {runs.index(row['run']) + 1} |")
    notes = [
        f"{kept['patches']} calibration patches, fingerprint {kept['fingerprint'][:16]}; dPSNR-Y in dB "
        "against FP32 and the worst image; ONNX Runtime without graph optimizations runs every graph.",
        "CPU minutes are processor time of the quantizing alone, on a machine that was busy otherwise.",
        "NNCF's accuracy control saw every other image of the first two sets, which no other quantizer did.",
        *(f"Run {index}: {run}" for index, run in enumerate(runs, 1)),
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def keep(stem: Path, title: str, head: dict[str, Any], row: dict[str, Any], order: list[str]) -> None:
    """Put one row beside those that are kept, in the order of the quantizers, and write JSON and table.

    Raises:
        ClickException: what is kept was measured with other calibration images.
    """
    path, rows = stem.with_suffix(".json"), {}
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if {key: kept[key] for key in head} != head:
            raise click.ClickException(f"{path} holds rows of other calibration images; move it away")
        rows = kept["rows"]
    rows |= {row["quantizer"]: row}
    names = sorted(rows, key=lambda name: order.index(name) if name in order else len(order))
    kept = {**head, "rows": {name: rows[name] for name in names}}
    write(page(title, kept), stem.parent, stem.name, kept)


def measure(
    quantize: Quantizer, sets: list[EvalSet], reference: list[Scores], macs: dict[str, int]
) -> dict[str, Any]:
    """Return the share of MACs, CPU minutes, and of each set the drift, the worst image and its drift."""
    begin = time.process_time()
    graph = quantize()
    minutes = (time.process_time() - begin) / 60
    run = Emulator(graph, exact=True).run
    lost = [drift(before, score_images(run, each)) for before, each in zip(reference, sets, strict=True)]
    return {
        "int8_share": int8_share(graph, macs),
        "cpu_minutes": minutes,
        "sets": {each.name: [each.dpsnr, each.worst_image, each.worst_dpsnr] for each in lost},
    }


@click.command(help=__doc__)
@click.option("--model", required=True, help="Bundled name or weights file.")
@click.option("--data", multiple=True, help="NAME=DIR of an evaluation set; repeatable.")
@click.option(
    "--adaround", type=click.IntRange(1), default=200, help="Iterations of AIMET's AdaRound a layer."
)
@click.option("--only", multiple=True, help="A part of the names of the quantizers to run; repeatable.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(model: str, data: tuple[str, ...], adaround: int, only: tuple[str, ...], output: Path) -> None:
    """Measure, print, write."""
    checkpoint, images = load_model_checkpoint(model), load_calibration()
    scale, plain = checkpoint.spec.scale, GraphExporter(checkpoint).fp32()
    parts = held_out_sets(scale)
    every = list(quantizers(checkpoint, images, parts, adaround))
    chosen = select([name for _, name, _ in every], only)
    sets = [*parts, *(load_eval_set(each, scale) for each in data)]
    reference = [score_images(Emulator(plain, exact=False).run, each) for each in sets]
    host = describe_host()
    versions = ", ".join(f"{name} {installed_version(name) or 'not installed'}" for name in PACKAGES)
    run = f"`python {typed_command()}` on {datetime.date.today()}; {versions}; " + ", ".join(
        f"{key} {host[key]}" for key in ("cpu", "vector units", "load average")
    )
    for package, name, quantize in every:
        if installed_version(package) is None or name not in chosen:
            continue
        try:
            measured = measure(quantize, sets, reference, conv_macs(plain))
        except Exception as exc:  # of other packages, with errors of their own
            click.echo(f"{name} failed, its row stays as it was: {type(exc).__name__}: {exc}", err=True)
            continue
        row = {"quantizer": name, "run": run, **measured}
        # After each row: what was measured stays where a later one takes too long.
        keep(
            output / f"quantizers_{model_name(model)}_{datetime.date.today():%Y%m}",
            f"Quantizers of {model_name(model)}",
            {"patches": len(images), "fingerprint": images.fingerprint},
            row,
            [each[1] for each in every],
        )
        click.echo({key: value for key, value in row.items() if key != "run"})


if __name__ == "__main__":
    main()
