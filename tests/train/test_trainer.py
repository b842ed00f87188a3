from dataclasses import replace

import numpy as np
import pytest
import torch

from hasn_edge.data.patches import Batch, PatchSource
from hasn_edge.errors import CheckpointError, ConfigError, UnsupportedError
from hasn_edge.spec import ModelSpec
from hasn_edge.train.distributed import DistributedContext, world
from hasn_edge.train.recipe import Autocast, OptimizerConfig
from hasn_edge.train.trainer import Trainer

ALONE = DistributedContext(rank=0, size=1, device=torch.device("cpu"))


def steps(recipe, shards, count=3, **options):
    source = PatchSource([shards], seed=recipe.seed)
    trainer = Trainer(recipe, source, ALONE, **options)
    for number in range(count):
        size, patch = recipe.phase(number).batch_size, recipe.phase(number).patch // 4
        share = range(recipe.accumulate)
        parts = [
            source.batch(number, size, patch, part=ALONE.part(size, recipe.accumulate, i)) for i in share
        ]
        trainer.step(parts)
    return trainer


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_accumulated_parts_are_the_whole_batch(recipe, shards):
    # Two equal parts of a mean loss: the same gradient up to the order of float32 sums.
    whole = steps(recipe, shards)
    parts = steps(replace(recipe, accumulate=2), shards)
    assert torch.allclose(weights(whole), weights(parts), atol=2e-5)
    assert not torch.equal(weights(whole), weights(steps(replace(recipe, seed=1), shards)))


def test_one_step_is_adam_on_the_l1_gradient(recipe, shards):
    """Against the update rule written out in float64."""
    source = PatchSource([shards], seed=0)
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, warmup=0))
    trainer = Trainer(recipe, source, ALONE)
    batch = source.batch(0, 4, 15)
    before = {n: p.detach().double().clone() for n, p in trainer.model.named_parameters()}
    model = trainer.model
    x, y = (torch.from_numpy(a).float() / 255 for a in (batch.lr, batch.hr))
    gradients = torch.autograd.grad((model(x) - y).abs().mean(), list(model.parameters()))
    trainer.step([batch])
    for (name, parameter), g in zip(model.named_parameters(), gradients, strict=True):
        g = g.double()  # first step: m / (1 - b1) = g and sqrt(v / (1 - b2)) = |g|
        expected = before[name] - recipe.optimizer.lr * g / (g.abs() + 1e-8)
        certain = g.abs() > 1e-6
        assert torch.allclose(parameter.double()[certain], expected[certain], atol=1e-5), name


def test_clipping_limits_the_gradients_norm(recipe, shards):
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, clip=1e-3))
    trainer = steps(recipe, shards, count=1)
    norm = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize(("kind", "dtype"), [(Autocast.BF16, torch.bfloat16), (Autocast.FP16, torch.float16)])
def test_autocast_leaves_depthwise_convolutions_and_layernorm_exact(recipe, shards, kind, dtype):
    recipe = replace(recipe, autocast=kind)
    source = PatchSource([shards], seed=0)
    trainer = Trainer(recipe, source, ALONE)
    seen = {}
    for name in ("block_1.dwconv.conv", "block_1.ln", "block_1.dwconv2.conv", "block_1.f1.conv", "conv_1"):
        trainer.model.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: seen.__setitem__(name, output.dtype)
        )
    before = weights(trainer)
    loss = trainer.step([source.batch(0, 4, 15)])
    exact = {name for name, dtype in seen.items() if dtype == torch.float32}
    assert exact == {"block_1.dwconv.conv", "block_1.ln", "block_1.dwconv2.conv"}
    assert seen["conv_1"] == dtype
    # The first step of Adam moves every weight by the learning rate: the scaler unscaled the gradient.
    moved = (weights(trainer) - before).abs()
    assert float(moved.max()) == pytest.approx(2e-3 / 3, rel=0.01)
    assert bool(torch.isfinite(loss))
    assert trainer.ema.model.state_dict().keys() == trainer.model.state_dict().keys()


def test_without_averaging_the_plain_weights_are_exported(recipe, shards):
    trainer = steps(replace(recipe, ema=0.0), shards)
    exported = trainer.averaged.state_dict()
    assert all(torch.equal(exported[n], t) for n, t in trainer.model.state_dict().items())


def test_a_state_of_another_network_is_refused(recipe, shards):
    trainer = steps(recipe, shards, count=0)
    other = steps(replace(recipe, model=ModelSpec(features=16, blocks=1)), shards, count=0)
    with pytest.raises(CheckpointError, match="another network"):
        trainer.restore(other.state())


def test_a_batch_is_shared_out_whole_and_once():
    parts = [
        DistributedContext(rank=r, size=2, device=torch.device("cpu")).part(12, 3, i)
        for i in range(3)
        for r in range(2)
    ]
    assert sorted(n for p in parts for n in range(12)[p]) == list(range(12))
    with pytest.raises(ConfigError, match="12 cannot be shared by 1 processes in 5 passes"):
        ALONE.part(12, 5, 0)


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedError, match="sees no CUDA device"), world("cuda:1"):
        pass
    with pytest.raises(UnsupportedError, match="expected auto, cpu"), world("tpu"):
        pass


def test_weights_to_begin_with_are_taken_as_they_are(recipe, shards):
    from hasn_edge.model.checkpoint import Checkpoint

    first = steps(recipe, shards)
    start = Checkpoint(spec=recipe.model, weights=first.model.state_dict(), sha256="0")
    second = Trainer(recipe, PatchSource([shards], seed=0), ALONE, start=start)
    assert torch.equal(weights(first), weights(second))
    assert second.iteration == 0


@pytest.mark.slow
def test_training_learns(recipe, shards):
    source = PatchSource([shards], seed=0)
    fast = replace(recipe, iterations=60, optimizer=OptimizerConfig(lr=5e-3, warmup=5))
    trainer = Trainer(fast, source, ALONE)
    losses = [float(trainer.step([source.batch(n, 4, 15)])) for n in range(60)]
    assert np.mean(losses[-10:]) < 0.4 * np.mean(losses[:5])


def test_batches_of_other_names_do_not_matter(recipe, shards):
    source = PatchSource([shards], seed=0)
    batch = source.batch(0, 4, 15)
    renamed = Batch(lr=batch.lr, hr=batch.hr, names=("x",) * 4)
    a, b = Trainer(recipe, source, ALONE), Trainer(recipe, source, ALONE)
    assert float(a.step([batch])) == float(b.step([renamed]))
