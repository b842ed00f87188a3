"""What benchmarks/engine_traffic.py quantizes has ranges: those of the default recipe are measured."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from hasn_edge.model.zoo import load_model
from hasn_edge.quantize.recipe import load_quant_recipe
from tests.support.scripts import load_script


def test_every_placement_is_within_the_default_recipe():
    recipe = load_quant_recipe("default")
    names = [name for name, module in load_model("hasn-x4").named_modules() if isinstance(module, nn.Conv2d)]
    for label, patterns in load_script("benchmarks/engine_traffic.py").PLACEMENTS.items():
        chosen = set(replace(recipe, quantize=patterns).select(names))
        assert chosen, label
        assert chosen <= set(recipe.select(names)), label
