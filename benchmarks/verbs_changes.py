"""What verbs do otherwise than in version 0.1 on purpose, for the comparison of benchmarks/verbs.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A kind of difference that was wanted."""

    cases: str
    """Which cases it may be in: a pattern of their names."""
    pattern: str
    """What the difference looks like: a regular expression that is searched in its line."""
    why: str
    """The change, as a sentence for the result."""


CHANGES: tuple[Change, ...] = (
    Change("*", "recorded only after", "A case that version 0.1 could not run."),
    Change("doctor", "findings", "The doctor says CPU, and lists Pillow, which reads images now."),
    Change(
        "upscale-rgba.png", "pixels differ", "Colours under full transparency stay away from the network."
    ),
    Change("upscale-to-*", "pixels differ", "Colours under full transparency stay away from the network."),
    Change("upscale-turned.jpg", "same pixels", "The resolution of an image is carried over."),
)
