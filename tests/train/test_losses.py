import numpy as np
import pytest
import torch

from hasn_edge.train.losses import fourier_l1, kl_over_channels, total_loss
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
