"""The package's door: a wrong type is one of our errors, and what is right passes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hasn_edge
from hasn_edge.bench import benchmark as benchmark_module
from hasn_edge.data.pairs import bicubic_baseline, load_eval_set
from hasn_edge.engine.worker_process import child_environment
from hasn_edge.errors import HasnEdgeError, InputError, OutOfMemoryError, ShapeError, UnsupportedError, call
from hasn_edge.evaluation import evaluate as evaluate_module
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.model.zoo import bundled_onnx
from hasn_edge.pipeline.arguments import checked
from hasn_edge.spec import Precision
from tests.support.fake_session import FakeSession

WRONG = {
    "a model's name": lambda: hasn_edge.load_model(3),
    "no model": lambda: hasn_edge.build(None),
    "a file": lambda: hasn_edge.open_session(3),
    "an artifact": lambda: hasn_edge.load_artifact(3),
    "a size": lambda: hasn_edge.export("hasn-x4-small", size=5),
    "a size in words": lambda: hasn_edge.export("hasn-x4-small", size="5x5"),
    "three sides": lambda: hasn_edge.export("hasn-x4-small", size=(5, 5, 5)),
    "a precision": lambda: hasn_edge.build("hasn-x4-small", precision=3),
    "a batch": lambda: hasn_edge.build("hasn-x4-small", precision="fp32", batch="2"),
    "a target": lambda: hasn_edge.build("hasn-x4-small", precision="fp32", target=3),
    "a recipe": lambda: hasn_edge.build("hasn-x4-small", precision="int8", recipe=3),
    "a flag": lambda: hasn_edge.build("hasn-x4-small", precision="fp32", rebuild="no"),
    "a folder": lambda: hasn_edge.export("hasn-x4-small", output=3),
    "threads": lambda: hasn_edge.open_model("hasn-x4-small", threads="2"),
    "a device": lambda: hasn_edge.open_model("hasn-x4-small", device=0),
    "a benchmark": lambda: hasn_edge.benchmark(3),
    "one precision for several": lambda: hasn_edge.benchmark(precisions="int8"),
    "no session": lambda: hasn_edge.Upscaler("hasn-x4"),
    "an image's path": lambda: hasn_edge.read_image(3),
    "pixels": lambda: hasn_edge.write_image("a.png", 3),
    "a set": lambda: hasn_edge.evaluate("hasn-x4-small", data=3),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=list(WRONG))
def test_a_wrong_type_is_our_error(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HasnEdgeError):
        call()
    assert list(tmp_path.iterdir()) == []


def test_tiles_that_are_no_numbers():
    with hasn_edge.open_model("hasn-x4-small") as session:
        for given in ({"tile": "64"}, {"overlap": 1.5}, {"tile": True}, {"memory_limit_bytes": "4G"}):
            with pytest.raises(InputError, match="expected an integer"):
                hasn_edge.Upscaler(session, **given)
        with pytest.raises(InputError, match=r"^self_ensemble is 'no'; expected True or False$"):
            hasn_edge.Upscaler(session, self_ensemble="no")
        upscaler = hasn_edge.Upscaler(session, tile=np.int64(64), overlap=np.int32(8), memory_limit_bytes=4e9)
        assert (type(upscaler.tile), upscaler.tile, upscaler.overlap) == (int, 64, 8)
        assert repr(upscaler) == (
            "<Upscaler x4 in tiles of 64 with <OnnxRuntimeSession onnxruntime fp32 on cpu, open>>"
        )


def test_results_for_which_memory_does_not_suffice():
    with hasn_edge.open_model("hasn-x4-small") as session:
        upscaler = hasn_edge.Upscaler(session)
        side = 1 << 22  # of a view of one pixel: the result alone would be terabytes
        message = rf"^memory does not suffice for the result of {side} x {side} pixels .*; give it parts of"
        for shape in ((side, side), (side, side, 3), (side, side, 4)):
            with pytest.raises(OutOfMemoryError, match=message):
                upscaler(np.broadcast_to(np.uint8(3), shape))


def test_threads_share_an_upscaler_and_wait_for_each_other():
    """A session of OpenVINO gives a thread the image of another one."""
    busy = threading.Lock()

    class Single(FakeSession):
        def _run(self, x_NCHW):
            assert busy.acquire(blocking=False), "two threads in one session"
            time.sleep(0.02)
            y_NCHW = super()._run(x_NCHW)
            busy.release()
            return y_NCHW

    upscaler = hasn_edge.Upscaler(Single(hasn_edge.ModelSpec()))
    images = [np.full((20, 20 + level, 3), level, np.uint8) for level in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(upscaler, images))
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(result, image.repeat(4, axis=0).repeat(4, axis=1))
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(upscaler.run, [np.zeros((1, 3, 20, 20), np.float32)] * 4))) == 4
    upscaler = hasn_edge.Upscaler(upscaler.session, tile=16, overlap=4)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(upscaler.tile_drift, images))) == 4


def test_cures_are_calls_of_what_python_has():
    assert str(call("export", format="bundle")) == "run: hasn-edge export with format='bundle'"
    assert str(call("export", format="pt2")) == "call hasn_edge.export(format='pt2')"
    assert str(call("upscale", tile=256)) == "call hasn_edge.Upscaler(tile=256)"


@checked
def example(
    name: str | Path,
    *,
    size: tuple[int, int] | None = None,
    names: Sequence[str] = (),
    rate: float = 1.0,
    anything: Any = None,
    later: Unknown = None,  # noqa: F821
    report: Callable[[str], None] = print,
) -> str:
    """What it is for."""
    return f"{name!s} {size} {names} {rate!r}"


def test_messages_name_argument_value_and_what_was_expected():
    with pytest.raises(
        InputError, match=r"^example: size is '5x5' \(str\); expected a tuple of an integer, an"
    ):
        example("a", size="5x5")
    with pytest.raises(InputError, match=r"name is 3 \(int\); expected a string or a path$"):
        example(3)
    with pytest.raises(InputError, match=r"names is 'ab' \(str\); expected a list, each item a string$"):
        example("a", names="ab")
    with pytest.raises(InputError, match=r"names is \[3\] \(list\); expected a list, each item a string$"):
        example("a", names=[3])
    with pytest.raises(InputError, match=r"report is None \(NoneType\); expected a function$"):
        example("a", report=None)
    with pytest.raises(InputError, match=r"name is 'a\\x00b' \(str\); expected a string or a path$"):
        example("a\0b")


def test_what_is_right_passes():
    assert example(Path("a"), anything=3, later=4, rate=1) == "a None () 1"
    assert (example.__name__, example.__doc__) == ("example", "What it is for.")
    with pytest.raises(TypeError, match="nothing"):
        example("a", nothing=3)


def test_a_function_receives_plain_values():
    """NumPy's integers fail in JSON, a list is no size that equals a tuple."""
    found = example("a", size=[np.int64(1), 2], names=[Precision.FP16, np.str_("x")], rate=np.float32(2))
    assert found == "a (1, 2) ('fp16', 'x') 2.0"
    assert example(Precision.INT8).startswith("int8 ")


def test_finished_files_are_evaluated_and_benchmarked_as_they_come(monkeypatch):
    artifact = hasn_edge.load_artifact(bundled_onnx("hasn-x4-small"))
    opened = []

    def refuse(given: object) -> None:
        opened.append(given)
        raise InputError("seen")

    monkeypatch.setattr(evaluate_module, "open_session", refuse)
    monkeypatch.setattr(benchmark_module, "load_artifact", refuse)
    for given in (artifact, artifact.path, str(artifact.path)):
        with pytest.raises(InputError, match="seen"):
            hasn_edge.evaluate(artifact=given)
        with pytest.raises(InputError, match="seen"):
            hasn_edge.benchmark(artifacts=[given])
    assert opened == [
        artifact,
        artifact.path,
        artifact.path,
        artifact.path,
        str(artifact.path),
        artifact.path,
    ]


def test_values_that_nothing_can_be_made_of():
    with pytest.raises(UnsupportedError, match=r"^batch is 0; expected the number of images, from 1 on"):
        hasn_edge.export("hasn-x4-small", batch=0)
    with pytest.raises(
        UnsupportedError, match=r"^unknown backend 'foo'; choose among: onnxruntime, openvino"
    ):
        hasn_edge.benchmark("hasn-x4-small", graph_backends=["foo"])
    graph = bundled_onnx("hasn-x4-small")
    for threads in (0, -1, 1025, 2**40):
        for opening in (
            lambda n: hasn_edge.open_model(threads=n),
            lambda n: hasn_edge.open_session(graph, threads=n),
        ):
            with pytest.raises(
                InputError, match=f"^threads is {threads}; expected 1 to 1024; leave out threads$"
            ):
                opening(threads)
    with pytest.raises(InputError, match=r"^in_flight is 0; expected 1 to 1024"):
        hasn_edge.open_session(graph, in_flight=0)
    with pytest.raises(InputError, match=r"^frame is \(0, 20\); expected a height and a width from 1 on"):
        hasn_edge.open_session(graph, frame=[0, np.int64(20)])


def test_images_are_read_and_written_at_the_top(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    hasn_edge.write_image(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(hasn_edge.read_image(tmp_path / "a.png"), pixels)
    hasn_edge.write_image(tmp_path / "gray.png", pixels[..., 0])
    np.testing.assert_array_equal(hasn_edge.read_image(tmp_path / "gray.png"), pixels[..., :1])


@pytest.mark.parametrize(
    ("pixels", "cure"),
    [
        (np.zeros((3, 20, 30), np.uint8), "call .transpose(1, 2, 0), it looks like (C, H, W)"),
        (
            np.zeros((4, 4, 3), np.float32),
            "make 8 bits of [0, 1]: (x.clip(0, 1) * 255).round().astype(numpy.uint8)",
        ),
        (np.zeros((4, 4, 3), int), "call .astype(numpy.uint8) where its values are 0 to 255"),
        ([[1]], "numpy.asarray makes one of an image of Pillow or a tensor"),
    ],
)
def test_what_is_no_image_is_refused_with_what_makes_one(pixels, cure):
    with pytest.raises(ShapeError) as caught:
        hasn_edge.write_image("a.png", pixels)
    assert str(caught.value).endswith(cure)


def test_the_version_is_the_installed_one(tmp_path):
    (tmp_path / "click.py").touch()  # a file of the user's, which is not the package of that name
    done = subprocess.run(
        [sys.executable, "-m", "hasn_edge", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=tmp_path,
        env=child_environment(),
    )
    assert hasn_edge.__version__ in done.stdout


@pytest.mark.slow
def test_a_script_without_a_guard_is_named(tiny, tmp_path):
    artifact = hasn_edge.export(tiny, output=tmp_path)  # built here: the script runs twice
    script = tmp_path / "script.py"
    script.write_text(
        "import hasn_edge\n"
        f"hasn_edge.benchmark(artifacts=[{str(artifact.path)!r}], size=(16, 16), runs=2, threads=1)\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 1
    assert (
        done.stderr.count('if __name__ == "__main__":') >= 2
    )  # in the process that began again, and in ours
    assert "bootstrapping" not in done.stderr


@pytest.mark.slow
def test_the_snippet_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    root = Path(hasn_edge.__file__).parents[1]
    text = (root / "README.md").read_text(encoding="utf-8")
    snippet = text.split("```python\n")[1].split("```")[0]
    lines = [line for line in snippet.splitlines() if "hasn_edge.benchmark(" not in line]
    assert len(lines) == len(snippet.splitlines()) - 1, "minutes; the test above runs one"
    code = "\n".join(lines).replace('"hasn-x4"', '"hasn-x4-small"')
    code = code.replace("calibration/heldout", str(root / "calibration/heldout"))
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "__main__"})
    shape, psnr = capsys.readouterr().out.rsplit(maxsplit=1)
    assert shape == "(240, 240, 3)"
    images = load_eval_set(root / "calibration/heldout", 4)
    bicubic = score_images(bicubic_baseline(4), images, keep_outputs=False).psnr_y
    assert 1 < float(psnr) - bicubic < 3
