"""What benchmarks/verbs.py records: a case run in a folder of its own, on inputs that are always the same."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import skimage.data
import torch
from PIL import Image
from safetensors.numpy import save_file
from verbs_cases import Case

from hasn_edge.quantize.recipe import QuantRecipe
from hasn_edge.train.recipe import Recipe as TrainRecipe

LIMIT_S = 600
"""How long one step may take."""

SHAPES = {
    "conv_1": (8, 3, 3, 3),
    "block_1.dwconv.conv": (8, 1, 7, 7),
    "block_1.ln": (8,),
    **{f"block_1.f{number}.conv": (16, 8, 1, 1) for number in (1, 2, 3)},
    "block_1.esa.conv1": (4, 16, 1, 1),
    **{f"block_1.esa.conv{number}": (4, 4, 3, 3) for number in (2, 3)},
    "block_1.esa.conv_f": (4, 4, 1, 1),
    "block_1.esa.conv4": (16, 4, 1, 1),
    "block_1.g.conv": (8, 16, 1, 1),
    "block_1.dwconv2.conv": (8, 1, 7, 7),
    "block_1.cab.cab.0": (4, 8, 3, 3),
    "block_1.cab.cab.2": (8, 4, 3, 3),
    "block_1.cab.cab.3.attention.1": (2, 8, 1, 1),
    "block_1.cab.cab.3.attention.3": (8, 2, 1, 1),
    "conv_2": (8, 8, 3, 3),
    "upsampler.0": (48, 8, 3, 3),
}
"""The smallest network that has every part, by the published names."""

SPEC = {
    "features": 8,
    "blocks": 1,
    "expansion": 2,
    "esa_channels": 4,
    "cab_compression": 2,
    "cab_reduction": 4,
}
"""The same as a checkpoint names it."""

RECIPE = 'observer = "percentile"\npercentile = {}\nbudget_db = 0.0\n'
PLAIN_RECIPE = """observer = "mse"
error_power = 2.4
weight_range = "mse"
quantize = ["block_*.f*.conv", "block_*.esa.conv*", "block_*.g.conv", "block_*.cab.cab.0", "conv_2"]
budget_db = 0.06
"""
"""The default recipe of version 0.1: a graph of it does not change where the recipes that ship do."""
TARGET = """runtime = "rtx"
compute_capabilities = ["ampere"]
[shapes]
minimum = [1, 3, 24, 32]
typical = [1, 3, 24, 32]
maximum = [1, 3, 48, 64]
"""
"""A target file as version 0.1 wrote them."""
TRAIN_RECIPE = """name = "few"
iterations = 4
validate_every = 2
checkpoint_every = 2
model = {features = 8, blocks = 1, expansion = 2, esa_channels = 4, cab_compression = 2, cab_reduction = 4}
phases = [{patch = 60, batch_size = 2}]
"""
MEMORY_FORMAT = 'memory_format = "channels_last"\n'
"""The format of version 0.1, which has no such key. Left to be measured, two recordings could differ."""
INHERIT = "inherit = false\n"
"""What a recipe leaves out is as in the class, and not as in the recipe that ships."""


def make_inputs(folder: Path) -> None:
    """Write everything that the cases read: images, clips, weights, recipes and broken files."""
    astronaut, coffee, camera = (getattr(skimage.data, name)() for name in ("astronaut", "coffee", "camera"))
    photo = astronaut[80:128, 180:244]
    deep = photo.astype(np.uint16) * 257 + np.arange(64, dtype=np.uint16)[:, None] % 7
    alpha = np.linspace(0, 255, 48 * 64).reshape(48, 64, 1).astype(np.uint8)
    images = {
        "gray.png": camera[100:140, 200:252],
        "rgb.png": photo,
        "rgba.png": np.concatenate([photo, alpha], axis=2),
        "gray16.png": camera[100:140, 200:252].astype(np.uint16) * 250,
        "rgb16.png": deep,
        "pixel.png": photo[:1, :1],
        "odd.png": coffee[100:137, 200:253],
        "line.png": coffee[100:101, 200:253],
        "wide.png": coffee[100:148, 150:246],
        "photo.tif": photo,
        "deep.tif": deep,
        "photo.bmp": photo,
        "photo.webp": photo,
        "folder/a.png": photo[:20, :24],
        "folder/b.jpg": coffee[100:124, 200:220],
        "folder/inside/a.png": coffee[200:224, 200:220],
        "set/HR/one.png": astronaut[80:176, 180:276],
        "set/HR/two.png": coffee[100:180, 200:304],
        "photos/one.png": astronaut[80:200, 180:310],
        "photos/two.png": coffee[100:221, 200:333],
        "photos/three.png": camera[100:170, 200:290],
    }
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(pixels.shape[2] if pixels.ndim > 2 else 1)
        cv2.imwrite(str(folder / name), pixels if order is None else cv2.cvtColor(pixels, order))
    (folder / "set/LRbicx4").mkdir()
    for name in ("one.png", "two.png"):
        large = cv2.imread(str(folder / "set/HR" / name))
        small = cv2.resize(large, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / "set/LRbicx4" / name.replace(".", "x4.")), small)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(photo).save(folder / "turned.jpg", exif=turned, quality=90)
    _clip(folder / "clip.mp4", coffee)
    _weights(folder)
    _broken(folder)
    for name, percentile in (("strict.toml", 99.9), ("far.toml", 60.0)):
        (folder / name).write_text(RECIPE.format(percentile))
    (folder / "train.toml").write_text(TRAIN_RECIPE)
    (folder / "own.toml").write_text(TARGET)
    (folder / "plain.toml").write_text(PLAIN_RECIPE)


def fix_new_keys(folder: Path) -> None:
    """State in the recipes of :func:`make_inputs` what version 0.1 did and has no key for."""
    added = {"train.toml": MEMORY_FORMAT} if hasattr(TrainRecipe, "memory_format") else {}
    if hasattr(QuantRecipe, "equalize"):
        added |= dict.fromkeys(("plain.toml", "strict.toml", "far.toml"), INHERIT)
    for name, line in added.items():
        with (folder / name).open("a", encoding="utf-8") as recipe:
            recipe.write(line)


def _clip(path: Path, image: np.ndarray) -> None:
    """Write six frames of a window that moves over the image, with a tone."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=12, options={"threads": "1", "crf": "12"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for number in range(6):
            pixels = np.ascontiguousarray(
                image[100 + number : 148 + number, 200 + 3 * number : 264 + 3 * number]
            )
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        tone = np.sin(np.arange(8000) * 0.1).astype(np.float32)[None] / 4
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def _weights(folder: Path) -> None:
    """Write a network that repeats every pixel, disturbed at random in all its weights."""
    random = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}
    for name, shape in SHAPES.items():
        spread = 0.3 / np.sqrt(np.prod(shape[1:], dtype=float))
        weights[f"{name}.weight"] = (random.standard_normal(shape) * spread).astype(np.float32)
        weights[f"{name}.bias"] = (random.standard_normal(shape[:1]) * 0.02).astype(np.float32)
    weights["block_1.ln.weight"] += 1
    for channel in range(3):
        weights["conv_1.weight"][channel, channel, 1, 1] += 1
        weights["upsampler.0.weight"][16 * channel : 16 * channel + 16, channel, 1, 1] += 1
    named = {"hasn_edge.spec": json.dumps(SPEC)}
    save_file(weights, folder / "tiny.safetensors", metadata=named)
    tensors = {name: torch.from_numpy(values) for name, values in weights.items()}
    torch.save({"params": tensors, **named}, folder / "tiny.pth")
    torch.save({"params": {"body.0.weight": torch.zeros(3, 3)}}, folder / "other.pth")


def _broken(folder: Path) -> None:
    for name, source in (("truncated.png", "rgb.png"), ("cut.pth", "tiny.pth")):
        content = (folder / source).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    for name in ("text.png", "text.mp4", "text.txt"):
        (folder / name).write_text("neither an image nor a video\n")
    (folder / "empty.png").write_bytes(b"")
    (folder / "empty").mkdir()


def digest(path: Path) -> str:
    """Return a hash of what a file holds, without what is another in every file of the same content.

    Left out are names and lines of source files in PyTorch's archives, the order of safetensors' metadata,
    and the random numbers that Matroska begins with. A damaged file counts byte by byte.
    """
    content = path.read_bytes()
    try:
        return _digest(path, content)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        return _hash(content)


def _digest(path: Path, content: bytes) -> str:
    if path.suffix == ".safetensors":
        size = 8 + int.from_bytes(content[:8], "little")
        header = json.dumps(json.loads(content[8:size]), sort_keys=True)
        return _hash(header.encode() + content[size:])
    if path.suffix == ".mkv":
        return _hash("\n".join(_packets(path)).encode())
    if path.suffix in (".ts", ".pth", ".pt") and zipfile.is_zipfile(path):
        return _hash("\n".join(sorted(_members(path))).encode())
    return _hash(content)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _packets(path: Path) -> Iterator[str]:
    """Yield what a video's streams are, and every packet of them."""
    with av.open(str(path)) as container:
        for stream in container.streams:
            kind = str(stream).partition(" at 0x")[0]
            yield f"{kind} {stream.time_base} {sorted(stream.metadata.items())}"
        for packet in container.demux():
            yield f"{packet.stream.index} {packet.pts} {packet.dts} {packet.duration} {_hash(bytes(packet))}"


def _members(path: Path) -> Iterator[str]:
    """Yield the files in an archive of PyTorch's."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            inside, content = name.partition("/")[2], archive.read(name)
            if inside == ".data/serialization_id" or inside.endswith(".debug_pkl"):
                continue
            if path.suffix == ".ts" and inside == "data.pkl":  # names its class by its module
                continue
            if inside.startswith("code/"):
                inside, content = "code", re.sub(rb"__torch__[\w.]*", b"", content)
            yield f"{inside} {_hash(content)}"


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """Return every file below a folder with its hash and size."""
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": _hash(path.read_bytes()),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_step(step: str, work: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run one step of a case and return what it said."""
    first, *rest = [*shlex.split(step), ""][:2]
    if first == "remove":
        (work / rest[0]).unlink(missing_ok=True)
    elif first == "cut" and (work / rest[0]).is_file():
        os.truncate(work / rest[0], (work / rest[0]).stat().st_size // 2)
    if first in ("remove", "cut"):
        return {"command": step, "code": 0, "stdout": "", "stderr": "", "seconds": 0.0}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "hasn_edge", *shlex.split(step)],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    said = {name: getattr(done, name).decode(errors="replace") for name in ("stdout", "stderr")}
    seconds = round(time.perf_counter() - begin, 2)
    return {"command": step, "code": done.returncode, **said, "seconds": seconds}


def package() -> Path:
    """Return the folder that the package which is recorded lies in."""
    spec = importlib.util.find_spec("hasn_edge")
    if spec is None or spec.origin is None:
        raise SystemExit("hasn_edge is not installed for this Python")
    return Path(spec.origin).parents[1]


def run_case(case: Case, inputs: Path, kept: Path) -> dict[str, Any]:
    """Run one case in a new folder, copy what it wrote to ``kept`` and return the record."""
    with tempfile.TemporaryDirectory(prefix="verbs-") as root:
        work, temporary = Path(root, "work"), Path(root, "temporary")
        shutil.copytree(inputs, work)
        temporary.mkdir()
        environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TMPDIR": str(temporary)}
        before = contents(work)
        steps = [run_step(step, work, environment) for step in case.steps]
        after = contents(work)
        written = {name: facts for name, facts in after.items() if facts != before.get(name)}
        shutil.rmtree(kept, ignore_errors=True)
        for name in written:
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / name, kept / name)
    return {
        "steps": steps,
        "files": written,
        "removed": sorted(set(before) - set(after)),
        "places": {
            str(work): "<work>",
            str(temporary): "<temporary>",
            str(package()): "<package>",
            sys.prefix: "<python>",
        },
    }
