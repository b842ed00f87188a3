"""Starting weights: measured signals, and the linear start against filters applied in other ways."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hasn_edge.data.patches import PatchSource
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.init import begin_linear, fit_linear, fit_upsampler, initialize
from hasn_edge.train.recipe import InitConfig, InitKind, OptimizerConfig, Phase, Recipe
from hasn_edge.train.trainer import Trainer

SPEC = ModelSpec(features=16, blocks=3, esa_channels=4)


def patches():
    return torch.rand(8, 3, 20, 20, generator=torch.Generator().manual_seed(1))


def signal(model, name):
    """Root mean square around the channel means of what module ``name`` returns on the patches."""
    seen = []
    model.get_submodule(name).register_forward_hook(lambda _m, _i, output: seen.append(output.double()))
    with torch.no_grad():
        model(patches())
    return float((seen[0] - seen[0].mean((0, 2, 3), keepdim=True)).pow(2).mean().sqrt())


def started(kind):
    torch.manual_seed(0)
    model = HASN(SPEC)
    initialize(model, InitConfig(kind=kind, gate_bias=2.0), patches(), seed=0)
    return model


def test_default_leaves_pytorchs_weights():
    torch.manual_seed(0)
    fresh = HASN(SPEC).state_dict()
    assert all(
        torch.equal(tensor, fresh[name]) for name, tensor in started(InitKind.DEFAULT).state_dict().items()
    )


def test_at_the_default_the_signal_dies_on_its_way_through_the_blocks():
    model = started(InitKind.DEFAULT)
    assert signal(model, "block_3") < 0.05 * signal(model, "conv_1")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [InitKind.VARIANCE, InitKind.DELTA])
def test_the_signal_reaches_the_end_of_the_body(kind):
    model = started(kind)
    assert signal(model, "conv_1") == pytest.approx(0.5, rel=1e-3)
    for name in ("block_1", "block_2", "block_3"):
        assert 0.5 < signal(model, name) < 1.5
    assert signal(model, "block_2.f1") == pytest.approx(1.0, rel=1e-3)
    assert signal(model, "conv_2") == pytest.approx(0.25, rel=1e-3)


@pytest.mark.slow
def test_delta_begins_near_an_orthogonal_matrix_on_the_centre_tap():
    torch.manual_seed(0)
    weight = started(InitKind.DELTA).conv_2.weight.double()
    centre = weight[:, :, 1, 1]
    gram = centre @ centre.T
    scale = gram.diagonal().mean()
    assert torch.allclose(gram / scale, torch.eye(16, dtype=torch.float64), atol=0.3)
    assert weight.pow(2).sum() < 1.3 * centre.pow(2).sum()


@pytest.mark.slow
def test_the_gates_begin_open():
    model = started(InitKind.DELTA)
    seen = []
    attention = model.block_1.cab.cab[3].attention
    attention.register_forward_hook(lambda _m, _i, output: seen.append(output))
    with torch.no_grad():
        model(patches())
    assert 0.8 < float(seen[0].mean()) < 0.95  # sigmoid(2) = 0.88


@pytest.mark.slow
def test_it_is_decided_by_its_seed():
    a, b = started(InitKind.DELTA), started(InitKind.DELTA)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


WIDE = ModelSpec(features=32, blocks=1, expansion=1, esa_channels=4)
LINEAR = InitConfig(kind=InitKind.DELTA, least_squares=True, body=0.03)


def some_filter(outputs=48, channels=3):
    random = torch.Generator().manual_seed(2)
    weight = torch.randn(outputs, channels, 5, 5, generator=random, dtype=torch.float64) / 5
    return weight, torch.randn(outputs, generator=random, dtype=torch.float64)


def applied(x, weight, bias):
    """The filter by its definition, with plain loops, where the whole neighbourhood lies inside."""
    n, channels, height, width = x.shape
    out = np.zeros((n, len(weight), height - 4, width - 4)) + bias.numpy()[:, None, None]
    for c in range(channels):
        for row in range(5):
            for column in range(5):
                part = x.numpy()[:, c, row : row + height - 4, column : column + width - 4]
                out += weight.numpy()[:, c, row, column][None, :, None, None] * part[:, None]
    return out


def shuffled(y, scale=4):
    """Pixel shuffle by its definition: channel ``c s^2 + i s + j`` is pixel ``(i, j)`` of colour ``c``."""
    n, channels, height, width = y.shape
    y = y.reshape(n, channels // scale**2, scale, scale, height, width)
    return y.transpose(0, 1, 4, 2, 5, 3).reshape(n, -1, height * scale, width * scale)


def test_a_filter_that_made_the_images_is_found():
    weight, bias = some_filter()
    x = torch.rand(40, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.zeros(40, 3, 48, 48, dtype=torch.float64)  # what lies at the border must not be looked at
    y[:, :, 8:-8, 8:-8] = torch.from_numpy(shuffled(applied(x, weight, bias)))
    found, offset = fit_linear(x, y)
    assert torch.allclose(found, weight, atol=2e-3)  # the ridge shrinks it a little
    assert torch.allclose(offset, bias, atol=1e-2)


def test_the_network_is_the_filter_where_the_body_adds_nothing():
    weight, bias = some_filter()
    model = HASN(WIDE).double()
    begin_linear(model, weight, bias, torch.Generator().manual_seed(0))
    for parameter in model.conv_2.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(1, 3, 20, 18, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        y = model(x).numpy()[:, :, 8:-8, 8:-8]
    assert np.abs(y - shuffled(applied(x, weight, bias))).max() < 1e-12


def test_the_stem_keeps_the_size_that_the_other_starts_give_it():
    torch.manual_seed(0)
    model = HASN(WIDE)
    x = torch.rand(8, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    weight, bias = (t.float() for t in some_filter())
    initialize(model, LINEAR, x, seed=0, linear=(weight, bias))
    with torch.no_grad():
        stem = model.conv_1(x)
        body = model(x) - model.upsampler(stem)
        plain = torch.nn.functional.conv2d(x, weight, bias)
        ours = torch.nn.functional.pixel_unshuffle(model.upsampler(stem), 4)[:, :, 2:-2, 2:-2]
    spread = (stem - stem.mean((0, 2, 3), keepdim=True)).square().mean().sqrt()
    assert abs(float(spread) - 0.5) < 1e-3
    assert torch.allclose(ours, plain, atol=1e-5)
    assert float(body.abs().mean()) < 0.1 * float(plain.std())


@pytest.mark.slow
def test_a_run_begins_better_than_bicubic(shards):
    from hasn_edge.data.pairs import bicubic_baseline

    source = PatchSource([shards], seed=0)
    recipe = Recipe(
        name="linear", model=WIDE, phases=(Phase(patch=72, batch_size=2),),
        optimizer=OptimizerConfig(lr=1e-3), init=LINEAR,
    )  # fmt: skip
    model = Trainer(recipe, source, DistributedContext(rank=0, size=1, device=torch.device("cpu"))).averaged
    batch = source.batch(77, 8, 18)
    lr, hr = (torch.from_numpy(a).float() / 255 for a in (batch.lr, batch.hr))

    def error(sr):
        return float((sr - hr)[:, :, 8:-8, 8:-8].square().mean())

    with torch.no_grad():
        ours = error(model(lr))
    bicubic = [torch.from_numpy(bicubic_baseline(4)(x[None].numpy())) for x in lr]
    assert ours < error(torch.cat(bicubic))


def test_an_upsampler_fitted_to_features_is_numpys_least_squares():
    torch.manual_seed(0)
    model = HASN(replace(SPEC, scale=2))
    lr = patches()
    hr = torch.rand(8, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    seen = []
    handle = model.upsampler[0].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(lr)
    handle.remove()
    padded = np.pad(seen[0].double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows = np.stack(
        [padded[:, :, y : y + 20, x : x + 20] for y in range(3) for x in range(3)], axis=2
    ).transpose(0, 3, 4, 1, 2)
    rows = np.concatenate([rows.reshape(3200, -1), np.ones((3200, 1))], axis=1)
    wanted = hr.double().numpy().reshape(8, 3, 20, 2, 20, 2).transpose(0, 2, 4, 1, 3, 5).reshape(3200, 12)
    best = np.square(rows @ np.linalg.lstsq(rows, wanted, rcond=None)[0] - wanted).mean()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    fit_upsampler(model, lr, hr)
    with torch.no_grad():
        reached = float((model(lr).double() - hr).square().mean())
    assert best < reached < best * 1.005  # the ridge settles what the patches leave open
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"upsampler.0.weight", "upsampler.0.bias"}
