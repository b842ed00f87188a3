"""Where the kernels of a built engine come from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from hasn_edge.artifact import publish
from hasn_edge.engine.compile import engine_from_onnx
from hasn_edge.engine.inspect import kernels_of_engine
from hasn_edge.engine.target import EngineTarget, ShapeRange
from hasn_edge.errors import UnsupportedError
from hasn_edge.sidecar import EngineDetails, GraphDetails, Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support import samples
from tests.support.compiling import MakeOnnx

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.usefixtures("needs_rtx")
def test_from_the_sidecar_or_from_the_graph_beside_it(hasn_onnx: MakeOnnx, tmp_path: Path) -> None:
    shapes = ShapeRange(min=(1, 3, 32, 32), opt=(1, 3, 40, 56), max=(1, 3, 64, 64))
    target = EngineTarget(name="test", shapes=shapes, compute_capabilities=("8.6",))
    onnx = hasn_onnx("fp16")
    built = engine_from_onnx(onnx, target, precision=Precision.FP16)

    def put(data: bytes, name: str, details: EngineDetails | GraphDetails, parent: str | None = None):
        return publish(
            data,
            tmp_path / name,
            spec=ModelSpec(),
            precision=Precision.FP16,
            source="0" * 64,
            parent=parent,
            details=details,
        )

    graph = msgspec.convert({"form": "strongly-typed", "opset": 20}, GraphDetails)
    put(onnx, "a.onnx", graph)
    stated = put(built.plan, "a.engine", built.details())
    assert kernels_of_engine(stated) == built.kernels
    silent = msgspec.structs.replace(built.details(), kernels=None)
    parent = hashlib.sha256(onnx).hexdigest()
    assert kernels_of_engine(put(built.plan, "b.engine", silent, parent)) == built.kernels
    with pytest.raises(UnsupportedError, match=r"c\.engine: its sidecar does not list .* no GPU here"):
        kernels_of_engine(put(built.plan, "c.engine", silent))
    with pytest.raises(UnsupportedError, match=r"a\.engine: there is no GPU here to load it on"):
        kernels_of_engine(stated, loaded=True, find_gpu=lambda: None)


def test_a_build_is_named_only_where_it_would_list_them(tmp_path: Path) -> None:
    """Without a GPU that is a build for TensorRT for RTX, which states them in the sidecar."""
    named = []
    for runtime, loaded in (("rtx", False), ("rtx", True), ("tensorrt", False)):
        engine = samples.engine(tmp_path, runtime=runtime, target="rtx", model="mine.pth", kernels=None)
        with pytest.raises(UnsupportedError, match="there is no GPU here to load it on") as info:
            kernels_of_engine(engine, loaded=loaded, find_gpu=lambda: None)
        calls = [cure.arguments["model"] for cure in info.value.cures if cure.action == "call"]
        named.append((calls, "only the name of 'mine.pth' is known" in info.value.message))
    assert named == [(["mine.pth"], True), ([], False), ([], False)]


@pytest.mark.parametrize("compatible", [False, True])
def test_from_tensorrt_on_its_gpu(
    libcuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compatible: bool
) -> None:
    """The inspector of a fake TensorRT 10.3, in the real child process."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libcuda.parent))
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{ROOT}")
    monkeypatch.syspath_prepend(site)
    ends = [{"Name": "a", "Dimensions": [1, 8, -1, -1], "Format/Datatype": "Row major linear FP16"}]
    layers = [{"Name": "conv_1", "LayerType": "CaskConvolution", "Inputs": ends, "Outputs": ends}]
    (site / "tensorrt.py").write_text(
        "import sys\nfrom tests.support.fake_builder import fake_tensorrt\n"
        f"sys.modules[__name__] = fake_tensorrt('10.3.0', layers={layers!r}, plan={b'plan'!r}, "
        f"host_code={compatible})\n"
    )
    engine = samples.engine(tmp_path, content=b"plan", size=None, flags={"version_compatible": compatible})
    assert engine.kind is Kind.ENGINE
    kernels = kernels_of_engine(engine, find_gpu=lambda: samples.NANO)
    assert (kernels.all, kernels.convolutions, kernels.size) == (1, {"Half -> Half": 1}, (180, 320))
    assert kernels.moved_bytes == 2 * 8 * 180 * 320 * 2
