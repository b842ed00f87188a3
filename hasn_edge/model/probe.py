"""Which network weights belong to, where their shapes leave it open: each candidate upscales known images.

Activation, gate and both skip connections have no parameters. A network that runs with the wrong ones gives
an image all the same, usually worse than bicubic.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from hasn_edge.errors import CheckpointError, say
from hasn_edge.images.arrays import UInt8, enlarge_window, from_tensor, middle_window, to_tensor
from hasn_edge.images.metrics import mean_db, psnr_rgb
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import Activation, Gate, ModelSpec

logger = logging.getLogger(__name__)

SIDE = 32
"""LR pixels a side of what is cut from the middle of an image."""
EVERY = 2
"""Of the images that ship, every second is used: it takes a second or two, and the answer is the same."""
ABOVE_BICUBIC = 0.2
"""dB that a network has to be better than bicubic, to be believed."""
APART = 0.05
"""dB between two networks from which on the better one is believed. Closer ones must agree."""
ALIKE = 45.0
"""dB between the outputs of two networks that agree: which one runs makes no difference to see."""
SAME = 60.0
"""dB from which on two networks count as one."""


def probe_spec(spec: ModelSpec, weights: Mapping[str, Tensor]) -> ModelSpec:
    """Return the network whose outputs show that ``weights`` are its own; say in the log which it is.

    Args:
        spec: What the tensors' shapes show.
        weights: By name, fitting ``spec``.

    Raises:
        CheckpointError: no candidate is better than bicubic on the images that ship, or several that differ.
    """
    from hasn_edge.data.resize import imresize

    if spec.channels != 3:
        raise _unknown("networks of one or four channels cannot be tried on colour images")
    pairs = list(_crops(spec.scale))
    bicubic = mean_db(psnr_rgb(imresize(lr, scale=float(spec.scale)), hr) for lr, hr in pairs)
    # With a wrong skip connection or gate nothing is right; a wrong activation shows only where it clips.
    skips = {"skip": (True, False), "residual": (False, True)}
    others = (Activation.RELU, Activation.LEAKY_RELU)
    rated = _rate(spec, weights, pairs, **skips)
    if max(rated, key=_quality)[0] < bicubic + ABOVE_BICUBIC:
        rated += _rate(spec, weights, pairs, **skips, gate=(Gate.ADD,))
        rated += _rate(spec, weights, pairs, **skips, gate=tuple(Gate), activation=others)
    else:
        rated += _rate(max(rated, key=_quality)[1], weights, pairs, activation=others)
    best, _, output = max(rated, key=_quality)
    # Where an activation never clips, several are the same function: then the published one, tried first.
    found = next(each for _, each, its_output in rated if psnr_rgb(its_output, output) > SAME)
    summary = f"best of {len(rated)}: {best:.2f} dB, bicubic {bicubic:.2f} dB"
    if best < bicubic + ABOVE_BICUBIC:
        raise _unknown(f"none of those that fit is clearly better than bicubic ({summary})")
    for other, _, its_output in rated:
        if best - other < APART and psnr_rgb(its_output, output) < ALIKE:
            raise _unknown(f"several that differ are as good ({summary}, the next {other:.2f} dB)")
    values = found.to_dict()
    hidden = ", ".join(
        f"{each} = {values[each]}".lower() for each in ("activation", "gate", "skip", "residual")
    )
    logger.warning("the file does not name its network; taken by what it computes: %s (%s)", hidden, summary)
    return found


def _quality(rated: tuple[float, ModelSpec, UInt8]) -> float:
    return rated[0]


def _unknown(why: str) -> CheckpointError:
    return CheckpointError(
        "activation, gate, skip and residual of its network are not in the shapes of tensors, the file does "
        f"not name them, and {why}",
        say(
            "name the network once and keep it in the file: m = hasn_edge.load_model(FILE, "
            "spec=hasn_edge.ModelSpec(residual=True)); torch.save(m.state_dict(), NEW)"
        ),
    )


def _crops(scale: int) -> Iterator[tuple[UInt8, UInt8]]:
    from hasn_edge.data.pairs import shipped_eval_set

    for pair in shipped_eval_set(scale).pairs[::EVERY]:
        lr, hr = pair.lr(), pair.hr()
        window = middle_window(lr.shape, (SIDE, SIDE))
        yield np.ascontiguousarray(lr[window]), np.ascontiguousarray(hr[enlarge_window(window, scale)])


def _rate(
    spec: ModelSpec,
    weights: Mapping[str, Tensor],
    pairs: list[tuple[UInt8, UInt8]],
    **choices: tuple[bool | Gate | Activation, ...],
) -> list[tuple[float, ModelSpec, UInt8]]:
    """Return each candidate's PSNR in dB, its spec and its outputs one below the other."""
    rated = []
    for values in product(*choices.values()):
        candidate = replace(spec, **dict(zip(choices, values, strict=True)))  # type: ignore[arg-type]
        model = HASN(candidate)
        model.load_state_dict(dict(weights))
        model.eval()
        outputs = []
        for lr, _ in pairs:
            with torch.inference_mode():
                outputs.append(from_tensor(model(torch.from_numpy(to_tensor(lr))).numpy()))
        quality = mean_db(psnr_rgb(sr, hr) for sr, (_, hr) in zip(outputs, pairs, strict=True))
        rated.append((quality, candidate, np.concatenate(outputs)))
    return rated
