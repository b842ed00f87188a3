"""An image whose result is known, compared after every load: a wrong engine gives zeros without a word."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hasn_edge.errors import ArtifactError, Cure, call
from hasn_edge.images.arrays import Float32, Float64
from hasn_edge.runtime.session import Session
from hasn_edge.sidecar import Golden, Tolerance
from hasn_edge.spec import Precision

_SCHEMA, _INPUT = 1, "waves"
"""What this version computes: the layout of a golden record, and the image."""
_AGAIN = call("build")
_POINTS = 64
_CELLS = 4
_TOLERANCES: Mapping[Precision, tuple[float, float]] = {
    Precision.FP32: (0.002, 0.01),
    Precision.FP16: (0.003, 0.015),
    Precision.INT8: (0.006, 0.03),
}
"""Accepted root-mean-square and largest difference, values in [0, 1].

They shall tell this network from another thing and not one rounding from another. Measured with the bundled
and the published network at 64 x 64 and 320 x 180: output rounded to 8 bits 0.001 and 0.002; FP16 against
FP32 0.0002 and 0.0003; INT8 with fused integer kernels against exact Q/DQ 0.001 and 0.004. On the other side:
zeros 0.5, red and blue exchanged 0.2, repeated pixels instead of a network 0.011 and 0.03.
"""

OWN_RANGES = (0.02, 0.1)
"""The same for an engine whose INT8 ranges TensorRT chose itself. It quantizes also what a recipe leaves
alone: all convolutions are 0.007 from FP32 on photographs. This tells a network from garbage, no more."""


def make_golden(
    session: Session,
    size: tuple[int, int],
    *,
    tolerance: tuple[float, float] | None = None,
) -> Golden:
    """Compute what a correct engine gives, with a session that is known to be right.

    Args:
        session: For example the engine's graph in ONNX Runtime, as it is checked before it is compiled.
        size: (height, width) of the image: one that the engine takes.
        tolerance: Root-mean-square and largest difference, values in [0, 1]; that of the session's precision
            where ``None``.

    Returns:
        How the image is made, what comes out at 64 points and on average over 16 cells of each channel,
        and how far off that may be.

    Raises:
        HasnEdgeError: as ``session.run``.
    """
    shape = (session.batch or 1, session.spec.channels, *size)
    points, cells = _measure(session.run(golden_input(shape)))
    rms, largest = tolerance or _TOLERANCES[session.precision]
    return Golden(
        schema=_SCHEMA,
        input=_INPUT,
        shape=shape,
        points=tuple(round(float(v), 5) for v in points.ravel()),
        cells=tuple(round(float(v), 5) for v in cells.ravel()),
        tolerance=Tolerance(rms=rms, largest=largest),
    )


def check_golden(
    session: Session,
    golden: Golden | None,
    *,
    name: str | None = None,
    cure: Cure = _AGAIN,
    note: str = "",
) -> None:
    """Do nothing if a session computes what was stored: every in-flight execution, also by its graph.

    Another image comes first: a graph that replays old buffers would otherwise repeat the right answer.

    Args:
        session: What was just loaded.
        golden: What :func:`make_golden` returned.
        name: What the message calls the session.
        cure: What helps against a wrong result.
        note: The end of the message before it.

    Raises:
        ArtifactError: it computes something else, or there is nothing to compare with.
        HasnEdgeError: as ``session.run``.
    """
    name = name or session.backend
    if golden is None or (golden.schema, golden.input) != (_SCHEMA, _INPUT):
        raise ArtifactError(
            f"{name}: its sidecar has no image whose result is known, so that nothing tells whether it "
            f"computes this network{note}",
            cure,
        )
    difference = find_difference(session, golden)
    if difference is not None:
        raise ArtifactError(
            f"{name}: it loads, but computes something else than when it was built: {difference}; so "
            f"do engines of another GPU or version{note}",
            cure,
        )


def find_difference(session: Session, golden: Golden) -> str | None:
    """Return how a session's output differs from what was stored, as a sentence; ``None`` if it does not.

    Args:
        session: What was just loaded; every in-flight execution of it is looked at.
        golden: What :func:`make_golden` returned.

    Raises:
        HasnEdgeError: as ``session.run``.
    """
    x_NCHW = golden_input(golden.shape)
    wanted = [np.array(values, np.float64) for values in (golden.points, golden.cells)]
    limits = golden.tolerance.rms, golden.tolerance.largest
    executions = range(session.in_flight)
    for pending in [session.submit(1 - x_NCHW) for _ in executions]:
        pending.result()
    outputs = [pending.result() for pending in [session.submit(x_NCHW) for _ in executions]]
    return next(filter(None, (_problem(y_NCHW, wanted, limits) for y_NCHW in outputs)), None)


def golden_input(shape: tuple[int, ...]) -> Float32:
    """Return a smooth image with detail in it, the same on every machine: no random numbers.

    Args:
        shape: ``(N, C, H, W)``.

    Returns:
        float32 in [0, 1], every value a multiple of 1/255; no two channels or images are equal.
    """
    count, channels, height, width = shape
    n, c, i, j = np.ogrid[:count, :channels, :height, :width]
    v, u, phase = (i + 0.5) / height, (j + 0.5) / width, n * 0.17 + c / 3
    waves = (
        0.5
        + 0.22 * np.cos(2 * np.pi * (1.5 * u + 0.5 * v + phase))
        + 0.16 * np.cos(2 * np.pi * (2.5 * v - u + 2 * phase))
        + 0.08 * np.cos(2 * np.pi * (i * 0.11 + j * 0.07 + phase))
    )
    image: Float32 = np.rint(255 * waves).astype(np.float32) / np.float32(255)
    return image


def _measure(y_NCHW: Float32) -> tuple[Float64, Float64]:
    """Return values at scattered points, and the means of a grid of cells, of every channel."""
    count, _, height, width = y_NCHW.shape
    k = np.arange(1, _POINTS + 1)
    # Multiples of these two numbers fill a square evenly (the plastic number's powers).
    i = (k * 0.7548776662466927 % 1 * height).astype(int)
    j = (k * 0.5698402909980532 % 1 * width).astype(int)
    points = y_NCHW[k % count, :, i, j].astype(np.float64)
    rows = np.linspace(0, height, _CELLS + 1).astype(int)[:-1]
    columns = np.linspace(0, width, _CELLS + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(y_NCHW.astype(np.float64), rows, axis=2), columns, axis=3)
    ones = np.add.reduceat(np.add.reduceat(np.ones((height, width)), rows, axis=0), columns, axis=1)
    return points, sums.mean(axis=0) / ones


def _problem(y_NCHW: Float32, wanted: list[Float64], limits: tuple[float, float]) -> str | None:
    """Return what is wrong with an output; ``None`` if nothing is."""
    if not np.isfinite(y_NCHW).all():
        return "its output has values that are not finite numbers"
    if not y_NCHW.any():
        return "its output is all zeros"
    found = [values.ravel() for values in _measure(y_NCHW)]
    if any(a.shape != b.shape for a, b in zip(found, wanted, strict=True)):
        return "its output has another number of channels"
    difference = np.concatenate([a - b for a, b in zip(found, wanted, strict=True)])
    rms, largest = float(np.sqrt(np.mean(difference**2))), float(np.abs(difference).max())
    if rms <= limits[0] and largest <= limits[1]:
        return None
    return (
        f"its output differs by {rms:.3g} on average (root mean square, {limits[0]:g} allowed) and by "
        f"{largest:.3g} at most ({limits[1]:g} allowed), values in [0, 1]"
    )
