"""Fuse a network by named rules, and which rules pay on which backend."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from hasn_edge.errors import UnsupportedError, counted, say
from hasn_edge.fuse.modules import EVEN, FEW, LANES, FusedBlock
from hasn_edge.fuse.rules import LARGEST_CONDITION, condition
from hasn_edge.model.blocks import HASB
from hasn_edge.model.hasn import HASN

RULES: Mapping[str, str] = {
    "norm_affine": "LayerNorm's weight and bias into the 1x1 convolutions that read it",
    "merge_branches": "the parallel 1x1 convolutions into one, and a split",
    "compose_esa": "ESA's first 1x1 convolution composed with the third branch's: it reads fewer channels",
    "fold_esa": "ESA's conv_f into the convolution behind it, and its inverse into the one before the resize",
    "norm_factor": "LayerNorm as a factor for each pixel, behind the 1x1 convolutions that read it",
    "pad_cab": "CAB's hidden channels padded with zeros to an even number",
    "split_cab": "CAB's hidden channels in blocks of 16, and the one or two that are left apart from them",
    "squeeze_first": "channel attention's squeeze composed with CAB's second 3x3, before the average",
}
"""Every rule by name. Each is exact: same outputs up to rounding, at the border too."""

DEFAULT_RULES: Mapping[str, tuple[str, ...]] = {
    "pytorch": (),
    "torchscript": (),
    "onnxruntime": ("norm_affine", "compose_esa", "split_cab"),
    "tensorrt": ("compose_esa", "pad_cab", "squeeze_first"),
    "rtx": ("compose_esa", "fold_esa", "norm_factor", "pad_cab", "squeeze_first"),
}
"""Rules by backend: for TensorRT for RTX those that move fewer bytes by its compiler's list, for TensorRT
those of them that are expected to pay, not measured, and for CPUs those that were measured to pay. On CPUs
with one thread, 320 x 180, CPU time, ratio to the unfused network (mean of 30 rounds' ratios with its
standard error, else median of 10): ``benchmarks/results/fusion_cpu_202611.md`` and
``fusion_cpu_onnxruntime_202611.md``, by ``benchmarks/fusion.py``.

- ONNX Runtime: ``norm_affine`` with ``compose_esa`` 1.04 +- 0.015, at a fixed size 1.05 +- 0.012 (in the
  shorter run 1.02 +- 0.03 and 0.99 +- 0.03: the gain is small, its size uncertain, the machine was busy);
  ``compose_esa`` alone 1.03 +- 0.012; ``norm_affine`` alone is within the noise. ``merge_branches`` is
  *slower*, 0.90: the split copies what one larger convolution saves.
- ``split_cab``, on a CPU with AVX-512, one thread, a fixed size: 1.05 in ONNX Runtime, 1.03 in OpenVINO in
  BF16. Kernels compute 16 output channels at a time (8 with AVX2), so the 17th of a 3x3
  convolution costs as much as 16 and a ninth of that as nine taps of a 1x1. INT8 gains less than 2 %.
- OpenVINO runs the same graphs, in forms of its own that its session puts in when it opens them: see
  :mod:`hasn_edge.runtime.openvino_forms` and ``benchmarks/results/fusion_cpu_forms_202611.md``.
- PyTorch, TorchScript: 1.00 and 0.99, no gain, so the network stays as it was trained.
- TensorRT for RTX: by the bytes that its compiler lists for FP16 at 320 x 180, each of these moves fewer,
  together 1,494 MB instead of 1,733 (``hasn-x4``, compute capability 8.6); ``merge_branches`` moves more.
  Times were not measured for want of a GPU: ``benchmarks/results/engine_traffic.md``.
- TensorRT: those that leave less to compute or to copy whatever the compiler fuses. A factor behind each 1x1
  convolution costs where it is not fused, so ``norm_factor`` waits for a measurement on a device.
"""


class FusedHASN(HASN):
    """A network with fused blocks. To run or export; what is stored is always the network it came from."""

    def __init__(self, model: HASN, rules: tuple[str, ...]) -> None:
        nn.Module.__init__(self)
        self.spec = model.spec
        self.fused = rules
        """Rules that were applied."""
        for name, module in model.named_children():
            if rules and isinstance(module, HASB):
                self.add_module(name, FusedBlock(module, rules))
            else:
                self.add_module(name, copy.deepcopy(module))
        self.training = model.training


def fuse(model: HASN, rules: Sequence[str]) -> tuple[FusedHASN, list[str]]:
    """Return an equivalent network with ``rules`` applied, and what was done; ``model`` stays as it was.

    A rule that finds nothing to fuse in this network (no ESA, no norm) is skipped, and the list states it.

    Args:
        model: A network in any floating-point type; the algebra is done in float64.
        rules: Names from :data:`RULES`, in any order.

    Raises:
        UnsupportedError: an unknown rule, a network that is fused already, or weights for which a rule would
            not be exact.
    """
    unknown = [rule for rule in rules if rule not in RULES]
    if unknown:
        raise UnsupportedError(f"unknown fusion rule {unknown[0]!r}; choose from: {', '.join(RULES)}")
    if isinstance(model, FusedHASN):
        raise UnsupportedError(
            f"this network is fused already ({', '.join(model.fused)})", say("fuse the network it came from")
        )
    reasons = {rule: _why_skipped(rule, model) for rule in RULES if rule in rules}
    applied = tuple(rule for rule, reason in reasons.items() if not reason)
    fused = FusedHASN(model, applied)
    count = counted(model.spec.blocks, "block")
    done = [
        f"{rule}: skipped, {reason}" if reason else f"{rule}: {RULES[rule]}, in {count}"
        for rule, reason in reasons.items()
    ]
    return fused, done


def _why_skipped(rule: str, model: HASN) -> str:
    spec = model.spec
    if rule in ("norm_affine", "norm_factor") and not spec.norm:
        return "this network has no LayerNorm"
    if rule in ("compose_esa", "fold_esa") and not spec.esa:
        return "this network has no ESA"
    if rule in ("pad_cab", "split_cab", "squeeze_first") and not spec.cab:
        return "this network has no CAB"
    if rule == "pad_cab" and spec.cab_channels % EVEN == 0:
        return f"CAB's {spec.cab_channels} hidden channels need no padding"
    left = spec.cab_channels % LANES
    if rule == "split_cab" and not (spec.cab_channels > LANES and 0 < left <= FEW):
        return f"CAB's {spec.cab_channels} hidden channels leave none or too many over {LANES} at a time"
    if rule == "fold_esa":
        worst = max(condition(block.esa.conv_f) for block in model.blocks if block.esa is not None)
        if not worst <= LARGEST_CONDITION:
            return f"ESA's conv_f has no inverse to compute with (condition number {worst:.3g})"
    return ""
