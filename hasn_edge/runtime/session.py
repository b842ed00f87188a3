"""The one interface to a loaded model: the base class checks, the backend computes."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hasn_edge.errors import ArtifactError, InputError, OutOfMemoryError, ShapeError, call, first_line, say
from hasn_edge.files import Closeable
from hasn_edge.images.arrays import Float32, UInt8, from_tensor, to_tensor
from hasn_edge.spec import NetworkSpec, Precision

T = TypeVar("T", bound=NDArray[Any])
U = TypeVar("U", bound=NDArray[Any])

# An image that was never divided by 255 is the usual mistake; a resampler's overshoot is none.
_LOWEST, _HIGHEST = -1.0, 2.0


class Pending(Generic[T]):
    """What :meth:`~hasn_edge.runtime.session.Session.submit` returns: ask for the result when it is needed.

    Args:
        wait: Returns the result, after waiting for it where that is necessary; called once.
    """

    def __init__(self, wait: Callable[[], T]) -> None:
        self._wait: Callable[[], T] | None = wait
        self._result: T | None = None
        self._error: BaseException | None = None

    @classmethod
    def of(cls, result: T) -> Pending[T]:
        """Return one whose result is there already."""
        return cls(lambda: result)

    @classmethod
    def join(cls, parts: Iterable[Pending[T]]) -> Pending[Any]:
        """Return one whose result are those of ``parts``, one after the other along the first axis."""
        waiting = list(parts)
        return cls(lambda: np.concatenate([part.result() for part in waiting]))  # type: ignore[return-value, arg-type]

    def result(self) -> T:
        """Return the result; blocks until it is in host memory. Every call returns the same array.

        Raises:
            HasnEdgeError: as ``run`` would have; again in every call.
        """
        if self._wait is not None:
            wait, self._wait = self._wait, None
            try:
                self._result = wait()
            except BaseException as exc:
                self._error = exc
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def then(self, change: Callable[[T], U]) -> Pending[U]:
        """Return one whose result is ``change(result)``, computed when it is asked for."""
        return Pending(lambda: change(self.result()))


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Where the time of one call went; ``None`` where the backend does not measure it."""

    total_s: float
    """From an array in the CPU's memory to another one there: checks, transfers, network, waiting."""
    gpu_s: float | None = None
    """The network on the GPU, between two events; no transfers."""
    enqueue_s: float | None = None
    """The CPU's part of starting the network."""
    to_device_s: float | None = None
    """The transfer to the GPU, between two events; ``None`` also where its memory is the CPU's."""
    to_host_s: float | None = None


class Session(Closeable):
    """A loaded model, ready to run: opening is slow, running is not. **Not thread-safe**.

    Subclasses implement :meth:`_run` and :meth:`_close`; everything a caller can get wrong is checked here,
    once, with the same words for every backend.
    """

    backend: str
    """``"pytorch"``, ``"torch.compile"``, ``"torchscript"``, ``"pt2"``, ``"aoti"``, ``"onnxruntime"``,
    ``"openvino"`` or ``"tensorrt"``; tests have ``"fake"``."""
    spec: NetworkSpec
    """The network: scale, channels, smallest size."""
    precision: Precision
    """Number format inside; input and output are float32 whatever it is."""
    device: str
    """``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"tensorrt"`` (through ONNX Runtime), ..."""
    size: tuple[int, int] | None
    """The one (height, width) that a static artifact accepts; ``None`` where they are dynamic."""
    smallest: tuple[int, int]
    """Smallest accepted height and width: the network's, or what an engine was built for."""
    largest: tuple[int, int] | None
    """Largest accepted height and width of an engine; ``None`` where only memory limits them."""
    batch: int | None
    """Images per call of a file with a fixed batch, ``None`` where it is dynamic. A session of a file made
    for one image accepts any number and computes them one by one."""
    pixels: bool = False
    """Whether the file itself takes and gives 8-bit pixels. :meth:`run` and :meth:`run_pixels` both work
    either way; without this conversion inside the file, it is done around it."""
    in_flight: int = 1
    """Inputs that are computed at a time, see :meth:`submit`."""

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        precision: Precision = Precision.FP32,
        device: str = "cpu",
        size: tuple[int, int] | None = None,
        batch: int | None = None,
    ) -> None:
        self.spec = spec
        self.precision = precision
        self.device = device
        self.size = size
        self.smallest = size or (spec.size.minimum, spec.size.minimum)
        self.largest = size
        self.batch = batch
        self._closed = False

    @property
    def number_format(self) -> str:
        """What it computes in, in words: the precision's name, unless the backend has more to say."""
        return self.precision.value

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def run(self, x_NCHW: Float32) -> Float32:
        """Upscale a batch; blocks until the result is in host memory.

        Args:
            x_NCHW: ``(N, C, H, W)`` float32, RGB in [0, 1]. Any strides; it is never written to.

        Returns:
            ``(N, C, H * scale, W * scale)`` float32, C-contiguous, not clamped. It belongs to the caller: no
            later call touches it.

        Raises:
            ShapeError: wrong rank, channels, dtype or size.
            InputError: values that are not finite or far outside [0, 1], memory that does not suffice, or a
                closed session.
            ArtifactError: the file computes another shape than its sidecar states.
            BuildError: the backend failed; the message carries its own.

        A file of 8-bit pixels rounds its input and its output to 1/255 and clamps them.
        """
        return self.submit(x_NCHW).result()

    def submit(self, x_NCHW: Float32) -> Pending[Float32]:
        """Begin to upscale a batch; the result is asked for later, in any order, while others are computed.

        A backend with several in-flight executions (TensorRT) computes while this thread prepares the next
        input; the others compute at once, before this returns. Once all are taken it waits for the oldest
        one, whose result is kept until it is asked for.

        Args:
            x_NCHW: As for :meth:`run`; it may be changed as soon as this returns.

        Raises:
            HasnEdgeError: as :meth:`run`, now or with the result.
        """
        self.check_input(x_NCHW)
        if self.pixels:
            levels_NHWC = np.rint(np.clip(x_NCHW, 0, 1) * np.float32(255)).transpose(0, 2, 3, 1)
            return self.submit_pixels(levels_NHWC.astype(np.uint8)).then(_from_levels)
        self._check_size(*(x_NCHW.shape[i] for i in (0, 2, 3)))
        if self.batch == 1 and len(x_NCHW) > 1:
            return Pending.join(self.submit(one) for one in np.split(x_NCHW, len(x_NCHW)))
        expected = self.spec.output_shape(x_NCHW.shape)
        return self._begin(np.ascontiguousarray(x_NCHW)).then(
            lambda y_NCHW: self._check_output(y_NCHW, expected, np.float32)
        )

    def run_pixels(self, x_NHWC: UInt8) -> UInt8:
        """Upscale images as they are stored; blocks until the result is in host memory.

        Args:
            x_NHWC: ``(N, H, W, C)`` uint8 RGB. Any strides; it is never written to.

        Returns:
            ``(N, H * scale, W * scale, C)`` uint8, C-contiguous; it belongs to the caller. Levels are clipped
            and rounded to the nearest, half to even.

        Raises:
            ShapeError: wrong rank, channels, dtype or size.
            InputError: the network's output is not finite, memory does not suffice, or a closed session.
            ArtifactError: the file computes another shape than its sidecar states.
            BuildError: the backend failed; the message carries its own.
        """
        return self.submit_pixels(x_NHWC).result()

    def submit_pixels(self, x_NHWC: UInt8) -> Pending[UInt8]:
        """Begin to upscale images as they are stored: to :meth:`run_pixels` what :meth:`submit` is to run.

        Args:
            x_NHWC: As for :meth:`run_pixels`; it may be changed as soon as this returns.

        Raises:
            HasnEdgeError: as :meth:`run_pixels`, now or with the result.
        """
        self._check_open()
        channels = self.spec.channels
        good = isinstance(x_NHWC, np.ndarray) and x_NHWC.ndim == 4 and x_NHWC.shape[3] == channels
        if not good or x_NHWC.dtype != np.uint8 or x_NHWC.size == 0:
            kind = getattr(x_NHWC, "dtype", type(x_NHWC).__name__)
            raise ShapeError(
                f"{self.backend}: expected uint8 (N, H, W, {channels}) with at least one pixel, got {kind} "
                f"{getattr(x_NHWC, 'shape', '')}",
                say("read (H, W, C) from a file with hasn_edge.images.codec.read_image"),
            )
        count, height, width = x_NHWC.shape[:3]
        self._check_size(count, height, width)
        if len(x_NHWC) > 1 and (self.batch == 1 or not self.pixels):
            return Pending.join(self.submit_pixels(one) for one in np.split(x_NHWC, len(x_NHWC)))
        if not self.pixels:
            return self.submit(to_tensor(x_NHWC[0])).then(lambda y_NCHW: from_tensor(y_NCHW)[None])
        expected = (count, height * self.spec.scale, width * self.spec.scale, channels)
        return self._begin_pixels(np.ascontiguousarray(x_NHWC)).then(
            lambda y_NHWC: self._check_output(y_NHWC, expected, np.uint8)
        )

    def check_input(self, x_NCHW: Any) -> None:
        """Refuse what the network cannot take whatever its size: rank, channels, dtype and values.

        Raises:
            ShapeError: wrong rank, channels or dtype, or no pixels.
            InputError: values that are not finite or far outside [0, 1], or a closed session.
        """
        self._check_open()
        channels = self.spec.channels
        wanted = f"{self.backend}: expected float32 (N, {channels}, H, W)"
        convert = say("make it of an image with hasn_edge.images.arrays.to_tensor")
        if not isinstance(x_NCHW, np.ndarray):
            raise ShapeError(f"{wanted} as a NumPy array, got {type(x_NCHW).__name__}", convert)
        if x_NCHW.ndim != 4:
            raise ShapeError(f"{wanted}, got {x_NCHW.ndim} dimensions {x_NCHW.shape}", convert)
        found = x_NCHW.shape[1]
        if found != channels:
            looks_last = x_NCHW.shape[3] == channels
            cure = say("transpose it, it looks like (N, H, W, C)") if looks_last else convert
            raise ShapeError(f"{wanted}, got {found} channels {x_NCHW.shape}", cure)
        if x_NCHW.dtype != np.float32:
            raise ShapeError(f"{wanted}, got {x_NCHW.dtype}", convert, say("call .astype(numpy.float32)"))
        if x_NCHW.size == 0:
            raise ShapeError(
                f"{wanted} with at least one pixel, got {x_NCHW.shape}", say("skip empty batches")
            )
        low, high = float(x_NCHW.min()), float(x_NCHW.max())
        if not np.isfinite(low + high):
            raise InputError(
                f"{self.backend}: the input has values that are not finite numbers",
                say("look for a division by zero or uninitialised memory where it was made"),
            )
        if low < _LOWEST or high > _HIGHEST:
            raise InputError(
                f"{self.backend}: expected values in [0, 1], got {low:.6g} to {high:.6g}",
                say("divide by 255 first, as hasn_edge.images.arrays.to_tensor does"),
            )

    def times(self, x: Float32 | UInt8) -> Timing:
        """Run one input as :meth:`run` or :meth:`run_pixels` and return where the time went.

        Args:
            x: As for :meth:`run`, or, of type uint8, as for :meth:`run_pixels`.

        Raises:
            HasnEdgeError: as :meth:`run`.
        """
        begin = time.perf_counter()
        if getattr(x, "dtype", None) == np.uint8:
            self.run_pixels(x)  # type: ignore[arg-type]
        else:
            self.run(x)  # type: ignore[arg-type]
        return Timing(total_s=time.perf_counter() - begin)

    def facts(self) -> dict[str, Any]:
        """Return how this session runs beyond its attributes, as plain JSON values; ask after some runs."""
        return {}

    def close(self) -> None:
        """Free what the backend holds. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{type(self).__name__} {self.backend} {self.number_format} on {self.device}, {state}>"

    @abstractmethod
    def _run(self, x_NCHW: Float32) -> Float32:
        """Compute; ``x_NCHW`` is checked and C-contiguous, the result must not alias a kept buffer."""

    def _run_pixels(self, x_NHWC: UInt8) -> UInt8:
        """Compute with a file of pixels; as :meth:`_run`, called only where :attr:`pixels` is true."""
        raise NotImplementedError(f"{type(self).__name__} sets pixels and does not compute them")

    def _begin(self, x_NCHW: Float32) -> Pending[Float32]:
        """Begin to compute; overridden where :meth:`_run` would only wait for the device."""
        return Pending.of(self._run(x_NCHW))

    def _begin_pixels(self, x_NHWC: UInt8) -> Pending[UInt8]:
        """Begin to compute with a file of pixels."""
        return Pending.of(self._run_pixels(x_NHWC))

    def _close(self) -> None:
        """Free; called once."""

    def _check_open(self) -> None:
        if self._closed:
            raise InputError(
                f"{self.backend}: this session is closed", say("open it again with open_session")
            )

    def _check_output(self, computed: NDArray[Any], shape: tuple[int, ...], dtype: type[Any]) -> Any:
        if computed.shape != shape or (computed.dtype == np.uint8) != (dtype is np.uint8):
            raise ArtifactError(
                f"{self.backend}: output is {computed.dtype} {computed.shape}, its description states "
                f"{dtype.__name__} {shape}; the file and its sidecar do not belong together",
                call("export"),
                call("build"),
            )
        return np.ascontiguousarray(computed, dtype=dtype)

    def _check_size(self, count: int, height: int, width: int) -> None:
        if self.batch not in (None, 1, count):
            raise ShapeError(
                f"{self.backend}: this file takes {self.batch} images at a time, got {count}",
                say("call run with batches of that size"),
                say("export it with another batch"),
            )
        if self.size is not None and (height, width) != self.size:
            raise ShapeError(
                f"{self.backend}: this file takes exactly {self.size[0]} x {self.size[1]} pixels (height x "
                f"width), got {height} x {width}",
                say("use Upscaler, which pads and tiles"),
                say("export it with dynamic sizes"),
            )
        if height < self.smallest[0] or width < self.smallest[1]:
            raise ShapeError(
                f"{self.backend}: expected at least {self.smallest[0]} x {self.smallest[1]} pixels, got "
                f"{height} x {width} (height x width)",
                say("use Upscaler, which pads small images"),
            )
        step = self.spec.size.multiple
        if height % step or width % step:
            raise ShapeError(
                f"{self.backend}: expected sides that {step} divides, got {height} x {width} "
                "(height x width)",
                say("use Upscaler, which pads images"),
            )
        if self.largest is not None and (height > self.largest[0] or width > self.largest[1]):
            raise ShapeError(
                f"{self.backend}: expected at most {self.largest[0]} x {self.largest[1]} pixels, got "
                f"{height} x {width} (height x width)",
                say("use Upscaler, which tiles large images"),
            )


def out_of_memory(backend: str, shape: tuple[int, ...], exc: BaseException) -> OutOfMemoryError:
    """Return the error for a frame that does not fit: the same words for every backend."""
    return OutOfMemoryError(
        f"{backend}: not enough memory for an input of {shape[-2]} x {shape[-1]} pixels and batch {shape[0]} "
        f"({first_line(exc)})",
        # A live run has no tiles, and a benchmark's do not change what it times.
        say("give it smaller images"),
        call("upscale", tile=256),
    )


def _from_levels(y_NHWC: UInt8) -> Float32:
    y_NCHW: Float32 = np.divide(y_NHWC.transpose(0, 3, 1, 2), np.float32(255), order="C")
    return y_NCHW
