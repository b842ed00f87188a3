"""Fuse a network by named rules, and which rules pay on which backend."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from hasn_edge.errors import UnsupportedError
from hasn_edge.fuse.modules import fused_block
from hasn_edge.model.blocks import HASB
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec

RULES: Mapping[str, str] = {
    "norm_affine": "LayerNorm's weight and bias into the 1x1 convolutions that read it",
    "merge_branches": "the parallel 1x1 convolutions into one, and a split",
    "compose_esa": "ESA's first 1x1 convolution composed with the third branch's (52 -> 16, not 156 -> 16)",
}
"""Every rule by name. Each is exact: same outputs up to rounding, at the border too."""

DEFAULT_RULES: Mapping[str, tuple[str, ...]] = {
    "pytorch": (),
    "torchscript": ("norm_affine", "compose_esa"),
    "onnxruntime": ("norm_affine", "compose_esa"),
    "tensorrt": (),
    "rtx": (),
}


class FusedHASN(HASN):
    """A network with fused blocks. To run or export; what is stored is always the network it came from."""

    def __init__(self, model: HASN, rules: tuple[str, ...]) -> None:
        nn.Module.__init__(self)
        self.spec = model.spec
        self.fused = rules
        """Rules that were applied."""
        for name, module in model.named_children():
            if rules and isinstance(module, HASB):
                self.add_module(name, fused_block(module, rules))
            else:
                self.add_module(name, copy.deepcopy(module))
        self.training = model.training


def fuse(model: HASN, rules: Sequence[str]) -> tuple[FusedHASN, list[str]]:
    """Return an equivalent network with ``rules`` applied, and what was done; ``model`` stays as it was.

    A rule that finds nothing to fuse in this network (no ESA, no norm) is skipped, and the list says so.

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
            f"this network is fused already ({', '.join(model.fused)}); fuse the network it came from"
        )
    reasons = {rule: _nothing_to_do(rule, model.spec) for rule in RULES if rule in rules}
    applied = tuple(rule for rule, reason in reasons.items() if not reason)
    fused = FusedHASN(model, applied)
    count = f"{model.spec.blocks} block" + ("s" if model.spec.blocks != 1 else "")
    done = [
        f"{rule}: skipped, {reason}" if reason else f"{rule}: {RULES[rule]}, in {count}"
        for rule, reason in reasons.items()
    ]
    return fused, done


def _nothing_to_do(rule: str, spec: ModelSpec) -> str:
    if rule == "norm_affine" and not spec.norm:
        return "this network has no LayerNorm"
    if rule == "compose_esa" and not spec.esa:
        return "this network has no ESA"
    return ""
