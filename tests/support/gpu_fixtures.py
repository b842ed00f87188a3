"""A fake GPU with a fake TensorRT and the three fake CUDA packages, watched over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.artifact import Artifact, Kind, publish
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.spec import ModelSpec, Precision
from tests.support import fake_cuda, fake_gpu, fake_tensorrt
from tests.support.samples import details_of

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)


class Lab:
    """One machine: its GPU, its packages, engines for it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.gpu: Any = fake_gpu.FakeGpu()
        self.trt: Any = None
        self.fakes = fake_tensorrt

    def set_up(
        self,
        cuda: str = "cuda-python",
        *,
        version: str = "10.3.0",
        rtx: bool = False,
        integrated: bool = False,
    ) -> Lab:
        """Install a TensorRT and one CUDA package; the others are not there."""
        self.gpu.integrated = integrated
        self.trt = self.fakes.make_tensorrt(self.gpu, version=version, rtx=rtx)
        modules = fake_cuda.modules_of(self.gpu, cuda)
        for name, module in {**modules, "tensorrt_rtx" if rtx else "tensorrt": self.trt}.items():
            self.monkeypatch.setitem(sys.modules, name, module)
        opening = "hasn_edge.runtime.tensorrt.open_engine"
        for name in ("hasn_edge.engine.capabilities.find_module", f"{opening}.find_module"):
            self.monkeypatch.setattr(name, lambda runtime, **_: self.trt.__name__)
        self.monkeypatch.setattr(f"{opening}.installed_version", lambda name: None)
        self.monkeypatch.setattr(f"{opening}.gpu_facts", lambda index: self.facts(index))
        return self

    def facts(self, index: int) -> GpuFacts | None:
        return None if index else GpuFacts(
            name="Orin", compute_capability="8.7", total_memory_bytes=8 << 30, driver="540.4.0", cuda="12.6",
            integrated=self.gpu.integrated, l4t="36.4.3", sm_count=8,
        )  # fmt: skip

    def engine(self, name: str = "x4", *, details: dict[str, Any] | None = None, **plan: Any) -> Artifact:
        """Publish an engine; static where ``size`` is given."""
        size = plan.pop("size", None)
        pixels = plan.get("dtype") == "UINT8"
        if size is not None:
            shape = (1, *size, 3) if pixels else (1, 3, *size)
            plan = {"minimum": shape, "maximum": shape, **plan}
        elif pixels:
            plan = {"minimum": (1, 15, 15, 3), "maximum": (4, 64, 80, 3), **plan}
        return publish(
            self.fakes.make_plan(**plan),
            self.folder / f"{name}.engine",
            spec=SPEC,
            precision=Precision.FP32,
            source="0" * 64,
            details=details_of(
                Kind.ENGINE,
                **{
                    "size": size, "pixels": pixels, "runtime": "rtx" if plan.get("rtx") else "tensorrt",
                    "version": ".".join(map(str, plan.get("version", (10, 3, 0, 26)))), **(details or {}),
                },
            ),
        )  # fmt: skip

    def check(self) -> None:
        """Nothing was done wrong, nothing is left behind."""
        assert self.gpu.violations == []
        assert self.gpu.leaks() == []
        assert self.trt is None or self.trt.live == []


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    made = Lab(tmp_path, monkeypatch)
    yield made
    made.check()
