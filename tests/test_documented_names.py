"""Files that documentation and help name in commands are those that builds of the bundled models publish."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import hasn_edge
from hasn_edge.model.checkpoint import save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.model.zoo import DEFAULT_MODEL
from hasn_edge.spec import ModelSpec

ROOT = Path(__file__).parents[1]
PLACES = [*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/README.md"), *(ROOT / "hasn_edge" / "cli").glob("*.py")]
NAME = re.compile(r"[\w./-]*hasn-x4[\w.-]*\.(?:onnx|engine|ts)\b")


def documented() -> dict[str, set[str]]:
    """Return every file name that looks like a build's, with the places that have it."""
    found: dict[str, set[str]] = {}
    for place in PLACES:
        for name in NAME.findall(place.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(str(place.relative_to(ROOT)))
    return found


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> set[str]:
    """Names of what a network of the default model's name becomes; names do not depend on its size."""
    folder = tmp_path_factory.mktemp("names")
    torch.manual_seed(0)
    model = folder / f"{DEFAULT_MODEL}.safetensors"
    save_checkpoint(model, HASN(ModelSpec(features=8, blocks=1)))
    recipe = folder / "loose.toml"
    recipe.write_text("budget_db = 9.0\n")
    output = folder / "engines"
    hasn_edge.build(model, precision="int8", target="cpu", recipe=recipe, output=output, force=True)
    hasn_edge.build(
        model, precision="int8", target="portable", recipe=recipe, size=(180, 320), output=output, force=True
    )
    try:
        import tensorrt_rtx_bindings  # noqa: F401
    except ImportError:
        return {f"engines/{path.name}" for path in output.iterdir()} | {"engines/hasn-x4-fp16-rtx.engine"}
    hasn_edge.build(model, precision="fp16", target="rtx", output=output)
    return {f"engines/{path.name}" for path in output.iterdir()}


@pytest.mark.slow
def test_names_in_commands_are_what_builds_publish(published):
    names = documented()
    assert len(names) >= 3
    for name, places in names.items():
        assert name in published or f"engines/{name}" in published, (
            f"{', '.join(sorted(places))} names {name}; a build makes {published}"
        )
