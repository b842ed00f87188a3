"""Hidden units of CAB that pass nothing on: found, and begun anew.

CAB is two 3x3 convolutions around a GELU. A hidden unit that sees only large negative values gives zero, and
so is its gradient: it never learns again. Large early steps do this to whole blocks, because the quickest way
to a smaller loss is then to switch the body's noise off. The loss does not show it: the other blocks go on
learning. A bundled hasn-x4 had three silent blocks of six for 27,000 iterations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hasn_edge.model.blocks import CAB, HASB
from hasn_edge.model.hasn import HASN
from hasn_edge.train.init import begin, outputs, signal
from hasn_edge.train.recipe import InitConfig, InitKind

_ON = 0.02
"""What a unit has to give at one pixel at least, in units of a GELU's input, to count as alive."""
_QUIET = 0.03
"""Size of what begins anew, relative to the features around it: the rest of the network hardly notices."""
_INIT = InitConfig(kind=InitKind.DELTA, gate_bias=2.0)


def silent_units(model: HASN, patches_NCHW: Tensor) -> dict[str, Tensor]:
    """Return by block which hidden units of its CAB are silent on patches: ``(units,)`` bool.

    Args:
        model: Blocks without CAB are left out.
        patches_NCHW: LR patches, float32 in [0, 1]. A unit that is silent on a few hundred pixels may yet
            answer to others; on 16 patches of 24 x 24 those are rare.
    """
    found = {}
    with torch.no_grad():
        x = model.conv_1(patches_NCHW)
        for number, block in enumerate(model.blocks, 1):
            if isinstance(block.cab, CAB):
                found[f"block_{number}"] = _silent(block, x)
            x = block(x)
    return found


def describe(silent: dict[str, Tensor]) -> str:
    """Return one line that says which blocks and how many units are silent; empty where none is."""
    total, count = sum(len(units) for units in silent.values()), sum(int(u.sum()) for u in silent.values())
    blocks = [name for name, units in silent.items() if units.all()]
    if not count:
        return ""
    return f"silent: {count} of {total} hidden units" + (f", all of {', '.join(blocks)}" if blocks else "")


def revive(model: HASN, patches_NCHW: Tensor, *, seed: int) -> str:
    """Begin silent units of CAB anew, in place, so quietly that what ``model`` computes hardly changes.

    A block whose units are all silent begins anew as a whole, as ``delta`` has it: what drove its CAB so far
    lies in front of it. Elsewhere a silent unit gets a new filter, a bias that centres its values on zero,
    and small weights behind it.

    Args:
        model: Changed in place.
        patches_NCHW: LR patches, float32 in [0, 1].
        seed: Of the new filters.

    Returns:
        :func:`describe` of what was silent before.
    """
    random = torch.Generator().manual_seed(seed)
    before = silent_units(model, patches_NCHW)
    with torch.no_grad():
        x = model.conv_1(patches_NCHW)
        for number, block in enumerate(model.blocks, 1):
            silent = before.get(f"block_{number}")
            if silent is not None and silent.any():
                silent = _silent(block, x)  # a block before it may feed it again
                if silent.all():
                    _begin_block(block, x, random)
                elif silent.any():
                    _begin_units(block, x, silent, random)
            x = block(x)
    return describe(before)


def _silent(block: HASB, x_NCHW: Tensor) -> Tensor:
    assert isinstance(block.cab, CAB)
    silent: Tensor = outputs(block, block.cab.cab[1], x_NCHW).amax((0, 2, 3)) < _ON
    return silent


def _begin_block(block: HASB, x_NCHW: Tensor, random: torch.Generator) -> None:
    size = float((x_NCHW - x_NCHW.mean((0, 2, 3), keepdim=True)).square().mean().sqrt())
    last = _QUIET * size if block.residual else size
    targets = {"dwconv2.conv": 0.5 * size, "cab.cab.0": 0.5, "cab.cab.2": last}
    for name, module in block.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d):
            begin(name, module, _INIT, random)
    for name, module in block.named_modules():
        if isinstance(module, nn.Conv2d) and ".attention." not in name and not name.startswith("esa."):
            module.weight.mul_(targets.get(name, 1.0) / max(signal(block, module, x_NCHW), 1e-6))


def _begin_units(block: HASB, x_NCHW: Tensor, silent: Tensor, random: torch.Generator) -> None:
    assert isinstance(block.cab, CAB)
    first, _, last, _ = block.cab.cab
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    assert first.bias is not None
    new = nn.Conv2d(first.in_channels, first.out_channels, first.kernel_size[0])
    begin("cab.cab.0", new, _INIT, random)
    first.weight[silent], first.bias[silent] = new.weight[silent], 0.0
    y = outputs(block, first, x_NCHW)[:, silent]
    mean = y.mean((0, 2, 3))
    factor = 0.5 / (y - mean[:, None, None]).square().mean((0, 2, 3)).sqrt().clamp_min(1e-6)
    first.weight[silent] *= factor[:, None, None, None]
    first.bias[silent] = -mean * factor
    alive = float(last.weight[:, ~silent].std())
    last.weight[:, silent] = _QUIET * alive * torch.randn(last.weight[:, silent].shape, generator=random)
