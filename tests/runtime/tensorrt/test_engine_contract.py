"""Engines keep the contract of sessions, over each CUDA package and each kind of TensorRT."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from hasn_edge.runtime.tensorrt.engine_session import TensorRTSession
from tests.support.session_contract import SessionContract, noise


class TensorRTContract(SessionContract):
    """Over fakes of TensorRT and CUDA that compute only when they are waited for, and repeat pixels."""

    backend = "tensorrt"
    device = "cuda:0"
    tolerance = None
    batch_tolerance = 0
    cuda = "cuda-python"
    options: ClassVar[dict[str, Any]] = {}
    plan: ClassVar[dict[str, Any]] = {}
    setup: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def machine(self, lab):
        self.lab = lab.set_up(self.cuda, **self.setup)
        self.artifact = lab.engine(**self.plan)

    def open(self):
        return TensorRTSession(self.artifact, cuda=self.cuda, **self.options)

    def test_repeats_pixels(self, session):
        x = noise(1, 3, 15, 16)
        for _ in range(3):  # plainly, recorded, launched
            np.testing.assert_array_equal(session.run(x)[:, :, 1::4, 2::4], x)


class TestTensorRT(TensorRTContract):
    pass


class TestTensorRTPyCuda(TensorRTContract):
    cuda = "pycuda"


class TestTensorRTTorch(TensorRTContract):
    cuda = "torch"


class TestTensorRTThreeInFlight(TensorRTContract):
    options: ClassVar[dict[str, Any]] = {"in_flight": 3}


class TestTensorRTThreeInFlightPyCuda(TensorRTContract):
    cuda = "pycuda"
    options: ClassVar[dict[str, Any]] = {"in_flight": 3}


class TestTensorRTThreeInFlightTorch(TensorRTContract):
    cuda = "torch"
    options: ClassVar[dict[str, Any]] = {"in_flight": 3}


class TestTensorRTMapped(TensorRTContract):
    """A GPU that shares the CPU's memory: nothing is copied between the two."""

    setup: ClassVar[dict[str, Any]] = {"integrated": True}


class TestTensorRTMappedPyCuda(TensorRTContract):
    cuda = "pycuda"
    setup: ClassVar[dict[str, Any]] = {"integrated": True}


class TestTensorRTMappedTorch(TensorRTContract):
    cuda = "torch"
    setup: ClassVar[dict[str, Any]] = {"integrated": True}


class TestTensorRTOneImageAtATime(TensorRTContract):
    plan: ClassVar[dict[str, Any]] = {"maximum": (1, 3, 64, 80)}
    options: ClassVar[dict[str, Any]] = {"in_flight": 2}


class TestTensorRT8(TensorRTContract):
    """Its contexts do not share a profile."""

    setup: ClassVar[dict[str, Any]] = {"version": "8.6.1"}
    plan: ClassVar[dict[str, Any]] = {"version": (8, 6, 1, 6)}
    options: ClassVar[dict[str, Any]] = {"in_flight": 2}


class TestTensorRTForRtx(TensorRTContract):
    setup: ClassVar[dict[str, Any]] = {"version": "1.7.1.116", "rtx": True}
    plan: ClassVar[dict[str, Any]] = {"version": (1, 7, 1, 116), "rtx": True}
