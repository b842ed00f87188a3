"""Steps against the update rule, the losses and the average written out in float64."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from hasn_edge.data.patches import Batch, PatchSource
from hasn_edge.errors import CheckpointError, ConfigError
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.recipe import Autocast, LossConfig, OptimizerConfig
from hasn_edge.train.trainer import Ema, Trainer, fourier_l1, kl_over_channels, total_loss

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


@pytest.mark.slow
def test_accumulated_parts_are_the_whole_batch(recipe, shards):
    # Two equal parts of a mean loss: the same gradient up to the order of float32 sums.
    whole = steps(recipe, shards)
    parts = steps(replace(recipe, accumulate=2), shards)
    assert torch.allclose(weights(whole), weights(parts), atol=2e-5)
    assert not torch.equal(weights(whole), weights(steps(replace(recipe, seed=1), shards)))


@pytest.mark.parametrize("cab", [1.0, 0.125])
def test_one_step_is_adam_on_the_l1_gradient(recipe, shards, cab):
    """Against the update rule written out in float64."""
    source = PatchSource([shards], seed=0)
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, warmup=0, cab=cab))
    trainer = Trainer(recipe, source, ALONE)
    batch = source.batch(0, 4, 15)
    before = {n: p.detach().double().clone() for n, p in trainer.model.named_parameters()}
    model = trainer.model
    x, y = (torch.from_numpy(a).float() / 255 for a in (batch.lr, batch.hr))
    gradients = torch.autograd.grad((model(x) - y).abs().mean(), list(model.parameters()))
    trainer.step([batch])
    for (name, parameter), g in zip(model.named_parameters(), gradients, strict=True):
        g = g.double()  # first step: m / (1 - b1) = g and sqrt(v / (1 - b2)) = |g|
        factor = cab if ".cab.cab.0." in name or ".cab.cab.2." in name else 1.0
        expected = before[name] - factor * recipe.optimizer.lr * g / (g.abs() + 1e-8)
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


def test_a_state_brings_back_random_numbers_and_the_scale_of_gradients(recipe, shards):
    recipe = replace(recipe, autocast=Autocast.FP16)
    first = steps(recipe, shards, count=1)
    torch.rand(5)  # a new trainer begins with the same seed
    state = copy.deepcopy(first.state())
    expected = torch.rand(3)
    second = steps(recipe, shards, count=0)
    assert second.scaler.state_dict() != first.scaler.state_dict()
    second.restore(state)
    assert torch.equal(torch.rand(3), expected)
    assert second.scaler.state_dict() == first.scaler.state_dict()


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


def pair():
    random = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 5, 4, generator=random), torch.rand(2, 3, 5, 4, generator=random)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_kl_is_the_published_term():
    sr, hr = pair()
    q, p = softmax(sr.double().numpy()), softmax(hr.double().numpy())
    expected = np.mean(p * (np.log(p) - np.log(q + 1e-8)))  # mean over all elements, not over pixels
    assert float(kl_over_channels(sr, hr)) == pytest.approx(expected, rel=1e-5)


def test_kl_has_a_direction():
    sr, hr = pair()
    sr, hr = 4 * sr, 8 * hr  # softmaxes far from uniform, where the two directions differ clearly
    assert float(kl_over_channels(sr, hr)) != pytest.approx(float(kl_over_channels(hr, sr)), rel=0.1)


def test_kl_does_not_see_brightness():
    _, hr = pair()
    assert float(kl_over_channels(hr + 0.25, hr)) == pytest.approx(0, abs=1e-7)


def test_the_fourier_term_is_the_transform_written_out():
    sr, hr = pair()
    error = (sr - hr).double().numpy()
    height, width = error.shape[2:]
    rows, columns = (np.exp(-2j * np.pi * np.outer(range(n), range(n)) / n) for n in (height, width))
    spectrum = (rows @ error @ columns)[..., : width // 2 + 1]  # the other half repeats it
    expected = (np.abs(spectrum.real) + np.abs(spectrum.imag)).mean() / 2
    assert float(fourier_l1(sr, hr)) == pytest.approx(expected, rel=1e-5)


def test_white_noise_weighs_more_in_the_fourier_term_the_larger_the_patch():
    noise = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    ratio = float(fourier_l1(noise, torch.zeros_like(noise))) / float(noise.abs().mean())
    assert ratio == pytest.approx((48 * 48 / 2) ** 0.5, rel=0.03)


def test_terms_are_weighted_and_added():
    sr, hr = pair()
    a, b = sr.double().numpy(), hr.double().numpy()
    expected = 2 * np.abs(a - b).mean() + 3 * np.square(a - b).mean() + 4 * float(kl_over_channels(sr, hr))
    expected += 5 * float(fourier_l1(sr, hr))
    config = LossConfig(l1=2, mse=3, kl=4, fft=5)
    assert float(total_loss(config, sr, hr)) == pytest.approx(expected, rel=1e-5)


def test_stage_two_gradient_reaches_the_prediction():
    sr, hr = pair()
    sr.requires_grad_()
    total_loss(LossConfig(l1=1, kl=1), sr, hr).backward()
    assert float(sr.grad.abs().min()) > 0


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_the_recurrence_in_float64(warmup):
    model = HASN(ModelSpec(features=8, blocks=1))
    ema = Ema(model, decay=0.9, warmup=warmup)
    name = "block_1.f1.conv.weight"
    expected = model.state_dict()[name].double().clone()
    for step in range(1, 30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * model.state_dict()[name].double()
        ema.update(model, step)
    assert torch.allclose(ema.model.state_dict()[name].double(), expected, atol=1e-5)


def test_the_average_does_not_share_memory_with_the_model():
    model = HASN(ModelSpec(features=8, blocks=1))
    ema = Ema(model, decay=0.5, warmup=False)
    before = ema.model.conv_1.weight.clone()
    with torch.no_grad():
        model.conv_1.weight.zero_()
    assert torch.equal(ema.model.conv_1.weight, before)
    assert not ema.model.training


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_gradients_of_depthwise_convolutions_are_those_of_pytorch_in_float64(recipe, shards, kernel, layout):
    trainer = steps(replace(recipe, model=replace(recipe.model, kernel_size=kernel)), shards, count=0)
    conv = trainer.model.block_1.dwconv.conv
    features = conv.weight.shape[0]
    generator = torch.Generator().manual_seed(3)
    x = (
        torch.randn(3, features, 15, 18, generator=generator)
        .contiguous(memory_format=layout)
        .requires_grad_()
    )
    upstream = torch.randn(x.shape, generator=generator)
    conv(x).backward(upstream)
    exact = [t.detach().double().requires_grad_() for t in (x, conv.weight, conv.bias)]
    out = torch.nn.functional.conv2d(*exact, padding=kernel // 2, groups=features)
    out.backward(upstream.double())
    for ours, theirs in zip((x, conv.weight, conv.bias), exact, strict=True):
        assert torch.allclose(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)


def test_muon_steps_the_blocks_pointwise_convolutions_by_orthogonal_momentum(recipe, shards):
    optimizer = OptimizerConfig(lr=1e-2, schedule="constant", muon=True)
    muon = steps(replace(recipe, optimizer=optimizer), shards, count=0)
    before = {name: p.detach().clone() for name, p in muon.model.named_parameters()}
    source = PatchSource([shards], seed=recipe.seed)
    muon.step([source.batch(0, 4, 15)])
    for name, weight in muon.model.named_parameters():
        moved = (weight - before[name]).detach().double()
        if name in muon._matrices:
            # The update of a matrix A x B is 0.2 sqrt(max(A, B)) times the rate times a matrix whose singular
            # values five Newton-Schulz steps bring near 1 (0.68 to 1.13 by Jordan et al.; directions with
            # hardly any gradient stay behind).
            matrix = moved.flatten(1)
            values = torch.linalg.svdvals(matrix) / (1e-2 * 0.2 * max(matrix.shape) ** 0.5)
            assert float(values.max()) == pytest.approx(1.0, abs=0.3), name
        elif name in (
            "conv_1.weight",
            "upsampler.0.weight",
        ):  # Adam's first step moves each number by the rate
            assert float(moved.abs().max()) == pytest.approx(1e-2, rel=0.01), name


def test_muon_and_fp16_are_refused_together(recipe):
    with pytest.raises(ConfigError, match='set autocast to "bf16" or "fp32", or muon to false'):
        replace(recipe, optimizer=replace(recipe.optimizer, muon=True), autocast=Autocast.FP16)


@pytest.mark.slow
def test_a_run_with_muon_goes_on_bit_for_bit(recipe, shards):
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, muon=True, clip=0.1, cab=0.1))
    first = steps(recipe, shards, count=2)
    second = steps(recipe, shards, count=0)
    second.restore(copy.deepcopy(first.state()))
    source = PatchSource([shards], seed=recipe.seed)
    for trainer in (first, second):
        trainer.step([source.batch(2, 4, 15)])
    assert torch.equal(weights(first), weights(second))
    assert torch.equal(
        first.model.block_1.g.conv.weight.flatten(), first._matrices["block_1.g.conv.weight"].flatten()
    )
