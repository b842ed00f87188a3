"""ONNX files in ONNX Runtime: the fastest way on a CPU, and the exact emulation of Q/DQ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hasn_edge.errors import ArtifactError, BuildError, ConfigError, UnsupportedError, call, say, use
from hasn_edge.hardware.gpu import gpu_facts
from hasn_edge.hardware.host import compute_cores
from hasn_edge.images.arrays import Float32, UInt8
from hasn_edge.optional import require
from hasn_edge.runtime.session import Session, out_of_memory
from hasn_edge.spec import SPEC_KEY, NetworkSpec, Precision

FP16_BIAS_OPTIMIZER = "WeightBiasQuantization"
"""Divides a convolution's bias by the product of two scales in FP16 where these are FP16: ONNX Runtime 1.32.
From 65520 on the quotient is infinite, and the whole channel becomes the lowest code."""

_TO_FP16 = b"\x0a\x02to\x18\x0a"
"""The attribute ``to`` with the value FLOAT16, 10, as files have it: AttributeProto, fields 1 and 3."""

_AGAIN, _ON_CPU = call("export"), use(device="cpu")
_FATAL, _ERROR = 4, 3  # ONNX Runtime's log severities
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}


class OnnxRuntimeSession(Session):
    """Runs an ``.onnx`` file or graph.

    Args:
        model: Path of the file, or its bytes.
        spec: The network; ``None`` reads it from the graph's metadata.
        precision: Number format inside, as the sidecar states it.
        exact: No graph optimizations: every Q/DQ pair computes what it states. The reference for INT8 quality
            and never a speed.
        threads: Threads inside an operator; ``None`` for one per physical core.
        device: ``"cpu"``; ``"cuda[:<index>]"`` and ``"tensorrt[:<index>]"`` need ONNX Runtime's GPU build
            and are never chosen by themselves.
        size: The fixed (height, width) as the sidecar states it; the graph must agree. ``None`` asks it.
        frame: The one (height, width) that will come, for a graph of any size: the optimizer keeps its
            blocked layout through Mul and Add only where it knows the shapes (1.17 times faster at 320x180).

    Raises:
        ArtifactError: the file is missing, no ONNX, or no super-resolution graph of this spec.
        BuildError: ONNX Runtime refused the graph; the message carries its own.
        UnsupportedError: no such device here.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    backend = "onnxruntime"

    def __init__(
        self,
        model: Path | bytes,
        spec: NetworkSpec | None = None,
        *,
        precision: Precision = Precision.FP32,
        exact: bool = False,
        threads: int | None = None,
        device: str = "cpu",
        size: tuple[int, int] | None = None,
        frame: tuple[int, int] | None = None,
    ) -> None:
        ort = require("onnxruntime", extra="export", needed_for="Running an ONNX file")
        # Its first message would be about GPUs that a CPU-only container has not, on everybody's terminal.
        ort.set_default_logger_severity(_ERROR)
        name = "ONNX graph" if isinstance(model, bytes) else str(model)
        providers = _providers(ort, device)
        options = _options(ort, exact=exact, threads=compute_cores() if threads is None else threads)
        if frame is not None and size is None:
            options.add_free_dimension_override_by_name("height", frame[0])
            options.add_free_dimension_override_by_name("width", frame[1])
        if not isinstance(model, bytes) and not model.is_file():
            raise ArtifactError(f"{name}: no such file", _AGAIN)
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session: Any = ort.InferenceSession(
                source,
                options,
                providers=providers,
                disabled_optimizers=[FP16_BIAS_OPTIMIZER] if _quantizes_fp16(model) else None,
            )
        except Exception as exc:  # ONNX Runtime's exceptions share no base of their own
            raise _refusal(name, exc) from exc
        chosen = self._session.get_providers()[0]
        if chosen != providers[0][0]:
            raise BuildError(
                f"onnxruntime: {providers[0][0]} did not start, ONNX Runtime fell back to {chosen}",
                say("install the CUDA and cuDNN (and TensorRT) libraries of its release"),
                _ON_CPU,
            )
        spec = _metadata_spec(self._session, name) if spec is None else spec
        batch, fixed, self.pixels = _check_graph(self._session, spec, name)
        if size not in (None, fixed):
            raise ArtifactError(
                f"{name}: the graph takes {fixed or 'any'} pixels, its sidecar states {size}", _AGAIN
            )
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        self.exact = exact
        super().__init__(spec, precision=precision, device=device, size=frame or fixed, batch=batch)

    def _run(self, x_NCHW: Float32) -> Float32:
        peak = np.float32(self.spec.peak)
        y_NCHW: Float32 = self._compute(x_NCHW if peak == 1 else x_NCHW * peak, x_NCHW.shape)
        return y_NCHW if peak == 1 else y_NCHW / peak

    def _run_pixels(self, x_NHWC: UInt8) -> UInt8:
        count, height, width, channels = x_NHWC.shape
        y_NHWC: UInt8 = self._compute(x_NHWC, (count, channels, height, width))
        return y_NHWC

    def _compute(self, x: Any, shape_NCHW: tuple[int, ...]) -> Any:
        try:
            return self._session.run([self._output], {self._input: x})[0]
        except Exception as exc:
            if isinstance(exc, MemoryError) or "llocat" in str(exc):
                raise out_of_memory(self.backend, shape_NCHW, exc) from exc
            raise BuildError(f"onnxruntime: failed on an input of {shape_NCHW}: {exc}") from exc

    def _close(self) -> None:
        self._session = None


def _options(ort: Any, *, exact: bool, threads: int) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL  # what fails is raised, with the same words
    # An explicit number keeps ONNX Runtime from pinning threads to cores, which containers refuse loudly.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Measured on the published network at 320 x 180, CPU time in rounds, as ratio to what is chosen here:
    # optimizations basic 1.25, extended 1.22, none 1.29; without the memory arena 2.7, because every large
    # tensor is mapped and cleared anew; with memory patterns 1.0, but twice the peak memory from the second
    # call on.
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if exact else levels.ORT_ENABLE_ALL
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    return options


def _quantizes_fp16(model: Path | bytes) -> bool:
    """Whether a graph has Q/DQ nodes and FP16 tensors, which begin at a Cast: no graph here takes FP16.

    The file's bytes are searched, because the optimizers are chosen before ONNX Runtime reads the graph: to
    learn its types from ONNX Runtime, the graph would be loaded twice. The package onnx could read it, and
    is not installed where graphs are only run; and what comes as bytes has no sidecar. Where weights contain
    these bytes by chance, one optimization is lost.
    """
    data = model if isinstance(model, bytes) else model.read_bytes()
    return b"QuantizeLinear" in data and _TO_FP16 in data


def _providers(ort: Any, device: str) -> list[tuple[str, dict[str, str]]]:
    """Return ONNX Runtime's providers for ``device``, best first; raise where one is missing."""
    kind, _, index = device.partition(":")
    if kind not in _PROVIDERS or (index and (kind == "cpu" or not index.isdecimal())):
        raise UnsupportedError(
            f"onnxruntime: no device called {device!r}",
            say("choose cpu, cuda, cuda:<index>, tensorrt or tensorrt:<index>"),
        )
    names = _PROVIDERS[kind]
    if names[0] not in ort.get_available_providers():
        lack = f"onnxruntime: device {device!r} needs {names[0]}, which ONNX Runtime {ort.__version__} lacks"
        if gpu_facts() is None:  # a download of a gigabyte would not help
            raise UnsupportedError(f"{lack}, and no NVIDIA GPU answers on this machine", _ON_CPU)
        replace = "pip uninstall onnxruntime; pip install onnxruntime-gpu"
        raise UnsupportedError(lack, say(f"replace the package with: {replace}"), _ON_CPU)
    return [(name, {} if name.startswith("CPU") else {"device_id": index or "0"}) for name in names]


def _refusal(name: str, exc: Exception) -> ArtifactError | BuildError:
    if type(exc).__name__ in ("InvalidProtobuf", "NoSuchFile") or "No graph was found" in str(exc):
        return ArtifactError(f"{name}: not a complete ONNX file", _AGAIN)
    return BuildError(f"{name}: ONNX Runtime refused the graph: {exc}")


def _metadata_spec(session: Any, name: str) -> NetworkSpec:
    text = session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
    if text is None:
        raise ArtifactError(
            f"{name}: its metadata has no {SPEC_KEY!r}, so scale and sizes are unknown",
            _AGAIN,
            say("pass the NetworkSpec"),
        )
    try:
        return NetworkSpec.from_dict(json.loads(text))
    except (ValueError, TypeError, AttributeError, ConfigError) as exc:
        raise ArtifactError(f"{name}: its metadata {SPEC_KEY!r} is damaged ({exc})", _AGAIN) from exc


def _check_graph(
    session: Any, spec: NetworkSpec, name: str
) -> tuple[int | None, tuple[int, int] | None, bool]:
    """Return batch and (height, width), each ``None`` where dynamic, and whether the graph takes pixels."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape, kind = inputs[0].shape, inputs[0].type
    pixels = kind == "tensor(uint8)"
    good = len(inputs) == 1 and len(outputs) == 1 and len(shape) == 4 and (pixels or kind == "tensor(float)")
    channels = shape[3 if pixels else 1] if good else None
    if not good or (isinstance(channels, int) and channels != spec.channels) or outputs[0].type != kind:
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise ArtifactError(
            f"{name}: expected one float32 input (N, {spec.channels}, H, W), or one uint8 input (N, H, W, "
            f"{spec.channels}), and one output of its type, got {found} and {len(outputs)} output(s); this "
            "is no graph that hasn-edge made for this network"
        )
    batch, (height, width) = shape[0], shape[1:3] if pixels else shape[2:]
    static = isinstance(height, int) and isinstance(width, int)
    return batch if isinstance(batch, int) else None, (height, width) if static else None, pixels
