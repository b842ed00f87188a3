"""The house: imports point one way, and heavy packages enter by their doors, when they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hasn_edge"

FLOORS = (
    {"errors", "interrupt", "optional", "spec"},
    {"artifact", "config", "config_dump", "machine", "resources", "image", "imagefile", "metrics"},
    {"data"},
    {"quality"},
    {"model"},
    {"train"},
    {"fuse"},
    {"formats"},
    {"quantize"},
    {"graphs"},
    {"engine"},
    {"runtime"},
    {"latency", "verify"},
    {"gate"},
    {"job"},
    {"engine_job"},
    {"builder"},
    {"fastest"},
    {"pipeline"},
    {"device"},
    {"bench"},
    {"video"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
"""From left to right along the pipeline; a module imports from its own floor or from those before it."""

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "tensorrt",
    "tensorrt_rtx",
    "cv2",
    "safetensors",
    "matplotlib",
)

DOORS = {
    "torch": (
        "data/shards",
        "model/",
        "train/",
        "fuse/",
        "formats/",
        "runtime/pytorch",
        "runtime/torchscript",
    ),
    "safetensors": ("model/checkpoint", "train/"),
    "onnx": ("formats/", "quantize/"),
}
"""Files that may import a heavy package at their top: nobody imports them before they are needed."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    for index, names in enumerate(FLOORS):
        if name in names:
            return index
    raise AssertionError(f"hasn_edge/{name} has no floor; say in FLOORS where it belongs")


def imports(tree: ast.AST, *, top_only: bool) -> Iterator[tuple[str, int]]:
    """Yield the dotted names that run-time imports name, with their lines; not those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        else:
            yield from imports(node, top_only=top_only)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_left(path):
    mine = floor(room(path))
    for name, line in imports(ast.parse(path.read_text(encoding="utf-8")), top_only=False):
        parts = name.split(".")
        if parts[0] != "hasn_edge":
            continue
        target = parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).exists() else None
        if target is None and len(parts) > 1 and (PACKAGE / f"{parts[1]}.py").exists():
            target = parts[1]
        other = floor(target or "__init__")
        assert other <= mine, f"{path.relative_to(PACKAGE)}:{line} imports {name}, which is to its right"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_have_doors(path):
    place = str(path.relative_to(PACKAGE).with_suffix(""))
    for name, line in imports(ast.parse(path.read_text(encoding="utf-8")), top_only=True):
        package = name.split(".")[0]
        if package in HEAVY:
            assert place.startswith(DOORS.get(package, ())), f"{place}.py:{line} imports {package} at its top"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_says_its_job(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert docstring.split("\n\n")[0].rstrip().endswith((".", ":", "."))


def python(code: str, *, without: tuple[str, ...] = ()) -> str:
    block = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in without)
    done = subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_loads_nothing_heavy():
    code = """
import hasn_edge.cli as cli
for verb in cli.VERBS:
    try:
        cli.cli([verb, "--help"], prog_name="hasn-edge")
    except SystemExit as done:
        assert done.code == 0, verb
loaded = {"numpy", "rich", "msgspec"} & set(sys.modules)
assert not loaded, loaded
"""
    python(code, without=HEAVY)


def test_base_modules_need_no_heavy_package():
    code = """
import hasn_edge, hasn_edge.artifact, hasn_edge.config, hasn_edge.image, hasn_edge.metrics, hasn_edge.quality
import hasn_edge.verify, hasn_edge.runtime.fake, hasn_edge.runtime.open, hasn_edge.runtime.upscaler
import hasn_edge.pipeline, hasn_edge.bench.run, hasn_edge.device.doctor, hasn_edge.model.zoo
"""
    python(code, without=HEAVY)


def test_public_names_are_exported_and_sorted():
    code = """
import hasn_edge
assert hasn_edge.__all__ == sorted(hasn_edge.__all__)
for name in hasn_edge.__all__:
    assert getattr(hasn_edge, name) is not None, name
assert set(hasn_edge.__all__) <= set(dir(hasn_edge))
"""
    python(code)
