"""Needed libraries: files that are written here byte by byte, and the system's own loader as the judge."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from hasn_edge.doctor.libraries import Missing, loader_folders, missing_libraries


def shared_object(path: Path, *, needs=(), runpath="") -> Path:
    """Write the least of a shared object that a loader reads: one segment, a dynamic section, its strings."""
    strings = b"\0"
    entries = []
    for tag, text in [*((1, name) for name in needs), *([(29, runpath)] if runpath else [])]:
        entries.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    base = 0x10000  # addresses are not offsets
    start = 64 + 2 * 56
    entries = [(5, base + start), (10, len(strings)), *entries, (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    end = start + len(strings)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, end + len(dynamic), end + len(dynamic), 4096)
    section = struct.pack("<IIQQQQQQ", 2, 6, end, base + end, base + end, len(dynamic), len(dynamic), 8)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 183, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + load + section + strings + dynamic)
    return path


def test_through_others(tmp_path):
    binding = shared_object(tmp_path / "tensorrt.so", needs=["libnvinfer.so.10", "libc.so.6"])
    shared_object(tmp_path / "lib/libnvinfer.so.10", needs=["libnvdla_compiler.so", "libc.so.6"])
    shared_object(tmp_path / "lib/libc.so.6", needs=["libnvinfer.so.10"])  # a circle ends
    assert missing_libraries(binding, [tmp_path / "lib"]) == (
        Missing("libnvdla_compiler.so", "libnvinfer.so.10"),
    )
    shared_object(tmp_path / "lib/libnvdla_compiler.so")
    assert missing_libraries(binding, [tmp_path / "lib"]) == ()


def test_a_placeholder_is_missing(tmp_path):
    binding = shared_object(tmp_path / "tensorrt.so", needs=["libnvdla_compiler.so"])
    (tmp_path / "libnvdla_compiler.so").touch()
    assert [lack.name for lack in missing_libraries(binding, [tmp_path])] == ["libnvdla_compiler.so"]


def test_folders_that_the_file_names(tmp_path):
    binding = shared_object(tmp_path / "a/b.so", needs=["libc.so"], runpath="/nowhere:$ORIGIN/../libs")
    assert missing_libraries(binding, [])
    shared_object(tmp_path / "libs/libc.so")
    assert missing_libraries(binding, []) == ()


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x7fELF\x01\x01" + bytes(200), b"\x7fELF\x02\x01" + b"\xff" * 90]
)
def test_other_files_need_nothing(tmp_path, content):
    (tmp_path / "file.so").write_bytes(content)
    assert missing_libraries(tmp_path / "file.so", []) == ()
    whole = shared_object(tmp_path / "whole.so", needs=["libc.so"]).read_bytes()
    for size in range(0, len(whole), 7):  # cut short anywhere: an answer, never an exception
        (tmp_path / "cut.so").write_bytes(whole[:size])
        missing_libraries(tmp_path / "cut.so", [])


def test_the_loaders_folders(tmp_path):
    etc = tmp_path / "etc"
    (etc / "ld.so.conf.d").mkdir(parents=True)
    (etc / "ld.so.conf").write_text("# loader\ninclude /etc/ld.so.conf.d/*.conf\n/opt/own # ours\n")
    (etc / "ld.so.conf.d/nvidia.conf").write_text("/usr/lib/aarch64-linux-gnu/nvidia\n/absent\n")
    for folder in ("opt/own", "usr/lib/aarch64-linux-gnu/nvidia", "asked"):
        (tmp_path / folder).mkdir(parents=True)
    found = loader_folders(tmp_path, f"{tmp_path / 'asked'}:")
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "asked",
        "usr/lib/aarch64-linux-gnu/nvidia",
        "opt/own",
        "usr/lib",
        "usr/lib/aarch64-linux-gnu",
    ]


@pytest.mark.skipif(not shutil.which("ldd") or sys.maxsize < 2**32, reason="needs ldd and 64 bit")
def test_the_systems_loader_agrees():
    """On what Python's own modules and the installed packages need."""
    places = [Path(sysconfig.get_path("platlib")), Path(sysconfig.get_config_var("DESTSHARED") or "/none")]
    patterns = (
        "*/*.abi3.so",
        "tensorrt_rtx_bindings/*.so",
        "onnxruntime/capi/*.so",
        "_ssl*.so",
        "_ctypes*.so",
    )
    binaries = [path for place in places for pattern in patterns for path in sorted(place.glob(pattern))][:12]
    assert binaries
    folders = loader_folders(Path("/"))
    for binary in binaries:
        said = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False, env={}).stdout
        expected = {line.split()[0] for line in said.splitlines() if "not found" in line}
        assert {lack.name for lack in missing_libraries(binary, folders)} == expected, binary
