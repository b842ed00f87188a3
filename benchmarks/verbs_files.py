"""How two files that a verb wrote differ, in what they hold, for the comparison of benchmarks/verbs.py."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import onnx
import torch

IMAGES = (".png", ".jpg", ".webp", ".bmp", ".tif", ".tiff")
STATE = b"PK\x03\x04"
"""Where PyTorch's archive begins in a training state, after a line of our own."""


def compare_contents(before: Path, after: Path) -> str:
    """Return how the contents of two files differ whose bytes do; empty for a kind that is read as text."""
    if before.suffix in IMAGES:
        return compare_images(before, after)
    pair = before.read_bytes(), after.read_bytes()
    if before.suffix == ".safetensors":
        data = [content[8 + int.from_bytes(content[:8], "little") :] for content in pair]
        return f"{'the same' if data[0] == data[1] else 'other'} tensors, with other facts"
    if before.suffix == ".onnx":
        try:
            same = _sorted_graph(pair[0]) == _sorted_graph(pair[1])
        except Exception:  # one was cut off
            same = False
        return (
            "the same nodes in another order"
            if same
            else f"{len(pair[0])} and {len(pair[1])} bytes that differ"
        )
    if before.suffix == ".pt":
        states = [torch.load(io.BytesIO(each[each.find(STATE) :]), weights_only=True) for each in pair]
        return "the same values, packed otherwise" if _equal(*states) else "other values"
    return f"{len(pair[0])} and {len(pair[1])} bytes that differ" if b"\0" in pair[0] else ""


def compare_images(before: Path, after: Path) -> str:
    """Return how the pixels of two files differ."""
    old, new = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (before, after))
    if old is None or new is None or (old.shape, old.dtype) != (new.shape, new.dtype):
        return "images of another kind"
    apart = cv2.absdiff(old, new)
    if not apart.any():
        return "the same pixels, with other facts about them"
    share = (apart.reshape(*apart.shape[:2], -1) > 0).any(axis=2).mean()
    return f"{100 * share:.2f} % of the pixels differ, by at most {apart.max()} levels"


def _sorted_graph(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    for parts in (model.graph.node, model.graph.initializer, model.graph.value_info):
        ordered = sorted(parts, key=lambda part: part.name)
        del parts[:]
        parts.extend(ordered)
    return model.SerializeToString(deterministic=True)


def _equal(old: Any, new: Any) -> bool:
    if type(old) is not type(new):
        return False
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_equal(old[key], new[key]) for key in old)
    if isinstance(old, list | tuple):
        return len(old) == len(new) and all(map(_equal, old, new))
    return torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new
