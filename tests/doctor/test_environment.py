"""This machine described, and the libraries that the system's loader does not find."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from hasn_edge.doctor import environment
from hasn_edge.doctor.environment import (
    Environment,
    MissingLibrary,
    collect_environment,
    jetson_facts,
    missing_libraries,
    opencv_build,
    video_encoders,
)
from hasn_edge.engine import worker_process
from hasn_edge.engine.worker_process import run_python
from hasn_edge.errors import NoCudaError
from hasn_edge.hardware.host import in_container
from tests.support.environments import ORIN

needs_compiler = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("ldd")), reason="needs a C compiler and ldd"
)


def shared_object(path: Path, *needs: Path) -> Path:
    """Compile a library that needs others, by the names of their files alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_suffix(".c")
    source.write_text(f"int of_{abs(hash(path))}(void) {{ return 1; }}\n")
    named = [f"-Wl,-soname,{path.name}", "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"]
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, source, *named, *needs], check=True, timeout=60)
    return path


def executable(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@needs_compiler
class TestMissingLibraries:
    @pytest.fixture
    def chain(self, tmp_path: Path) -> tuple[Path, Path]:
        """TensorRT's module, which needs libnvinfer, which needs the compiler of the DLA."""
        dla = shared_object(tmp_path / "lib/libnvdla_compiler.so")
        nvinfer = shared_object(tmp_path / "lib/libnvinfer.so.10", dla)
        return shared_object(tmp_path / "tensorrt/tensorrt.so", nvinfer), dla

    def test_a_library_that_another_needs_is_named_with_it(self, chain):
        binary, dla = chain
        folders = [dla.parent]
        assert missing_libraries(binary, folders) == ()
        dla.unlink()
        lack = MissingLibrary("libnvdla_compiler.so", "libnvinfer.so.10")
        assert missing_libraries(binary, folders) == (lack,)

    def test_a_placeholder_is_missing(self, chain):
        binary, dla = chain
        dla.write_bytes(b"")
        assert missing_libraries(binary, [dla.parent]) == (
            MissingLibrary("libnvdla_compiler.so", "libnvinfer.so.10"),
        )

    def test_every_library_of_a_binary_is_named(self, tmp_path):
        needs = [shared_object(tmp_path / f"lib/lib{name}.so") for name in ("one", "two", "three")]
        binary = shared_object(tmp_path / "tensorrt.so", *needs)
        lacks = missing_libraries(binary, [tmp_path / "elsewhere"])
        assert lacks == tuple(
            MissingLibrary(f"lib{name}.so", "tensorrt.so") for name in ("one", "two", "three")
        )

    def test_the_users_folders_are_searched_too(self, chain, monkeypatch):
        binary, dla = chain
        monkeypatch.setenv("LD_LIBRARY_PATH", "")
        assert [lack.name for lack in missing_libraries(binary)] == ["libnvinfer.so.10"]
        monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{dla.parent}")
        assert missing_libraries(binary) == ()

    def test_wheels_bring_their_libraries(self, tmp_path):
        site = tmp_path / "site-packages"
        (site / "tensorrt").mkdir(parents=True)
        cudart = shared_object(tmp_path / "aside/libcudart.so.12")
        nvinfer = shared_object(tmp_path / "aside/libnvinfer.so.10", cudart)
        shared_object(site / "tensorrt_bindings/tensorrt.so", nvinfer)
        modules = {"tensorrt": site / "tensorrt"}

        def lacks() -> list[str]:
            return [lack.name for lack in environment._tensorrt_lacks(modules)]

        assert lacks() == ["libnvinfer.so.10"]
        (site / "tensorrt_libs").mkdir()
        nvinfer.rename(site / "tensorrt_libs/libnvinfer.so.10")
        assert lacks() == ["libcudart.so.12"]
        (site / "nvidia/cuda_runtime/lib").mkdir(parents=True)
        cudart.rename(site / "nvidia/cuda_runtime/lib/libcudart.so.12")
        assert lacks() == []
        assert environment._tensorrt_lacks({}) == ()

    @pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF\x02\x01" + b"\xff" * 90])
    def test_a_file_that_is_no_library_needs_nothing(self, tmp_path, content):
        (tmp_path / "file.so").write_bytes(content)
        assert missing_libraries(tmp_path / "file.so") == ()
        assert missing_libraries(tmp_path / "absent.so") == ()

    def test_installed_packages_lack_what_plain_ldd_does_not_find(self, monkeypatch):
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
        place = Path(sysconfig.get_path("platlib"))
        patterns = ("tensorrt_rtx_bindings/*.so", "onnxruntime/capi/*.so")
        binaries = [path for pattern in patterns for path in sorted(place.glob(pattern))][:4]
        assert binaries
        for binary in binaries:
            output = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
            expected = {line.split()[0] for line in output.splitlines() if "not found" in line}
            assert {lack.name for lack in missing_libraries(binary)} == expected, binary


class TestLoader:
    """What becomes of the loader's answer: no compiler is needed."""

    def test_its_lines_are_read(self, tmp_path):
        ldd = executable(
            tmp_path / "ldd",
            """echo '        12:	file=libnvinfer.so.10 [0];  needed by /site/tensorrt.so [0]' >&2
            echo '        12:	file=libcuda.so.1 [0];  needed by /lib/libnvinfer.so.10 [0]' >&2
            echo '        12:	file=libcuda.so.1 [0];  needed by /lib/libother.so [0]' >&2
            echo '	libnvinfer.so.10 => /lib/libnvinfer.so.10 (0x00007f0000000000)'
            echo '	libcuda.so.1 => not found'
            echo '	libcuda.so.1 => not found'
            echo '	libunknown.so => not found'""",
        )
        assert missing_libraries(tmp_path / "tensorrt.so", ldd=ldd) == (
            MissingLibrary("libcuda.so.1", "libnvinfer.so.10"),
            MissingLibrary("libunknown.so", "tensorrt.so"),
        )

    def test_it_gets_the_file_as_one_argument_and_the_folders_first(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LD_LIBRARY_PATH", "/mine")
        ldd = executable(tmp_path / "ldd", f'echo "$# $1 $LD_LIBRARY_PATH" > "{tmp_path}/seen"')
        binary = tmp_path / "a b; touch gone.so"
        missing_libraries(binary, [Path("/wheel"), Path("/other")], ldd=ldd)
        assert (tmp_path / "seen").read_text() == f"1 {binary} /wheel:/other:/mine\n"

    def test_one_that_cannot_be_asked_finds_nothing(self, tmp_path):
        assert missing_libraries(tmp_path / "tensorrt.so", ldd=str(tmp_path / "absent")) == ()
        slow = executable(tmp_path / "ldd", "exec sleep 30")
        assert missing_libraries(tmp_path / "tensorrt.so", ldd=slow, timeout_s=0.1) == ()


class TestCollect:
    def test_here(self):
        here = collect_environment()
        assert here.python >= (3, 10)
        assert here.modules["onnxruntime"].is_dir()
        assert here.versions["numpy"].count(".") >= 1
        assert here.opencv_build is None or "GStreamer" in here.opencv_build
        assert here.memory_bytes > 0

    def test_a_version_that_no_package_states(self, tmp_path):
        (tmp_path / "__init__.py").write_text('import x\n__version__ = "10.3.0"\n')
        assert environment._stated_version(tmp_path) == "10.3.0"
        assert environment._stated_version(tmp_path / "absent") is None

    def test_opencv_that_cannot_be_imported(self, tmp_path):
        python = executable(
            tmp_path / "python", "echo Traceback >&2; echo 'ImportError: libGL.so.1' >&2; exit 1"
        )
        assert opencv_build(python) == (None, "ImportError: libGL.so.1")
        build, error = opencv_build(str(tmp_path / "absent"))
        assert build is None
        assert "No such file" in error

    def test_opencv_whose_process_ends_and_leaves_another_one(self, tmp_path, monkeypatch):
        """Its exit code is 0, and what it printed is lost: the other process holds the pipe."""
        run = functools.partial(run_python, limit_s=0.5)
        monkeypatch.setattr(
            environment, "run_python", lambda *code, limit_s, python: run(*code, python=python)
        )
        monkeypatch.setattr(worker_process, "_GRACE_S", 0.1)
        python = executable(tmp_path / "python", "sleep 3 & echo 'GStreamer: NO'")
        assert opencv_build(python) == (None, "it did not answer")

    def test_a_library_that_crashes_when_python_ends(self):
        code = "import atexit, os; atexit.register(os.abort); print('libx264')"
        assert environment._run_python(sys.executable, code) == ("libx264\n", None)

    def test_why_cuda_does_not_start(self, tmp_path, monkeypatch):
        def refuse():
            raise NoCudaError("none works")

        monkeypatch.setattr(environment, "gpu_facts", lambda: ORIN)
        for start, found in ((lambda: "torch", ("torch", "None")), (refuse, (None, "none works"))):
            monkeypatch.setattr(environment, "start_cuda", start)
            here = collect_environment(tmp_path)
            assert (here.cuda, str(here.cuda_error)) == found

    def test_swaps(self, tmp_path):
        path = tmp_path / "swaps"
        path.write_text(
            "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
            "/dev/zram0                              partition\t649720\t\t0\t\t5\n"
            "/swapfile                               file\t\t8388604\t\t12\t\t-2\n"
        )
        assert environment._swaps(path) == (("/dev/zram0", 649720 * 1024), ("/swapfile", 8388604 * 1024))
        assert environment._swaps(tmp_path / "absent") == ()

    def test_system_packages(self, tmp_path):
        for place in (
            "python3.10/dist-packages/tensorrt",
            "python3/dist-packages/cv2",
            "python3.12/site/tensorrt",
        ):
            (tmp_path / "usr/lib" / place).mkdir(parents=True)
        (tmp_path / "usr/lib/python3/dist-packages/tensorrt_lean").mkdir()
        (tmp_path / "usr/lib/python3.10/dist-packages/cv2.cpython-310-aarch64-linux-gnu.so").touch()
        here = Environment(root=tmp_path, python=(3, 11))
        assert set(here.system_packages("tensorrt")) == {(3, 10)}
        assert set(here.system_packages("cv2")) == {(3, 10), (3, 11)}, "Ubuntu's is one binary module"

    def test_a_container(self, orin_nano):
        assert not in_container(orin_nano)
        (orin_nano / ".dockerenv").touch()
        assert in_container(orin_nano)
        assert jetson_facts(orin_nano, None)["l4t"] == "36.4.3"
        # The driver knows more than what a container shows of the board's files.
        (orin_nano / "etc/nv_tegra_release").unlink()
        assert jetson_facts(orin_nano, None)["l4t"] is None
        assert jetson_facts(orin_nano, replace(ORIN, l4t="39"))["l4t"] == "39"
        assert jetson_facts(orin_nano / "etc", None) is None


def test_encoders_are_asked_of_pyav_and_cameras_of_the_file_system(tmp_path):
    av = pytest.importorskip("av")
    names = video_encoders()
    assert "libx264" in names
    assert "aac" not in names
    assert all(av.Codec(name, "w").type == "video" for name in names)
    assert video_encoders(executable(tmp_path / "python", "exit 1")) == ()
    (tmp_path / "dev").mkdir()
    for name in ("video10", "video2", "videocodec", "null"):
        (tmp_path / "dev" / name).touch()
    found = collect_environment(tmp_path).cameras
    assert found == (str(tmp_path / "dev/video2"), str(tmp_path / "dev/video10"))
