from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hasn_edge.engine.engine_file import PlanHeader, parse_plan_header, read_plan_header
from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import ArtifactError


def plan(magic: bytes = b"vtrt", *, size: int = 4096, version: tuple[int, ...] = (1, 7, 1, 116)) -> bytes:
    head = magic + bytes(4) + struct.pack("<QQ", 2, size) + bytes(version)
    return head + bytes(size - len(head))


def test_a_header_names_compiler_and_version(tmp_path: Path) -> None:
    (tmp_path / "rtx.engine").write_bytes(plan())
    header = read_plan_header(tmp_path / "rtx.engine")
    assert header == PlanHeader(runtime=EngineRuntime.RTX, version=(1, 7, 1, 116), file_bytes=4096)
    assert header.version_or("1.7.1") == header.version_or(None) == "1.7.1.116"
    (tmp_path / "trt.engine").write_bytes(plan(b"ftrt", version=(10, 16, 1, 11)))
    header = read_plan_header(tmp_path / "trt.engine")
    assert (header.runtime, header.version_or(None)) == (EngineRuntime.TENSORRT, "10.16.1.11")


@pytest.mark.parametrize(
    ("magic", "version"),
    [
        (b"ptrt", (0, 0, 0, 0)),
        (b"ptrt", (10, 3, 0, 30)),
        (b"ftrt", (0, 0, 0, 0)),
        (b"ftrt", (8, 5, 3, 1)),  # such a plan does not say it, so it is something else
        (b"ftrt", (232, 0, 0, 0)),
        (b"vtrt", (0, 0, 0, 0)),
    ],
)
def test_a_header_without_a_version(magic: bytes, version: tuple[int, ...]) -> None:
    """TensorRT 8.5 writes a serialization number only; NVIDIA reads the version of 8.6 and newer plans."""
    header = parse_plan_header(plan(magic, version=version), file_bytes=4096, name="the plan")
    assert header.version is None
    assert header.version_or(None) is None
    assert header.version_or("8.5.3.1") == "8.5.3.1"


def test_what_a_plan_of_8_5_has_where_the_version_came_to_be() -> None:
    header = parse_plan_header(plan(b"ftrt", version=(9, 1, 0, 0)), file_bytes=4096, name="the plan")
    assert header.version_or("8.5.3.1") == "8.5.3.1"
    assert header.version_or("8.6.1.6") == "9.1.0.0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; call hasn_edge.build"),
        (b"PK\x03\x04" + bytes(2000), "not a TensorRT plan: it begins with .*PK.* TorchScript"),
        (b"\x08\x09" + bytes(2000), "not a TensorRT plan: .* probably an ONNX graph"),
        (b'{"schema": 1}', "not a TensorRT plan: .* JSON text; name the engine itself"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer; fetch the file with 'git lfs"),
        (bytes(3000), "not a TensorRT plan: it begins with .* another kind of file"),
        (plan()[:40], "only 40 bytes of a TensorRT plan; it was cut short"),
        (plan()[:1000], "only 1000 bytes of a TensorRT plan; it was cut short"),
        (plan()[:4000], "a TensorRT plan of 4096 bytes, but 4000 are here; it was cut short or changed"),
        (plan() + b"x", "a TensorRT plan of 4096 bytes, but 4097 are here"),
        (plan(b"ftrt")[:900], "only 900 bytes of a TensorRT plan"),
    ],
)
def test_foreign_and_truncated_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"a.engine: .*{message}"):
        read_plan_header(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="absent.engine: no such file; name a file that a build made"):
        read_plan_header(tmp_path / "absent.engine")
    with pytest.raises(ArtifactError, match="cannot be read: .*directory"):
        read_plan_header(tmp_path)


def test_a_plan_in_memory_is_checked_like_a_file() -> None:
    with pytest.raises(ArtifactError, match="the plan: .*cut short"):
        parse_plan_header(plan()[:2000], file_bytes=2000, name="the plan")
