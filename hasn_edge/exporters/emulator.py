"""A graph that is still in memory, run in ONNX Runtime: to compare it, to measure ranges, to predict INT8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hasn_edge.errors import BuildError
from hasn_edge.hardware.host import compute_cores
from hasn_edge.optional import require

if TYPE_CHECKING:
    from onnx import ModelProto


class Emulator:
    """An ONNX graph in ONNX Runtime on the CPU, for measuring.

    With ``exact`` nothing is fused: every Q/DQ pair rounds where the graph says, which is the arithmetic
    that a prediction of INT8's cost needs (fused integer kernels shift results on some CPUs).

    Raises:
        BuildError: ONNX Runtime refuses the graph.
    """

    def __init__(self, proto: ModelProto, *, exact: bool) -> None:
        ort = require("onnxruntime", extra="export", needed_for="Measuring a graph")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = compute_cores()
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if exact else levels.ORT_ENABLE_ALL
        try:
            self._session = ort.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # ONNX Runtime's exceptions have no common base but Exception
            raise BuildError(f"ONNX Runtime cannot load the graph: {exc}") from exc
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, x_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the graph's first output for float32 RGB in [0, 1]."""
        output: NDArray[np.float32] = self._session.run(self._outputs[:1], {self._input: x_NCHW})[0]
        return output

    def run_all(self, x_NCHW: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        """Return every output of the graph by name."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: x_NCHW}), strict=True))
