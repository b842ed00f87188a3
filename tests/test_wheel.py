"""An installed wheel works from any directory: it carries its models, recipes, targets and images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that a wheel of this checkout was unpacked into, as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=False,
    ).stdout  # fmt: skip
    if not files:
        pytest.skip("needs git to list the files of the checkout")
    for name in files.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    built = subprocess.run([*pip, "-w", folder, source], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_only_one_package_is_installed(installed):
    assert {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")} == {"hasn_edge"}


def test_every_file_beside_the_code_is_there(installed):
    beside = {
        path.relative_to(ROOT)
        for path in (ROOT / "hasn_edge").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != "README.md"
    }
    assert Path("hasn_edge/bench/report.html.j2") in beside
    assert not [path for path in beside if not (installed / path).is_file()]


def test_everything_that_ships_is_there(installed, tmp_path):
    code = """
import hasn_edge, json
from hasn_edge.engine.target import shipped_targets
from hasn_edge.model.zoo import bundled_models, bundled_onnx
from hasn_edge.quantize.recipe import shipped_recipes
from hasn_edge.files import shipped_path
print(json.dumps([
    hasn_edge.__file__, sorted(shipped_targets()), sorted(bundled_models()), list(shipped_recipes()),
    len(list(shipped_path("calibration", "patches").glob("*.png"))),
    all(bundled_onnx(name) for name in bundled_models()),
]))
"""
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    where, targets, models, recipes, patches, onnx = json.loads(done.stdout)
    assert Path(where).is_relative_to(installed)
    assert {"cpu", "portable", "rtx"} <= set(targets)
    assert models
    assert {"default", "conservative", "div2k"} <= set(recipes)
    assert patches >= 30
    assert onnx


def test_it_upscales_from_another_directory(installed, tmp_path):
    import numpy as np

    from hasn_edge.images.codec import read_image, write_image

    write_image(tmp_path / "a b.png", np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8))
    done = run(installed, tmp_path, "-m", "hasn_edge", "upscale", "a b.png", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "out" / "a b_x4.png").shape == (80, 124, 3)
