"""Silent hidden units: what autograd says of them, before and after they begin anew."""

from dataclasses import replace

import pytest
import torch

from hasn_edge.errors import ConfigError
from hasn_edge.model.checkpoint import load_checkpoint, save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.init import initialize
from hasn_edge.train.loop import train_run
from hasn_edge.train.recipe import InitConfig, InitKind
from hasn_edge.train.recorder import read_log
from hasn_edge.train.runs import begin_run
from hasn_edge.train.silence import describe, revive, silent_units

UNITS = 6


def patches():
    return torch.rand(6, 3, 20, 20, generator=torch.Generator().manual_seed(1))


def network(*, residual=True, silent=()):
    """A network whose named units have a filter that GELU sees nothing but large negative values of."""
    torch.manual_seed(0)
    model = HASN(
        ModelSpec(features=UNITS * 3, blocks=3, cab_compression=3, esa_channels=4, residual=residual)
    )
    initialize(model, InitConfig(kind=InitKind.DELTA, gate_bias=2.0), patches(), seed=0)
    with torch.no_grad():
        for block, unit in silent:
            model.blocks[block].cab.cab[0].bias[unit] = -50
    return model


def gradients(model):
    """Size of the loss's gradient by block and hidden unit, in float64."""
    model = model.double()
    model.zero_grad()
    model(patches().double()).square().sum().backward()
    grads = [block.cab.cab[0].weight.grad.abs().sum((1, 2, 3)) for block in model.blocks]
    model.float()
    return torch.stack(grads)


WHOLE = [(1, unit) for unit in range(UNITS)]


@pytest.mark.parametrize("silent", [(), ((0, 2),), (*WHOLE, (2, 0), (2, 5))], ids=["none", "one", "a block"])
def test_silent_units_are_those_without_a_gradient(silent):
    model = network(silent=silent)
    found = torch.stack(list(silent_units(model, patches()).values()))
    assert {tuple(at.tolist()) for at in found.nonzero()} == set(silent)
    assert torch.equal(gradients(model) == 0, found)


def test_what_is_said_of_them():
    assert describe(silent_units(network(), patches())) == ""
    assert describe(silent_units(network(silent=[(0, 2)]), patches())) == "silent: 1 of 18 hidden units"
    said = describe(silent_units(network(silent=[*WHOLE, (2, 0)]), patches()))
    assert said == "silent: 7 of 18 hidden units, all of block_2"


@pytest.mark.parametrize("residual", [True, False])
def test_begun_anew_they_learn_again(residual):
    model = network(residual=residual, silent=[(0, 2), *WHOLE])
    # Without the residual a silent block has nothing left for the next one.
    blocks = "block_2" if residual else "block_2, block_3"
    assert revive(model, patches(), seed=3).endswith(f"hidden units, all of {blocks}")
    assert describe(silent_units(model, patches())) == ""
    assert gradients(model).min() > 0


def test_a_unit_that_works_below_zero_is_alive():
    model = network()
    with torch.no_grad():  # GELU is between -0.17 and 0 there, and falls and rises
        model.block_1.cab.cab[0].weight[2] *= 0.3
        model.block_1.cab.cab[0].bias[2] = -0.7
    assert describe(silent_units(model, patches())) == ""
    assert gradients(model)[0, 2] > 0


def test_a_block_that_adds_next_to_nothing_is_silent():
    model = network()
    with torch.no_grad():
        model.block_3.cab.cab[2].weight *= 1e-4
    assert describe(silent_units(model, patches())) == "silent: 6 of 18 hidden units, all of block_3"
    before = gradients(model)[2]
    revive(model, patches(), seed=3)
    assert gradients(model)[2].min() > 10 * before.max()


def test_without_a_residual_a_block_of_small_outputs_is_alive():
    """What follows multiplies them; a trained network without a residual had 0.03 of its input there."""
    model = network(residual=False)
    with torch.no_grad():
        model.block_3.cab.cab[2].weight *= 1e-3
        model.block_3.cab.cab[2].bias *= 1e-3
    assert gradients(model)[2].min() > 0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert revive(model, patches(), seed=3) == ""
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("seed", range(4))
def test_weights_stay_numbers_where_a_block_is_fed_anew(seed):
    model = network(
        silent=[*((0, unit) for unit in range(UNITS)), *WHOLE, *((2, unit) for unit in range(1, UNITS))]
    )
    with torch.no_grad():
        model.block_3.cab.cab[0].weight[0] *= 0.05
        model.block_3.cab.cab[2].weight *= 100
    revive(model, patches(), seed=seed)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_the_rest_of_the_network_hardly_notices():
    model = network(silent=[(0, 2), *WHOLE])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        was = model(patches())
        revive(model, patches(), seed=3)
        change = (model(patches()) - was).square().mean().sqrt() / was.std()
    assert 0 < change < 0.03
    now = model.state_dict()
    first = "block_1.cab.cab.0.weight"
    others = [unit for unit in range(UNITS) if unit != 2]
    assert torch.equal(now[first][others], before[first][others])
    for name in before:
        if not name.startswith(("block_1.cab.cab.", "block_2.")):
            assert torch.equal(now[name], before[name]), name


def test_where_all_blocks_are_silent_there_is_nothing_to_go_on_from():
    model = network(silent=[(block, unit) for block in range(3) for unit in range(UNITS)])
    with pytest.raises(ConfigError, match="all blocks of these weights are silent"):
        revive(model, patches(), seed=3)


def test_nothing_changes_where_none_is_silent():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert revive(model, patches(), seed=3) == ""
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_blocks_without_cab_have_none():
    assert silent_units(HASN(ModelSpec(features=8, blocks=1, cab=False, esa_channels=4)), patches()) == {}


@pytest.mark.parametrize("asked", [False, True])
def test_a_run_counts_them_and_begins_them_anew_where_its_recipe_says_so(
    recipe, shards, eval_folder, tmp_path, caplog, asked
):
    model = HASN(recipe.model)
    initialize(model, recipe.init, patches(), seed=0)
    with torch.no_grad():
        model.block_1.cab.cab[0].bias[1] = -50
    save_checkpoint(tmp_path / "start.safetensors", model)
    recipe = replace(recipe, init=replace(recipe.init, revive=asked), iterations=1)
    folder, reported = tmp_path / "run", []
    start = str(tmp_path / "start.safetensors")
    run = begin_run(recipe, folder, data=[shards.folder], sets=[f"Two={eval_folder}"], start=start)
    train_run(folder, run, DistributedContext(device=torch.device("cpu")), progress=reported.append)

    said = f"silent: 1 of {recipe.model.cab_channels * recipe.model.blocks} hidden units"
    assert (f"{said}; what is silent begins anew" in caplog.text) == asked
    assert (said in reported[-1].text) != asked
    counts = [int(row["silent"]) for row in read_log(folder / "log.csv") if row["silent"]]
    assert counts == [0 if asked else 1]
    silent = silent_units(load_model_of(folder / "last.safetensors"), patches())
    assert bool(silent["block_1"][1]) != asked


def test_there_must_be_weights_to_revive(recipe, shards, tmp_path):
    recipe = replace(recipe, init=replace(recipe.init, revive=True))
    with pytest.raises(ConfigError, match="needs weights to begin with"):
        begin_run(recipe, tmp_path / "run", data=[shards.folder], sets=[], start=None)


def load_model_of(path):
    checkpoint = load_checkpoint(path)
    model = HASN(checkpoint.spec)
    model.load_state_dict(dict(checkpoint.weights))
    return model.eval()
