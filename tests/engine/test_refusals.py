"""What TensorRT refuses, and what is refused before TensorRT would build something else."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import Any

import pytest

from hasn_edge.engine import capabilities
from hasn_edge.engine.target import EngineRuntime, ShapeRange
from hasn_edge.errors import BuildError, UnsupportedError
from hasn_edge.spec import Precision
from tests.support.compiling import MakeOnnx, compile_with, form_of, target_of
from tests.support.fake_builder import fake_tensorrt


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


@pytest.mark.parametrize("doing", ["Building an engine", "Running an engine"])
def test_versions_before_8_5_are_refused_when_they_are_loaded(
    monkeypatch: pytest.MonkeyPatch, doing: str
) -> None:
    trt = fake_tensorrt("8.5.2")
    trt.__version__ = "8.4.1.5"
    del trt.ICudaEngine.num_io_tensors  # there were bindings then
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(capabilities, "find_module", lambda runtime, needed_for: "tensorrt")
    with pytest.raises(
        UnsupportedError,
        match=rf"^{doing} needs at least TensorRT 8\.5, and 8\.4\.1\.5 is here; .* JetPack 5\.1",
    ):
        capabilities.load_tensorrt(EngineRuntime.TENSORRT, needed_for=doing)


class TestRefusals:
    """What TensorRT refuses is told with its words."""

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
        assert "cannot start its compiler" in self.refused(hasn_onnx("fp32"), device=False)

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
