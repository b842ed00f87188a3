"""The compiler's code on every recorded TensorRT: which flags, which pins, in which order."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.engine.builder import _make_monitor, compile_plan
from hasn_edge.engine.capabilities import probe
from hasn_edge.engine.messages import Kept
from hasn_edge.engine.target import EngineRuntime, ShapeRange
from hasn_edge.errors import BuildError, UnsupportedError
from hasn_edge.spec import Precision
from tests.support.compiling import (
    AFFINE,
    AVERAGE,
    BUILDER_FLAGS,
    LAYER_NORM,
    NATIVE,
    NETWORK_FLAGS,
    ONE_NORM,
    WEAK,
    MakeOnnx,
    compile_with,
    form_of,
    target_of,
)
from tests.support.fake_builder import fake_tensorrt, versions


@pytest.mark.slow
@pytest.mark.parametrize("version", versions())
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_version_builds_every_precision(hasn_onnx: MakeOnnx, version: str, precision: str) -> None:
    trt = fake_tensorrt(version)
    form = form_of(version)
    assert probe(trt, target_of(version).runtime).form == form
    weak = version in WEAK
    graph = hasn_onnx("fp32" if weak and precision == "fp16" else precision, form=form)
    made = compile_with(trt, graph, target_of(version), precision=Precision(precision))
    assert made.plan == trt.plan
    assert [name for name, _ in trt.calls] == ["create_network", "build"]
    assert trt.calls[0] == ("create_network", NETWORK_FLAGS[version])
    expected = BUILDER_FLAGS[precision] if weak else set()
    assert {flag.name for flag in trt.calls[1][1]} == expected
    assert made.facts["precision"] == precision
    assert made.facts["flags"]["strongly_typed"] is not weak
    assert made.facts["profile"]["max"] == [1, 3, 96, 96]
    assert [p._shapes for p in trt.config._profiles] == [
        {"input": ((1, 3, 32, 32), (1, 3, 48, 64), (1, 3, 96, 96))}
    ]
    assert trt.config.profiling_verbosity is trt.ProfilingVerbosity.DETAILED
    assert (made.facts["layers"]["quantize"] > 0) is (precision == "int8")


@pytest.mark.parametrize("version", WEAK)  # from 10 on, the portable graph is read as well
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_normalizations_and_averages_stay_in_fp32(hasn_onnx: MakeOnnx, version: str, precision: str) -> None:
    trt = fake_tensorrt(version)
    graph = hasn_onnx("int8" if precision == "int8" else "fp32", form="weakly-typed")
    networks: list[Any] = []
    create = trt.INetworkDefinition
    trt.INetworkDefinition = lambda flags: networks.append(create(flags)) or networks[-1]
    made = compile_with(trt, graph, target_of(version), precision=Precision(precision))
    layers = {layer.name: layer for layer in networks[0]._layers}
    pinned = [name for name, layer in layers.items() if layer.precision is not None]
    computing = [name for name in pinned if not name.startswith("ONNXTRT_Broadcast")]
    assert computing == [*LAYER_NORM, *AFFINE, *AVERAGE]
    assert made.facts["flags"]["fp32_layers"] == computing
    # Epsilon, weight and bias reach the pinned layers unrounded as well.
    assert len(pinned) - len(computing) == 3
    assert {layers[name].precision.name for name in pinned} == {"FLOAT"}
    # Between pinned layers tensors stay FP32; what leaves the last one is the next convolution's business.
    free = [name for name in computing if not layers[name]._output_types]
    assert free == ["block_1.ln.Add_1", *AVERAGE]
    assert {t.name for layer in layers.values() for t in layer._output_types.values()} == {"FLOAT"}


@pytest.mark.parametrize("version", NATIVE)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_normalization_as_one_layer_is_pinned_too(
    hasn_onnx: MakeOnnx, version: str, precision: str
) -> None:
    trt = fake_tensorrt(version)
    graph = hasn_onnx("int8" if precision == "int8" else "fp32", form=form_of(version))
    networks: list[Any] = []
    create = trt.INetworkDefinition
    trt.INetworkDefinition = lambda flags: networks.append(create(flags)) or networks[-1]
    made = compile_with(trt, graph, target_of(version), precision=Precision(precision))
    assert made.facts["flags"]["fp32_layers"] == [*ONE_NORM, *AVERAGE]
    pinned = [layer for layer in networks[0]._layers if layer.precision is not None]
    # Its weight and bias reach it unrounded as well.
    assert [layer.name for layer in pinned if not layer.name.startswith("ONNXTRT_")] == [*ONE_NORM, *AVERAGE]
    assert len(pinned) == 4
    assert {layer.precision.name for layer in pinned} == {"FLOAT"}
    assert [layer.name for layer in pinned if layer.type is trt.LayerType.NORMALIZATION] == ONE_NORM
    # Pins count where TensorRT is told to obey them.
    assert trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS in trt.calls[1][1]
    # What it reads and gives may be FP16: inside it computes in FP32.
    assert not any(layer._output_types for layer in pinned if not layer.name.startswith("ONNXTRT_"))


def test_pixels_are_converted_in_fp32_and_laid_out_as_pixels(hasn_onnx: MakeOnnx) -> None:
    trt = fake_tensorrt("8.6.1")
    graph = hasn_onnx("fp32", form="weakly-typed", pixels=True)
    made = compile_with(trt, graph, target_of("8.6.1"), precision=Precision.FP16)
    assert made.facts["inputs"] == [{"name": "input", "dtype": "uint8", "shape": [1, -1, -1, 3]}]
    assert made.facts["profile"]["opt"] == [1, 48, 64, 3]
    pins = [name for name in made.facts["flags"]["fp32_layers"] if name.startswith("pixels/")]
    assert pins == [
        "pixels/planes",
        "pixels/divide",
        "pixels/clip",
        "pixels/scale",
        "pixels/round",
        "pixels/last",
    ]


@pytest.mark.slow
def test_without_a_wish_the_graph_decides(hasn_onnx: MakeOnnx) -> None:
    for version, form, precision in (
        ("8.6.1", "weakly-typed", "fp32"),
        ("8.6.1", "weakly-typed", "int8"),
        ("11.4.0.106", "strongly-typed", "fp32"),
        ("11.4.0.106", "strongly-typed", "fp16"),
        ("11.4.0.106", "strongly-typed", "int8"),
    ):
        made = compile_with(fake_tensorrt(version), hasn_onnx(precision, form=form), target_of(version))
        assert made.facts["precision"] == precision


def test_options_reach_the_builder_where_it_has_them(hasn_onnx: MakeOnnx) -> None:
    graph = hasn_onnx("fp32", form="weakly-typed", size=(48, 64))
    wishes = {"optimization_level": 2, "hardware_compatibility": "ampere_plus", "version_compatible": True}
    trt = fake_tensorrt("8.6.1")
    target = target_of("8.6.1", tf32=True, **wishes).with_size(48, 64)
    made = compile_with(trt, graph, target, workspace_bytes=1 << 28)
    assert trt.config._profiles == []
    assert trt.config._pools == {"WORKSPACE": 1 << 28}
    assert trt.config.builder_optimization_level == 2
    assert trt.config.hardware_compatibility_level is trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert {flag.name for flag in trt.config._flags} == {"TF32", "VERSION_COMPATIBLE"}
    assert made.facts["flags"]["workspace_bytes"] == 1 << 28
    for name, value in wishes.items():
        with pytest.raises(UnsupportedError, match=f"TensorRT 8.5.2 has no {name}"):
            compile_with(fake_tensorrt("8.5.2"), graph, target_of("8.5.2", **{name: value}).with_size(48, 64))


def test_rtx_gets_the_gpus_one_by_one_and_no_timings(hasn_onnx: MakeOnnx) -> None:
    version = "rtx 1.7.1.116"
    trt = fake_tensorrt(version)
    target = target_of(version, compute_capabilities=("ada", "8.6"))
    made = compile_with(trt, hasn_onnx("fp16"), target, collect_timings=True)
    sm = trt.ComputeCapability
    assert trt.config._capabilities == {0: sm.SM86, 1: sm.SM89}
    assert (trt.config._timing, made.timings, "timing_cache" in made.facts) == (None, b"", False)
    with pytest.raises(UnsupportedError, match="capability 9.0; it can for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"):
        compile_with(trt, b"", target_of(version, compute_capabilities=("hopper",)))


@pytest.mark.slow
@pytest.mark.parametrize("version", ["8.5.2", "10.3.0", "11.4.0.106"])
def test_timings_are_taken_up_and_handed_on(hasn_onnx: MakeOnnx, tmp_path: Path, version: str) -> None:
    graph, path = hasn_onnx("fp32", form=form_of(version)), tmp_path / "timing.cache"
    first = compile_with(
        fake_tensorrt(version), graph, target_of(version), collect_timings=True, timings=path
    )
    assert (first.timings, first.facts["timing_cache"]) == (b"+timings", None)
    path.write_bytes(b"good")
    trt = fake_tensorrt(version, good_timings=(b"good",))
    second = compile_with(trt, graph, target_of(version), collect_timings=True, timings=path)
    assert second.timings == b"good+timings"
    assert len(second.facts["timing_cache"]) == 64
    path.write_bytes(b"damaged")
    third = compile_with(trt, graph, target_of(version), collect_timings=True, timings=path)
    assert (third.timings, third.facts["timing_cache"]) == (b"+timings", None)


@pytest.mark.parametrize("version", ["8.6.1", "10.0.1"])
def test_progress_is_fine_where_there_is_a_monitor_and_coarse_elsewhere(
    hasn_onnx: MakeOnnx, version: str
) -> None:
    steps: list[tuple[str, int, int]] = []
    compile_with(
        fake_tensorrt(version), hasn_onnx("fp32", form="weakly-typed"), target_of(version), steps=steps
    )
    assert steps[:2] == [("reading the graph", 0, 1), ("reading the graph", 1, 1)]
    coarse = [("compiling", 0, 1), ("compiling", 1, 1)]
    assert steps[2:] == (coarse if version == "8.6.1" else [("Building", 0, 2), ("Building", 2, 2)])


def test_a_caller_can_cancel_through_the_monitor(hasn_onnx: MakeOnnx) -> None:
    trt = fake_tensorrt("10.3.0")
    with pytest.raises(BuildError, match="could not compile"):
        compile_plan(
            trt,
            probe(trt, EngineRuntime.TENSORRT),
            hasn_onnx("fp32", form="weakly-typed"),
            target_of("10.3.0"),
            on_message=lambda *_: None,
            on_step=lambda *_: False,
        )


def test_what_was_cancelled_stays_cancelled() -> None:
    answers = iter([True, False, True])
    monitor: Any = _make_monitor(fake_tensorrt("10.3.0"), lambda *_: next(answers), Kept())
    monitor.phase_start("outer", None, 2)
    assert monitor.step_complete("outer", 0)
    monitor.phase_start("inner", "outer", 2)  # the caller says no
    monitor.phase_finish("inner")
    assert not monitor.step_complete("outer", 1)


@pytest.mark.parametrize(
    ("version", "graph", "wish", "message"),
    [
        (
            "11.4.0.106",
            ("fp32", "weakly-typed"),
            "fp16",
            "takes types from the graph; give it the strongly typed fp16 graph",
        ),
        (
            "11.4.0.106",
            ("int8", "weakly-typed"),
            "int8",
            "convolutions are FP32, and TensorRT 11.4.0.106 takes types",
        ),
        (
            "11.4.0.106",
            ("fp16", "strongly-typed"),
            "int8",
            "no Q/DQ layers, so it cannot become an INT8 engine",
        ),
        ("8.6.1", ("fp32", "weakly-typed"), "int8", "no Q/DQ layers, so it cannot become an INT8 engine"),
        (
            "8.6.1",
            ("int8", "weakly-typed"),
            "fp16",
            "has Q/DQ layers, so it would not become the fp16 engine",
        ),
        (
            "11.4.0.106",
            ("fp16", "strongly-typed"),
            "fp32",
            "convolutions are FP16; give the FP32 graph for an fp32",
        ),
    ],
)
def test_a_graph_that_would_silently_give_another_precision(
    hasn_onnx: MakeOnnx, version: str, graph: tuple[str, str], wish: str, message: str
) -> None:
    with pytest.raises(BuildError, match=re.escape(message)):
        compile_with(
            fake_tensorrt(version),
            hasn_onnx(graph[0], form=graph[1]),
            target_of(version),
            precision=Precision(wish),
        )


def test_a_graph_with_foreign_names_is_refused_rather_than_built_wrong(hasn_onnx: MakeOnnx) -> None:
    import onnx

    proto = onnx.load_from_string(hasn_onnx("fp32", form="weakly-typed"))
    for number, node in enumerate(proto.graph.node):
        node.name = f"node_{number}"
    with pytest.raises(BuildError, match="must compute in FP32 could not be found .* means are node_"):
        compile_with(
            fake_tensorrt("8.6.1"), proto.SerializeToString(), target_of("8.6.1"), precision=Precision.FP16
        )


class TestRefusals:
    """What TensorRT refuses is reported with its messages."""

    def refused(self, onnx: bytes, version: str = "11.4.0.106", **settings: Any) -> str:
        target = settings.pop("target", target_of(version))
        said: list[tuple[str, str]] = []
        with pytest.raises((BuildError, UnsupportedError)) as info:
            compile_with(fake_tensorrt(version, **settings), onnx, target, said=said)
        return "\n".join([str(info.value), *(f"{severity}: {text}" for severity, text in said)])

    @pytest.mark.parametrize(
        ("version", "where"), [("8.6.1", "node 0"), ("11.4.0.106", r"node 'block_1.esa.Sigmoid' (Sigmoid)")]
    )
    def test_the_parser(self, hasn_onnx: MakeOnnx, version: str, where: str) -> None:
        said = self.refused(hasn_onnx("fp32", form=form_of(version)), version, unknown_operators=("Sigmoid",))
        assert f"TensorRT {version} cannot read the ONNX graph:\n  {where}: Plugin not found" in said
        assert said.count("Plugin not found") == 2  # both Sigmoids of the network

    def test_the_compiler(self, hasn_onnx: MakeOnnx) -> None:
        said = self.refused(hasn_onnx("fp32"), refuses="no implementation for conv_1")
        assert said == "TensorRT 11.4.0.106 could not compile the graph\nERROR: no implementation for conv_1"
        said = self.refused(hasn_onnx("fp32"), device=False)
        assert "cannot start its compiler" in said
        assert said.endswith("run: hasn-edge doctor")  # which knows a driver that is too old for it

    def test_shapes(self, hasn_onnx: MakeOnnx) -> None:
        graph = hasn_onnx("fp32")
        assert "refused the input range (1, 3, 32, 32)" in self.refused(graph, refuses_profiles=True)
        batches = ShapeRange(min=(2, 3, 32, 32), opt=(2, 3, 32, 32), max=(2, 3, 32, 32))
        target = replace(target_of("11.4.0.106"), shapes=batches)
        assert "fixed to (1, 3, -1, -1), but the target asks for (2, 3, 32, 32)" in self.refused(
            graph, target=target
        )

    def test_what_is_no_image(self) -> None:
        from onnx import TensorProto, helper

        def graph(*inputs: tuple[str, list[Any]]) -> bytes:
            values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs]
            out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
            nodes = [helper.make_node("Relu", [inputs[0][0] if inputs else "z"], ["y"], name="r")]
            return helper.make_model(helper.make_graph(nodes, "g", values, [out])).SerializeToString()

        assert "not an ONNX graph, or one without an input" in self.refused(graph())
        two = graph(("a", [1, 3, "h", "w"]), ("b", [1]))
        assert "has 2 inputs; expected one image" in self.refused(two)
        assert "has shape (1, 3); expected (N, C, H, W)" in self.refused(graph(("a", [1, 3])))
