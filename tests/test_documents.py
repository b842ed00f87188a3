"""The documents: their commands, links and images are those of this repository."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType

import numpy as np
import pytest
import torch

from hasn_edge.cli import VERBS, cli
from hasn_edge.engine.target import load_target
from hasn_edge.images.codec import write_image
from hasn_edge.model.checkpoint import save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec
from tests.support.scripts import load_script

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("hasn_edge/**/*.md"))
    if path.name != "CHANGELOG.md"
]


def commands() -> list[str]:
    return [
        block for block in re.findall(r"```\n(.*?)```", README, re.S) if block.startswith("python3 -m venv")
    ]


def test_the_readme_is_short_and_has_two_commands_of_one_line():
    assert README.count("\n") <= 150
    assert len(commands()) == 2
    assert all(block.count("\n") == 1 for block in commands())
    assert all("-c constraints.txt" in block for block in commands())


def test_the_readme_lists_every_verb():
    listed = re.findall(r"`hasn-edge ([a-z]+)", README.partition("| verb |")[2].partition("\n\n")[0])
    assert set(listed) == set(VERBS)


def test_continuous_integration_runs_the_second():
    assert commands()[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(path):
    text = re.sub(r"```python.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (path.parent / link.partition("#")[0]).exists()]
    for name in re.findall(
        r"(?<![\w./-])(?:calibration|benchmarks|engines|hasn_edge|tests|docs)/[\w./-]+\w", text
    ):
        if not (ROOT / name).exists() and "*" not in text[text.index(name) :][: len(name) + 2]:
            missing.append(name)
    missing = [name for name in missing if not re.search(r"NAME|cache|\.(onnx|engine|ts)$", name)]
    assert missing == []


def test_the_results_of_the_other_machine_are_named():
    """Those of a CPU with AVX2 alone, as the records state it."""
    conventions = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w*]+)`", conventions.partition("AVX2 alone are")[2].partition(".")[0])
    of_avx2 = set()
    for path in (ROOT / "benchmarks" / "results").glob("*.md"):
        units = re.search(r"vector units:? ([\w, ]+?)(?:;|, load|\n)", path.read_text(encoding="utf-8"))
        of_avx2 |= {path.stem} if units is not None and units[1] == "avx2" else set()
    assert len(of_avx2) > 5
    assert of_avx2 == {
        path.stem for name in named for path in (ROOT / "benchmarks" / "results").glob(f"{name}.md")
    }


def test_the_sample_of_a_target_file_loads(tmp_path):
    text = (ROOT / "engines" / "README.md").read_text(encoding="utf-8")
    (tmp_path / "sample.toml").write_text(re.search(r"```toml\n(.*?)```", text, re.S)[1], encoding="utf-8")
    target = load_target(tmp_path / "sample.toml")
    assert (target.compute_capabilities, target.shapes.opt) == (("8.0", "8.6", "8.9"), (1, 3, 180, 320))


def test_git_ignores_what_is_built():
    """What verbs write where they write by default is no part of the repository; declarations are."""
    built = "x.onnx x.onnx.json x.pt2 x.engine.runtime-cache x-int8-search.toml x-finetuned.safetensors c/x"
    paths = [f"engines/{name}" for name in built.split()]
    paths += ["out/x.png", "triton/x/config.pbtxt", "bundle/bundle.json", "runs/x/run.json", "data/x"]
    kept = ["engines/targets/new.toml", "engines/README.md", "engines/.gitignore"]
    git = ["git", "check-ignore", "--no-index", *paths, *kept]
    done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        pytest.skip("no git, or no repository")
    assert done.stdout.split() == paths


@pytest.mark.slow
def test_the_layers_are_drawn_as_the_code_has_them():
    module = load_script("docs/make_images.py")
    drawn = (ROOT / "docs" / "images" / "layers.svg").read_text(encoding="utf-8")
    assert drawn == module.layers_svg(), "the packages changed; run: python docs/make_images.py"
    assert max(module.layers().values()) <= 12
    assert len(module.SAYS) <= 30
    loose = {path.stem for path in (ROOT / "hasn_edge").glob("*.py")} - {"__init__", "__main__"}
    assert len(loose) <= 10
    inside = (path for path in module.PACKAGE.iterdir() if path.suffix in ("", ".py"))
    packages = {path.name.removesuffix(".py") for path in inside}
    assert packages - set(module.SAYS) == {"__init__", "__main__", "__pycache__"} & packages | {
        "__init__",
        "__main__",
    }


PACKAGE = ROOT / "hasn_edge"
WALKS = {
    "One image": "upscale photo.png -o out.png --model tiny.safetensors",
    "One model": "build --precision int8 --target cpu --model tiny.safetensors --recipe loose.toml --force",
}
"""The walks of docs/architecture.md, and what is run to compare: a small network, built for this CPU."""
LEAD = {"cli", "pipeline"}
"""The packages that lead the walks."""


def documented(walk: str) -> tuple[list[str], list[str]]:
    """Return the functions of a walk, and the packages that the line below its table names."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition(f"**{walk}")[2]
    functions = re.findall(r"^\| `([\w.]+)` \|", text.partition("\nPackages: ")[0], re.M)
    packages = re.search(r"\nPackages: ([\w, ]+)\.", text)
    return functions, packages[1].split(", ")


def code_of(name: str) -> CodeType:
    """Return the code that runs when what is called ``name`` below ``hasn_edge`` is called."""
    module, _, function = name.rpartition(".")
    if not (PACKAGE / module.replace(".", "/")).with_suffix(".py").exists():
        module, _, owner = module.rpartition(".")
        function = f"{owner}.{function}"
    found = importlib.import_module(f"hasn_edge.{module}")
    for part in function.split("."):
        found = getattr(found, part)
    found = getattr(found, "callback", found)  # a verb's command
    return inspect.unwrap(found.__init__ if inspect.isclass(found) else found).__code__


class Trace:
    """Notes which of some functions are called, in order, and which packages the leading ones enter."""

    def __init__(self, functions: dict[CodeType, str]) -> None:
        self.functions = functions
        self.called: list[str] = []
        self.entered: list[str] = []
        self._packages: list[str] = []

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "return" and self._packages:
            self._packages.pop()
        if event != "call":
            return
        caller = next((package for package in reversed(self._packages) if package), "")
        package = self._package(code, caller)
        self._packages.append(package)
        if caller == "import":
            return
        if code in self.functions:
            self.called.append(self.functions[code])
        method = code.co_varnames[:1] == ("self",) and code.co_name != "__init__"
        if package not in ("", "import", *LEAD) and caller in LEAD and not method:
            self.entered.append(package)

    def _package(self, code: CodeType, caller: str) -> str:
        """Return where code is; nothing for loose modules and other packages, ``import`` during one."""
        if caller == "import" or code.co_filename.startswith("<frozen importlib"):
            return "import"
        path = Path(code.co_filename)
        inside = path.is_relative_to(PACKAGE) and len(path.relative_to(PACKAGE).parts) > 1
        return path.relative_to(PACKAGE).parts[0] if inside else ""


def test_the_walks_name_functions_that_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    text = text.partition("## Two calls, step by step")[2]
    assert [code_of(name) for name in re.findall(r"`([a-z]\w+\.\w+\.[\w.]+)`", text)]
    for walk in WALKS:
        functions, packages = documented(walk)
        leading = [name for name in functions if name.split(".")[0] not in LEAD]
        assert set(packages) <= {name.split(".")[0] for name in leading}


@pytest.mark.slow
@pytest.mark.parametrize("walk", WALKS)
def test_the_walks_are_those_of_the_code(walk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_checkpoint(Path("tiny.safetensors"), HASN(ModelSpec(features=8, blocks=1)))
    Path("loose.toml").write_text("budget_db = 50.0\nequalize = 0.6\n")
    write_image("photo.png", np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8))
    functions, packages = documented(walk)
    trace = Trace({code_of(name): name for name in functions})
    sys.setprofile(trace)
    try:
        cli(WALKS[walk].split(), standalone_mode=False)
    finally:
        sys.setprofile(None)
    assert list(dict.fromkeys(trace.called)) == functions, "in the order of their first calls"
    assert [package for package, _ in groupby(trace.entered)] == packages


def test_torch_is_pinned():
    assert re.search(r"^torch==[\d.]+$", (ROOT / "constraints.txt").read_text(), re.M)
