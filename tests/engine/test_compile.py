"""The real compiler of TensorRT for RTX, in every test run: it needs no GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.engine.compile import engine_from_onnx
from hasn_edge.engine.target import EngineRuntime, EngineTarget, ShapeRange, load_target
from hasn_edge.errors import BuildError, MissingDependencyError, UnsupportedError
from hasn_edge.progress import Step
from hasn_edge.spec import ModelSpec, Precision
from tests.support.compiling import SHAPES, MakeOnnx
from tests.support.samples import as_json

RTX = EngineTarget(
    name="test",
    shapes=ShapeRange(min=(1, 3, 32, 32), opt=(1, 3, 48, 64), max=(1, 3, 96, 96)),
    compute_capabilities=("ampere", "ada", "blackwell"),
)

# One generation of GPUs, where it does not matter how many: each costs time.
ADA = EngineTarget(name="test", shapes=SHAPES, compute_capabilities=("ada",))

# Bit of each GPU in the four bytes at offset 32 of a plan of version 1.7, found by building for each alone.
GPU_BITS = {"7.5": 0, "8.0": 1, "8.6": 2, "8.9": 3, "12.0": 4, "12.1": 5}


def gpus_of(plan: bytes) -> set[str]:
    mask = int.from_bytes(plan[32:36], "little")
    return {gpu for gpu, bit in GPU_BITS.items() if mask >> bit & 1}


@pytest.mark.usefixtures("needs_rtx")
class TestRealBuilds:
    @pytest.mark.slow
    def test_fp32_with_dynamic_size_and_a_cache_that_gets_no_timings(
        self, hasn_onnx: MakeOnnx, tmp_path: Path
    ) -> None:
        steps: list[Step] = []
        engine = engine_from_onnx(
            hasn_onnx("fp32"), RTX, precision=Precision.FP32, cache=tmp_path / "cache", progress=steps.append
        )
        assert engine.details().gpu is None
        assert engine.details().flags.workspace_from == "the compiler's default"
        assert not (tmp_path / "cache").exists()
        details = as_json(engine.details())
        assert "size" not in details
        assert details["profile"] == {
            "min": [1, 3, 32, 32],
            "opt": [1, 3, 48, 64],
            "max": [1, 3, 96, 96],
        }
        assert details["inputs"] == [{"name": "input", "dtype": "float32", "shape": [1, 3, -1, -1]}]
        assert details["outputs"] == [{"name": "output", "dtype": "float32", "shape": [1, 3, -1, -1]}]
        assert details["layers"]["quantize"] == 0
        assert details["flags"]["tf32"] is False
        assert engine.header.runtime is EngineRuntime.RTX
        assert engine.made_by == {"TensorRT for RTX": details["version"]}
        assert gpus_of(engine.plan) == {"8.0", "8.6", "8.9", "12.0", "12.1"}
        assert Step("Building engine", 0, 6) in steps
        assert any(step.text == "Building engine" and step.done == step.total for step in steps)

    @pytest.mark.slow
    def test_fp16_with_static_size_wherever_it_is_run(
        self, hasn_onnx: MakeOnnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "tensorrt_rtx.py").write_text("raise SystemExit('a file of the user was imported')")
        monkeypatch.chdir(tmp_path)
        engine = engine_from_onnx(
            hasn_onnx("fp16", size=(40, 56)), RTX.with_size(40, 56), precision=Precision.FP16
        )
        details = as_json(engine.details())
        assert details["size"] == [40, 56]
        assert details["inputs"][0] == {"name": "input", "dtype": "float32", "shape": [1, 3, 40, 56]}
        assert details["outputs"][0] == {"name": "output", "dtype": "float32", "shape": [1, 3, 160, 224]}
        assert list(tmp_path.iterdir()) == [tmp_path / "tensorrt_rtx.py"]

    @pytest.mark.slow
    def test_int8_for_chosen_gpus(self, hasn_onnx: MakeOnnx) -> None:
        target = replace(RTX, compute_capabilities=("ada", "12.0"))
        engine = engine_from_onnx(hasn_onnx("int8"), target, precision=Precision.INT8)
        assert gpus_of(engine.plan) == {"8.9", "12.0"}
        details = as_json(engine.details())
        assert details["compute_capabilities"] == ["8.9", "12.0"]
        assert details["layers"]["quantize"] > details["layers"]["convolution"] / 2

    @pytest.mark.slow
    def test_one_size_of_a_dynamic_graph_for_turing(self, hasn_onnx: MakeOnnx) -> None:
        engine = engine_from_onnx(hasn_onnx("fp16"), load_target("rtx-turing").with_size(32, 32))
        assert gpus_of(engine.plan) == {"7.5"}
        assert engine.details().size == (32, 32)

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [None, (40, 56)])
    def test_pixels_in_and_out(self, hasn_onnx: MakeOnnx, size: tuple[int, int] | None) -> None:
        target = ADA.with_size(*size) if size else ADA
        engine = engine_from_onnx(hasn_onnx("int8", size=size, pixels=True), target, precision=Precision.INT8)
        details = as_json(engine.details())
        shape = [1, *(size or (-1, -1)), 3]
        assert details["inputs"] == [{"name": "input", "dtype": "uint8", "shape": shape}]
        assert details["outputs"][0]["dtype"] == "uint8"
        assert details["profile"]["max"] == [1, *(size or (96, 96)), 3]
        assert engine.precision is Precision.INT8

    @pytest.mark.slow
    def test_a_weakly_typed_graph_would_become_an_fp32_engine(self, hasn_onnx: MakeOnnx) -> None:
        weak = hasn_onnx("fp32", form="weakly-typed")
        assert engine_from_onnx(weak, ADA).precision is Precision.FP32
        with pytest.raises(
            BuildError, match=r"TensorRT for RTX [\d.]+ takes types from the graph; give it the"
        ):
            engine_from_onnx(weak, ADA, precision=Precision.FP16)

    @pytest.mark.slow
    def test_the_published_network_at_the_benchmarked_size(self, hasn_onnx: MakeOnnx) -> None:
        graph = hasn_onnx("int8", spec=ModelSpec(), size=(180, 320))
        engine = engine_from_onnx(graph, load_target("rtx-720p"))
        assert engine.facts["layers"]["convolution"] == 93
        assert engine.facts["outputs"][0]["shape"] == [1, 3, 720, 1280]
        assert len(engine.plan) > len(graph)

    @pytest.mark.slow
    def test_what_the_parser_refuses_is_told_with_node_and_reason(self, hasn_onnx: MakeOnnx) -> None:
        import onnx

        proto = onnx.load_from_string(hasn_onnx("fp32"))
        gelu = next(node for node in proto.graph.node if node.op_type == "Gelu")
        gelu.op_type = "Frobnicate"
        with pytest.raises(
            BuildError, match=r"TensorRT for RTX [\d.]+ cannot read the ONNX graph:\n"
        ) as info:
            engine_from_onnx(proto.SerializeToString(), RTX)
        assert f"'{gelu.name}' (Frobnicate): " in str(info.value)
        assert "Plugin not found" in str(info.value)

    @pytest.mark.slow
    def test_mixed_types_are_told_without_the_missing_driver(self, hasn_onnx: MakeOnnx) -> None:
        import onnx
        from onnx import numpy_helper

        proto = onnx.load_from_string(hasn_onnx("fp16"))
        conv = next(node for node in proto.graph.node if node.op_type == "Conv")
        weight = next(w for w in proto.graph.initializer if w.name == conv.input[1])
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype("f4"), weight.name))
        with pytest.raises(BuildError, match="must be of same type. `input` type is Half but") as info:
            engine_from_onnx(proto.SerializeToString(), RTX)
        assert f"'{conv.name}' (Conv)" in str(info.value)
        assert "messages of" not in str(info.value)
        assert "CUDA driver version" not in str(info.value)

    @pytest.mark.slow
    def test_no_plan_is_explained_by_the_compiler(self, hasn_onnx: MakeOnnx) -> None:
        with pytest.raises(
            BuildError, match=r"(?s)could not compile the graph; messages of .*:\n  .*within workspace limit"
        ):
            engine_from_onnx(
                hasn_onnx("int8", size=(64, 64)), replace(RTX.with_size(64, 64), workspace_bytes=1 << 20)
            )

    @pytest.mark.slow
    def test_things_that_cannot_be_built(self, hasn_onnx: MakeOnnx) -> None:
        with pytest.raises(BuildError, match="not an ONNX graph"):
            engine_from_onnx(b"hello", RTX)
        with pytest.raises(UnsupportedError, match=r"compute capability 9.0; it can for 7.5, 8.0, 8.6"):
            engine_from_onnx(b"", replace(RTX, compute_capabilities=("hopper", "ada")))
        with pytest.raises(UnsupportedError, match=r"fixed to \(1, 3, 40, 56\), but the target asks for"):
            engine_from_onnx(hasn_onnx("fp32", size=(40, 56)), RTX)


def test_targets_without_a_compiler_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu", "portable"):
        with pytest.raises(
            UnsupportedError, match=f"target '{name}' has no engine: .* takes the graph itself"
        ):
            engine_from_onnx(b"", load_target(name))
    for module in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"TensorRT for RTX needs .*'hasn-edge\[rtx\]'"):
        engine_from_onnx(b"", RTX)
    with pytest.raises(MissingDependencyError, match=r"TensorRT needs .*'hasn-edge\[tensorrt\]'"):
        engine_from_onnx(b"", EngineTarget(runtime=EngineRuntime.TENSORRT))


@pytest.mark.slow
@pytest.mark.usefixtures("needs_rtx")
def test_an_installed_but_broken_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('libtensorrt_rtx.so.1: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        BuildError, match="cannot be loaded: libtensorrt_rtx.so.1: cannot open.*--force-reins"
    ):
        engine_from_onnx(b"", RTX)


SIZE = (40, 56)

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "no ESA": {"esa": False},
    "no CAB": {"cab": False},
    "no norm": {"norm": False},
    "convolutions only": {"esa": False, "cab": False, "norm": False},
    "added gate": {"gate": "add"},
    "ReLU": {"activation": "relu"},
    "leaky ReLU": {"activation": "leaky_relu"},
    "x2": {"scale": 2},
    "x3": {"scale": 3},
    "3x3": {"kernel_size": 3},
    "5x5": {"kernel_size": 5},
    "9x9": {"kernel_size": 9},
    "residual": {"residual": True},
    "no skip": {"skip": False},
    "gray": {"channels": 1},
}
MODES = ("static", "dynamic", "pixels")


def cases() -> Iterator[tuple[str, str, str]]:
    """Yield each variant in FP16, and every fourth in FP32 and INT8; the modes alternate.

    A graph in FP16 has all that the one in FP32 has, and casts.
    """
    for index, name in enumerate(VARIANTS):
        for offset, precision in enumerate(("fp32", "fp16", "int8")):
            if precision == "fp16" or index % 4 == offset:
                yield name, precision, MODES[(index + offset) % len(MODES)]


CASES = tuple(cases())


def test_no_precision_and_no_mode_is_left_out() -> None:
    assert {name for name, precision, _ in CASES if precision == "fp16"} == set(VARIANTS)
    assert {(precision, mode) for _, precision, mode in CASES} == {
        (precision.value, mode) for precision in Precision for mode in MODES
    }


@pytest.mark.slow
@pytest.mark.usefixtures("needs_rtx")
@pytest.mark.parametrize(("name", "precision", "mode"), CASES)
def test_a_variant_is_built(hasn_onnx: MakeOnnx, name: str, precision: str, mode: str) -> None:
    spec = ModelSpec(**{"features": 8, "blocks": 1, "esa_channels": 4, **VARIANTS[name]})
    size = SIZE if mode == "static" else None
    graph = hasn_onnx(precision, spec=spec, size=size, pixels=mode == "pixels")
    engine = engine_from_onnx(graph, ADA.with_size(*SIZE) if size else ADA, precision=Precision(precision))
    assert engine.header.runtime is EngineRuntime.RTX
    details = as_json(engine.details())
    assert (engine.precision.value, details.get("size")) == (precision, list(size) if size else None)
    n, c, h, w = spec.output_shape((1, spec.channels, *SIZE)) if size else (1, spec.channels, -1, -1)
    wanted = ("uint8", [n, h, w, c]) if mode == "pixels" else ("float32", [n, c, h, w])
    assert [(end["dtype"], end["shape"]) for end in details["outputs"]] == [wanted]
    assert (details["layers"]["half_convolution"] > 0) is (precision != "fp32")
    assert (details["layers"]["quantize"] > 0) is (precision == "int8")


@pytest.mark.slow
@pytest.mark.usefixtures("needs_rtx")
def test_the_published_network_takes_a_range_of_sizes(hasn_onnx: MakeOnnx) -> None:
    engine = engine_from_onnx(hasn_onnx("fp16", spec=ModelSpec()), ADA, precision=Precision.FP16)
    details = as_json(engine.details())
    assert details["layers"]["convolution"] == 93
    assert details["profile"]["max"] == [1, 3, 96, 96]
    assert details["outputs"] == [{"name": "output", "dtype": "float32", "shape": [1, 3, -1, -1]}]
