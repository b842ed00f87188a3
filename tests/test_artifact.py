"""Files and their sidecars: published whole or not at all, and refused when anything changed."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys

import pytest

from hasn_edge.artifact import Kind, load_artifact, output_error, publish, sidecar_path, writing
from hasn_edge.errors import ArtifactError, OutputError
from hasn_edge.spec import ModelSpec, Precision


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "engines"
    return publish(
        b"graph" * 1000,
        folder / "net.onnx",
        kind=Kind.ONNX,
        spec=ModelSpec(scale=2),
        precision=Precision.INT8,
        source="ab" * 32,
        made_by={"onnx": "1"},
        details={"size": [180, 320]},
    )


def test_round_trip(published):
    loaded = load_artifact(published.path)
    assert loaded == published
    assert loaded.sha256 == hashlib.sha256(b"graph" * 1000).hexdigest()
    assert loaded.size == (180, 320)
    assert sorted(p.name for p in published.path.parent.iterdir()) == ["net.onnx", "net.onnx.json"]


def test_a_sidecar_of_version_0_1_is_read_under_the_names_of_today(published):
    side = sidecar_path(published.path)
    values = json.loads(side.read_text())
    for old, new in (("weak", "weakly-typed"), ("weak-10", "weakly-typed-trt10"), ("cpu", "cpu")):
        values["details"] = {"form": old, "profile": {"minimum": [1], "typical": [2], "maximum": [3]}}
        side.write_text(json.dumps(values))
        assert load_artifact(published.path).details == {
            "form": new,
            "profile": {"min": [1], "opt": [2], "max": [3]},
        }


def test_changed_bytes_are_refused(published):
    with published.path.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ArtifactError, match="its bytes changed since it was made .* make it again with"):
        load_artifact(published.path)


def test_missing_sidecar_is_refused(published):
    sidecar_path(published.path).unlink()
    with pytest.raises(ArtifactError, match="its sidecar net.onnx.json is missing"):
        load_artifact(published.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "sidecar schema is 99, this version of hasn-edge reads 1"),
        ({"kind": "banana"}, "damaged sidecar"),
        ({"spec": {"feature": 1}}, "did you mean 'features'"),
        ({"spec": 3}, "damaged sidecar"),
        ({"details": None}, "damaged sidecar"),
    ],
)
def test_damaged_sidecar_is_refused(published, change, message):
    side = sidecar_path(published.path)
    side.write_text(json.dumps({**json.loads(side.read_text()), **change}))
    with pytest.raises(ArtifactError, match=message):
        load_artifact(published.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\x01"])
def test_sidecar_that_is_no_object(published, text):
    sidecar_path(published.path).write_text(text)
    with pytest.raises(ArtifactError, match="sidecar"):
        load_artifact(published.path)


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        load_artifact(tmp_path / "none.onnx")


def test_failure_while_writing_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), writing(target) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot write"), writing(tmp_path / "out" / "a.png"):
        pass


def test_unwritable_folder(tmp_path):
    # The tests may run as root, whom permissions do not stop: /proc refuses everybody.
    with pytest.raises(OutputError, match="choose a folder"), writing(tmp_path / "/proc/self/a.png"):
        pass


def test_full_disk_leaves_nothing(tmp_path):
    """A real failing write: the process may not write more than 1000 bytes to a file."""
    code = f"""
import resource, signal
from pathlib import Path
from hasn_edge.artifact import writing
from hasn_edge.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with writing(Path({str(tmp_path)!r}) / "big.bin") as temporary:
        temporary.write_bytes(bytes(5000))
except OutputError as exc:
    assert "MB free" in str(exc) and "nothing was left behind" in str(exc), exc
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_full_disk_message(tmp_path):
    message = str(output_error(tmp_path / "deep" / "a.png", OSError(28, os.strerror(28))))
    assert "No space left on device" in message
    assert "MB free" in message
    # The demo names the file by --record, not by -o.
    assert " -o" not in message + str(output_error(tmp_path / "a.png", OSError(13, os.strerror(13))))


def test_what_hangs_is_abandoned_and_never_finished(tmp_path):
    """In a process of its own, which ends as one does that has a thread hanging in a library."""
    code = f"""
import os, threading
from pathlib import Path
from hasn_edge.artifact import abandon, writing
folder = Path({str(tmp_path)!r})
begun, go = threading.Event(), threading.Event()
def hang():
    with writing(folder / "a.bin") as temporary:
        temporary.write_bytes(b"half")
        begun.set()
        go.wait(20)
def late():
    with writing(folder / "b.bin"):
        pass
threads = [threading.Thread(target=f, daemon=True) for f in (hang, late)]
threads[0].start()
begun.wait(20)
assert len(list(folder.iterdir())) == 1
print(*(path.name for path in abandon()))
go.set()
threads[1].start()
threads[0].join(0.2)
threads[1].join(0.1)
print(*folder.iterdir(), flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["a.bin"]
    assert list(tmp_path.iterdir()) == []


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with writing(tmp_path / "a.txt") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
