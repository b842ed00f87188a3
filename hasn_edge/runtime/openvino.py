"""ONNX files in OpenVINO: faster on many CPUs, opened only where it computes what the graph states."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hasn_edge.errors import ArtifactError, BuildError, UnsupportedError, call, say, use
from hasn_edge.hardware.host import compute_cores, has_integer_dot_product, vector_units
from hasn_edge.images.arrays import Float32, UInt8
from hasn_edge.optional import require
from hasn_edge.runtime.golden import find_difference, make_golden
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.runtime.openvino_forms import rewrite
from hasn_edge.runtime.session import Pending, Session, out_of_memory
from hasn_edge.spec import NetworkSpec, Precision

CHECKED_SIZE = (64, 64)
"""(height, width) of the golden image for a graph of any size."""

BF16_TOLERANCE = (0.004, 0.02)
"""Accepted root-mean-square and largest difference of BF16 from the golden image, values in [0, 1]. PyTorch's
BF16 on a CPU, with the bundled and the published network: 0.0014 to 0.0018, and 0.0042 to 0.0053."""

_ELSEWHERE = use(backend="onnxruntime")
_BF16 = "BF16"


class OpenVinoSession(Session):
    """Runs an ``.onnx`` file or graph on a CPU; on Intel GPUs and NPUs too, which was never tried.

    INT8 is what the graph's Q/DQ nodes state: OpenVINO quantizes nothing of its own. Nothing here looks at
    whether the results are right: :func:`open_openvino` does.

    Args:
        model: Path of the file, or its bytes.
        spec: The network.
        precision: Number format inside, as the sidecar states it.
        bf16: Compute in BF16 what the graph has in FP32.
        threads: CPU threads; ``None`` for one per physical core.
        device: ``"cpu"``; ``"gpu[:<index>]"`` and ``"npu"`` where OpenVINO names them.
        frame: The one (height, width) that will come, one image at a time, for a graph of any size: OpenVINO
            is faster when it knows.
        in_flight: Inputs that are computed at a time: one is OpenVINO's latency hint, more its throughput
            hint, by which an image takes longer and many together less.
        cache: Folder for what OpenVINO compiled, which makes the next opening faster; nothing is kept where
            ``None``.
        as_stated: Compile the graph as it is, for comparison, and not in the forms of
            :mod:`hasn_edge.runtime.openvino_forms`, which are for CPUs.
        core: ``openvino.Core()``, or what stands for it.

    Raises:
        UnsupportedError: no such device here, or one that does not compute in this precision.
        ArtifactError: no such file.
        BuildError: OpenVINO refused the graph; the message carries its own.
        MissingDependencyError: OpenVINO is not installed.
    """

    backend = "openvino"

    def __init__(
        self,
        model: Path | bytes,
        spec: NetworkSpec,
        *,
        precision: Precision = Precision.FP32,
        bf16: bool = False,
        threads: int | None = None,
        device: str = "cpu",
        frame: tuple[int, int] | None = None,
        in_flight: int = 1,
        cache: Path | None = None,
        as_stated: bool = False,
        core: Any = None,
    ) -> None:
        openvino = require("openvino", extra="openvino", needed_for="Running an ONNX file in OpenVINO")
        core = openvino.Core() if core is None else core
        place = _find_device(core, device)
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _number_format(core, place, precision, bf16=bf16),
            "PERFORMANCE_HINT": "LATENCY" if in_flight == 1 else "THROUGHPUT",
            "PERFORMANCE_HINT_NUM_REQUESTS": in_flight,
        }
        if place == "CPU":
            properties["INFERENCE_NUM_THREADS"] = compute_cores() if threads is None else threads
        if cache is not None:
            properties["CACHE_DIR"] = str(cache)
        name = "ONNX graph" if isinstance(model, bytes) else str(model)
        try:
            data = model if isinstance(model, bytes) else model.read_bytes()
        except OSError as exc:
            raise ArtifactError(f"{name}: cannot be read ({exc.strerror})", call("export")) from exc
        try:
            graph = core.read_model(data, b"")
            self.pixels = graph.inputs[0].get_element_type() == openvino.Type.u8
            batch, size = _shape(graph.inputs[0].partial_shape, pixels=self.pixels)
            if size is None and frame is not None:
                size, batch = frame, 1
                fixed = (1, *frame, spec.channels) if self.pixels else (1, spec.channels, *frame)
                graph.reshape(list(fixed))
            if place == "CPU" and not as_stated:
                rewrite(graph)
            compiled = core.compile_model(graph, place, properties)
            self._requests = [compiled.create_infer_request() for _ in range(in_flight)]
        except RuntimeError as exc:
            raise BuildError(f"{name}: OpenVINO refused the graph: {_first_line(exc)}", _ELSEWHERE) from exc
        self._hint = str(properties["PERFORMANCE_HINT"])
        self._waiting: list[Pending[Any] | None] = [None] * in_flight
        self._next = 0
        self.bf16, self.in_flight = bf16, in_flight
        super().__init__(spec, precision=precision, device=device, size=size, batch=batch)

    @property
    def number_format(self) -> str:
        """What it computes in."""
        if not self.bf16:
            return self.precision.value
        return "int8 and bf16" if self.precision is Precision.INT8 else "bf16"

    def facts(self) -> dict[str, Any]:
        """Return how OpenVINO runs it."""
        return {"number format": self.number_format, "hint": self._hint.lower()}

    def _run(self, x_NCHW: Float32) -> Float32:
        y_NCHW: Float32 = self._compute(x_NCHW, x_NCHW.shape)
        return y_NCHW

    def _run_pixels(self, x_NHWC: UInt8) -> UInt8:
        y_NHWC: UInt8 = self._compute(x_NHWC, x_NHWC.shape)
        return y_NHWC

    def _begin(self, x_NCHW: Float32) -> Pending[Float32]:
        return super()._begin(x_NCHW) if self.in_flight == 1 else self._start(x_NCHW)

    def _begin_pixels(self, x_NHWC: UInt8) -> Pending[UInt8]:
        return super()._begin_pixels(x_NHWC) if self.in_flight == 1 else self._start(x_NHWC)

    def _compute(self, x: Any, shape: tuple[int, ...]) -> Any:
        try:
            return self._requests[0].infer([x], share_inputs=True)[0]
        except RuntimeError as exc:
            raise _failure(shape, exc) from exc

    def _start(self, x: Any) -> Pending[Any]:
        """Start the next request, once the caller's last use of it is over."""
        number = self._next
        self._next = (number + 1) % self.in_flight
        before, request = self._waiting[number], self._requests[number]
        _settle(before)

        def wait() -> Any:
            try:
                request.wait()
                return request.get_output_tensor(0).data.copy()
            except RuntimeError as exc:
                raise _failure(x.shape, exc) from exc
            finally:
                self._waiting[number] = None

        try:
            request.start_async([x])  # copies it
        except RuntimeError as exc:
            raise _failure(x.shape, exc) from exc
        self._waiting[number] = pending = Pending(wait)
        return pending

    def _close(self) -> None:
        for pending in self._waiting:
            _settle(pending)
        self._requests = []


def open_openvino(
    model: Path | bytes,
    spec: NetworkSpec | None = None,
    *,
    precision: Precision = Precision.FP32,
    bf16: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    size: tuple[int, int] | None = None,
    frame: tuple[int, int] | None = None,
    **options: Any,
) -> OpenVinoSession:
    """Open a file in OpenVINO after its golden image came out right here, in this precision.

    OpenVINO's kernels differ by device, and some are wrong: INT8 loses 4 dB of PSNR on a CPU without VNNI.
    The image is compared with ONNX Runtime's, which computes Q/DQ exactly for it.

    Args:
        model: As for :class:`OpenVinoSession`, like all but ``spec`` and ``size``.
        spec: The network; ``None`` reads it from the graph's metadata.
        precision: Likewise.
        bf16: Likewise.
        threads: Likewise.
        device: Likewise.
        size: The fixed (height, width) as the sidecar states it; the graph must agree. ``None`` asks it.
        frame: Likewise.
        options: Likewise.

    Raises:
        UnsupportedError: also where the image came out wrong: the message states by how much, and why where
            that is known.
        ArtifactError: the file is missing, no ONNX, or no super-resolution graph of this spec.
        HasnEdgeError: as :class:`OpenVinoSession`.
    """
    require("openvino", extra="openvino", needed_for="Running an ONNX file in OpenVINO")
    opened = partial(
        OpenVinoSession, model, precision=precision, bf16=bf16, threads=threads, device=device, **options
    )
    exact = precision is Precision.INT8
    with OnnxRuntimeSession(
        model, spec, precision=precision, exact=exact, threads=threads, size=size
    ) as reference:
        known, any_size = reference.spec, reference.size is None
        golden = make_golden(
            reference,
            reference.size or CHECKED_SIZE,
            tolerance=BF16_TOLERANCE if bf16 and not exact else None,
        )
    small = CHECKED_SIZE if frame is not None and any_size else None
    session = opened(spec=known, frame=small)
    difference = find_difference(session, golden)
    if difference is not None:
        session.close()
        unit = ""
        if exact and device == "cpu" and not has_integer_dot_product():
            has = ", ".join(vector_units()) or "no vector units that are known"
            unit = f"; this CPU has {has} and no VNNI, without which its INT8 was measured wrong"
        raise UnsupportedError(
            f"openvino: {session.number_format} comes out wrong on this {device}: {difference}{unit}",
            _ELSEWHERE,
        )
    if small is not None:
        session.close()
        session = opened(spec=known, frame=frame)
    return session


def _find_device(core: Any, device: str) -> str:
    """Return OpenVINO's name of a device."""
    kind, _, index = device.partition(":")
    named = [str(name) for name in core.available_devices]
    wanted = kind.upper() + (f".{index}" if index else "")
    if wanted in named or (not index and any(name.split(".")[0] == wanted for name in named)):
        return wanted
    known = ", ".join(name.lower().replace(".", ":") for name in named)
    raise UnsupportedError(f"openvino: no device called {device!r} here; OpenVINO names: {known}")


def _number_format(core: Any, place: str, precision: Precision, *, bf16: bool) -> str:
    """Return OpenVINO's name of what floats are computed in; refuse what it would replace silently."""
    able = {str(name) for name in core.get_property(place, "OPTIMIZATION_CAPABILITIES")}
    if bf16 and _BF16 not in able:
        raise UnsupportedError(
            f"openvino: this {place} does not compute in BF16 (it has {', '.join(sorted(able))})", _ELSEWHERE
        )
    if bf16 and precision is Precision.FP16:
        raise UnsupportedError(
            "openvino: a graph of FP16 is not computed in BF16", say("take the FP32 graph")
        )
    if bf16:
        return "bf16"
    # A CPU that has BF16 and no FP16 would take BF16 for it.
    return "f16" if precision is Precision.FP16 and "FP16" in able else "f32"


def _shape(shape: Any, *, pixels: bool) -> tuple[int | None, tuple[int, int] | None]:
    """Return an input's batch and (height, width), each ``None`` where dynamic."""
    sides = [None if side.is_dynamic else side.get_length() for side in shape]
    height, width = sides[1:3] if pixels else sides[2:]
    return sides[0], None if height is None or width is None else (height, width)


def _settle(pending: Pending[Any] | None) -> None:
    """Wait for a result, if there is one; its error is kept there, like its output, until it is asked for."""
    if pending is not None:
        with suppress(Exception):
            pending.result()


def _failure(shape: tuple[int, ...], exc: Exception) -> Exception:
    if isinstance(exc, MemoryError) or "alloc" in str(exc):
        return out_of_memory("openvino", shape, exc)
    return BuildError(f"openvino: failed on an input of {shape}: {_first_line(exc)}")


def _first_line(exc: Exception) -> str:
    """Return OpenVINO's own sentence: the last line that is not empty; those before it name its sources."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
