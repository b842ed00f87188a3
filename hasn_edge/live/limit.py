"""What limits a live run, in words and with its cure."""

from __future__ import annotations

from collections.abc import Mapping

LIMITS = {
    "infer": "the network: choose a smaller --size, a faster engine or precision",
    "present": "showing the frames: close views, or leave --self-test out",
    "record": "recording: choose a faster encoder or a smaller --size",
    "prepare": "preparing the frames: let the source deliver the size that is computed",
    "capture": "the source, which delivers no more frames",
}
"""What limits, with its cure, by stage."""

_BUSY = 0.85  # of the time: a stage above is what the others wait for


def limit(busy: Mapping[str, float]) -> dict[str, str]:
    """Return ``stage`` and ``text`` of what limits a run.

    Args:
        busy: Fraction of the time, 0 to 1, by stage that works.
    """
    stage, fraction = max(busy.items(), key=lambda item: item[1])
    if fraction < _BUSY:
        return {"stage": "capture", "text": LIMITS["capture"]}
    head, _, cure = LIMITS[stage].partition(":")
    return {"stage": stage, "text": f"{head} ({fraction:.0%} busy):{cure}"}
