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
