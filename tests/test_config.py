from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from msgspec import Meta

from hasn_edge.config import attribute_docs, config_from_mapping, dump_config, load_config
from hasn_edge.errors import ConfigError
from hasn_edge.quantize.recipe import QuantRecipe
from hasn_edge.spec import Activation, ModelSpec
from hasn_edge.train import recipe as training


class Loss(str, Enum):
    L1 = "l1"
    CHARBONNIER = "charbonnier"


@dataclass(frozen=True, kw_only=True)
class Stage:
    steps: Annotated[int, Meta(ge=1)] = 100
    learning_rate: float = 1e-3
    """Peak learning rate.

    Cosine decay starts here.
    """

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ConfigError(f"train.learning_rate is {self.learning_rate}; expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Train:
    batch_size: Annotated[int, Meta(ge=1, le=4096)] = 8
    """Patches per step."""
    loss: Loss = Loss.L1
    observer: Literal["minmax", "mse"] = "minmax"
    betas: tuple[float, float] = (0.9, 0.99)
    milestones: tuple[int, ...] = ()
    ema: float | None = None
    amp: bool = False
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    output: Path | None = None
    train: Train = field(default_factory=Train)
    """How it learns."""
    model: ModelSpec = field(default_factory=ModelSpec)
    weights: Mapping[str, float] = field(default_factory=dict)


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, Recipe, overrides)


def error(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).replace(str(tmp_path / "recipe.toml"), "FILE")


def test_nested_tables_enums_tuples_and_paths_arrive_typed(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        """
        name = "größer x4"
        output = "runs/a"
        [train]
        batch_size = 16
        loss = "charbonnier"
        betas = [1, 0.999]
        milestones = [10, 20]
        [[train.stages]]
        steps = 5
        [model]
        features = 8
        activation = "relu"
        [weights]
        kl = 1
        """,
    )
    assert recipe.name == "größer x4"
    assert recipe.output == Path("runs/a")
    assert recipe.train == Train(
        batch_size=16,
        loss=Loss.CHARBONNIER,
        betas=(1.0, 0.999),
        milestones=(10, 20),
        stages=(Stage(steps=5),),
    )
    assert type(recipe.train.betas[0]) is float
    assert recipe.model == ModelSpec(features=8, activation=Activation.RELU)
    assert recipe.weights == {"kl": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size = 2", "unknown key batch_size; did you mean train.batch_size?"),
        ("train.batchsize = 2", "unknown key train.batchsize; did you mean train.batch_size?"),
        (
            "[[train.stages]]\nstep = 2",
            "unknown key train.stages[0].step; did you mean train.stages[0].steps?",
        ),
        ("model.qqq = 2", "unknown key model.qqq; known there: arch, scale, channels"),
        ("train.batch_size = '16'", "train.batch_size is '16' (a string); expected an integer"),
        ("train.batch_size = true", "train.batch_size is True (a boolean); expected an integer"),
        ("train.batch_size = 1.0", "train.batch_size is 1.0 (a float); expected an integer"),
        ("train.batch_size = 0", "train.batch_size is 0 (an integer); expected an integer >= 1"),
        ("train.batch_size = 5000", "train.batch_size is 5000 (an integer); expected an integer <= 4096"),
        ("train.amp = 1", "train.amp is 1 (an integer); expected true or false"),
        ("train.ema = 'no'", "train.ema is 'no' (a string); expected a number or nothing"),
        ("train.ema = nan", "train.ema is nan; expected a finite number"),
        ("train.betas = [0.9]", "train.betas is [0.9] (a list); expected a list of length 2"),
        ("train.milestones = [1, 'b']", "train.milestones[1] is 'b' (a string); expected an integer"),
        ("train.loss = 'l2'", "train.loss is 'l2' (a string); expected one of: l1, charbonnier"),
        (
            "train.loss = 'char_bonnier'",
            "train.loss is 'char_bonnier' (a string); expected one of: l1, "
            "charbonnier; did you mean 'charbonnier'?",
        ),
        ("train.observer = 'max'", "train.observer is 'max' (a string); expected one of: minmax, mse"),
        ("train = 3", "train is 3 (an integer); expected a table"),
        ("weights.kl = 'a'", "weights is {'kl': 'a'} (a table); every value in it: expected a number"),
        ("[[train.stages]]\nlearning_rate = -1", "train.learning_rate is -1"),
        ("model.scale = 5", "model.scale is 5; expected one of (2, 3, 4)"),
        ("output = ", "not valid TOML: "),
    ],
)
def test_a_wrong_file_is_named_with_key_value_and_expectation(
    tmp_path: Path, text: str, message: str
) -> None:
    assert error(tmp_path, "name = 'x'\n" + text).startswith("FILE: " + message)


def test_required_keys(tmp_path: Path) -> None:
    assert error(tmp_path, "") == "FILE: missing key name"
    assert error(tmp_path, "nmae = 'x'") == "FILE: unknown key nmae; did you mean name?"
    assert error(tmp_path, "name = 3") == "FILE: name is 3 (an integer); expected a string"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent.toml: no such file"):
        load_config(tmp_path / "absent.toml", Recipe)
    with pytest.raises(ConfigError, match="cannot be read: .*directory"):
        load_config(tmp_path, Recipe)
    (tmp_path / "latin.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="latin.toml: cannot be read: .*utf-8"):
        load_config(tmp_path / "latin.toml", Recipe)


def test_overrides_win_and_are_read_as_toml(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "name = 'x'\noutput = 'a'\n[train]\nbatch_size = 2\nema = 0.9",
        "train.batch_size=16",
        "train.betas=[0.5, 0.6]",
        "train.loss=charbonnier",
        "train.observer = 'mse'",
        "train.ema=none",
        "train.amp=true",
        "train.stages=[{steps = 3}]",
        "model.features=8",
        "weights.kl=2",
        "name=2024",
        "output=/tmp/a = b",
    )
    assert recipe.train == Train(
        batch_size=16,
        betas=(0.5, 0.6),
        loss=Loss.CHARBONNIER,
        observer="mse",
        amp=True,
        stages=(Stage(steps=3),),
    )
    assert recipe.model.features == 8
    assert recipe.weights == {"kl": 2.0}
    assert recipe.name == "2024"
    assert recipe.output == Path("/tmp/a = b")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batchsize=3", "unknown key train.batchsize; did you mean train.batch_size?"),
        ("trian.loss=l1", "unknown key trian; did you mean train?"),
        ("train.batch_size=many", "train.batch_size is 'many' (a string); expected an integer"),
        ("train.batch_size=1\nname=2", "train.batch_size is '1\\nname=2' (a string); expected an integer"),
        ("train.batch_size.x=3", "train.batch_size is {'x': 3} (a table); expected an integer"),
        ("train.batch_size", "expected KEY=VALUE"),
        ("train.betas=[nan, 1]", "train.betas[0] is nan; expected a finite number"),
    ],
)
def test_a_wrong_override_is_named_instead_of_the_file(tmp_path: Path, override: str, message: str) -> None:
    assert error(tmp_path, "name = 'x'", override).startswith(f"override {override!r}: {message}")


def test_input_values_stay_untouched() -> None:
    values = {"name": "x", "train": {"batch_size": 2}}
    config_from_mapping(values, Recipe, source="here", overrides=["train.batch_size=4"])
    assert values == {"name": "x", "train": {"batch_size": 2}}


def test_a_dump_reads_back_and_carries_the_docstrings(tmp_path: Path) -> None:
    recipe = Recipe(
        name='a "quoted" \\ name\n\x7f ü',
        output=Path("a b"),
        train=Train(ema=1e-05, milestones=(1, 2), stages=(Stage(steps=7), Stage())),
        model=ModelSpec(features=8, norm=False),
        weights={"plain": 1.0, "dotted.key": 0.5},
    )
    text = dump_config(recipe)
    assert load(tmp_path, text) == recipe
    assert "# Patches per step.\nbatch_size = 8" in text
    assert "# Peak learning rate.\n#\n# Cosine decay starts here.\nlearning_rate = 0.001" in text
    assert "# How it learns.\n[train]" in text
    assert load(tmp_path, dump_config(recipe, comments=False)) == recipe
    assert "#" not in dump_config(recipe, comments=False)
    assert "# ema is not set" in dump_config(Recipe(name="x"))
    assert load(tmp_path, dump_config(Recipe(name="x"))) == Recipe(name="x")


@pytest.mark.parametrize(
    "cls",
    [
        *(training.Recipe, training.Phase, training.OptimizerConfig, training.LossConfig),
        *(training.InitConfig, ModelSpec, QuantRecipe),
    ],
    ids=lambda c: c.__name__,
)
def test_every_value_of_a_recipe_is_documented(cls: type) -> None:
    assert {field.name for field in fields(cls)} == set(attribute_docs(cls))


def test_attribute_docstrings_are_found_for_shipped_types() -> None:
    assert attribute_docs(ModelSpec)["scale"] == "Upscaling factor: 2, 3 or 4."


@dataclass(frozen=True, kw_only=True)
class Part:
    size: int = 8
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Parts:
    name: str = ""
    parts: tuple[Part, ...] = (Part(),)
    pair: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if any(part.size % 4 for part in self.parts):
            raise ConfigError("parts.size is no multiple of 4")


TWO = {"parts": [{"size": 4}, {"size": 16}]}


def parts(values: Mapping[str, object], *overrides: str) -> Parts:
    return config_from_mapping(values, Parts, source="here", overrides=overrides, label="--set")


def test_an_override_reaches_into_lists() -> None:
    changed = parts(TWO, "parts.0.rate=1.5", "parts.1.size=32")
    assert changed.parts == (Part(size=4, rate=1.5), Part(size=32))
    assert parts({}, "parts.0.size=4").parts == (Part(size=4),)
    assert parts({"pair": [1, 2]}, "pair.1=3").pair == (1.0, 3.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("parts.2.size=4", "--set 'parts.2.size=4': parts has 2 entries, the first is parts.0"),
        ("parts.0.size=wide", "--set 'parts.0.size=wide': parts[0].size is 'wide' (a string)"),
        ("parts.0.sise=4", "--set 'parts.0.sise=4': unknown key parts.0.sise; did you mean parts.0.size?"),
        ("parts.0.size=5", "here with --set 'parts.0.size=5': parts.size is no multiple of 4"),
        ("name", "--set 'name': expected KEY=VALUE"),
    ],
)
def test_what_is_wrong_with_an_override_names_the_option(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parts(TWO, override)
    assert str(caught.value).startswith(message)
