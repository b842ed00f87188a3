"""Weight algebra: exact to the last pixel of the border, or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hasn_edge.errors import UnsupportedError
from hasn_edge.fuse.rules import (
    centre,
    compose,
    compose_behind,
    condition,
    fold_affine,
    invert,
    merge,
    pad_between,
)


def conv(*args, **kwargs) -> nn.Conv2d:
    """A convolution in float64 with parameters far from any special value."""
    made = nn.Conv2d(*args, dtype=torch.float64, **kwargs)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made.requires_grad_(False)


@pytest.fixture(autouse=True)
def _torch_seed() -> None:
    torch.manual_seed(0)


def image(channels: int) -> torch.Tensor:
    return torch.randn(2, channels, 5, 7, dtype=torch.float64)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_compose_without_padding_is_exact(kernel, stride, bias):
    first, second = conv(4, 6, 1, bias=bias), conv(6, 3, kernel, stride=stride, bias=bias)
    x = image(4)
    assert apart(compose(first, second)(x), second(first(x))) < 1e-12


def test_compose_with_padding_is_exact_where_no_bias_needs_to_be_carried():
    first, second = conv(4, 6, 1, bias=False), conv(6, 3, 3, padding=1)
    x = image(4)
    assert apart(compose(first, second)(x), second(first(x))) < 1e-12


def test_compose_by_hand():
    first, second = conv(2, 1, 1), conv(1, 1, 1)
    first.weight.data = torch.tensor([2.0, -3.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    first.bias.data = torch.tensor([5.0], dtype=torch.float64)
    second.weight.data.fill_(7.0)
    second.bias.data.fill_(11.0)
    both = compose(first, second)
    assert both.weight.flatten().tolist() == [14.0, -21.0]
    assert both.bias.tolist() == [46.0]


@pytest.mark.parametrize("geometry", [{}, {"padding": 1}, {"padding": 1, "stride": 2}, {"dilation": 2}])
@pytest.mark.parametrize("bias", [True, False])
def test_a_1x1_behind_composes_exactly_at_the_border_too(geometry, bias):
    first, second = conv(4, 6, 3, bias=bias, **geometry), conv(6, 3, 1, bias=bias)
    x = image(4)
    assert apart(compose_behind(first, second)(x), second(first(x))) < 1e-12


def test_the_mean_of_a_composed_convolution_is_the_composed_mean():
    """What lets channel attention average before the 3x3 that it attends: for any size, by linearity."""
    first, squeeze = conv(4, 6, 3, padding=1), conv(6, 2, 1)
    x = image(4)
    expected = squeeze(first(x).mean((2, 3), keepdim=True))
    assert apart(compose_behind(first, squeeze)(x).mean((2, 3), keepdim=True), expected) < 1e-12


@pytest.mark.parametrize(
    ("first", "second"), [({}, {"kernel_size": 3}), ({"groups": 2}, {"kernel_size": 1}), ({}, {"stride": 2})]
)
def test_what_does_not_compose_behind_is_refused(first, second):
    second = {"kernel_size": 1, **second}
    with pytest.raises(UnsupportedError, match="only a plain 1x1 convolution that reads all channels"):
        compose_behind(conv(4, 6, 3, **first), conv(6, 6, **second))


@pytest.mark.parametrize(("hidden", "multiple", "width"), [(17, 2, 18), (17, 8, 24), (16, 8, 16), (1, 1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_zero_channels_between_change_nothing(hidden, multiple, width, bias):
    first, second = conv(4, hidden, 3, padding=1, bias=bias), conv(hidden, 3, 3, padding=1, bias=bias)
    x, gelu = image(4), nn.GELU()
    wide, narrow = pad_between(first, second, multiple)
    assert wide.out_channels == narrow.in_channels == width
    assert apart(narrow(gelu(wide(x))), second(gelu(first(x)))) < 1e-12
    with pytest.raises(UnsupportedError, match="without groups"):
        pad_between(conv(4, 4, 3), conv(4, 4, 3, groups=2), 2)


def test_a_centred_convolution_does_not_see_the_mean():
    x, one = image(4), conv(4, 6, 1)
    assert apart(centre(one)(x), one(x - x.mean(1, keepdim=True))) < 1e-12
    assert apart(centre(one)(x + 100), centre(one)(x)) < 1e-12
    with pytest.raises(UnsupportedError, match="the mean over channels into the 3x3"):
        centre(conv(4, 6, 3))


def test_an_inverse_undoes_the_weights():
    one, x = conv(5, 5, 1, bias=False), image(5)
    assert condition(one) == pytest.approx(float(np.linalg.cond(one.weight[:, :, 0, 0].numpy())))
    assert apart(invert(one)(one(x)), x) < 1e-12
    one.weight.data[4] = one.weight.data[3] + 1e-6 * one.weight.data[4]
    for other in (one, conv(4, 5, 1), conv(5, 5, 3)):
        with pytest.raises(UnsupportedError, match="cannot invert .* condition number"):
            invert(other)


def test_a_bias_before_zero_padding_is_refused_because_the_border_would_change():
    first, second = conv(4, 6, 1), conv(6, 3, 3, padding=1)
    with pytest.raises(UnsupportedError, match="zero padding would not carry the bias, and border pixels"):
        compose(first, second)
    # The reason is real: the weights that fold without padding are right inside and wrong on the border.
    unpadded = conv(6, 3, 3)
    unpadded.load_state_dict(second.state_dict())
    forced = compose(first, unpadded)
    forced.padding = (1, 1)
    x = image(4)
    difference = (forced(x) - second(first(x))).abs().amax((0, 1))
    assert difference[1:-1, 1:-1].max() < 1e-12
    assert difference[0].min() > 1e-3


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"kernel_size": 3}, {"kernel_size": 1}, "3x3 convolution 4 -> 6 .*only a plain 1x1"),
        ({"kernel_size": 1, "stride": 2}, {"kernel_size": 1}, "only a plain 1x1"),
        ({"kernel_size": 1, "groups": 2}, {"kernel_size": 1}, "2 groups.*only a plain 1x1"),
        ({"kernel_size": 1}, {"kernel_size": 3, "groups": 3}, "without groups"),
    ],
)
def test_what_does_not_compose_is_refused(first, second, message):
    with pytest.raises(UnsupportedError, match=message):
        compose(conv(4, 6, **first), conv(6, 6, **second))


def test_channels_that_do_not_meet_are_refused():
    with pytest.raises(UnsupportedError, match="all the first's channels"):
        compose(conv(4, 6, 1), conv(5, 3, 1))


def test_fold_affine_is_exact():
    after = conv(4, 6, 1)
    scale, shift = torch.randn(2, 4, dtype=torch.float64)
    x = image(4)
    expected = after(x * scale[:, None, None] + shift[:, None, None])
    assert apart(fold_affine(scale, shift, after)(x), expected) < 1e-12


def test_fold_affine_into_a_padded_convolution_is_refused():
    scale, shift = torch.ones(2, 4, dtype=torch.float64)
    with pytest.raises(UnsupportedError, match="border pixels would change"):
        fold_affine(scale, shift, conv(4, 6, 7, padding=3))


def test_merge_is_the_concatenation():
    convs = [conv(4, 6, 3, padding=1), conv(4, 2, 3, padding=1, bias=False)]
    x = image(4)
    assert apart(merge(convs)(x), torch.cat([c(x) for c in convs], 1)) < 1e-12


@pytest.mark.parametrize(
    "other",
    [
        {"kernel_size": 3},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 1, "padding": 1},
        {"kernel_size": 1, "groups": 2},
    ],
)
def test_unlike_convolutions_do_not_merge(other):
    with pytest.raises(UnsupportedError, match="cannot merge"):
        merge([conv(4, 6, 1), conv(4, 6, **other)])


def test_results_keep_type_and_mode():
    first, second = conv(4, 6, 1).float(), conv(6, 3, 1).float().eval()
    result = compose(first, second)
    assert result.weight.dtype is torch.float32
    assert not result.training
    assert not result.weight.requires_grad
