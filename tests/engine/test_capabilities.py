"""Loading TensorRT: what is too old is refused. What each version can do is in test_api_names.py."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hasn_edge.engine import capabilities, inspect, worker_process
from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import BuildError, MissingDependencyError, UnsupportedError
from tests.support.fake_builder import fake_tensorrt
from tests.support.samples import ADA, NANO, engine


@pytest.mark.parametrize("doing", ["Building an engine", "Running an engine"])
def test_versions_before_8_5_are_refused_when_they_are_loaded(
    monkeypatch: pytest.MonkeyPatch, doing: str
) -> None:
    trt = fake_tensorrt("8.5.2")
    trt.__version__ = "8.4.1.5"
    del trt.ICudaEngine.num_io_tensors  # there were bindings then
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    refused = rf"^{doing} needs at least TensorRT 8\.5, and 8\.4\.1\.5 is here; "
    with pytest.raises(UnsupportedError, match=rf"{refused}pip install --upgrade 'hasn-edge\[tensorrt\]'"):
        capabilities.load_tensorrt(EngineRuntime.TENSORRT, needed_for=doing)
    monkeypatch.setattr(capabilities, "l4t_release", lambda: "35.1")
    with pytest.raises(UnsupportedError, match=rf"{refused}install JetPack 6 .*Python 3\.8"):
        capabilities.load_tensorrt(EngineRuntime.TENSORRT, needed_for=doing)


@pytest.mark.parametrize(
    ("l4t", "helps"),
    [("35.6.0", "JetPack 6 or newer; .*engines/README.md"), ("36.4.3", "python3-libnvinfer")],
)
def test_what_is_advised_on_a_jetson_is_possible_there(monkeypatch, l4t: str, helps: str) -> None:
    """JetPack 5 has Python 3.8, and TensorRT's module for that alone: no package of it helps."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(capabilities, "l4t_release", lambda: l4t)
    with pytest.raises(UnsupportedError, match=helps) as info:
        capabilities.find_module(EngineRuntime.TENSORRT)
    assert ("python3-libnvinfer" in str(info.value)) is (l4t != "35.6.0")


def test_what_only_answers_has_a_limit(monkeypatch, tmp_path: Path) -> None:
    asked = []

    def run(*arguments: str, limit_s: float, python: str) -> None:
        asked.append((arguments[2], limit_s))
        raise BuildError("x")

    monkeypatch.setattr(worker_process, "run_python", run)
    for module in (capabilities, inspect):
        monkeypatch.setattr(module, "find_module", lambda *_, **__: "tensorrt")
    for ask in (
        lambda: capabilities.ask_capabilities(EngineRuntime.TENSORRT),
        lambda: inspect.kernels_of_engine(engine(tmp_path), loaded=True, find_gpu=lambda: NANO),
    ):
        with pytest.raises(BuildError, match="^x"):
            ask()
    assert asked == [("--ask", 600.0), ("--list", 600.0)]


@pytest.mark.parametrize(("cuda", "extra"), [("13.2", "rtx"), ("12.8", "rtx-cu12"), (None, "rtx")])
def test_what_is_missing_is_named_for_the_drivers_cuda(monkeypatch, cuda: str | None, extra: str) -> None:
    """Without a GPU it only builds, which takes no driver."""
    gpu = None if cuda is None else replace(ADA, cuda=cuda)
    monkeypatch.setattr(capabilities, "gpu_facts", lambda: gpu)
    monkeypatch.setattr(capabilities.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'hasn-edge\[{extra}\]'"):
        capabilities.find_module(EngineRuntime.RTX)
