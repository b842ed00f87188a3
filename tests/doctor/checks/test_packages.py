"""Problems of Python packages: a machine that has each, and machines that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hasn_edge.doctor.checks import packages
from hasn_edge.doctor.result import State
from hasn_edge.errors import BuildError, say
from tests.support.environments import CARD, SITE, cures, only, without


class TestCudaFromPython:
    def test_none(self, desktop):
        found = only(packages.cuda_backend, replace(desktop, cuda=None))
        assert found.state is State.MISSING
        assert cures(found) == "pip install 'cuda-python>=13,<14'"

    def test_what_its_start_reported(self, desktop):
        error = BuildError("none of the three works here", say("install another"))
        found = only(packages.cuda_backend, replace(desktop, cuda=None, cuda_error=error))
        assert (found.detail, cures(found)) == ("none of the three works here", "install another")
        versions = {"cuda-python": "13.0.1", "cuda-bindings": "13.0.1"}  # what would be installed is here
        again = replace(desktop, cuda=None, cuda_error=error, versions=versions)
        assert cures(only(packages.cuda_backend, again)).startswith("repair what its message names")

    def test_only_pycuda(self, desktop):
        found = only(packages.cuda_backend, replace(desktop, cuda="pycuda"))
        assert found.state is State.INFO
        assert "no CUDA graphs" in found.detail

    @pytest.mark.parametrize("name", ["cuda-python", "cuda-bindings"])
    def test_bindings_newer_than_the_driver(self, desktop, name):
        """PyTorch brings the second, without the first."""
        environment = replace(desktop, gpu=replace(CARD, cuda="12.8"), versions={name: "13.0.1"})
        found = only(packages.cuda_backend, environment)
        assert found.name == f"{name} 13.0.1"
        assert cures(found) == "pip install 'cuda-python>=12,<13'"
        assert not list(packages.cuda_backend(replace(environment, versions={name: "12.9.0"})))

    def test_a_jetsons_driver_takes_none_that_is_newer(self, jetson):
        assert not list(packages.cuda_backend(jetson))
        environment = replace(jetson, versions={"cuda-bindings": "12.9.0", "cuda-python": "12.6.2"})
        found = only(packages.cuda_backend, environment)
        assert found.name == "cuda-bindings 12.9.0"
        assert cures(found) == "pip uninstall -y cuda-bindings; pip install 'cuda-python>=12,<12.7'"
        newer = replace(environment, gpu=replace(environment.gpu, l4t="39.2.0"))
        assert not list(packages.cuda_backend(newer))

    def test_no_gpu_needs_none(self, desktop):
        assert not list(packages.cuda_backend(replace(desktop, cuda=None, gpu=None)))


def test_torch_of_a_newer_cuda_than_the_drivers(desktop, jetson):
    """pip's for ARM is built for servers and CUDA 13; the driver of JetPack 6 runs CUDA 12.6."""
    assert not list(packages.torch(desktop))
    old = replace(desktop, gpu=replace(CARD, cuda="12.8"))
    found = only(packages.torch, old)
    assert "built for CUDA 13.0; the driver runs CUDA 12.8 at most" in found.detail
    assert "pytorch.org" in cures(found)
    board = replace(jetson, modules={**jetson.modules, "torch": desktop.modules["torch"]})
    assert cures(only(packages.torch, board)) == (
        "pip install 'torch<2.11' 'numpy<2', or install NVIDIA's PyTorch for this JetPack, which also runs "
        "on the GPU"
    )
    assert not list(packages.torch(without(old, "torch")))


def test_torch_without_cuda(desktop):
    assert not list(packages.torch(desktop))
    (desktop.modules["torch"] / "version.py").write_text("__version__ = '2.13.0+cpu'\ncuda = None\n")
    assert "run on the CPU" in only(packages.torch, desktop).detail
    assert not list(packages.torch(replace(desktop, gpu=None)))
    assert not list(packages.torch(without(desktop, "torch")))


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

    def test_jetpacks_with_a_numpy_that_it_was_not_built_for(self, jetson):
        """Another OpenCV would hide it, and the message would be the same after that was removed."""
        error = "ImportError: numpy.core.multiarray failed to import"
        broken = replace(jetson, opencv_build=None, opencv_error=error)
        assert "opencv-python-headless" in cures(only(packages.opencv, broken)), "its NumPy is an old one"
        newer = replace(broken, versions={**jetson.versions, "numpy": "2.2.6"})
        assert cures(only(packages.opencv, newer)).startswith("pip install 'numpy<2'")
        pips = without(newer, modules={"cv2": SITE / "cv2"})
        assert "opencv-python-headless" in cures(only(packages.opencv, pips))

    def test_desktops_need_no_gstreamer(self, desktop):
        assert not list(packages.opencv(desktop))
        assert not list(packages.opencv(replace(desktop, opencv_build=None)))
