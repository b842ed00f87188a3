"""PyTorch sessions beyond the contract: devices, threads, the caller's module left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hasn_edge.errors import BuildError, InputError, UnsupportedError
from hasn_edge.model.hasn import HASN
from hasn_edge.runtime.pytorch import PyTorchSession, torch_device
from hasn_edge.spec import ModelSpec, Precision

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def test_the_callers_module_is_shared_and_never_changed():
    model = HASN(SPEC)
    assert model.training
    x = noise(1, 3, 16, 16)
    PyTorchSession(model, channels_last=True).run(x)
    assert model.training
    assert model.conv_1.weight.is_contiguous()
    assert model.conv_1.weight.requires_grad
    model.eval()
    session = PyTorchSession(model)
    before = session.run(x)
    with torch.no_grad():
        model.upsampler[0].bias += 1
    np.testing.assert_allclose(session.run(x), before + 1, atol=1e-6)


def test_a_module_without_spec_is_refused():
    with pytest.raises(InputError, match=r"Conv2d has no 'spec'; load it with hasn_edge\.load_model"):
        PyTorchSession(torch.nn.Conv2d(3, 3, 1))


def test_precision_is_that_of_the_parameters():
    assert PyTorchSession(HASN(SPEC).half()).precision is Precision.FP16
    with pytest.raises(UnsupportedError, match=r"parameters are float64; expected float32 or float16"):
        PyTorchSession(HASN(SPEC).double())


@pytest.mark.parametrize("device", ["gpu", "xpu:0", "meta", ""])
def test_unknown_devices(device):
    with pytest.raises(
        UnsupportedError, match=f"no device called {device!r}; choose cpu, cuda or cuda:<index>"
    ):
        torch_device(device, backend="pytorch")


def test_a_cuda_device_that_is_not_here():
    with pytest.raises(UnsupportedError, match=r"device 'cuda:63' is not here: PyTorch .*; use device='cpu'"):
        PyTorchSession(HASN(SPEC), device="cuda:63")


@pytest.mark.slow
def test_threads_are_set_at_each_call():
    before = torch.get_num_threads()
    one, two = (PyTorchSession(HASN(SPEC), threads=count) for count in (1, 2))
    try:
        for session, count in ((one, 1), (two, 2), (one, 1)):
            session.run(noise(1, 3, 15, 15))
            assert torch.get_num_threads() == count
        PyTorchSession(HASN(SPEC)).run(noise(1, 3, 15, 15))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            InputError,
            "not enough memory",
        ),
        (MemoryError(), InputError, r"not enough memory .*\(MemoryError\)"),
        (RuntimeError("an operator is missing"), BuildError, "PyTorch failed on .*: an operator is missing"),
    ],
)
def test_errors_while_running_are_translated(failure, error, message):
    class Failing(torch.nn.Module):
        spec = SPEC

        def forward(self, x):
            raise failure

    with pytest.raises(error, match=message):
        PyTorchSession(Failing()).run(noise(1, 3, 15, 15))
