"""Our INT8 beside other quantizers of ONNX graphs: same network, same calibration images, same emulation.

    python benchmarks/quantizers.py --model HASN.pth --data Set5=DIR

ONNX Runtime's static quantizer comes with the extra [export]; NNCF and AIMET are measured where they are
installed (`pip install nncf aimet-onnx`; both run on a CPU). Each quantizes every convolution, and then only
those of our default recipe, so that observer and placement are told apart. Everything is INT8 and symmetric,
as TensorRT wants it. AdaRound takes ``--adaround`` iterations a layer, which is off by default: its authors
advise 10,000, hours on a CPU, and the weights' rounding is the smaller part of this network's loss.
"""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import onnx
from onnx import ModelProto

from hasn_edge.data.calibration import CalibrationData, load_calibration
from hasn_edge.data.pairs import held_out_sets, load_eval_set
from hasn_edge.evaluation.evaluate import drift, score_images
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.files import writing
from hasn_edge.hardware.host import describe_host
from hasn_edge.model.checkpoint import Checkpoint
from hasn_edge.model.zoo import load_model_checkpoint, model_name
from hasn_edge.optional import installed_version
from hasn_edge.pipeline.variants import GraphExporter
from hasn_edge.quantize.graph import conv_macs, convolutions
from hasn_edge.quantize.recipe import load_quant_recipe
from hasn_edge.sidecar import Form
from hasn_edge.spec import Precision

Quantizer = Callable[[], ModelProto]


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
        Adaround.apply_adaround(sim, batches, adaround, node_names_to_optimize=nodes)
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
    checkpoint: Checkpoint, data: CalibrationData, adaround: int
) -> Iterator[tuple[str, Quantizer]]:
    """Yield each quantizer by name, those of every convolution first."""
    graph = GraphExporter(checkpoint).fp32()
    every = [conv.name for conv in convolutions(graph)]
    default = list(load_quant_recipe().select(every))
    nncf, aimet = (installed_version(name) is not None for name in ("nncf", "aimet-onnx"))
    for where, nodes in (("every convolution", every), ("those of `default`", default)):
        for recipe in ("search", "extensive") if nodes is every else ("default",):
            yield f"hasn-edge, `{recipe}`", lambda recipe=recipe: ours(checkpoint, data, recipe)
        if nncf:
            yield f"NNCF, {where}", lambda n=nodes: by_nncf(graph, data, n)
        if aimet:
            yield f"AIMET, {where}", lambda n=nodes: by_aimet(graph, data, n)
        if aimet and nodes is every:
            yield f"AIMET, equalized, {where}", lambda: by_aimet(graph, data, every, equalized=True)
        for method in ("MinMax", "Percentile"):
            yield (
                f"ONNX Runtime, {method}, {where}",
                lambda m=method, n=nodes: by_onnxruntime(graph, data, m, n),
            )
    if aimet and adaround:
        yield (
            f"AIMET, equalized, AdaRound of {adaround} iterations, every convolution",
            lambda: by_aimet(graph, data, every, equalized=True, adaround=adaround),
        )


@click.command(help=__doc__)
@click.option("--model", required=True, help="Bundled name or weights file.")
@click.option("--data", multiple=True, help="NAME=DIR of an evaluation set; repeatable.")
@click.option("--adaround", type=click.IntRange(0), default=0, help="Iterations of AIMET's AdaRound a layer.")
@click.option("--only", multiple=True, help="A part of the names of the quantizers to run; repeatable.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(model: str, data: tuple[str, ...], adaround: int, only: tuple[str, ...], output: Path) -> None:
    """Measure, print, write."""
    checkpoint, images = load_model_checkpoint(model), load_calibration()
    scale, plain = checkpoint.spec.scale, GraphExporter(checkpoint).fp32()
    sets = [*held_out_sets(scale), *(load_eval_set(each, scale) for each in data)]
    macs, run = conv_macs(plain), Emulator(plain, exact=False).run
    reference = [score_images(run, each) for each in sets]
    lines = [
        f"# Quantizers of {model_name(model)}",
        "",
        f"| quantizer | MACs in INT8 | CPU minutes | {' | '.join(each.name for each in sets)} |",
        "|---" * (len(sets) + 3) + "|",
    ]
    versions = {
        name: installed_version(name) or "not installed" for name in ("onnxruntime", "nncf", "aimet-onnx")
    }
    notes = [
        f"{len(images)} calibration patches, fingerprint {images.fingerprint[:16]}; dPSNR-Y in dB against "
        "FP32 and the worst image; ONNX Runtime without graph optimizations runs every graph.",
        "CPU minutes are processor time of the quantizing alone, on a machine that was busy otherwise.",
        "; ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "Machine: " + "; ".join(f"{key} {value}" for key, value in describe_host().items()) + ".",
        f"Printed by `python benchmarks/quantizers.py --model {Path(model).name} "
        f"{' '.join(f'--data {each.name}={each.name}' for each in sets[2:])}` on {datetime.date.today()}.",
    ]
    for name, quantize in quantizers(checkpoint, images, adaround):
        if only and not any(part in name for part in only):
            continue
        begin = time.process_time()
        try:
            graph = quantize()
        except Exception as exc:  # of other packages, with errors of their own
            cells = [f"failed: {type(exc).__name__}: {str(exc)[:150]}", *[""] * (len(sets) + 1)]
        else:
            minutes = (time.process_time() - begin) / 60
            emulate = Emulator(graph, exact=True).run
            lost = [drift(a, score_images(emulate, each)) for a, each in zip(reference, sets, strict=True)]
            drops = [f"{each.dpsnr:+.4f} ({each.worst_image} {each.worst_dpsnr:+.3f})" for each in lost]
            cells = [f"{int8_share(graph, macs):.1%}", f"{minutes:.2f}", *drops]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        click.echo(lines[-1])
        # After each row: what was measured stays where a later one takes too long.
        text = "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])
        with writing(output / f"quantizers_{model_name(model)}_{datetime.date.today():%Y%m}.md") as path:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
