from __future__ import annotations

from dataclasses import replace

import pytest

from hasn_edge.engine.known_issues import TABLE, known_issues, warnings_before_build
from hasn_edge.errors import UnsupportedError
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.spec import Precision
from tests.support.samples import ADA, NANO

JETPACK_7 = replace(NANO, l4t="39.2.0")
THOR = replace(NANO, name="NVIDIA Thor", compute_capability="11.0", l4t="38.4.0")
THOR_NAMES = ["wrong-boxes-thor-10.13", "shared-layernorm-thor-10.13"]


@pytest.mark.parametrize(
    ("version", "precision", "gpu", "names"),
    [
        ("10.2.0", None, None, ["builder-resource-10.2.0"]),
        ("10.2.0.19", Precision.FP16, ADA, ["builder-resource-10.2.0"]),
        ("10.20.0", None, NANO, []),
        ("10.3.0", Precision.INT8, NANO, ["int8-jetpack-6-10.3"]),
        ("10.3.0", None, NANO, ["int8-jetpack-6-10.3"]),
        ("10.3.0", Precision.FP16, NANO, []),
        ("10.3.0", Precision.INT8, ADA, []),
        ("10.3.0", Precision.INT8, None, []),
        ("10.7.0", Precision.INT8, NANO, []),
        ("10.16.2.10", Precision.INT8, JETPACK_7, ["dequantize-orin-10.16.2"]),
        ("10.16.2.10", Precision.INT8, replace(JETPACK_7, compute_capability="11.0"), []),
        ("10.16.1.11", Precision.INT8, JETPACK_7, []),
        ("10.13.3.9", Precision.FP16, THOR, THOR_NAMES),
        ("10.13.3.9", Precision.INT8, THOR, THOR_NAMES),
        ("10.13.3.9", Precision.FP16, ADA, []),
        ("10.16.2.10", Precision.FP16, replace(THOR, l4t="39.2.0"), []),
        ("8.5.2.2", None, None, ["nptype-8.5"]),
        ("11.4.0.106", None, ADA, []),
    ],
)
def test_who_is_concerned(
    version: str, precision: Precision | None, gpu: GpuFacts | None, names: list[str]
) -> None:
    assert [entry.name for entry in known_issues(version, precision=precision, gpu=gpu)] == names


def test_what_the_builder_does() -> None:
    (said,) = warnings_before_build("10.3.0", precision=Precision.INT8, gpu=NANO)
    assert "install TensorRT 10.7" in said
    said = warnings_before_build("10.13.3.9", precision=Precision.FP16, gpu=THOR)
    assert len(said) == 2
    assert all("image whose result is known after every build and load" in text for text in said)
    assert warnings_before_build("8.5.2", precision=Precision.INT8, gpu=NANO) == []
    with pytest.raises(UnsupportedError, match="cannot build .*; install any other version"):
        warnings_before_build("10.2.0", precision=Precision.FP32, gpu=ADA)


def test_every_entry_has_a_source_and_a_cure() -> None:
    for entry in TABLE:
        assert "github.com/" in entry.source
        assert entry.what
        assert all(cure.action == "say" for cure in entry.cures), "the text goes into a log and a sidecar"
        words = ", or ".join(map(str, entry.cures))
        assert entry.text == f"{entry.what} ({entry.source}); {words}"
