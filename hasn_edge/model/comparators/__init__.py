"""Networks of other papers, written from them: to compare cost with, and quality with their own weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasn_edge.errors import CheckpointError, HasnEdgeError, InputError, say
from hasn_edge.optional import require

if TYPE_CHECKING:
    from hasn_edge.model.comparators.comparator import Comparator, RgbNetwork


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What is published of a network; nothing of it is measured here."""

    paper: str
    place: str
    """Module and class here."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the class is made with."""
    set5_db: float | None = None
    """PSNR-Y in dB on Set5 at x4, as Table 1 of HASN's paper cites it."""
    set14_db: float | None = None


NETWORKS: Mapping[str, Publication] = {
    "srcnn": Publication(paper="SRCNN, TPAMI 2016", place="early.SRCNN", set5_db=30.48, set14_db=27.50),
    "fsrcnn": Publication(paper="FSRCNN, ECCV 2016", place="early.FSRCNN", set5_db=30.72, set14_db=27.61),
    "vdsr": Publication(paper="VDSR, CVPR 2016", place="early.VDSR", set5_db=31.35, set14_db=28.01),
    "drcn": Publication(paper="DRCN, CVPR 2016", place="recursive.DRCN", set5_db=31.53, set14_db=28.02),
    "lapsrn": Publication(paper="LapSRN, CVPR 2017", place="early.LapSRN", set5_db=31.54, set14_db=28.09),
    "drrn": Publication(paper="DRRN, CVPR 2017", place="recursive.DRRN", set5_db=31.68, set14_db=28.21),
    "memnet": Publication(paper="MemNet, ICCV 2017", place="recursive.MemNet", set5_db=31.74, set14_db=28.26),
    "idn": Publication(paper="IDN, CVPR 2018", place="distillation.IDN", set5_db=31.82, set14_db=28.25),
    "srmdnf": Publication(paper="SRMDNF, CVPR 2018", place="early.SRMDNF", set5_db=31.96, set14_db=28.35),
    "carn": Publication(paper="CARN, ECCV 2018", place="cascade.CARN", set5_db=32.13, set14_db=28.60),
    "imdn": Publication(paper="IMDN, ACM MM 2019", place="distillation.IMDN", set5_db=32.21, set14_db=28.58),
    "rfdn": Publication(paper="RFDN, ECCVW 2020", place="distillation.RFDN", set5_db=32.24, set14_db=28.61),
    "rlfn": Publication(paper="RLFN, CVPRW 2022", place="ntire.RLFN", set5_db=32.24, set14_db=28.62),
    "dipnet": Publication(paper="DIPNet, CVPRW 2023", place="ntire.RLFN", set5_db=32.20, set14_db=28.58),
    "span": Publication(paper="SPAN, CVPRW 2024", place="ntire.SPAN", set5_db=32.20, set14_db=28.66),
    "rfdn-aim2020": Publication(
        paper="RFDN, winner of AIM 2020", place="distillation.RFDN", options={"width": 50, "blocks": 4}
    ),
    "dipnet-ntire2023": Publication(
        paper="DIPNet, NTIRE 2023",
        place="ntire.RLFN",
        options={"width": 44, "blocks": 4, "inner": 38, "bias": False},
    ),
    "span-ntire2024": Publication(
        paper="SPAN, winner of NTIRE 2024", place="ntire.SPAN", options={"width": 28}
    ),
}
"""By name, those of Table 1 of HASN's paper, and smaller ones that challenges were won with."""

RANDOM = "random"
"""Stands for the weights in :func:`split_name` where there are none: cost does not depend on them."""


def split_name(model: str | Path) -> tuple[str, str] | None:
    """Return network and weights of a model that is called ``"NETWORK=FILE"``; ``None`` for any other."""
    name, equals, weights = str(model).partition("=")
    return (name, weights) if equals and name in NETWORKS else None


def make_comparator(name: str) -> Comparator:
    """Return the x4 network called ``name`` in evaluation mode, with random weights, always the same.

    Raises:
        InputError: no network is called so; those that there are are listed.
        MissingDependencyError: PyTorch is not installed.
    """
    if name not in NETWORKS:
        raise InputError(
            f"no network called {name!r} to compare with; choose from: {', '.join(sorted(NETWORKS))}"
        )
    import torch

    published = NETWORKS[name]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network: Comparator = _class(name)(**published.options)
    return network.eval().requires_grad_(False)


def load_comparator(name: str, weights: str | Path) -> RgbNetwork:
    """Return a network as ours are used, RGB in [0, 1] whatever it takes itself, with weights of a file.

    Widths and the number of blocks are read off the file, and whether it takes white as 1 or as 255 off what
    it makes of an image. Only tensors are unpickled.

    Args:
        name: One of :data:`NETWORKS`.
        weights: A checkpoint in the layout that the network's authors published, or :data:`RANDOM`.

    Raises:
        InputError: no network is called so.
        CheckpointError: the file is no such checkpoint, or no published layout of this network is known.
        MissingDependencyError: PyTorch is not installed.
    """
    require("torch", extra="export", needed_for="Running a network to compare with")
    from hasn_edge.model.comparators.comparator import RgbNetwork

    network = make_comparator(name) if str(weights) == RANDOM else _read(name, Path(weights))
    return RgbNetwork(network).eval().requires_grad_(False)


def _class(name: str) -> type[Comparator]:
    module, _, called = NETWORKS[name].place.partition(".")
    found: type[Comparator] = getattr(importlib.import_module(f"{__name__}.{module}"), called)
    return found


def _read(name: str, path: Path) -> Comparator:
    import torch

    from hasn_edge.data.likeness import likeness
    from hasn_edge.model.checkpoint import read_file, refuse_misfits, refuse_not_finite, refuse_unusual

    make_comparator(name)  # names that do not exist are refused first
    kind = _class(name)
    if kind.ends is None:
        layouts = ", ".join(sorted(one for one in NETWORKS if _class(one).ends is not None))
        raise CheckpointError(
            f"{path}: the authors of {name} published no weights for PyTorch; those of {layouts} did",
            say(f"compare what it costs alone, as {name}"),
        )
    try:
        published = read_file(path, kind.ends).tensors
        refuse_unusual(published)
        try:
            own = kind.own_weights(published)
            arguments = kind.arguments(own)
        except LookupError as exc:
            some = ", ".join(sorted(published)[:4])
            raise CheckpointError(f"not a checkpoint of {name}: it has no {exc}; it has {some}, ...") from exc
        except (ValueError, ArithmeticError, RuntimeError) as exc:
            raise CheckpointError(f"not a checkpoint of {name}: its tensors do not fit: {exc}") from exc
        with torch.device("meta"):
            refuse_misfits(name, kind(**arguments).state_dict(), own)
        refuse_not_finite(own)
        network = kind(**arguments).eval().requires_grad_(False)
        network.load_state_dict({key: tensor.float() for key, tensor in own.items()})
        with torch.inference_mode():
            found = likeness(lambda x: network(torch.tensor(x)).numpy(), (64, 64), 4)
        if found.problem:
            raise CheckpointError(found.problem, say("give a checkpoint of scale 4"))
        network.peak = found.peak
    except HasnEdgeError as exc:
        text = exc.message if exc.message.startswith(str(path)) else f"{path}: {exc.message}"
        raise CheckpointError(text, *exc.cures) from exc
    return network
