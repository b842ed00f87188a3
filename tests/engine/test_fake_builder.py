"""The fake TensorRT keeps the rules that the tests rely on; otherwise they would prove nothing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from hasn_edge.engine.capabilities import load_tensorrt
from hasn_edge.engine.precision import _constants_of, _exact_layers, _read_only_by
from hasn_edge.engine.target import EngineRuntime
from tests.support.compiling import LAYER_NORM, ONE_NORM, MakeOnnx
from tests.support.fake_builder import fake_tensorrt


def test_the_fake_keeps_its_rules(hasn_onnx: MakeOnnx) -> None:
    trt = fake_tensorrt("8.5.2")
    graph = hasn_onnx("int8", form="weakly-typed")

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            self.lines.append(text)

    logs: list[Log] = []

    def network(flags: int, onnx: bytes) -> tuple[Any, Any, Any, Log]:
        log = Log()
        logs.append(log)
        builder = trt.Builder(log)
        made = builder.create_network(flags)
        parsed = trt.OnnxParser(made, log).parse(onnx)
        assert parsed is bool(flags)  # implicit batch cannot be parsed
        return builder, made, builder.create_builder_config(), log

    network(0, graph)
    builder, made, config, log = network(1, graph)
    assert builder.build_serialized_network(made, config) is None
    assert "no optimization profile" in log.lines[-1]
    profile = builder.create_optimization_profile()
    with pytest.raises(AssertionError, match="before it is added"):
        config.add_optimization_profile(profile)
    profile.set_shape("input", (1, 3, 32, 32), (1, 3, 32, 32), (1, 3, 32, 32))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(made, config) is None
    assert "need the INT8 flag" in log.lines[-1]
    config.set_flag(trt.BuilderFlag.INT8)
    made.get_layer(0).precision = trt.DataType.FLOAT
    with pytest.raises(AssertionError, match="pins without the flag"):
        builder.build_serialized_network(made, config)
    with pytest.raises(AttributeError, match="builder_optimization_level"):
        config.builder_optimization_level = 3
    with pytest.raises(TypeError, match="got 1 arguments"):
        config.set_timing_cache(None)
    with pytest.raises(AttributeError):
        config.progress_monitor = None
    with pytest.raises(AssertionError, match="not modelled"):
        config.reset()
    assert "differs from one already registered" in log.lines[0]
    del log
    logs.clear()
    with pytest.raises(AssertionError, match="logger was freed"):
        builder.build_serialized_network(made, config)
    with pytest.raises(AssertionError, match="first logger was freed"):
        trt.Builder(Log())


@pytest.mark.slow
@pytest.mark.usefixtures("needs_rtx")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nvidias_parser_keeps_the_names_that_pins_are_found_by(hasn_onnx: MakeOnnx) -> None:
    """The parser of TensorRT for RTX is NVIDIA's; the fake must name layers as it does."""

    trt, _ = load_tensorrt(EngineRuntime.RTX)
    for form, pixels in itertools.product(("weakly-typed", "weakly-typed-trt10"), (False, True)):
        graph = hasn_onnx("fp32", form=form, pixels=pixels)
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        real = builder.create_network(0)
        assert trt.OnnxParser(real, logger).parse(graph)
        fake_trt = fake_tensorrt("10.0.1")
        fake = fake_trt.INetworkDefinition(1)
        fake_trt.OnnxParser(fake, type("L", (fake_trt.ILogger,), {})()).parse(graph)
        found = []
        for network in (real, fake):
            layers = [network.get_layer(i) for i in range(network.num_layers)]
            exact = _exact_layers(layers)
            constants = list(_constants_of(layers, _read_only_by(layers, exact)))
            found.append(([layer.name for layer in exact], len(constants)))
        assert found[0] == found[1]
        norm = LAYER_NORM if form == "weakly-typed" else ONE_NORM
        assert set(norm) < {real.get_layer(i).name for i in range(real.num_layers)}
