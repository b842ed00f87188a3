"""The sets of packages that docs/jetson.md installs exist for a Jetson: resolved, not installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
GLIBC = {"3.10": 35, "3.12": 39}
"""Minor version of the C library beside each Python: Ubuntu 22.04 is JetPack 6's, 24.04 is JetPack 7's."""

BOARDS = {"constraints-jetpack6.txt": "3.10", "constraints-jetpack7.txt": "3.12"}

pytestmark = pytest.mark.slow


def commands() -> list[list[str]]:
    """Return the packages of each command of the guide: to run engines, their CUDA, to build them."""
    guide = (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")
    return [line.split() for line in re.findall(r"^pip install \$C (.*?)(?: &&|\s+#|$)", guide, re.M)]


def resolve(python: str, constraints: str, packages: list[str], folder: Path) -> dict[str, Version]:
    """Return what pip would install on a Jetson; skip without a registry, fail without a wheel."""
    report = folder / "report.json"
    tags = [f"manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC[python] + 1)]
    platforms = [f"--platform={tag}" for tag in ("manylinux2014_aarch64", *tags)]
    options = [
        *("--dry-run", "--ignore-installed", "--quiet", "--only-binary=:all:", "--no-input", "--retries=1"),
        *(f"--python-version={python}", "--implementation=cp", f"--abi=cp{python.replace('.', '')}"),
        *("--abi=abi3", "--abi=none", f"--target={folder / 'none'}", f"--report={report}"),
        *("-c", str(ROOT / constraints)),
    ]
    pip = [sys.executable, "-m", "pip", "install"]
    done = subprocess.run(
        [*pip, *options, *platforms, *packages], capture_output=True, text=True, timeout=900
    )
    if done.returncode and re.search(
        r"from versions: none|connection|resolve host|timed out", done.stderr, re.I
    ):
        probe = subprocess.run(
            [*pip, "--dry-run", "--ignore-installed", "--quiet", "--retries=1", "--no-deps", "click"],
            capture_output=True,
            timeout=300,
        )
        if probe.returncode:
            pytest.skip("no package registry answers")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(report.read_text())["install"]
    return {one["metadata"]["name"].lower(): Version(one["metadata"]["version"]) for one in found}


@pytest.mark.parametrize(("constraints", "python"), BOARDS.items())
def test_what_runs_engines_needs_no_pytorch(constraints, python, tmp_path):
    run, cuda, _ = commands()
    found = resolve(python, constraints, [*run, *cuda], tmp_path)
    assert {"torch", "onnx"}.isdisjoint(found)
    assert {"numpy", "onnxruntime", "cuda-python"} <= set(found)
    assert found["numpy"] < Version("2"), "the board's OpenCV was built for NumPy 1"
    limit = Version("12.7") if python == "3.10" else Version("13.1")
    assert found["cuda-python"] < limit, "the driver takes no newer one"


@pytest.mark.parametrize(("constraints", "python"), BOARDS.items())
def test_what_builds_engines_has_wheels(constraints, python, tmp_path):
    # Alone: pip asks the machine that it runs on, not the board, whether PyTorch needs CUDA's packages.
    found = resolve(python, constraints, ["--no-deps", *commands()[2]], tmp_path)
    assert set(found) == {"torch", "onnx", "safetensors"}
    if python == "3.10":  # the driver of JetPack 6 does not run what PyTorch for ARM servers brings
        (torch,) = (
            one["metadata"]
            for one in json.loads((tmp_path / "report.json").read_text())["install"]
            if one["metadata"]["name"] == "torch"
        )
        board = {"platform_machine": "aarch64", "platform_system": "Linux", "python_version": "3.10"}
        needs = [Requirement(text) for text in torch["requires_dist"]]
        needed = {
            one.name for one in needs if one.marker is None or one.marker.evaluate({**board, "extra": ""})
        }
        assert "sympy" in needed
        assert not [name for name in needed if name.startswith(("nvidia-", "triton", "cuda-"))]


def test_a_package_without_a_wheel_is_found(tmp_path):
    with pytest.raises(AssertionError, match="pycuda"):
        resolve("3.10", "constraints-jetpack6.txt", ["pycuda"], tmp_path)


def test_jetpack_6_0_has_a_cuda_python_of_its_drivers_cuda(tmp_path):
    assert "`pip install $C 'cuda-python<12.3'`" in (ROOT / "docs" / "jetson.md").read_text()
    found = resolve("3.10", "constraints-jetpack6.txt", ["--no-deps", "cuda-python<12.3"], tmp_path)
    assert found["cuda-python"] >= Version("12.2"), "the driver of JetPack 6.0 has CUDA 12.2"
