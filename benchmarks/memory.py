"""Peak memory of running a frame and of upscaling a full-HD image, each in a process of its own.

    python benchmarks/memory.py                       # the published network, 1920x1080, several minutes
    python benchmarks/memory.py --image 1280x720 --backend onnxruntime

Memory does not depend on the weights, so the published network is measured as PyTorch initialises it. Prints
two tables and writes them to benchmarks/results/. The constants of hasn_edge/runtime/memory.py come from it.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from result_files import origin, publish

BACKENDS = ("onnxruntime", "torchscript", "pytorch")
FRAMES = "320x180,480x360,640x480"


def child(backend: str, folder: Path, size: tuple[int, int], whole: bool) -> None:
    """Run one case and print its figures as JSON."""
    import numpy as np

    from hasn_edge.hardware.host import peak_memory_bytes
    from hasn_edge.runtime.upscaler import Upscaler
    from hasn_edge.spec import ModelSpec

    if backend == "onnxruntime":
        from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession

        session = OnnxRuntimeSession(folder / "network.onnx")
    elif backend == "torchscript":
        from hasn_edge.runtime.torchscript import TorchScriptSession

        session = TorchScriptSession(folder / "network.ts", ModelSpec())
    else:
        from hasn_edge.model.hasn import HASN
        from hasn_edge.runtime.pytorch import PyTorchSession

        session = PyTorchSession(HASN().eval().requires_grad_(False))
    upscaler = Upscaler(session, memory_limit_bytes=1 << 50 if whole else None)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    upscaler.upscale(pixels[:16, :16])
    before = peak_memory_bytes()
    if whole:
        # The session alone, as the estimate is for it: twice, since allocators may grow at the second call.
        x = np.zeros((1, 3, *size), np.float32)
        for _ in range(2):
            session.run(x)
        print(json.dumps({"before": before, "peak": peak_memory_bytes()}))
        return
    result = upscaler.upscale(pixels)
    report = upscaler.last_report
    sizes = {"before": before, "peak": peak_memory_bytes(), "result_bytes": result.nbytes}
    print(json.dumps({**sizes, "tiles": report.tiles, "tile": list(report.tile)}))


def measured(backend: str, folder: Path, size: tuple[int, int], *, whole: bool) -> dict:
    """Run one case in a fresh process."""
    mode = "frame" if whole else "image"
    text = f"{size[0]},{size[1]}"
    command = [sys.executable, __file__, "--child", backend, str(folder), text, mode]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"backend": backend, "height": size[0], "width": size[1], **json.loads(done.stdout)}


def export(folder: Path) -> None:
    """Write the network as ONNX and TorchScript, in a process whose memory is not measured."""
    import torch

    from hasn_edge.exporters.onnx import onnx_from_model
    from hasn_edge.exporters.torchscript import torchscript_bytes, torchscript_from_model
    from hasn_edge.model.hasn import HASN

    torch.manual_seed(0)
    network = HASN().eval().requires_grad_(False)
    (folder / "network.onnx").write_bytes(onnx_from_model(network).SerializeToString())
    (folder / "network.ts").write_bytes(torchscript_bytes(torchscript_from_model(network)))


def markdown(frames: list[dict], images: list[dict], notes: list[str]) -> str:
    """Return both tables with their conventions."""
    from hasn_edge.runtime.memory import bytes_per_pixel
    from hasn_edge.spec import ModelSpec

    lines = ["# Peak memory on a CPU", "", "## One frame, whole", ""]
    lines += [
        "| backend | input | before, MB | peak, MB | growth, bytes a pixel | estimate |",
        "|---" * 6 + "|",
    ]
    for case in frames:
        pixels = case["height"] * case["width"]
        lines.append(
            f"| {case['backend']} | {case['width']}x{case['height']} | {case['before'] / 1e6:.0f} | "
            f"{case['peak'] / 1e6:.0f} | {(case['peak'] - case['before']) / pixels:.0f} | "
            f"{bytes_per_pixel(ModelSpec(), case['backend'])} |"
        )
    lines += ["", "## One image by Upscaler's defaults", ""]
    lines += ["| backend | input | tiles | tile | before, MB | peak, MB |", "|---" * 6 + "|"]
    for case in images:
        lines.append(
            f"| {case['backend']} | {case['width']}x{case['height']} | {case['tiles']} | "
            f"{case['tile'][1]}x{case['tile'][0]} | {case['before'] / 1e6:.0f} | {case['peak'] / 1e6:.0f} |"
        )
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


@click.command(help=__doc__)
@click.option("--image", default="1920x1080", show_default=True, help="Input WIDTHxHEIGHT of the image.")
@click.option("--frames", default=FRAMES, show_default=True, help="Input sizes of whole frames.")
@click.option("--backend", "backends", multiple=True, type=click.Choice(BACKENDS), default=BACKENDS)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(image: str, frames: str, backends: tuple[str, ...], output: Path) -> None:
    """Measure, print, write."""
    from hasn_edge.cli.common import SIZE
    from hasn_edge.hardware.host import describe_host

    machine = describe_host()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(folder)
        whole = [
            measured(backend, folder, SIZE(size), whole=True)
            for backend in backends
            for size in frames.split(",")
        ]
        tiled = [measured(backend, folder, SIZE(image), whole=False) for backend in backends]
    notes = [
        "Resident memory of a process that runs nothing else, 1 MB = 10^6 bytes. 'Before': interpreter, "
        "libraries, network and a 16x16 frame. 'Growth': peak minus 'before', "
        "for two runs of the session on one frame.",
        "'Estimate' is what hasn_edge/runtime/memory.py assumes, in bytes a pixel; it decides on the tiles.",
        "The published network (435,272 parameters), FP32, batch 1; reading and writing files not included.",
        *origin(f"benchmarks/memory.py --image {image} --frames {frames}", machine),
    ]
    raw = {"frames": whole, "images": tiled, "notes": notes, "machine": machine}
    publish(markdown(whole, tiled, notes), output, f"memory_cpu_{datetime.date.today():%Y%m}", raw)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        height, _, width = sys.argv[4].partition(",")
        child(sys.argv[2], Path(sys.argv[3]), (int(height), int(width)), sys.argv[5] == "frame")
    else:
        main()
