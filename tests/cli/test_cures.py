"""Errors say what helps in the words of whoever reads them: Python or the command line."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import hasn_edge
from hasn_edge.cli.bench import command as bench
from hasn_edge.cli.build import command as build
from hasn_edge.cli.cures import cure_text, message_of
from hasn_edge.cli.data import command as data
from hasn_edge.cli.demo import command as demo
from hasn_edge.cli.upscale import command as upscale
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
from hasn_edge.runtime.session import out_of_memory

CASES = [
    ((), "no", "no"),
    ((say("free some space"),), "no; free some space", "no; free some space"),
    ((use(target="cpu"),), "no; use target='cpu'", "no; use --target cpu"),
    (
        (omit("size"), say("export ONNX")),
        "no; leave out size, or export ONNX",
        "no; leave out --size, or export ONNX",
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


def test_a_cure_of_an_option_that_the_verb_lacks_is_not_printed():
    error = HasnEdgeError(
        "no", use(tile=256), use(device="cpu", backend="openvino"), omit("opset"), say("wait")
    )
    assert message_of(error, demo) == "no; wait"
    assert message_of(error, upscale).startswith("no; use --tile 256, or use --device cpu --backend openvino")
    assert message_of(HasnEdgeError("no", call("demo", tile=256)), upscale) == "no"
    # One name in Python, two on the command line; and the verb below which one runs.
    assert message_of(HasnEdgeError("no", use(artifact="a.onnx")), demo) == "no; use --artifact a.onnx"
    assert message_of(HasnEdgeError("no", use(skip_bad=True)), data) == "no; use --skip-bad"
    for verb in (demo, bench):  # tiles of a benchmark are one more row and change none of the others
        text = message_of(out_of_memory("onnxruntime", (1, 3, 9, 9), MemoryError()), verb)
        assert text.endswith("; give it smaller images, or run: hasn-edge upscale --tile 256")


def test_every_command_that_a_cure_names_has_its_options():
    sources = "".join(
        path.read_text(encoding="utf-8") for path in Path(hasn_edge.__file__).parent.rglob("*.py")
    )
    found = re.findall(r'\bcall\("([a-z ]+)"((?:, .*?)?)\)[,\n) ]', sources)
    assert len(found) > 40
    for verb, arguments in found:
        given = dict.fromkeys(re.findall(r"\b(\w+)=", arguments), "x")
        assert cure_text(call(verb, **given)), (verb, given)


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
