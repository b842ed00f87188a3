"""Errors say what helps in the words of whoever reads them: Python or the command line."""

from __future__ import annotations

import pickle

import pytest

from hasn_edge.cli.build import command as build
from hasn_edge.cli.cures import message_of
from hasn_edge.doctor import commands
from hasn_edge.errors import (
    HasnEdgeError,
    InputError,
    MissingDependencyError,
    StageError,
    UnsupportedError,
    call,
    omit,
    say,
    use,
)

CASES = [
    ((), "no", "no"),
    ((say("free some space"),), "no; free some space", "no; free some space"),
    ((use(device="cpu"),), "no; use device='cpu'", "no; use --device cpu"),
    (
        (omit("opset"), say("export ONNX")),
        "no; leave out opset, or export ONNX",
        "no; leave out --opset, or export ONNX",
    ),
    (
        (call("build", model="my net.pth", precision="int8", size=(180, 320), pixels=True),),
        "no; call hasn_edge.build(model='my net.pth', precision='int8', size=(180, 320), pixels=True)",
        "no; run: hasn-edge build --model 'my net.pth' --precision int8 --size 320x180 --pixels",
    ),
    (
        (call("build", dynamic=((1, 2), (3, 4), (5, 6))),),
        "no; call hasn_edge.build(dynamic=((1, 2), (3, 4), (5, 6)))",
        "no; run: hasn-edge build --dynamic 2x1 4x3 6x5",
    ),
    (
        (call("bench", estimate="orin-nano"),),
        "no; run: hasn-edge bench with estimate='orin-nano'",
        "no; run: hasn-edge bench --estimate orin-nano",
    ),
    (
        (call("data prepare", photos=("photos",), output="data", min_side=96),),
        "no; run: hasn-edge data prepare with photos=('photos',), output='data', min_side=96",
        "no; run: hasn-edge data prepare photos --output data --min-side 96",
    ),
]


@pytest.mark.parametrize(("cures", "python", "typed"), CASES)
def test_one_cure_reads_as_python_and_as_a_command(cures, python, typed):
    error = UnsupportedError("no", *cures)
    assert str(error) == python
    assert message_of(error, build) == typed


def test_options_are_called_as_the_verb_calls_them():
    assert message_of(HasnEdgeError("no", use(int8_method="calibrator", output="x")), build) == (
        "no; use --int8-method calibrator --output x"
    )


def test_cures_survive_processes_and_wrapping():
    error = InputError("a.png: cut off", use(skip_bad=True))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.cures) == (InputError, str(error), error.cures)
    assert str(error.within("Set5")) == "Set5: a.png: cut off; use skip_bad=True"
    assert StageError("infer", error, 3).cures == error.cures
    missing = pickle.loads(pickle.dumps(MissingDependencyError("av", extra="video", needed_for="Video")))
    assert "pip install 'hasn-edge[video]'" in str(missing)


def test_on_a_jetson_a_missing_package_is_installed_without_what_hides_jetpacks(orin_nano, monkeypatch):
    missing = MissingDependencyError("torch", extra="export", needed_for="Building")
    usual = "install it with: pip install 'hasn-edge[export]'"
    assert message_of(missing).endswith(usual)
    here = commands.board_install("export", root=orin_nano, find_gpu=lambda: None)
    assert here == "pip install 'torch<2.11' safetensors onnx 'numpy<2'"
    assert commands.board_install("openvino", root=orin_nano, find_gpu=lambda: None) is None
    monkeypatch.setattr(commands, "board_install", lambda extra: here)
    assert message_of(missing).endswith(f"install it with: {here}")
    own = MissingDependencyError(
        "cuda", extra="cuda", needed_for="Running", install="pip install cuda-python"
    )
    assert message_of(own).endswith("with: pip install cuda-python")
