"""The ``models`` verb."""

from __future__ import annotations

import click

from hasn_edge.cli.terminal import console, write_results

SETS = ("Set5", "Set14")
"""The sets whose figures are shown. The weights files also state those that training was judged by."""


@click.command("models")
def command() -> None:
    """Show the bundled models: what each is for, its quality and its size.

    All of it is read from the files that ship. Their cards, NAME.md in the folder that is printed, state
    what they were trained on, how, and what they cannot do.

    \b
    Examples:
      hasn-edge models
      hasn-edge upscale photo.jpg --model hasn-x4-camera
    """
    from hasn_edge.cli.tables import print_table
    from hasn_edge.model.zoo import DEFAULT_MODEL, WEIGHTS, bundled_models, describe_bundled

    names = sorted(bundled_models(), key=lambda name: name != DEFAULT_MODEL)
    found = [describe_bundled(name) for name in names]

    def show() -> None:
        out = console()
        print_table(
            out,
            [
                "Bundled models, for --model",
                "PSNR-Y in dB, of clean images that MATLAB's bicubic made smaller",
            ],
            ["", "scale", "parameters", *(f"{name}: dB" for name in SETS), "weights: MB"],
            [
                [
                    model.name,
                    f"x{model.scale}",
                    f"{model.parameters:,}",
                    *(f"{model.scores[name]['psnr_y']:.2f}" for name in SETS),
                    f"{model.weights_bytes / 1e6:.1f}",
                ]
                for model in found
            ],
        )
        for model in found:
            default = " (default)" if model.name == DEFAULT_MODEL else ""
            out.print(f"{model.name}{default}: {model.purpose}", highlight=False, markup=False)
        out.print(f"\nCards: {WEIGHTS}", highlight=False, markup=False, soft_wrap=True)

    write_results(
        lambda: {
            "models": [
                model._asdict()
                | {
                    "scores": {name: model.scores[name] for name in SETS},
                    "default": model.name == DEFAULT_MODEL,
                }
                for model in found
            ],
            "folder": str(WEIGHTS),
        },
        show,
    )
