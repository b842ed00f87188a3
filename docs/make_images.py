"""Make the images of the documentation: ``python docs/make_images.py``.

``images/layers.svg`` shows the packages of ``hasn_edge`` in layers, from the imports in the code;
``images/result.png`` a crop of one held-out image by bicubic, by the bundled model, and as it was;
``images/camera.png`` the same of three images whose low resolution was degraded as a camera does it.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
PACKAGE = DOCS.parent / "hasn_edge"
SIDE = 120
"""Of a crop, in HR pixels."""
SAMPLE = ("coffee-0", 100, 20)
"""Which held-out image, and the top left corner of the crop in HR pixels."""
CAMERA_SAMPLES = (("coffee-1", 100, 60), ("camera-1", 60, 60), ("rocket-0", 60, 60))

SAYS = {
    "errors": "errors and their cures",
    "optional": "packages that may be absent",
    "progress": "what is under way",
    "queues": "from thread to thread",
    "interrupt": "Ctrl-C",
    "spec": "what a model is",
    "sidecar": "what is known of a file",
    "artifact": "built files, checked",
    "config": "TOML to typed objects",
    "files": "whole or not at all",
    "hardware": "what this machine has",
    "images": "files to arrays, PSNR, SSIM",
    "model": "the network, weights, counts",
    "data": "photographs, patches, sets",
    "fuse": "exact rewrites",
    "engine": "ONNX to a TensorRT engine",
    "exporters": "ONNX, PyTorch, Triton",
    "quantize": "ranges, Q/DQ, FP16",
    "runtime": "sessions, any image size",
    "evaluation": "scores, drift, latency",
    "pipeline": "model to published files",
    "train": "recipe to checkpoint",
    "doctor": "what stands in the way",
    "bench": "latency, power, quality",
    "video": "video files",
    "live": "cameras, streams, the page",
    "cli": "one file per verb",
}


def package_of(name: str) -> str | None:
    """Return the package in ``hasn_edge`` that a dotted name is in."""
    parts = name.split(".")
    return parts[1] if parts[0] == "hasn_edge" and len(parts) > 1 and parts[1] in SAYS else None


def imports() -> Iterator[tuple[str, str]]:
    """Yield (package, imported package) of every import that runs, once each."""
    for path in sorted(PACKAGE.rglob("*.py")):
        mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            pending += ast.iter_child_nodes(node)
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                other = package_of(name)
                if mine in SAYS and other is not None and other != mine:
                    yield mine, other


def layers() -> dict[str, int]:
    """Return each package's layer: one above the highest package that it imports; the lowest is 1."""
    needs: dict[str, set[str]] = defaultdict(set)
    for package, other in imports():
        needs[package].add(other)
    found: dict[str, int] = {}

    def layer(package: str) -> int:
        if package not in found:
            found[package] = 1 + max((layer(other) for other in needs[package]), default=0)
        return found[package]

    for package in SAYS:
        layer(package)
    return found


def layers_svg() -> str:
    """Return the packages as SVG: a row for each layer, the highest first."""
    width, height, gap, left = 168, 46, 12, 74
    rows: dict[int, list[str]] = defaultdict(list)
    for package, number in layers().items():
        rows[number].append(package)
    across = max(len(packages) for packages in rows.values())
    total = left + across * (width + gap), len(rows) * (height + gap) + gap
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}" '
        'font-family="sans-serif" role="img" aria-label="The packages of hasn_edge, layer by layer">',
        "<style>text{fill:#1c2733}rect{fill:#e8f0f7;stroke:#5b7fa3}.s{font-size:10px;fill:#46586b}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}rect{fill:#1d2b3a}.s{fill:#a9bccf}}</style>",
    ]
    for row, number in enumerate(sorted(rows, reverse=True)):
        y = gap + row * (height + gap)
        lines.append(f'<text class="s" x="8" y="{y + height / 2 + 4:g}">layer {number}</text>')
        for column, package in enumerate(rows[number]):
            x = left + column * (width + gap)
            lines += [
                f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>',
                f'<text x="{x + 10}" y="{y + 19}" font-size="14">{escape(package)}</text>',
                f'<text class="s" x="{x + 10}" y="{y + 36}">{escape(SAYS[package])}</text>',
            ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def write_crops(
    path: Path, crops: Sequence[tuple[str, int, int]], models: Sequence[str], *, degraded: bool
) -> None:
    """Write crops of held-out images, one a row: by bicubic, by the models, and as they were.

    Args:
        path: The image to write.
        crops: Names of images with the top and left corner of the crop in HR pixels.
        models: Bundled models of scale 4.
        degraded: Whether LR is degraded first, as the recipe ``hasn-x4-camera`` does it.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    from hasn_edge.data.degrade import degrade
    from hasn_edge.data.pairs import bicubic_baseline, shipped_eval_set
    from hasn_edge.images.arrays import from_tensor, to_tensor
    from hasn_edge.images.metrics import psnr_and_ssim_y
    from hasn_edge.runtime.open import open_model
    from hasn_edge.runtime.upscaler import Upscaler
    from hasn_edge.train.recipe import load_recipe

    pairs = {pair.name: pair for pair in shipped_eval_set(4)}
    columns = len(models) + 2
    figure, axes = plt.subplots(
        len(crops), columns, figsize=(3 * columns, 3.3 * len(crops)), dpi=110, squeeze=False
    )
    for number, (row, (name, top, left)) in enumerate(zip(axes, crops, strict=True)):
        hr, lr = pairs[name].hr(), pairs[name].lr()
        if degraded:
            lr = degrade(lr, load_recipe("hasn-x4-camera").degradation, np.random.default_rng(number))
        results = {"bicubic": from_tensor(bicubic_baseline(4)(to_tensor(lr)))}
        for model in models:
            with Upscaler(open_model(model)) as upscaler:
                results[model] = upscaler(lr)
        for axis, (title, pixels) in zip(row, {**results, "original": hr}.items(), strict=True):
            score = "" if title == "original" else f"  {psnr_and_ssim_y(pixels, hr, border=4)[0]:.2f} dB"
            axis.imshow(pixels[top : top + SIDE, left : left + SIDE], interpolation="nearest")
            axis.set_title(title + score, fontsize=10)
            axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "layers.svg").write_text(layers_svg(), encoding="utf-8")
    write_crops(IMAGES / "result.png", [SAMPLE], ["hasn-x4"], degraded=False)
    write_crops(IMAGES / "camera.png", CAMERA_SAMPLES, ["hasn-x4", "hasn-x4-camera"], degraded=True)
