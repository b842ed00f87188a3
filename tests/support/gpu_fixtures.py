"""A fake GPU with a fake TensorRT and the three fake CUDA packages, watched over."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.artifact import Artifact, publish
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support import fake_cuda, fake_gpu, fake_tensorrt
from tests.support.samples import details_of

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)


class FakeDriver:
    """What ctypes makes of NVIDIA's driver: one Orin, unless ``gpus`` says otherwise."""

    def __init__(self, gpu: fake_gpu.FakeGpu) -> None:
        self._gpu = gpu
        self.gpus = 1
        self.capability = (8, 7)
        self.cuda = 12060

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        return _give(version, self.cuda)

    def cuDeviceGetCount(self, count: Any) -> int:
        return _give(count, self.gpus)

    def cuDeviceGet(self, device: Any, index: Any) -> int:
        return _give(device, index.value)

    def cuDeviceGetName(self, name: Any, size: Any, device: Any) -> int:
        name.value = b"Orin"
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:
        return _give(memory, 8 << 30)

    def cuDeviceGetAttribute(self, value: Any, number: Any, device: Any) -> int:
        major, minor = self.capability
        return _give(value, {16: 8, 18: int(self._gpu.integrated), 75: major, 76: minor}[number.value])

    def cuDeviceGetPCIBusId(self, name: Any, size: Any, device: Any) -> int:
        name.value = b"0000:01:00.0"
        return 0


def _give(reference: Any, value: int) -> int:
    """Put a value where ``byref`` points to; return what stands for success."""
    reference._obj.value = value
    return 0


class Lab:
    """One machine: its driver, its GPU, its packages, engines for it."""

    def __init__(self, folder: Path, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.packages = packages
        self.monkeypatch = monkeypatch
        self.gpu: Any = fake_gpu.FakeGpu()
        self.driver: FakeDriver | None = FakeDriver(self.gpu)
        self.trt: Any = None
        self.fakes = fake_tensorrt
        monkeypatch.setattr("hasn_edge.hardware.gpu.load_driver", lambda *_: self.driver)

    def set_up(
        self,
        cuda: str = "cuda-python",
        *,
        version: str = "10.3.0",
        package: str | None = None,
        rtx: bool = False,
        integrated: bool = False,
    ) -> Lab:
        """Install a TensorRT and one CUDA package; the others are not there.

        ``package`` is what pip knows TensorRT's version as, where that is another than the module states.
        """
        self.gpu.integrated = integrated
        self.trt = self.fakes.make_tensorrt(self.gpu, version=version, rtx=rtx)
        modules = fake_cuda.modules_of(self.gpu, cuda)
        for name, module in {**modules, self.trt.__name__: self.trt}.items():
            self.monkeypatch.setitem(sys.modules, name, module)
        site = self.packages / str(len(list(self.packages.iterdir())))
        about = site / f"tensorrt_{'rtx_' if rtx else ''}cu13_bindings-{version}.dist-info" / "METADATA"
        about.parent.mkdir(parents=True)
        about.write_text(f"Name: tensorrt\nVersion: {package or version}\n")
        self.monkeypatch.syspath_prepend(site)
        return self

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
def lab(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lab]:
    made = Lab(tmp_path, tmp_path_factory.mktemp("packages"), monkeypatch)
    yield made
    made.check()


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], str]:
    """Interpreters whose child does what the test wants."""

    def make(script: str) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make
