"""Problems of Python packages: a machine that has each, and machines that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hasn_edge.doctor.checks import packages
from hasn_edge.doctor.result import State
from tests.support.environments import CARD, SITE, cures, only, without


class TestCudaFromPython:
    def test_none(self, desktop):
        found = only(packages.cuda_backend, without(desktop, "cuda", "torch", versions={}))
        assert found.state is State.MISSING
        assert cures(found) == "pip install 'cuda-python>=13,<14'"

    def test_a_torch_without_cuda_is_none(self, desktop):
        (desktop.modules["torch"] / "version.py").write_text("cuda: Optional[str] = None\n")
        found = only(packages.cuda_backend, without(desktop, "cuda", versions={}))
        assert "engines cannot run" in found.detail

    def test_only_pycuda(self, desktop):
        environment = without(desktop, "cuda", "torch", modules={"pycuda": SITE / "pycuda"}, versions={})
        found = only(packages.cuda_backend, environment)
        assert found.state is State.INFO
        assert "no CUDA graphs" in found.detail

    def test_bindings_newer_than_the_driver(self, desktop):
        environment = replace(desktop, gpu=replace(CARD, cuda="12.8"))
        found = only(packages.cuda_backend, environment)
        assert cures(found) == "pip install 'cuda-python>=12,<13'"

    def test_no_gpu_needs_none(self, desktop):
        assert not list(packages.cuda_backend(without(desktop, "cuda", "torch", gpu=None)))


def test_torch_without_cuda(desktop):
    assert not list(packages.torch_without_cuda(desktop))
    (desktop.modules["torch"] / "version.py").write_text("__version__ = '2.13.0+cpu'\ncuda = None\n")
    assert "run on the CPU" in only(packages.torch_without_cuda, desktop).detail
    assert not list(packages.torch_without_cuda(replace(desktop, gpu=None)))
    assert not list(packages.torch_without_cuda(without(desktop, "torch")))


class TestOpenCV:
    def test_pips_hides_the_systems(self, jetson):
        environment = without(jetson, modules={"cv2": SITE / "cv2"}, opencv_build="  GStreamer:   NO\n")
        found = only(packages.opencv, environment)
        assert "hides the system's" in found.detail
        assert cures(found).startswith("pip uninstall -y")

    def test_what_root_installed_by_pip_hides_the_systems_too(self, jetson):
        place = jetson.root / "usr/local/lib/python3.10/dist-packages/cv2"
        found = only(packages.opencv, without(jetson, modules={"cv2": place}, opencv_build="GStreamer: NO\n"))
        assert f"hides the system's in {jetson.root / 'usr/lib/python3.10/dist-packages/cv2'}" in found.detail
        assert "opencv-contrib-python" in cures(found)

    @pytest.mark.parametrize(
        ("line", "library", "what"),
        [
            ("    FFMPEG:                      NO\n", "FFmpeg", "no streams and no video files"),
            ("    v4l/v4l2:                    NO\n", "V4L2", "no cameras"),
        ],
    )
    def test_without_what_the_demo_captures_by(self, desktop, jetson, line, library, what):
        found = only(packages.opencv_backends, replace(desktop, opencv_build=line))
        assert found.name == f"opencv without {library}"
        assert what in found.detail
        assert cures(found) == "pip install --force-reinstall opencv-python-headless"
        assert "hides JetPack's" in cures(only(packages.opencv_backends, replace(jetson, opencv_build=line)))
        whole = line.replace("NO", "YES (linux/videodev2.h)")
        assert not list(packages.opencv_backends(replace(desktop, opencv_build=whole)))

    def test_a_jetson_with_pips_only(self, jetson):
        (jetson.root / "usr/lib/python3.10/dist-packages/cv2").rmdir()
        environment = without(jetson, modules={"cv2": SITE / "cv2"}, opencv_build="  GStreamer:   NO\n")
        found = only(packages.opencv, environment)
        assert "no CSI cameras" in found.detail
        assert "apt install python3-opencv" in cures(found)

    def test_broken(self, desktop):
        error = "ImportError: libGL.so.1: cannot open shared object file"
        found = only(packages.opencv, replace(desktop, opencv_build=None, opencv_error=error))
        assert found.state is State.MISSING
        assert "libGL.so.1" in found.detail
        assert "opencv-python-headless" in cures(found)

    def test_desktops_need_no_gstreamer(self, desktop):
        assert not list(packages.opencv(desktop))
        assert not list(packages.opencv(replace(desktop, opencv_build=None)))
