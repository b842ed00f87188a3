"""Whoever types what doctor advises next, again and again, gets to a build: on every JetPack, from any start.

The boards are recorded facts (tests/support/jetpacks.py), as is what a command changes there or fails at.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hasn_edge.cli.cures import cure_text
from hasn_edge.doctor.describe import list_abilities, next_step
from hasn_edge.doctor.environment import MissingLibrary
from tests.support.jetpacks import DOCS, JETPACKS, Board, JetPack, first_install, whole

MOST = 8
ALL = "pip install 'hasn-edge[export]'"
INSTALLED = {"python3-libnvinfer", "python3-opencv"}
DLA = (MissingLibrary("libnvdla_compiler.so", "libnvinfer.so.10"),)


def jetpack_python(jetpack: JetPack) -> tuple[int, int]:
    return (3, 11) if jetpack.python == (3, 12) else (3, 12)


BOARDS = {
    "as JetPack leaves it": lambda b: whole(b, first_install()),
    "flashed without TensorRT and OpenCV": lambda b: whole(b, first_install(), apt=set()),
    "in an environment of its own": lambda b: whole(b, ALL, sees_system=False),
    "with another Python": lambda b: whole(b, ALL, sees_system=False, python=jetpack_python(b.jetpack)),
    "after pip took the newest of all": lambda b: whole(b, ALL),
    "with the newest cuda-python": lambda b: whole(b, first_install(), "pip install cuda-python"),
    "with NumPy 2": lambda b: whole(b, first_install(), "pip install 'numpy>=2'"),
    "with pip's OpenCV": lambda b: whole(b, first_install(), "pip install opencv-python-headless"),
    "with pip's TensorRT": lambda b: whole(b, first_install(), "pip install tensorrt-cu13"),
    "as the guide says": lambda b: whole(b, *guide(b.jetpack)),
}
CONTAINERS = {
    "docker/jetson.Dockerfile": lambda b: whole(b, *guide(b.jetpack)),
    "without its GPU": lambda b: whole(b, *guide(b.jetpack), gpu_in_container=False),
    "for a user without the group video": lambda b: whole(
        b, *guide(b.jetpack), gpu_in_container=False, apt=INSTALLED | {"libcuda"}
    ),
    "of a base without TensorRT's module": lambda b: whole(b, first_install(), apt={"python3-opencv"}),
    "with what pip took": lambda b: whole(b, ALL),
    "in an environment of its own": lambda b: whole(b, ALL, sees_system=False),
    "on a board without DLA's compiler": lambda b: whole(b, *guide(b.jetpack), lacks=DLA),
}


def guide(jetpack: JetPack) -> tuple[str, ...]:
    """Return the guide's commands for one JetPack."""
    text = DOCS.read_text()
    commands = re.findall(r"^pip install \$C (?!click)(.*?)\s+#", text, re.M)
    number = "7" if jetpack.name.startswith("7") else "6"
    lines = [f"pip install -c constraints-jetpack{number}.txt {line}" for line in commands]
    if jetpack.name == "6.0":
        lines[0] = lines[0].replace("cuda-python", "'cuda-python<12.3'")
    return (first_install(), *lines)


def walk(board: Board) -> list[str]:
    """Follow the advice until the build, plain words or nothing is advised; return all of it."""
    typed: list[str] = []
    while (step := next_step(board.environment())) is not None:
        command = cure_text(step)
        assert command not in typed, f"advised again: {command}, after {typed}"
        typed.append(command)
        if step.action == "say":
            break
        assert board.follow(step), f"fails: {command}, after {typed[:-1]}"
        if board.built is not None:
            break
        assert_documented(step.text, board.jetpack)
        assert len(typed) <= MOST, typed
    return typed


def assert_documented(command: str, jetpack: JetPack) -> None:
    """The guide has the same command; of pip the same packages, with the limits of the constraints."""
    text = DOCS.read_text()
    listed = {one for line in re.findall(r"pip install (?:\$C )?(.*?)(?: &&|\s+#|$)", text, re.M)
              for one in re.findall(r"[a-z][a-z-]+", line)}  # fmt: skip
    number = "7" if jetpack.name.startswith("7") else "6"
    lines = (Path(DOCS).parents[1] / f"constraints-jetpack{number}.txt").read_text().splitlines()
    limits = {one.name: one for one in map(Requirement, (line for line in lines if line and line[0] != "#"))}
    for part in re.split(r"\s*(?:&&|;)\s*", command):
        if part.startswith("pip install"):
            for word in re.findall(r"'([^']+)'|(?<= )([a-z][\w-]+)(?= |$)", part.removeprefix("pip")):
                one = Requirement("".join(word))
                if one.name == "install":
                    continue
                assert one.name in listed, f"{one.name} is not in the guide"
                if one.name == "cuda-python" and jetpack.name in ("6.0", "7.2"):
                    ends = {"6.0": "<12.3", "7.2": "<14"}[jetpack.name]
                    assert f"cuda-python{ends}" in text, part
                    assert ends in str(one.specifier), part
                elif one.name in limits and (one.name != "torch" or number == "6"):
                    assert one.specifier == limits[one.name].specifier, part
        else:
            known = re.sub(r"/usr/bin/python3\.\d+ -m venv --clear", "python3 -m venv", part)
            known = known.replace("apt-get install -y", "sudo apt install").replace("|", "\\|")
            known = re.sub(r"nvpmodel -m \d", "nvpmodel -m NUMBER", known)
            assert known in text, f"{known} is not in the guide"


@pytest.mark.parametrize("start", BOARDS)
@pytest.mark.parametrize("jetpack", JETPACKS, ids=lambda jetpack: jetpack.name)
def test_on_the_board(jetpack, start, tmp_path):
    board = BOARDS[start](Board(jetpack, tmp_path, apt=set(INSTALLED)))
    typed = walk(board)
    assert board.built == jetpack.target, typed
    can = {what: able for what, able, _ in list_abilities(board.environment())}
    assert can["run engines"]
    assert can["build TensorRT engines for the GPU here"]
    assert board.sees_system
    assert "opencv-python-headless" not in board.pip, "JetPack's has GStreamer"


@pytest.mark.parametrize("start", CONTAINERS)
@pytest.mark.parametrize("jetpack", JETPACKS, ids=lambda jetpack: jetpack.name)
def test_in_a_container(jetpack, start, tmp_path):
    board = CONTAINERS[start](Board(jetpack, tmp_path, apt=set(INSTALLED), container=True))
    typed = walk(board)
    if board.lacks:  # JetPack 7.2 has none to lend: another image, which is no command
        assert jetpack.name == "7.2"
        assert typed[-1].startswith("take a base image with the board's own TensorRT")
        assert board.built is None
    else:
        assert board.built == "tensorrt", typed  # no device tree: the board's kind is not known


def test_the_first_step(tmp_path):
    def first(name: str, start: str, *, container: bool = False) -> str:
        jetpack = next(one for one in JETPACKS if one.name == name)
        board = Board(jetpack, tmp_path / name / start[:9], apt=set(INSTALLED), container=container)
        return cure_text(next_step((CONTAINERS if container else BOARDS)[start](board).environment()))

    fresh = "as JetPack leaves it"
    assert first("6.0", fresh) == "pip uninstall -y cuda-bindings; pip install 'cuda-python>=12,<12.3'"
    assert first("6.2", fresh) == "pip uninstall -y cuda-bindings; pip install 'cuda-python>=12,<12.7'"
    assert first("7.2", fresh) == "pip install 'cuda-python>=13,<14'"
    own = "in an environment of its own"
    assert first("6.2", own) == (
        "sudo apt install python3-venv && /usr/bin/python3.10 -m venv --clear --system-site-packages .venv "
        "&& . .venv/bin/activate"
    )
    assert first("7.2", "without its GPU", container=True) == (
        "outside the container: docker run --rm --runtime nvidia --group-add video hasn-edge doctor"
    )
    assert first("6.2", "docker/jetson.Dockerfile", container=True).startswith(
        "on the board, outside the container: sudo fallocate"
    )
