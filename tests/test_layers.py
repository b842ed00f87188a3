"""The layers: imports point one way, and heavy packages enter by their doors, when they are used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hasn_edge"

LAYERS = (
    {"errors", "interrupt", "optional", "progress", "spec"},
    {"config", "files", "queues", "sidecar"},
    {"artifact"},
    {"hardware"},
    {"images"},
    {"data"},
    {"model"},
    {"fuse"},
    {"engine"},
    {"exporters"},
    {"quantize"},
    {"runtime"},
    {"evaluation"},
    {"pipeline"},
    {"train"},
    {"doctor"},
    {"bench"},
    {"video"},
    {"live"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
"""From left to right along the pipeline; a module imports from its own layer or from those before it."""

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "cv2",
    "PIL",
    "safetensors",
    "matplotlib",
)

DOORS = {
    "torch": (
        "data/shards",
        "model/",
        "train/",
        "fuse/",
        "quantize/equalize",
        "quantize/fake_quant",
        "exporters/",
        "runtime/pt2",
        "runtime/pytorch",
        "runtime/torchscript",
    ),
    "safetensors": ("model/", "train/"),
    "onnx": ("exporters/", "quantize/"),
}
"""Files that may import a heavy package at their top: nobody imports them before they are needed."""

MAX_LINES = 500

CRUMB_LINES = 60
"""A module of fewer lines that one other module alone imports belongs into it."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstring(path: Path) -> str:
    return ast.get_docstring(parsed(path)) or ""


def lines_of(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def place(path: Path) -> str:
    return str(path.relative_to(PACKAGE).with_suffix(""))


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    for index, names in enumerate(LAYERS):
        if name in names:
            return index
    raise AssertionError(f"hasn_edge/{name} has no layer; say in LAYERS where it belongs")


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


def target(name: str) -> str | None:
    """Return the package that the dotted name is in; ``None`` where it is not this package's."""
    parts = name.split(".")
    if parts[0] != "hasn_edge":
        return None
    first = parts[1] if len(parts) > 1 else ""
    return first if (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").exists() else "__init__"


def offenders(*, top_only: bool) -> Iterator[tuple[Path, str, int]]:
    for path in modules():
        for name, line in imports(parsed(path), top_only=top_only):
            yield path, name, line


def test_imports_point_one_way():
    wrong = [
        f"{place(path)}.py:{line} imports {name}"
        for path, name, line in offenders(top_only=False)
        if (other := target(name)) is not None and layer(other or "__init__") > layer(package_of(path))
    ]
    assert wrong == []


def test_a_modules_name_is_its_own():
    paths = [path for path in PACKAGE.rglob("*") if path.suffix == ".py" or (path / "__init__.py").exists()]
    names = Counter(path.stem for path in paths if not place(path).startswith("cli") and path.stem[0] != "_")
    twice = {name for name, count in names.items() if count > 1}
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Names")[2]
    assert twice == set(re.findall(r"`(\w+)`\s\(", text))


def test_heavy_packages_load_on_use():
    wrong = [
        f"{place(path)}.py:{line} imports {name} at its top"
        for path, name, line in offenders(top_only=True)
        if (package := name.split(".")[0]) in HEAVY and not place(path).startswith(DOORS.get(package, ()))
    ]
    assert wrong == []


def test_every_module_says_its_job_in_at_most_500_lines():
    wrong = []
    for path in modules():
        first = docstring(path).split("\n\n")[0].rstrip()
        if not first.endswith((".", ":")):
            wrong.append(f"{place(path)}.py has no docstring that says its job")
        if (lines := lines_of(path)) > MAX_LINES:
            wrong.append(f"{place(path)}.py has {lines} lines")
    assert wrong == []


def test_no_module_is_a_crumb():
    paths = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in modules()}
    importers: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(parsed(path)):  # for type checkers too: whoever needs the types reads the module
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                targets = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            for other in importers.keys() & set(targets) - {name}:
                importers[other].add(name)
    wrong = [
        f"{name} has {lines} lines and one importer, {next(iter(importers[name]))}: merge them, or write "
        "into its docstring 'It stands alone because ...'"
        for name, path in paths.items()
        if len(importers[name]) == 1
        and not name.endswith("__")
        and (lines := lines_of(path)) < CRUMB_LINES
        and "stands alone because" not in " ".join(docstring(path).split())
    ]
    assert wrong == []


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


@pytest.mark.slow
def test_base_modules_need_no_heavy_package():
    code = """
import hasn_edge, hasn_edge.artifact, hasn_edge.config, hasn_edge.images.arrays, hasn_edge.images.metrics
import hasn_edge.evaluation.evaluate, hasn_edge.evaluation.compare
import hasn_edge.runtime.open, hasn_edge.runtime.upscaler
import hasn_edge.pipeline.api, hasn_edge.bench.benchmark, hasn_edge.doctor.describe, hasn_edge.model.zoo
"""
    python(code, without=HEAVY)


@pytest.mark.slow
def test_public_names_are_exported_and_sorted():
    code = """
import hasn_edge
assert hasn_edge.__all__ == sorted(hasn_edge.__all__)
for name in hasn_edge.__all__:
    assert getattr(hasn_edge, name) is not None, name
assert set(hasn_edge.__all__) <= set(dir(hasn_edge))
"""
    python(code)
