"""Recipes: what ships loads, what is misspelt is named, and patterns select what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hasn_edge.config import dump_config
from hasn_edge.errors import ConfigError
from hasn_edge.quantize.observers import Observer
from hasn_edge.quantize.recipe import QuantRecipe, Rounding, load_quant_recipe, shipped_recipes

NAMES = (
    "conv_1",
    "block_1.f1.conv",
    "block_1.f2.conv",
    "block_1.cab.cab.0",
    "block_2.f1.conv",
    "upsampler.0",
)


def test_the_recipes_that_ship_load_and_keep_the_ends_in_float():
    assert {"default", "conservative", "div2k"} <= set(shipped_recipes())
    for name in shipped_recipes():
        chosen = load_quant_recipe(name).select(NAMES)
        assert "block_1.f1.conv" in chosen
        assert name == "search" or not {"conv_1", "upsampler.0"} & set(chosen)


def test_the_conservative_recipe_quantizes_less_and_promises_more():
    default, conservative = load_quant_recipe("default"), load_quant_recipe("conservative")
    assert set(conservative.select(NAMES)) < set(default.select(NAMES))
    assert conservative.budget_db < default.budget_db
    assert (conservative.rounding, conservative.spread) == (Rounding.NEAREST, ())
    assert conservative.observer is Observer.MSE


def test_div2k_is_the_default_recipe_on_other_images():
    default, div2k = load_quant_recipe("default").to_dict(), load_quant_recipe("div2k").to_dict()
    assert div2k.pop("calibration") == "div2k-x4.txt"
    assert default.pop("calibration") == "patches"
    assert div2k == default


def test_a_recipe_survives_the_disk(tmp_path):
    recipe = QuantRecipe(observer=Observer.ENTROPY, keep_float=("conv_?",), budget_db=0.125)
    path = tmp_path / "mine.toml"
    path.write_text(f"inherit = false\n{dump_config(recipe)}", encoding="utf-8")
    assert load_quant_recipe(path) == recipe
    assert load_quant_recipe(str(path), overrides=["observer=minmax"]).observer is Observer.MINMAX


def test_a_recipe_may_begin_with_the_mark_that_editors_on_windows_write(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('observer = "minmax"', encoding="utf-8-sig")
    assert load_quant_recipe(path).observer is Observer.MINMAX


def test_selection_keeps_the_graph_order_and_exceptions_win():
    recipe = QuantRecipe(quantize=("block_*.f1.conv", "block_*.cab.*"), keep_float=("block_2.*",))
    assert recipe.select(NAMES) == ("block_1.f1.conv", "block_1.cab.cab.0")


def test_patterns_that_name_nothing_are_stated(tmp_path):
    """But for those that ship, which a file inherits and which are for several networks."""
    path = tmp_path / "mine.toml"
    path.write_text('keep_float = ["blok_1.*", "conv_1"]\nfreeze = ["conv_1", "block_1.cab.cab.2.gat"]\n')
    assert load_quant_recipe(path).unmatched(NAMES, ["block_1.cab.cab.2.gate"]) == [
        "warning: no convolution of this network is called blok_1.*, as the recipe's keep_float has it",
        "warning: no channel attention of this network is called conv_1 or block_1.cab.cab.2.gat, as the "
        "recipe's freeze has it",
    ]
    wrong = QuantRecipe(quantize=("c*", "x"), shift=("y",), spread=("z?",))
    assert [text.partition(" called ")[2] for text in wrong.unmatched(NAMES, [])] == [
        "x, as the recipe's quantize has it",
        "y, as the recipe's shift has it",
        "z?, as the recipe's spread has it",
    ]
    for name in shipped_recipes():
        assert load_quant_recipe(name).unmatched(["Conv_0", "Conv_1"], []) == []


def test_a_recipe_that_selects_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"quantizes no convolution.*blok_\*.*conv_1"):
        QuantRecipe(quantize=("blok_*",)).select(NAMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("percentle = 99.9", "did you mean percentile"),
        ('observer = "entrpy"', "did you mean 'entropy'"),
        ("percentile = 101", "percentile is 101.0; expected a percentage from 50 to 100"),
        ("budget_db = -1", "budget_db is -1"),
        ("error_power = 0", "error_power is 0"),
        ("quantize = []", "quantize is empty"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_the_file(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_quant_recipe(path)
    assert "mine.toml" in str(caught.value)


def test_an_unknown_recipe_lists_those_that_ship(tmp_path):
    with pytest.raises(ConfigError, match="no recipe called 'fast'.*conservative, default, div2k"):
        load_quant_recipe("fast")
    with pytest.raises(ConfigError, match="no such file"):
        load_quant_recipe(tmp_path / "absent.toml")


def test_a_file_with_one_key_is_the_default_recipe_but_for_it(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("budget_db = 0.5\n")
    default = load_quant_recipe("default")
    assert load_quant_recipe(path) == replace(default, budget_db=0.5)
    assert default != QuantRecipe()
    path.write_text("inherit = false\nbudget_db = 0.5\n")
    assert load_quant_recipe(path) == QuantRecipe(budget_db=0.5)
    path.write_text('inherit = "no"\n')
    with pytest.raises(ConfigError, match="mine.toml: inherit is 'no'; expected true or false"):
        load_quant_recipe(path)
