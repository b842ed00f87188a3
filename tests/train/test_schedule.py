import math

import pytest
import torch

from hasn_edge.train.recipe import OptimizerConfig, Schedule, load_recipe
from hasn_edge.train.schedule import learning_rate


def test_steps_are_those_of_pytorch():
    config = OptimizerConfig(lr=0.1, schedule=Schedule.STEPS, milestones=(3, 5, 6), gamma=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5, 6], gamma=0.5)
    for iteration in range(9):
        assert learning_rate(config, iteration, 9) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_stage_one_halves_where_the_paper_does():
    recipe = load_recipe("hasn-x4-stage1")
    rates = [
        learning_rate(recipe.optimizer, i, recipe.iterations)
        for i in (0, 249_999, 250_000, 400_000, 450_000, 475_000, 499_999)
    ]
    assert rates == pytest.approx([2e-4, 2e-4, 1e-4, 5e-5, 2.5e-5, 1.25e-5, 1.25e-5])


def test_cosine_ends_at_its_final_fraction_and_warms_up_first():
    config = OptimizerConfig(lr=1.0, schedule=Schedule.COSINE, warmup=10, final=0.1)
    rates = [learning_rate(config, i, 110) for i in range(110)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)  # half way: the middle of 1.0 and 0.1
    assert rates[109] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 99 / 100)))


def test_constant_stays():
    config = OptimizerConfig(lr=0.3, schedule=Schedule.CONSTANT)
    assert {learning_rate(config, i, 50) for i in range(50)} == {0.3}


def test_wsd_stays_and_falls_by_one_minus_the_square_root():
    config = OptimizerConfig(lr=0.2, schedule=Schedule.WSD, warmup=5, decay=0.25, final=0.1)
    rates = [learning_rate(config, i, 40) for i in range(40)]
    assert rates[:5] == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2])
    assert set(rates[5:31]) == {0.2}
    # The decay is steps 30 to 39: after a tenth and nine tenths of it, 1 - sqrt is 0.68377 and 0.05132.
    assert rates[31] == pytest.approx(0.2 * (0.1 + 0.9 * 0.683772), rel=1e-5)
    assert rates[39] == pytest.approx(0.2 * (0.1 + 0.9 * 0.0513167), rel=1e-5)


def test_the_past_of_wsd_does_not_depend_on_its_end():
    config = OptimizerConfig(lr=0.2, schedule=Schedule.WSD, warmup=5)
    assert (config.decay_begin(100), config.decay_begin(1000)) == (90, 900)
    for iteration in range(91):
        assert learning_rate(config, iteration, 100) == learning_rate(config, iteration, 1000)
    assert OptimizerConfig(schedule=Schedule.COSINE).decay_begin(100) == 100


def test_without_a_decay_wsd_is_constant():
    config = OptimizerConfig(lr=0.2, schedule=Schedule.WSD, decay=0.0)
    assert {learning_rate(config, i, 10) for i in range(10)} == {0.2}
