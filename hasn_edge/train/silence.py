"""Hidden units of CAB that pass nothing on: found, and begun anew.

CAB is two 3x3 convolutions around a GELU. Where a hidden unit sees only large negative values, its output is
zero, and so is its gradient: it never learns again. Large early steps do this to whole blocks, because the
quickest way to a smaller loss is then to switch the body's noise off. The loss does not show it: the other
blocks go on learning. A bundled hasn-x4 had three silent blocks of six for 27,000 iterations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hasn_edge.errors import ConfigError, say
from hasn_edge.model.blocks import CAB, HASB
from hasn_edge.model.hasn import HASN
from hasn_edge.train.init import begin, outputs, size
from hasn_edge.train.recipe import InitConfig, InitKind

_SPAN = 0.02
"""How far the outputs of a living unit lie apart at least, from the least to the largest."""
_SHARE = 0.05
"""What a living block adds at least, relative to its input. Those that learned had 0.1 and more, those that
had gone silent 0.045 and less."""
_QUIET = 0.1
"""Weights behind what begins anew, relative to those of its like."""
_NOISE = 0.05
_INIT = InitConfig(kind=InitKind.DELTA)


def silent_units(model: HASN, patches_NCHW: Tensor) -> dict[str, Tensor]:
    """Return by block which hidden units of its CAB are silent on patches: ``(units,)`` bool.

    A unit is silent if its output hardly varies. All units of a block are if the block adds next to nothing
    to its input. Without a residual small outputs say nothing: what follows may multiply them.

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
                dead = _dead(block, x)
                found[f"block_{number}"] = torch.ones_like(dead) if _passes_nothing(block, x) else dead
            x = block(x)
    return found


def added(block: HASB, x_NCHW: Tensor) -> float:
    """Return the size of what a block with a residual adds to its input, relative to it."""
    return size(block(x_NCHW) - x_NCHW) / max(size(x_NCHW), 1e-12)


def describe(silent: dict[str, Tensor]) -> str:
    """Return one line that says which blocks and how many units are silent; empty where none is."""
    total, count = sum(len(units) for units in silent.values()), sum(int(u.sum()) for u in silent.values())
    blocks = [name for name, units in silent.items() if units.all()]
    if not count:
        return ""
    return f"silent: {count} of {total} hidden units" + (f", all of {', '.join(blocks)}" if blocks else "")


def revive(model: HASN, patches_NCHW: Tensor, *, seed: int) -> str:
    """Begin silent units of CAB anew, in place, quietly: what ``model`` computes changes by a few per cent.

    A silent unit gets a new filter, a bias that centres its values on zero, and small weights behind it. A
    block whose units are all silent becomes a copy of the nearest one that is not, with 5 % of noise: a
    trained block stays alive at usual rates, one with random weights was silent again within 500 iterations.
    The copy is quiet where blocks have a residual. Without one nothing passes a silent block, and there is
    nothing to keep.

    Args:
        model: Changed in place.
        patches_NCHW: LR patches, float32 in [0, 1].
        seed: Of filters and noise.

    Returns:
        :func:`describe` of what was silent before.

    Raises:
        ConfigError: no block is alive.
    """
    random = torch.Generator().manual_seed(seed)
    before = silent_units(model, patches_NCHW)
    blocks = {f"block_{number}": block for number, block in enumerate(model.blocks, 1)}
    alive = [name for name, units in before.items() if not units.all()]
    if before and not alive:
        raise ConfigError(
            "all blocks of these weights are silent: there is nothing to go on from",
            say("begin without them"),
        )
    names = list(blocks)
    with torch.no_grad():
        x = model.conv_1(patches_NCHW)
        for name, block in blocks.items():
            if name in before:
                # Measured again: a block before it may feed it now.
                if name not in alive and _passes_nothing(block, x):
                    # The following block before the preceding one: with a residual it reads the same.
                    away = {other: abs(names.index(other) - names.index(name)) for other in reversed(alive)}
                    _copy_quietly(blocks[min(away, key=away.__getitem__)], block, random)
                if (dead := _dead(block, x)).any():
                    _begin_units(block, x, dead, random)
            x = block(x)
    return describe(before)


def _passes_nothing(block: HASB, x_NCHW: Tensor) -> bool:
    return added(block, x_NCHW) < _SHARE if block.residual else bool(_dead(block, x_NCHW).all())


def _dead(block: HASB, x_NCHW: Tensor) -> Tensor:
    assert isinstance(block.cab, CAB)
    y = outputs(block, block.cab.cab[1], x_NCHW)
    dead: Tensor = y.amax((0, 2, 3)) - y.amin((0, 2, 3)) < _SPAN
    return dead


def _copy_quietly(source: HASB, block: HASB, random: torch.Generator) -> None:
    block.load_state_dict(source.state_dict())
    for weight in block.parameters():
        if weight.ndim > 1:  # two blocks that are equal would get equal gradients
            weight.mul_(1 + _NOISE * torch.randn(weight.shape, generator=random))
    if block.residual:
        assert isinstance(block.cab, CAB)
        for weight in block.cab.cab[2].parameters():
            weight.mul_(_QUIET)


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
    others = last.weight if silent.all() else last.weight[:, ~silent]
    alive = float(others.std())
    last.weight[:, silent] = (
        0.3 * _QUIET * alive * torch.randn(last.weight[:, silent].shape, generator=random)
    )
