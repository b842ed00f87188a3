"""What a file must show before it is published: agreement with PyTorch, and quality within its budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hasn_edge.data.pairs import shipped_eval_set
from hasn_edge.errors import VerificationError
from hasn_edge.image import to_tensor
from hasn_edge.quality import drift, evaluate
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.spec import ModelSpec, Precision
from hasn_edge.verify import BUDGETS, compare

if TYPE_CHECKING:
    from onnx import ModelProto

    from hasn_edge.graphs import GraphMaker
    from hasn_edge.model.checkpoint import Checkpoint
    from hasn_edge.quantize.ranges import Ranges
    from hasn_edge.quantize.recipe import QuantRecipe
    from hasn_edge.runtime.session import Session

FP16_BUDGET_DB = 0.01
"""Largest accepted loss of mean PSNR-Y by FP16 on the held-out pictures, in dB."""

SIZES = ((15, 15), (17, 29), (64, 48))
"""Input (height, width) of the comparison with PyTorch: the smallest, a prime one, a plain one."""

Check = tuple[dict[str, Any], list[str]]
"""What was measured, for the sidecar, and the same in sentences."""


def check_graph(
    graph: ModelProto,
    maker: GraphMaker,
    precision: Precision,
    *,
    what: str,
    recipe: QuantRecipe | None = None,
    ranges: Ranges | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Check:
    """Run a graph that takes any size against the unfused network in PyTorch, and pictures through both.

    FP32 must agree value by value. FP16 and INT8 must keep PSNR-Y on pictures that were not used for
    calibration; INT8 runs as exact Q/DQ arithmetic.

    Raises:
        VerificationError: it does not; for INT8 the costliest convolutions are named.
    """
    from hasn_edge.runtime.pytorch import PyTorchSession

    spec = maker.checkpoint.spec
    with (
        PyTorchSession(maker.checkpoint.model()) as reference,
        _session(graph, spec, precision) as candidate,
    ):
        if precision is Precision.INT8:
            from hasn_edge.quantize.lint import lint

            lint(graph)
        agreement = compare(reference, candidate, _batches(spec))
        agreement.require(BUDGETS[precision], what=f"the ONNX graph {what}")
        measured: dict[str, Any] = {"against": "PyTorch FP32, unfused", **agreement.to_dict()}
        if precision is Precision.FP32:
            return measured, [f"{what}: largest difference from PyTorch {agreement.max_abs:.1e}"]
        assert precision is not Precision.INT8 or recipe is not None
        budget = FP16_BUDGET_DB if recipe is None else recipe.budget_db
        quality, said = _quality(reference, candidate, what, budget)
    if quality["dpsnr_db"] < -budget:
        detail = ""
        if recipe is not None and ranges is not None:
            progress("measuring which convolutions cost the most")
            detail = _costliest(maker, recipe, ranges)
        raise VerificationError(
            f"{said}. That is over the budget of {budget:g} dB, nothing was written.{detail}"
        )
    return {**measured, "held_out": quality}, [said]


def check_static(
    fixed: ModelProto, dynamic: ModelProto, spec: ModelSpec, precision: Precision, size: tuple[int, int]
) -> None:
    """Run a graph of one size against the checked graph of any size, on one picture of noise.

    Raises:
        VerificationError: they differ by more than rounding.
    """
    x = _noise(spec, *size)
    with _session(dynamic, spec, precision) as session:
        expected = session.run(x)
    # One after the other: a large frame may fit into the memory once and not twice.
    with _session(fixed, spec, precision, size) as session:
        difference = float(np.abs(session.run(x) - expected).max())
    allowed = 1e-5 if precision is Precision.FP32 else 1e-3
    if not difference <= allowed:
        raise VerificationError(
            f"the {size[1]}x{size[0]} graph is too far from the one of any size: {difference:.3g}, at most "
            f"{allowed:g} allowed; nothing was written"
        )


def check_torchscript(data: bytes, checkpoint: Checkpoint, precision: Precision) -> Check:
    """Run a TorchScript file against the network in PyTorch, as :func:`check_graph` does a graph."""
    from hasn_edge.runtime.pytorch import PyTorchSession
    from hasn_edge.runtime.torchscript import TorchScriptSession

    spec = checkpoint.spec
    with (
        PyTorchSession(checkpoint.model()) as reference,
        TorchScriptSession(data, spec, precision=precision) as candidate,
    ):
        agreement = compare(reference, candidate, _batches(spec))
        agreement.require(BUDGETS[precision], what=f"the {precision.value} TorchScript file")
        measured: dict[str, Any] = {"against": "PyTorch FP32, unfused", **agreement.to_dict()}
        if precision is Precision.FP32:
            return measured, [f"fp32: largest difference from PyTorch {agreement.max_abs:.1e}"]
        quality, said = _quality(reference, candidate, "fp16", FP16_BUDGET_DB)
    if quality["dpsnr_db"] < -FP16_BUDGET_DB:
        raise VerificationError(
            f"{said}. That is over the budget of {FP16_BUDGET_DB} dB, nothing was written."
        )
    return {**measured, "held_out": quality}, [said]


def _quality(reference: Session, candidate: Session, what: str, budget: float) -> tuple[dict[str, Any], str]:
    eval_set = shipped_eval_set(reference.spec.scale)
    before = evaluate(Upscaler(reference).run, eval_set)
    after = evaluate(Upscaler(candidate).run, eval_set)
    lost = drift(before, after)
    said = (
        f"{what}: PSNR-Y on {len(eval_set)} held-out pictures {after.psnr_y:.3f} dB, "
        f"{lost.dpsnr:+.4f} dB against FP32 (worst: {lost.worst_image} {lost.worst_dpsnr:+.4f}), "
        f"fidelity {lost.fidelity_psnr:.1f} dB"
    )
    return {
        "set": eval_set.name,
        "images": len(eval_set),
        "psnr_y_db": after.psnr_y,
        "dpsnr_db": lost.dpsnr,
        "dssim": lost.dssim,
        "fidelity_db": lost.fidelity_psnr if math.isfinite(lost.fidelity_psnr) else None,
        "worst_image": lost.worst_image,
        "worst_dpsnr_db": lost.worst_dpsnr,
        "budget_db": budget,
    }, said


def _session(
    graph: ModelProto, spec: ModelSpec, precision: Precision, size: tuple[int, int] | None = None
) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(
        graph.SerializeToString(), spec, precision=precision, exact=precision is Precision.INT8, size=size
    )


def _batches(spec: ModelSpec) -> Iterator[NDArray[np.float32]]:
    for height, width in SIZES:
        yield _noise(spec, height, width)


def _noise(spec: ModelSpec, height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((1, spec.channels, height, width), dtype=np.float32)


def _costliest(maker: GraphMaker, recipe: QuantRecipe, ranges: Ranges) -> str:
    from hasn_edge.quantize.sensitivity import advice, sensitivity

    pictures = [to_tensor(pair.lr()) for pair in shipped_eval_set(maker.checkpoint.spec.scale)]
    return " The " + advice(sensitivity(maker.fp32(), ranges, recipe, pictures, by_kind=True)) + "."
