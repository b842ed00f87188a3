"""TensorRT versions that are known to fail: what, where it was reported, and what helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from hasn_edge.errors import Cure, UnsupportedError, say, with_cures
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.optional import version_tuple
from hasn_edge.spec import Precision


class Severity(str, Enum):
    """What the builder does about it."""

    REFUSE = "refuse"
    WARN = "warn"
    AVOIDED = "avoided"
    """hasn-edge does not run into it; other tools on the same machine may."""


@dataclass(frozen=True, kw_only=True)
class KnownIssue:
    """One defect of one TensorRT, under the conditions that are known; ``None`` is any."""

    name: str
    version: str
    """The versions that begin so, part by part: ``"10.3"`` is 10.3.0 and 10.3.0.30, not 10.30."""
    severity: Severity
    what: str
    cures: tuple[Cure, ...]
    source: str
    precision: Precision | None = None
    compute_capability: str | None = None
    l4t: str | None = None
    """Release line of Jetson Linux, e.g. ``"36"``."""
    numpy: str | None = None
    """The NumPy from which on it fails, where it takes both."""

    def applies(self, version: str, *, precision: Precision | None, gpu: GpuFacts | None) -> bool:
        """Whether this TensorRT, on this GPU, for this precision (``None``: any) is the one described."""
        parts = version_tuple(self.version)
        if version_tuple(version)[: len(parts)] != parts:
            return False
        if self.precision is not None and precision not in (None, self.precision):
            return False
        if self.compute_capability not in (None, gpu.compute_capability if gpu else None):
            return False
        return self.l4t in (None, (gpu.l4t or "").partition(".")[0] if gpu else None)

    @property
    def text(self) -> str:
        """What is wrong, what helps, and the source."""
        return with_cures(f"{self.what} ({self.source})", map(str, self.cures))


_GUARDED = say(
    "go on: hasn-edge compares an image whose result is known after every build and load, and refuses an "
    "engine that computes something else"
)
_JETPACK_7_2 = say("where it is refused, install JetPack 7.2 (TensorRT 10.16)")

TABLE = (
    KnownIssue(
        name="builder-resource-10.2.0",
        version="10.2.0",
        severity=Severity.REFUSE,
        what="TensorRT 10.2.0 looks for Windows' builder library on Linux "
        "(libnvinfer_builder_resource_win.so.10.2.0) and cannot build",
        cures=(say("install any other version: pip install 'tensorrt!=10.2.0'"),),
        source="github.com/ultralytics/ultralytics/pull/24367",
    ),
    KnownIssue(
        name="int8-jetpack-6-10.3",
        version="10.3",
        severity=Severity.WARN,
        what="TensorRT 10.3 of JetPack 6 fails to build some INT8 networks (assertion checkLinks::218 while "
        "it optimizes)",
        cures=(say("if a build fails, install TensorRT 10.7, the newest for JetPack 6"), say("build fp16")),
        source="github.com/ultralytics/ultralytics/issues/23841 and pull/24368",
        precision=Precision.INT8,
        l4t="36",
    ),
    KnownIssue(
        name="dequantize-orin-10.16.2",
        version="10.16.2",
        severity=Severity.WARN,
        what="TensorRT 10.16.2 on Orin fails to build where an FP32 tensor is dequantized by an FP16 scale "
        '("Could not infer output types for operation: dequantize")',
        cures=(
            say(
                "go on: graphs of hasn-edge give every scale its tensor's type, which avoids it as far as is "
                "known"
            ),
            say("if a build fails, install TensorRT 11.4.1 (JetPack 7.2.2 and newer)"),
            say("build fp16"),
        ),
        source="github.com/NVIDIA/TensorRT/issues/4832",
        precision=Precision.INT8,
        compute_capability="8.7",
    ),
    KnownIssue(
        name="wrong-boxes-thor-10.13",
        version="10.13",
        severity=Severity.WARN,
        what="TensorRT 10.13 of JetPack 7.0 and 7.1 on Thor ran an engine that gave wrong results where the "
        "same network was right on other boards",
        cures=(_GUARDED, _JETPACK_7_2),
        source="github.com/ultralytics/ultralytics/issues/22873",
        compute_capability="11.0",
    ),
    KnownIssue(
        name="shared-layernorm-thor-10.13",
        version="10.13",
        severity=Severity.WARN,
        what="TensorRT 10.13.3.9 on Thor miscompiles, at batch 1, products that share the result of one "
        "LayerNorm and that it computes side by side; f1, f2 and f3 of every block of HASN are such",
        cures=(_GUARDED, _JETPACK_7_2),
        source="github.com/NVIDIA/TensorRT-Edge-LLM/issues/151",
        compute_capability="11.0",
    ),
    KnownIssue(
        name="nptype-8.5",
        version="8.5",
        severity=Severity.AVOIDED,
        what="tensorrt.nptype() of TensorRT 8.5 fails with NumPy 1.24 and newer (np.bool is gone)",
        cures=(say("give programs that call it NumPy below 1.24; hasn-edge never does"),),
        source="github.com/ultralytics/ultralytics/issues/22930, github.com/NVIDIA/TensorRT/issues/2557",
        numpy="1.24",
    ),
)
"""All that is known. Nothing here was reproduced by hasn-edge: each entry is a report of its source."""


def known_issues(
    version: str, *, precision: Precision | None = None, gpu: GpuFacts | None = None
) -> Iterator[KnownIssue]:
    """Yield what is known against a version of TensorRT (not that for RTX); for any precision by default."""
    return (entry for entry in TABLE if entry.applies(version, precision=precision, gpu=gpu))


def warnings_before_build(version: str, *, precision: Precision | None, gpu: GpuFacts | None) -> list[str]:
    """Return what to warn of before a build.

    Raises:
        UnsupportedError: this version cannot build.
    """
    found = list(known_issues(version, precision=precision, gpu=gpu))
    for entry in found:
        if entry.severity is Severity.REFUSE:
            raise UnsupportedError(f"{entry.what} ({entry.source})", *entry.cures)
    return [entry.text for entry in found if entry.severity is Severity.WARN]
