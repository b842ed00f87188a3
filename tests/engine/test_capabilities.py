"""Loading TensorRT: what is too old is refused. What each version can do is in test_api_names.py."""

from __future__ import annotations

import sys

import pytest

from hasn_edge.engine import capabilities
from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import UnsupportedError
from tests.support.fake_builder import fake_tensorrt


@pytest.mark.parametrize("doing", ["Building an engine", "Running an engine"])
def test_versions_before_8_5_are_refused_when_they_are_loaded(
    monkeypatch: pytest.MonkeyPatch, doing: str
) -> None:
    trt = fake_tensorrt("8.5.2")
    trt.__version__ = "8.4.1.5"
    del trt.ICudaEngine.num_io_tensors  # there were bindings then
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    with pytest.raises(
        UnsupportedError,
        match=rf"^{doing} needs at least TensorRT 8\.5, and 8\.4\.1\.5 is here; .* JetPack 5\.1",
    ):
        capabilities.load_tensorrt(EngineRuntime.TENSORRT, needed_for=doing)
