"""The command from its first moment on."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from click.testing import CliRunner

from hasn_edge.cli import cli
from hasn_edge.engine.target import load_target, shipped_targets
from hasn_edge.model.zoo import bundled_models
from hasn_edge.quantize.recipe import shipped_recipes
from hasn_edge.train.recipe import recipe_names

INTERRUPTED = """
import runpy, sys
class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Impatient())
sys.argv = ["hasn-edge", "--help"]
runpy.run_module("hasn_edge", run_name="__main__")
"""


def test_a_misspelt_verb_is_guessed():
    result = CliRunner().invoke(cli, ["upscal", "a.png"], prog_name="hasn-edge")
    assert result.exit_code == 2
    assert "No such command 'upscal'. Did you mean upscale? Verbs: doctor, models, upscale" in result.output


def boards() -> list[str]:
    """Return the targets that can be estimated."""
    return [name for name in shipped_targets() if load_target(name).device is not None]


def test_help_names_what_ships():
    words = {
        "build": (*bundled_models(), *shipped_recipes(), *shipped_targets()),
        "upscale": bundled_models(),
        "train": recipe_names(),
        "data bench": recipe_names(),
        "eval": bundled_models(),
        "bench": (*bundled_models(), *shipped_recipes(), *boards()),
    }
    for verb, names in words.items():
        text = CliRunner().invoke(cli, [*verb.split(), "--help"], prog_name="hasn-edge").output
        joined = re.sub(r"-\s+", "-", " ".join(text.split()))
        assert [name for name in names if name not in joined] == []
        assert "{names}" not in text


def test_shells_complete_verbs_and_names():
    def complete(*words: str) -> str:
        given = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run(
            [sys.executable, "-c", "from hasn_edge.cli import main; main()"],
            env={**os.environ, **given, "_HASN_EDGE_COMPLETE": "bash_complete"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout

    assert "plain,upscale" in complete("hasn-edge", "up")
    assert "plain,hasn-x4-small" in complete("hasn-edge", "build", "--model", "hasn-x4-")
    assert "plain,orin-nano" in complete("hasn-edge", "build", "--target", "orin-n")
    assert "plain,orin-nano" in complete("hasn-edge", "bench", "--estimate", "orin-n")


def test_ctrl_c_while_it_is_being_loaded_ends_it_quietly():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
