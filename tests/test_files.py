"""Files are written whole or not at all; those that ship are found in a checkout and in a wheel."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hasn_edge import files
from hasn_edge.errors import InputError, OutputError
from hasn_edge.files import (
    KeptValues,
    distinct_names,
    output_error,
    require_writable,
    writing,
    writing_folder,
)


def test_failure_while_writing_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), writing(target) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("place", ["open", "mounted", "closed"])
def test_a_folder_is_whole_or_not_there(tmp_path, monkeypatch, place):
    """A mount point can be neither removed nor renamed, nor can a folder whose parent may not be written."""
    target, inside = tmp_path / "out", place != "open"
    target.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: place == "mounted" and Path(path) == target)
    monkeypatch.setattr(os, "access", lambda path, mode: place != "closed" or Path(path) != tmp_path)
    if inside:
        for name in ("rmdir", "rename"):
            usual = getattr(Path, name)

            def busy(self, *names, usual=usual):
                if self == target or target in names:
                    raise OSError(16, "Device or resource busy", str(self))
                return usual(self, *names)

            monkeypatch.setattr(Path, name, busy)
    with pytest.raises(ZeroDivisionError), writing_folder(target) as staging:
        (staging / "a.txt").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.rglob("*")) == [target]

    with writing_folder(target) as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "a.txt").write_text("whole")
        (staging / "b.txt").write_text("also")
        assert inside == (target in staging.parents)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == ["out", "out/b.txt", "out/sub", "out/sub/a.txt"]
    assert (target / "sub" / "a.txt").read_text() == "whole"


def test_the_current_folder_stays_the_same_folder(tmp_path, monkeypatch):
    """A shell that stands in it would see nothing of what was written: its folder would be a removed one."""
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with writing_folder(Path()) as staging:
        (staging / "a.txt").write_text("whole")
    assert [path.name for path in Path().iterdir()] == ["a.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from hasn_edge.files import staging_folder, writing
folder = Path(sys.argv[1])
target = folder / "out"
with writing(folder / "a.bin") as a, writing(folder / "b.bin") as b, staging_folder(target, "out") as out:
    for path in (a, b, out / "c.bin"):
        path.write_bytes(b"half")
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not files.CAN_LOCK, reason="nothing can be locked here")
def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    """SIGKILL lets nothing be removed. Its files are those of the same names that no process has locked."""
    other = tmp_path / ".a.0123456789abcdef.txt"  # of a.txt
    other.touch()

    def begin() -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "written\n"
        return child

    def write() -> None:
        with writing(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"whole")
        with writing_folder(tmp_path / "out") as staging:
            (staging / "c.bin").write_bytes(b"whole")
        shutil.rmtree(tmp_path / "out")

    with begin() as child:
        before = sorted(tmp_path.rglob("*"))
        write()
        assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "a.bin"])
        child.kill()
    (second,) = tmp_path.glob(".b.*.bin")
    write()
    assert sorted(tmp_path.rglob("*")) == sorted([other, second, tmp_path / "a.bin"])
    assert (tmp_path / "a.bin").read_bytes() == b"whole"


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
from hasn_edge.files import KeptValues, writing
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_devices_and_pipes_are_not_replaced(tmp_path):
    pipe, stream = tmp_path / "pipe.json", tmp_path / "stdout"
    os.mkfifo(pipe)
    stream.symlink_to("/proc/self/fd/1")
    for path in (pipe, stream):
        with pytest.raises(
            OutputError, match="is a device or a pipe, which a file would replace; name a file"
        ):
            require_writable(path)
        with pytest.raises(OutputError, match="is a device or a pipe"), writing(path):
            pytest.fail("it was to be written")
    assert pipe.is_fifo()
    assert stream.is_symlink()
    assert sorted(tmp_path.iterdir()) == [pipe, stream]


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
from hasn_edge.files import KeptValues, abandon, writing
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


def test_a_checkout_has_the_folders_beside_the_package() -> None:
    assert files.shipped_path("engines", "targets").is_dir()
    assert files.shipped_path("engines", "targets", "rtx.toml").is_file()


def test_a_wheel_has_them_inside_and_looks_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package" / "_shipped" / "engines").mkdir(parents=True)
    (tmp_path / "calibration").mkdir()  # of somebody else, in the same site-packages
    monkeypatch.setattr(files, "_PACKAGE", tmp_path / "package")
    assert files.shipped_path("engines") == tmp_path / "package" / "_shipped" / "engines"
    with pytest.raises(InputError, match="calibration ships with hasn-edge but is missing: .*reinstall"):
        files.shipped_path("calibration")


def test_names_have_the_folders_that_tell_files_apart(tmp_path):
    paths = [tmp_path / name for name in ("a/net.onnx", "b/net.onnx", "b/other.onnx", "c/a/net.onnx")]
    assert distinct_names(paths) == [
        f"{tmp_path.name}/a/net.onnx",
        "b/net.onnx",
        "other.onnx",
        "c/a/net.onnx",
    ]
    assert distinct_names([Path("net.onnx"), Path("net.onnx")]) == ["net.onnx", "net.onnx"], "one file"


@pytest.mark.parametrize("name", ["漫" * 79 + ".png", "𠀀" * 60 + ".safetensors", "a" * 250 + ".png"])
def test_names_as_long_as_a_folder_takes_them(tmp_path, name):
    with files.writing(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_a_folder_that_files_cannot_be_written_into_is_named_and_no_file_in_it(tmp_path):
    (tmp_path / "file").write_text("")
    files.require_writable(tmp_path / "new" / "deeper", folder=True)
    files.require_writable(tmp_path, folder=True)
    for place in (tmp_path, tmp_path / "new"):  # where there is no folder, the system sees no long name
        for name in ("é" * 126 + ".png", "deeper/" + "a" * 256, "a" * 256 + "/deeper.png"):
            for folder in (False, True):
                with pytest.raises(OutputError, match=r"File name too long; choose a shorter name$"):
                    files.require_writable(place / name, folder=folder)
    files.require_writable(tmp_path / "new" / ("a" * 251 + ".png"))
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(OutputError, match=rf"cannot write {path}: Not a directory"):
            files.require_writable(path, folder=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_was_measured_is_kept_and_a_damaged_file_is_begun_anew(tmp_path, caplog):
    path = tmp_path / "cache" / "costs.json"
    assert KeptValues[float](path).get("a", lambda: 1.5) == 1.5
    assert KeptValues[float](path).get("a", lambda: 2.5) == 1.5
    for damaged in ('{"a": 1.5', "[1, 2]", "3"):
        path.write_text(damaged, encoding="utf-8")
        assert KeptValues[float](path).get("a", lambda: 2.5) == 2.5
        assert "measurements that cannot be read" in caplog.text
        caplog.clear()
    assert KeptValues[float](None).get("a", lambda: 3.5) == 3.5
