import pytest
import torch

from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec
from hasn_edge.train.ema import Ema


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
