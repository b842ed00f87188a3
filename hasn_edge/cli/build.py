"""The ``build`` verb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hasn_edge.cli.common import (
    EXISTING_FOLDER,
    SIZE,
    NamesOption,
    chosen_model,
    describe_artifact,
    force_option,
    model_option,
    name_option,
    output_option,
    quant_recipe_option,
    target_names,
)
from hasn_edge.cli.terminal import note, say, status, write_results

calibration_option = click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR|MANIFEST",
    help="Your own images for INT8 ranges.  [default: the patches that ship]",
)

evaluation_option = click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    default=None,
    metavar="[NAME=]DIR",
    help="Your own images for the quality budget, HR or HR and LR.  [default: photographs and drawn images "
    "that ship]",
)


cost_option = click.option(
    "--cost",
    type=click.Choice(["macs", "bytes", "ms"]),
    default=None,
    help="What INT8 shall save: arithmetic, bytes that the compiler's kernels move, or milliseconds measured "
    "here.  [default: ms where the target's GPU is here, bytes where it only compiles, else macs]",
)


@click.command("build")
@model_option
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "auto"]),
    default="fp16",
    show_default=True,
    help="Number format of the result; auto builds FP16 and INT8, on a CPU FP32 and INT8, times them (there "
    "in ONNX Runtime and OpenVINO) and keeps the fastest; a coarser one must be worth what it loses; "
    "upscale, eval and demo use it.",
)
@click.option(
    "--target",
    cls=NamesOption,
    names=target_names,
    default=None,
    metavar="NAME|FILE",
    help="What to build for: portable is the graphs that TensorRT 8.5 to 11 read; {names}; or a target "
    "file.  [default: tensorrt where it and its GPU are, else cpu]",
)
@calibration_option
@evaluation_option
@quant_recipe_option()
@click.option(
    "--max-drop",
    type=float,
    default=None,
    metavar="DB",
    help="Search the cheapest placement of INT8 that loses at most so many dB of PSNR-Y, and write it as a "
    "recipe with its curve; takes minutes.",
)
@cost_option
@click.option(
    "--finetune",
    default=None,
    metavar="TIME",
    help="Adapt the weights to INT8 for 90s, 20m or 1h, without labels: the network follows its own FP32 "
    "output on the calibration images. With --max-drop only where that needs it.",
)
@click.option(
    "--max-latency",
    type=float,
    default=None,
    metavar="MS",
    help="With --precision auto: of what takes at most so many milliseconds here (measured, median) keep "
    "what loses the least. That is the time of a call: of one image, with --batch N of N.",
)
@click.option("--size", type=SIZE, default=None, help="Fix the input size.  [default: the target's]")
@click.option(
    "--dynamic",
    type=SIZE,
    nargs=3,
    default=None,
    metavar="MIN OPT MAX",
    help="Let an engine take sizes from MIN to MAX, fastest at OPT: 64x64 320x180 960x540.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 64),
    default=None,
    metavar="N",
    help="Up to N images at a time: an engine is fastest at N, graphs take any number.  [default: 1]",
)
@click.option(
    "--int8-method",
    type=click.Choice(["qdq", "calibrator"]),
    default="qdq",
    show_default=True,
    help="Ranges written into the graph, or TensorRT's own legacy calibrator (8.5 to 10), to compare with.",
)
@click.option("--rebuild", is_flag=True, help="Compile even where nothing changed since the last build.")
@click.option(
    "--pixels",
    is_flag=True,
    help="Take and give 8-bit pixels (NHWC uint8): conversion inside, a quarter of the bytes to copy.",
)
@output_option
@name_option
@force_option
@click.option(
    "--from",
    "bundle",
    type=EXISTING_FOLDER,
    default=None,
    metavar="DIR",
    help="Build engines of a bundle that 'export --format bundle' wrote; needs no PyTorch.",
)
def command(model: str | None, bundle: Path | None, **options: Any) -> None:
    """Build an artifact or engine, and refuse to publish one that misses its quality budget.

    INT8 ranges are measured on the CPU and written into the graph; the graph that the engine is
    made of is run on images that were not used for calibration. A missed budget writes
    nothing, names the costliest layers and exits with 3. The path of each file is printed.

    \b
    Examples:
      hasn-edge build --precision int8
      hasn-edge build --precision int8 --max-drop 0.03
      hasn-edge build --precision int8 --max-drop 0.03 --target rtx --size 320x180
      hasn-edge build --precision int8 --max-drop 0.02 --finetune 20m
      hasn-edge build --precision int8 --target rtx --size 320x180
      hasn-edge build --precision int8 --calibration photos/ --recipe conservative
      hasn-edge build --precision auto --size 640x360
      hasn-edge build --precision auto --max-latency 16 --size 320x180
      hasn-edge build --from bundle/ --precision int8
    """
    from hasn_edge.cli.cures import message_of
    from hasn_edge.pipeline.api import build_from
    from hasn_edge.pipeline.bundle import require_bundle
    from hasn_edge.pipeline.context import BuildOptions

    if bundle is not None and model is not None:
        raise click.UsageError("--from is a finished model; leave out --model")
    source = chosen_model(model) if bundle is None else require_bundle(bundle)
    with status("building") as update:
        built = build_from(BuildOptions(model=source, **options), update)
    left_out = [message_of(error, click.get_current_context().command) for error in built.left_out]

    def show() -> None:
        for text in left_out:
            say(text, err=True)
        for line in built.notes:
            note(line)
        for artifact in built.artifacts:
            say(str(artifact.path))

    write_results(
        lambda: {
            "artifacts": [describe_artifact(artifact) for artifact in built.artifacts],
            "beside": [str(path) for path in built.beside],
            "summary": list(built.summary),
            "left_out": left_out,
        },
        show,
    )
