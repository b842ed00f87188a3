"""What the tests of the compiler share: every version of TensorRT, and how to compile with a fake one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hasn_edge.engine.builder import Compiled, Options, compile_plan
from hasn_edge.engine.capabilities import probe
from hasn_edge.engine.target import EngineRuntime, EngineTarget, ShapeRange

MakeOnnx = Callable[..., bytes]

# By hand, from NVIDIA's release notes and the record: not computed by the code under test.
DECOMPOSED = ("8.5.2", "8.6.1")
NATIVE = ("10.0.1", "10.3.0", "10.7.0")
WEAK = DECOMPOSED + NATIVE
STRONG_WITH_FLAG = ("10.13.3.9", "10.15.1.29", "10.16.1.11")
STRONG_ONLY = ("11.0.0.114", "11.4.0.106", "rtx 1.7.1.116")
EXPLICIT_BATCH, STRONGLY_TYPED = 1, 2
NETWORK_FLAGS = {
    **dict.fromkeys(WEAK, EXPLICIT_BATCH),
    **dict.fromkeys(STRONG_WITH_FLAG, EXPLICIT_BATCH | STRONGLY_TYPED),
    **dict.fromkeys(STRONG_ONLY, STRONGLY_TYPED),
}
BUILDER_FLAGS = {
    "fp32": set(),
    "fp16": {"FP16", "OBEY_PRECISION_CONSTRAINTS"},
    "int8": {"INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"},
}
LAYER_NORM = [
    f"block_1.ln.{name}" for name in ("ReduceMean", "Sub", "Mul", "ReduceMean_1", "Add", "Sqrt", "Div")
]
ONE_NORM = ["block_1.ln.LayerNormalization"]
AFFINE = ["block_1.ln.Mul_1", "block_1.ln.Add_1"]
AVERAGE = ["block_1.cab.cab.3.attention.0.GlobalAveragePool"]

SHAPES = ShapeRange(min=(1, 3, 32, 32), opt=(1, 3, 48, 64), max=(1, 3, 96, 96))


def target_of(version: str, **changes: Any) -> EngineTarget:
    runtime = EngineRuntime.RTX if version.startswith("rtx") else EngineRuntime.TENSORRT
    return EngineTarget(name="board", runtime=runtime, shapes=SHAPES, **changes)


def form_of(version: str) -> str:
    return (
        "weakly-typed"
        if version in DECOMPOSED
        else "weakly-typed-trt10"
        if version in NATIVE
        else "strongly-typed"
    )


def compile_with(
    trt: Any,
    onnx: bytes,
    target: EngineTarget,
    *,
    said: list[tuple[str, str]] | None = None,
    steps: list[tuple[str, int, int]] | None = None,
    **options: Any,
) -> Compiled:
    return compile_plan(
        trt,
        probe(trt, target.runtime),
        onnx,
        target,
        Options(**options),
        on_message=lambda *message: (said if said is not None else []).append(message),
        on_step=lambda *step: (steps if steps is not None else []).append(step) or True,
    )
