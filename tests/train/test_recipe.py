"""Recipes that ship, what is refused, and learning rates against PyTorch's and closed forms."""

import math

import pytest
import torch

from hasn_edge.data.degrade import Degradation
from hasn_edge.data.patches import Augmentation
from hasn_edge.errors import ConfigError
from hasn_edge.spec import ModelSpec
from hasn_edge.train.recipe import (
    InitConfig,
    InitKind,
    OptimizerConfig,
    Phase,
    Recipe,
    Schedule,
    load_recipe,
    recipe_names,
)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_under_its_own_name(name):
    assert load_recipe(name).name == name


def test_the_papers_first_stage():
    recipe = load_recipe("hasn-x4-stage1")
    assert recipe.model == ModelSpec()
    assert recipe.phases == (Phase(until=1.0, patch=192, batch_size=128),)
    assert (recipe.iterations, recipe.ema, recipe.ema_warmup) == (500_000, 0.999, False)
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (2e-4, (0.9, 0.99), 0)
    assert (optimizer.schedule, optimizer.warmup, optimizer.clip) == (Schedule.STEPS, 0, None)
    assert (recipe.loss.l1, recipe.loss.mse, recipe.loss.kl) == (1, 0, 0)
    assert recipe.init.kind is InitKind.DEFAULT
    assert recipe.keep_at == (100_000,)


def test_the_papers_second_stage_differs_only_where_the_paper_says():
    one, two = load_recipe("hasn-x4-stage1"), load_recipe("hasn-x4-stage2")
    assert (two.iterations, two.loss.l1, two.loss.kl) == (1_000_000, 1, 1)
    assert (two.model, two.phases, two.optimizer, two.ema) == (one.model, one.phases, one.optimizer, one.ema)


def test_small_is_about_a_quarter_of_the_papers_work_in_units_of_eight():
    spec = load_recipe("hasn-x4-small").model

    def macs(s):  # convolutions, per input pixel; ESA's strided part counted at a quarter
        e, f, c, k = s.features * s.expansion, s.features, s.esa_channels, s.kernel_size**2
        esa = e * c * 2 + c * c * (1 + 9 / 4)
        block = 2 * k * f + 4 * f * e + esa + 18 * f * s.cab_channels
        return 27 * f + s.blocks * block + 9 * f * f + 9 * f * 48

    assert 0.2 < macs(spec) / macs(ModelSpec()) < 0.3
    widths = (spec.features, spec.features * spec.expansion, spec.cab_channels, spec.esa_channels)
    assert all(width % 16 == 0 for width in widths)
    assert spec.squeeze_channels % 8 == 0


def test_an_unknown_key_is_refused_with_a_suggestion(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\niteration = 5\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: unknown key iteration; did you mean iterations\?"):
        load_recipe(str(path))


def test_overrides_win_and_are_checked():
    assert load_recipe("hasn-x4-stage1", ["optimizer.lr=1e-3", "accumulate=4"]).optimizer.lr == 1e-3
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        load_recipe("hasn-x4-stage1", ["optimizer.lr=-1"])
    with pytest.raises(ConfigError, match="did you mean optimizer.lr"):
        load_recipe("hasn-x4-stage1", ["lr=1"])


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("seed=-1", "an integer >= 0"),  # NumPy's Philox
        ("seed=9223372036854775808", "an integer <= 9223372036854775807"),  # PyTorch's generator
        ("optimizer.betas=[0.9, 1.0]", "a number < 1.0"),  # Adam
        ("optimizer.lr=1e300", "a number <= 100.0"),  # no float32
        ("optimizer.gamma=1e200", "a number <= 1.0"),
        ("optimizer.weight_decay=1e300", "a number <= 100.0"),
        ("init.gate_bias=1e39", "a number <= 100.0"),
        ("degradation.blur=[0, 1000000]", "a number <= 20.0"),  # a filter of 8,000,001 pixels a side
        ("iterations=1000000000", "an integer <= 999999999"),  # ten digits, which no state's name has
        ("phases.0.batch_size=100000000000000000000", "an integer <= 1000000"),
        ("keep_at=[-1]", "an integer >= 1"),
        ("name=", "length >= 1"),
        ("ema=1", "expected less than 1, or ema_warmup"),
        ("model.channels=1", "expected 3: training images are RGB"),
    ],
)
def test_values_that_no_run_could_use_are_refused(setting, expected):
    with pytest.raises(ConfigError) as error:
        load_recipe("hasn-x4-stage1", [setting])
    assert expected in str(error.value)
    assert setting.partition("=")[0].replace(".0.", "[0].") in str(error.value)


def test_a_name_that_does_not_exist_lists_those_that_do():
    with pytest.raises(ConfigError, match=r"hasn-x4-smal'.*hasn-x4-stage1"):
        load_recipe("hasn-x4-smal")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": (Phase(patch=62),)}, "multiple of model.scale"),
        ({"phases": (Phase(patch=56),)}, "below the network's minimum of 15"),
        ({"phases": (Phase(until=0.5),)}, "end with 1.0"),
        ({"phases": (Phase(until=1.0), Phase(until=0.5))}, "end with 1.0"),
        ({"accumulate": 3}, "not a multiple of accumulate 3"),
        (
            {"degradation": Degradation(share=0.5), "augmentation": Augmentation(negative=0.5)},
            "would not be that of a sensor",
        ),
        (
            {"degradation": Degradation(share=0.5), "augmentation": Augmentation(blend=0.5)},
            "cannot be combined",
        ),
        (
            {"model": ModelSpec(features=16), "init": InitConfig(kind=InitKind.DELTA, least_squares=True)},
            "needs model.features of 27 or more.*it is 16",
        ),
        (
            {
                "model": ModelSpec(esa=False),
                "phases": (Phase(patch=16),),
                "init": InitConfig(kind=InitKind.DELTA, least_squares=True),
            },
            "fits 5x5 filters to LR patches of 4 pixels",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(name="x", **changes)


def test_settings_without_a_meaning_are_refused():
    with pytest.raises(ConfigError, match="needs a quiet body"):
        InitConfig(least_squares=True)
    with pytest.raises(ConfigError, match="wsd needs a constant part"):
        OptimizerConfig(schedule=Schedule.WSD, decay=1.0)


def test_phases_share_the_iterations():
    recipe = Recipe(name="x", iterations=10, phases=(Phase(until=0.3, patch=64), Phase(patch=96)))
    assert [recipe.phase(i).patch for i in range(10)] == [64] * 3 + [96] * 7


def test_steps_are_those_of_pytorch():
    config = OptimizerConfig(lr=0.1, schedule=Schedule.STEPS, milestones=(3, 5, 6), gamma=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5, 6], gamma=0.5)
    for iteration in range(9):
        assert config.learning_rate(iteration, 9) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_stage_one_halves_where_the_paper_does():
    recipe = load_recipe("hasn-x4-stage1")
    rates = [
        recipe.optimizer.learning_rate(i, recipe.iterations)
        for i in (0, 249_999, 250_000, 400_000, 450_000, 475_000, 499_999)
    ]
    assert rates == pytest.approx([2e-4, 2e-4, 1e-4, 5e-5, 2.5e-5, 1.25e-5, 1.25e-5])


def test_cosine_ends_at_its_final_fraction_and_warms_up_first():
    config = OptimizerConfig(lr=1.0, schedule=Schedule.COSINE, warmup=10, final=0.1)
    rates = [config.learning_rate(i, 110) for i in range(110)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)  # half way: the middle of 1.0 and 0.1
    assert rates[109] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 99 / 100)))


def test_constant_stays():
    config = OptimizerConfig(lr=0.3, schedule=Schedule.CONSTANT)
    assert {config.learning_rate(i, 50) for i in range(50)} == {0.3}


def test_wsd_stays_and_falls_by_one_minus_the_square_root():
    config = OptimizerConfig(lr=0.2, schedule=Schedule.WSD, warmup=5, decay=0.25, final=0.1)
    rates = [config.learning_rate(i, 40) for i in range(40)]
    assert rates[:5] == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2])
    assert set(rates[5:31]) == {0.2}
    # The decay is steps 30 to 39: after a tenth and nine tenths of it, 1 - sqrt is 0.68377 and 0.05132.
    assert rates[31] == pytest.approx(0.2 * (0.1 + 0.9 * 0.683772), rel=1e-5)
    assert rates[39] == pytest.approx(0.2 * (0.1 + 0.9 * 0.0513167), rel=1e-5)


def test_the_past_of_wsd_does_not_depend_on_its_end():
    config = OptimizerConfig(lr=0.2, schedule=Schedule.WSD, warmup=5)
    assert (config.decay_begin(100), config.decay_begin(1000)) == (90, 900)
    for iteration in range(91):
        assert config.learning_rate(iteration, 100) == config.learning_rate(iteration, 1000)
    assert OptimizerConfig(schedule=Schedule.COSINE).decay_begin(100) == 100


def test_without_a_decay_wsd_is_constant():
    config = OptimizerConfig(lr=0.2, schedule=Schedule.WSD, decay=0.0)
    assert {config.learning_rate(i, 10) for i in range(10)} == {0.2}


def test_another_end_moves_warm_up_and_milestones_with_it():
    whole, short = load_recipe("hasn-x4-small"), load_recipe("hasn-x4-small", iterations=1000)
    assert (whole.optimizer.warmup, short.optimizer.warmup, short.iterations) == (200, 20, 1000)
    rates = [
        recipe.optimizer.learning_rate(recipe.iterations // 2, recipe.iterations) for recipe in (whole, short)
    ]
    assert rates[0] == pytest.approx(rates[1], rel=1e-3)
    stepped = load_recipe("hasn-x4-stage1", iterations=5000)
    whole = load_recipe("hasn-x4-stage1")
    assert [m * 100 for m in stepped.optimizer.milestones] == list(whole.optimizer.milestones) != []
    kept = load_recipe("hasn-x4-small", ["optimizer.warmup=50"], iterations=1000)
    assert kept.optimizer.warmup == 50
    longer = load_recipe("hasn-x4-small", iterations=100_000)
    assert longer.optimizer.warmup == 2000


def test_another_scale_is_another_name():
    patches = ["phases.0.patch=96", "phases.1.patch=96"]
    assert load_recipe("hasn-x4-small", ["model.scale=2"]).name == "hasn-x2-small"
    assert load_recipe("hasn-x4-small", ["model.scale=3", *patches]).name == "hasn-x3-small"
    assert load_recipe("hasn-x4-small", ["model.scale=4"]).name == "hasn-x4-small"
    assert load_recipe("hasn-x4-small", ["model.scale=2", "name=mine"]).name == "mine"


def test_a_recipe_whose_name_has_no_scale_gets_one(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('name = "photos-x40"\n[[phases]]\npatch = 96\n')
    assert load_recipe(str(path), ["model.scale=2"]).name == "photos-x40-x2"
