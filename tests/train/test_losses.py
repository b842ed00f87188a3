import numpy as np
import pytest
import torch

from hasn_edge.train.losses import kl_over_channels, total_loss
from hasn_edge.train.recipe import LossConfig


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


def test_terms_are_weighted_and_added():
    sr, hr = pair()
    a, b = sr.double().numpy(), hr.double().numpy()
    expected = 2 * np.abs(a - b).mean() + 3 * np.square(a - b).mean() + 4 * float(kl_over_channels(sr, hr))
    assert float(total_loss(LossConfig(l1=2, mse=3, kl=4), sr, hr)) == pytest.approx(expected, rel=1e-5)


def test_stage_two_gradient_reaches_the_prediction():
    sr, hr = pair()
    sr.requires_grad_()
    total_loss(LossConfig(l1=1, kl=1), sr, hr).backward()
    assert float(sr.grad.abs().min()) > 0
