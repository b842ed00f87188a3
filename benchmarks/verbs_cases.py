"""The cases of benchmarks/verbs.py: what is asked of every verb."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """Commands that run one after the other in one folder."""

    name: str
    steps: tuple[str, ...]
    """Arguments of ``hasn-edge``; ``cut FILE`` and ``remove FILE`` damage what an earlier step wrote."""
    timed: bool = False
    """Numbers in messages come from a clock."""
    varies: tuple[str, ...] = ()
    """Keys of JSON whose values depend on time in this case, beyond those that always do."""
    unstable: str = "(?!)"
    """Regular expression of file names of which neither this part nor the bytes are compared."""


TINY, SMALL = "--model tiny.safetensors", "--model hasn-x4-small"
TRAIN = "train --recipe train.toml --val P=photos --threads 1 --device cpu"
FIGURES = ("fps", "frames", "speedup", "samples", "peak_bytes", "findings", "file_bytes", "sha256")
"""What the report of ``bench`` owes to time; and size and hash of TorchScript, which hold source lines."""
RUN = ("now", "run", "limit")
LIVE = (*RUN, "frames", "engines_used", "notices", "notice")
IMAGES = (
    *("gray.png", "rgb.png", "rgba.png", "gray16.png", "rgb16.png", "pixel.png", "odd.png", "line.png"),
    *("turned.jpg", "photo.tif", "deep.tif", "photo.bmp", "photo.webp"),
)
HELP = ("", "doctor", "upscale", "demo", "eval", "export", "build", "inspect", "bench", "train")
ERRORS = {
    "verb": "upscal rgb.png",
    "option": "upscale rgb.png --tiles 64",
    "range": "upscale rgb.png --tile 8",
    "size": "export --size 64",
    "choice": "build --precision int4",
    "missing-image": f"upscale none.png {SMALL}",
    "text-image": f"upscale text.png {SMALL}",
    "truncated-image": f"upscale truncated.png {SMALL}",
    "empty-image": f"upscale empty.png {SMALL}",
    "some-images": f"upscale text.png rgb.png truncated.png {SMALL}",
    "no-images": f"upscale empty {SMALL}",
    "address": f"upscale https://example.com/a.png {SMALL}",
    "contradiction": f"upscale rgb.png -o big.jpg --format png {SMALL}",
    "overwrites": f"upscale rgb.png -o rgb.png {SMALL}",
    "output-is-file": f"upscale rgb.png -o text.txt {SMALL}",
    "model-and-artifact": "upscale rgb.png --artifact a.onnx --model hasn-x4",
    "missing-artifact": "upscale rgb.png --artifact none.onnx",
    "wrong-artifact": "upscale rgb.png --artifact rgb.png",
    "cuda-without-engine": "upscale rgb.png --cuda torch",
    "no-gpu": f"upscale rgb.png --device cuda {TINY}",
    "codec": f"upscale clip.mp4 --codec nothing {SMALL}",
    "text-video": f"upscale text.mp4 {SMALL}",
    "model": "eval --model hasn-x9",
    "missing-model": "eval --model none.safetensors",
    "cut-model": "export --model cut.pth",
    "other-model": "export --model other.pth",
    "data": f"eval --data none {SMALL}",
    "json-place": f"eval --json text.txt/a.json {SMALL}",
    "opset": "export --opset 21",
    "artifact-format": "export --artifact a.onnx",
    "target": f"build --target nothing {TINY}",
    "recipe": f"build --precision int8 --recipe nothing {TINY}",
    "calibration": f"build --precision int8 --calibration none {TINY}",
    "dynamic": f"build --precision fp16 --target rtx --dynamic 64x64 32x32 96x96 {TINY}",
    "board": f"bench --estimate nothing {TINY}",
    "bench-artifact": "bench --estimate orin-nano --artifact a.onnx",
    "bench-precision": f"bench --precision fp64 --runs 2 {TINY}",
    "small-images": "data prepare photos -o data",
    "data-folder": "data prepare none -o data",
    "train-nothing": "train",
    "train-recipe": "train --recipe nothing --data photos",
    "train-key": "train --recipe train.toml --data photos --set optimizer.rate=1",
    "train-resume": "train --resume photos",
    "demo-source": f"demo --source none.mp4 --view none {TINY}",
    "demo-engine": f"demo --source pattern --view none --engine none.onnx {TINY}",
    "demo-codec": "demo --source pattern --codec libx264",
    "demo-token": f"demo --source pattern --view web --host 0.0.0.0 --token x! {TINY}",
    "demo-device": f"demo --source pattern --view none --device cuda {TINY}",
    "calibrator": f"build --target rtx --precision int8 --int8-method calibrator {TINY}",
    "inspect-nothing": "inspect none.engine",
    "inspect-image": "inspect rgb.png",
    "recipe-key": f"build --precision int8 --recipe train.toml {TINY}",
    "target-file": f"build --target text.txt {TINY}",
    "artifact-and-target": f"upscale rgb.png --device gpu {TINY}",
    "bench-device": f"bench --device jetson --precision fp16 {TINY}",
    "bench-clocks": f"bench --set-clocks --precision fp32 --runs 2 --size 32x24 {TINY}",
    "data-scale": "data prepare photos -o data --scale 8",
    "data-text": "data prepare photos text.png truncated.png -o data --min-side 64",
    "data-bench": "data bench photos --recipe train.toml --seconds 0.2",
    "train-device": f"{TRAIN} --data photos --device cuda",
    "train-init": f"{TRAIN} --data photos --init other.pth",
    "train-init-run": f"{TRAIN} --data photos --init photos@2",
    "train-val": "train --recipe train.toml --data photos --val P=none",
}


def cases() -> Iterator[Case]:
    """Yield every case, in the order in which they run."""
    for verb in (*HELP, "sensitivity", "data", "data prepare", "data bench"):
        yield Case(f"help-{verb.replace(' ', '-') or 'all'}", (f"{verb} --help",))
    yield Case("version", ("--version",))
    yield Case("no-arguments", ("", "upscale", "data", "data prepare", "data bench"))
    yield Case("doctor", ("doctor", "doctor --json"))
    for image in IMAGES:
        yield Case(f"upscale-{image}", (f"upscale {image} {SMALL}",))
    for suffix in ("jpg", "webp", "bmp", "tiff"):
        yield Case(f"upscale-to-{suffix}", (f"upscale rgba.png -o new/big.{suffix} {SMALL}",))
    yield Case("upscale-default-model", ("upscale rgb.png",))
    yield Case("upscale-16-bit-to-jpg", (f"upscale rgb16.png --format jpg {SMALL}",))
    yield Case("upscale-pytorch", ("upscale rgb.png --model tiny.pth", f"upscale gray.png {TINY}"))
    yield Case("upscale-folder", (f"upscale folder odd.png -o out {SMALL}",))
    yield Case("upscale-same-names", (f"upscale folder/a.png folder/inside/a.png --format webp {SMALL}",))
    yield Case("upscale-tile", (f"upscale wide.png --tile 32 --overlap 8 --threads 1 {SMALL}",))
    yield Case("upscale-self-ensemble", (f"upscale odd.png --self-ensemble {SMALL}",))
    yield Case(
        "upscale-clip", (f"upscale clip.mp4 {SMALL}", f"upscale clip.mp4 -o quiet.mkv --audio none {TINY}")
    )
    yield Case("upscale-clip-codec", (f"upscale clip.mp4 -o c.mp4 --codec mpeg4 --quality 5 {TINY}",))
    yield Case("eval", (f"eval --data S=set --data photos --per-image --json eval.json {SMALL}",))
    yield Case("eval-shipped", (f"eval {SMALL} --threads 1", "eval --model tiny.pth --json eval.json"))
    yield Case("eval-self-ensemble", (f"eval --data set --self-ensemble --json eval.json {TINY}",))
    onnx = "engines/tiny-fp32.onnx"
    yield Case(
        "export-onnx",
        (
            f"export {TINY}",
            f"upscale rgb.png folder --artifact {onnx}",
            f"inspect {onnx} --size 32x24 --layers --json inspect.json",
            f"eval --artifact {onnx} --data S=set --json eval.json",
            f"export --format triton --artifact {onnx} --name sr",
            f"cut {onnx}",
            f"upscale rgb.png --artifact {onnx}",
            f"remove {onnx}.json",
            f"upscale rgb.png --artifact {onnx}",
        ),
    )
    yield Case("export-onnx-fp16", (f"export --precision fp16 --opset 20 --batch 2 -o e {TINY}",))
    static = "e/tiny-fp32-32x24.onnx"
    yield Case(
        "export-onnx-static",
        (f"export --size 32x24 -o e {TINY}", f"upscale wide.png pixel.png --artifact {static} --threads 1"),
    )
    yield Case("export-default-model", ("export --opset 18", "export --format torchscript"))
    for precision in ("fp32", "fp16"):
        script = f"export --format torchscript --precision {precision} -o e {TINY}"
        run = f"upscale odd.png --artifact e/tiny-{precision}.ts"
        yield Case(f"export-torchscript-{precision}", (script, run))
    triton = f"export --format triton --precision fp16 --batch 8 {TINY}"
    yield Case("export-triton", (triton, triton, triton.replace("fp16", "fp32") + " -o r --name sr"))
    for precision in ("fp32", "fp16", "int8"):
        upscale = f"upscale rgb.png --artifact engines/tiny-{precision}-cpu.onnx"
        yield Case(f"build-cpu-{precision}", (f"build --target cpu --precision {precision} {TINY}", upscale))
        yield Case(
            f"build-portable-{precision}", (f"build --target portable --precision {precision} {TINY}",)
        )
    rtx, engine = f"build --target rtx --size 32x24 {TINY} --precision", "engines/tiny-fp16-rtx-32x24.engine"
    yield Case(
        "build-rtx-fp16",
        (
            f"{rtx} fp16",
            f"{rtx} fp16",
            "doctor",
            f"upscale rgb.png --artifact {engine}",
            f"export --format triton --artifact {engine}",
            f"cut {engine}",
            f"upscale rgb.png --artifact {engine}",
            f"bench --artifact {engine}",
        ),
    )
    yield Case("build-rtx-fp32", (f"{rtx} fp32 --batch 2",))
    yield Case("build-rtx-int8", (f"{rtx} int8 --pixels",))
    yield Case("build-rtx-dynamic", (f"build --target rtx --dynamic 32x32 48x32 64x64 {TINY}",))
    yield Case("build-rtx-rebuild", (f"{rtx} fp16", f"{rtx} fp16 --rebuild", "doctor --engines engines"))
    yield Case("build-board", (f"build --target orin-nano --precision fp16 {TINY}",))
    yield Case("build-pixels", (f"build --target cpu --precision int8 --pixels --calibration photos {TINY}",))
    yield Case("build-default", ("build", "upscale rgb.png --artifact engines/hasn-x4-fp16-cpu.onnx"))
    yield Case("build-recipe", (f"build --precision int8 --recipe conservative -o c {TINY}",))
    plain = f"build --precision int8 --recipe plain.toml {TINY} --target"
    yield Case("build-plain-recipe", (f"{plain} cpu", f"{plain} portable"))
    yield Case("build-div2k", (f"build --precision int8 --recipe div2k {TINY}",))
    yield Case("build-target-file", (f"build --target own.toml --precision fp32 {TINY}",))
    yield Case("build-over-budget", (f"build --precision int8 --recipe strict.toml {SMALL}",))
    yield Case("build-too-far", (f"build --precision int8 --recipe far.toml {TINY}",))
    yield Case("build-auto", (f"build --precision auto --target cpu --size 32x24 {TINY}",), timed=True,
               unstable=r"^engines/tiny-(fp32|fp16|int8)")  # fmt: skip
    bench = f"bench --precision fp32,int8 --runs 2 --size 32x24 --tile 32 --data S=set {TINY}"
    yield Case("bench", (f"{bench} --json bench.json --markdown bench.md",), True, FIGURES)
    onnx = "engines/tiny-fp32-cpu.onnx"
    measure = f"bench --artifact {onnx} --runs 2 --size 32x24 --threads 1 --data set --sustained 0.01"
    yield Case("bench-artifact", (f"build --target cpu --precision fp32 {TINY}", f"{measure} --json b.json"),
               True, FIGURES)  # fmt: skip
    boards = [
        f"bench --estimate {board} --json {board}.json --markdown {board}.md"
        for board in ("orin-nano", "rtx-4090")
    ]
    yield Case("bench-estimate", (f"{boards[0]} {TINY}", f"{boards[1]} --precision fp16 --size 640x360"))
    yield Case("data-prepare", ("data prepare photos set -o data --min-side 64 --downscale 1 --skip-bad",))
    prepare = "data prepare photos -o data --min-side 64"
    yield Case("data-scale", (f"{prepare[:-2]}32 --downscale 2 --scale 2 --threads 1",))
    yield Case("data-bench", (prepare, "data bench data --recipe train.toml --seconds 0.2"), timed=True)
    resume = "train --resume run --iterations 6 --threads 1 --device cpu"
    yield Case(
        "train",
        (prepare, f"{TRAIN} --data data -o run", resume, "eval --data set --model run/best.safetensors"),
    )
    yield Case("train-photos", (f"{TRAIN} --data photos --iterations 2 --init tiny.safetensors --set ema=0",))
    train = f"{TRAIN} --data data -o"
    yield Case("train-init-run", (prepare, f"{train} a", f"{train} b --init a@2"))
    yield Case("train-show", ("train --recipe hasn-x4-stage2 --set iterations=50 --show",))
    demo = f"demo --view none {TINY}"
    yield Case("demo-pattern", (f"{demo} --source pattern --size 32x24 --seconds 1 --json -",), True, LIVE)
    yield Case(
        "demo-clip",
        (f"{demo} --source clip.mp4 --record seen.mp4 --self-test --json d.json",),
        True,
        RUN,
    )
    shape = "--source clip.mp4 --view none --size 32x24 --threads 1"
    yield Case("demo-artifact", (f"build --target cpu --precision fp32 {TINY}",
               f"demo --artifact {onnx} --engine tiny-fp32-cpu.onnx {shape} --record seen.mkv --codec mpeg4"
               " --quality 5 --json d.json"), True, RUN)  # fmt: skip
    for name, step in ERRORS.items():
        yield Case(f"error-{name}", (step,))
