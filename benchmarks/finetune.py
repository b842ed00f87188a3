"""What fine-tuning to INT8 reaches: drift before and after it, on the budget's parts and on other sets.

    python benchmarks/finetune.py --model HASN.pth --time 20m --data Set5=DIR --data Set14=DIR

The same as `hasn-edge build --precision int8 --recipe RECIPE --finetune TIME` does, without labels, on the
calibration patches that ship. A run that was stopped goes on.
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import click
from result_files import origin, publish

from hasn_edge.data.pairs import load_eval_set
from hasn_edge.engine.target import EngineRuntime
from hasn_edge.evaluation.evaluate import drift, score_images
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.model.zoo import model_name
from hasn_edge.pipeline.context import BuildOptions, load_context
from hasn_edge.pipeline.finetune import finetune
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import Step
from hasn_edge.quantize.graph import convolutions, mac_share
from hasn_edge.sidecar import Form
from hasn_edge.spec import Precision


def report(step: Step) -> None:
    """Print a line now and then."""
    if step.done is None or "step" not in step.text or step.text.partition("step ")[2].startswith("1,"):
        click.echo(step.text, err=True)


def measure(variants: Variants, reference: list, sets: list) -> list[str]:
    """Return the drift of the INT8 graph on each set."""
    exporter, ranges = variants.int8
    graph = exporter.export(Form.WEAKLY_TYPED, Precision.INT8, ranges=ranges, recipe=variants.context.recipe)
    run = Emulator(graph, exact=True).run
    lost = [drift(before, score_images(run, each)) for before, each in zip(reference, sets, strict=True)]
    return [f"{each.dpsnr:+.4f} ({each.worst_image} {each.worst_dpsnr:+.3f})" for each in lost]


@click.command(help=__doc__)
@click.option("--model", required=True, help="Bundled name or weights file.")
@click.option("--recipe", default="search", show_default=True, help="INT8 recipe: what is rounded.")
@click.option("--time", "times", default="20m", show_default=True, help="As `build --finetune` takes it.")
@click.option("--data", multiple=True, help="NAME=DIR of an evaluation set; repeatable.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
@click.option("--work", type=click.Path(path_type=Path), default=Path("engines"), help="State and weights.")
def main(model: str, recipe: str, times: str, data: tuple[str, ...], output: Path, work: Path) -> None:
    """Adapt, measure, print, write."""
    seconds = BuildOptions(model=model, precision="int8", finetune=times).finetune_seconds
    assert seconds is not None
    context = load_context(model, runtime=EngineRuntime.CPU, recipe=recipe, progress=report)
    start = Variants(replace(context, force=True), report)
    sets = [*context.held_out, *(load_eval_set(each, context.checkpoint.spec.scale) for each in data)]
    plain = Emulator(start.exporter.fp32(), exact=False).run
    reference = [score_images(plain, each) for each in sets]
    graph = start.int8[0].fp32()
    share = mac_share(graph, context.recipe.select(conv.name for conv in convolutions(graph)))
    before = measure(start, reference, sets)
    click.echo(f"start: {'; '.join(before)}", err=True)
    found = finetune(start, seconds, work, cache=work / "cache")
    after = measure(found.variants, reference, sets)
    found.publish()
    lines = [
        f"# Fine-tuning {model_name(model)} to INT8, recipe `{Path(recipe).stem}`, {share:.1%} of the MACs",
        "",
        f"| | {' | '.join(each.name for each in sets)} |",
        "|---" * (len(sets) + 1) + "|",
        f"| as quantized | {' | '.join(before)} |",
        f"| after {times} | {' | '.join(after)} |",
        "",
        f"- {found.notes[0]}.",
        "- dPSNR-Y in dB against FP32 and the worst image; 8-bit rounded output, Y of BT.601 studio range, a "
        "border of the scale cut; exact Q/DQ arithmetic in the weakly typed graph.",
        *(f"- {note}" for note in origin()),
        "",
    ]
    publish("\n".join(lines), output, f"finetune_{model_name(model)}_{datetime.date.today():%Y%m}")


if __name__ == "__main__":
    main()
