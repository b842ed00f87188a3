import pytest
import torch

from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec
from hasn_edge.train.init import initialize
from hasn_edge.train.recipe import InitConfig, InitKind

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
