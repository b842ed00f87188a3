"""Choosing a precision by measurement: who is kept, who is left out, and what is said about it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

import hasn_edge
from hasn_edge.artifact import load_artifact, publish
from hasn_edge.engine.target import load_target
from hasn_edge.errors import (
    ArtifactError,
    BuildError,
    HasnEdgeError,
    InputError,
    MissingDependencyError,
    NoCudaError,
    OutOfMemoryError,
    OutputError,
    UnsupportedError,
    VerificationError,
    say,
)
from hasn_edge.evaluation.evaluate import ImageScore, Scores
from hasn_edge.evaluation.latency import Latency
from hasn_edge.hardware.host import has_bf16
from hasn_edge.pipeline import autotune as module
from hasn_edge.pipeline.autotune import Candidate, Failure, autotune, measure
from hasn_edge.pipeline.build import Built
from hasn_edge.pipeline.context import BuildOptions
from hasn_edge.runtime.choice import describe_machine
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.candidates import candidate
from tests.support.fake_session import FakeSession
from tests.support.samples import ADA, HOPPER, TURING, details_of, measured


def auto(model, **options) -> BuildOptions:
    return BuildOptions(model=model, precision="auto", target="cpu", **options)


def test_one_bad_image_is_over_the_budget_whatever_the_mean(monkeypatch, tiny):
    level = np.zeros((16, 16, 3), np.uint8)

    def scored(*decibels: float) -> Scores:
        named = zip("ab", decibels, strict=True)
        images = tuple(ImageScore(name=name, psnr_y=dB, ssim_y=1, output=level) for name, dB in named)
        return Scores(name="drawn", images=images, border=4)

    found = iter([scored(30, 30), scored(30.2, 29.8), scored(30.3, 29.7)])
    monkeypatch.setattr(module, "held_out_sets", lambda *_: [None])
    monkeypatch.setattr(module, "score_session", lambda *_, **__: next(found))
    limited = measured(0.0)
    limited["held_out"].update(budget_db=0.03, budget_worst_db=0.25)
    artifact = replace(candidate("int8", [1]).artifact, details=details_of(Kind.ONNX, measured=limited))
    quality = module._Quality(lambda *_, **__: FakeSession(), None)
    assert quality.check(artifact, "onnxruntime") is None
    change = quality.check(artifact, "onnxruntime")
    assert change.worst_dpsnr == pytest.approx(-0.2)
    with pytest.raises(VerificationError, match=r"loses 0\.3000 dB .*\(drawn, b\), over the limit"):
        quality.check(artifact, "onnxruntime")


class Slow(FakeSession):
    """Takes a moment, and notes when it was called."""

    order: ClassVar[list[str]] = []

    def _run(self, x_NCHW):
        self.order.append(self.precision.value)
        return super()._run(x_NCHW)


def test_candidates_are_timed_in_rounds():
    made = [candidate("fp16", [1.0]).built, candidate("int8", [1.0]).built]
    opened = []

    def open_one(artifact, *, frame, eager):
        assert frame is None  # an engine knows its sizes
        assert eager  # TensorRT for RTX would be timed while it still compiles
        opened.append(Slow(precision=artifact.precision))
        return opened[-1]

    Slow.order.clear()
    target = load_target("rtx").with_size(32, 40).with_batch(4)
    found, failures = measure(made, target, open_one, seconds=0.0)
    assert [c.images for c in found] == [4, 4]
    calls = 1 + module.CALLS  # a warm-up before each round
    assert Slow.order == (["fp16"] * calls + ["int8"] * calls) * module.ROUNDS
    assert [len(c.latency.seconds) for c in found] == [module.CALLS * module.ROUNDS] * 2
    assert all(session.closed for session in opened)
    assert {shape for session in opened for shape in session.calls} == {(4, 3, 32, 40)}
    assert failures == ()


@pytest.mark.parametrize("calls", [None, 0, 1 + module.CALLS], ids=["opened", "first run", "second round"])
@pytest.mark.parametrize("error", [BuildError, OutOfMemoryError, InputError])
def test_a_candidate_that_does_not_run_leaves_the_others(calls, error):
    """TensorRT gives no context, or a call fails, where memory does not suffice for one precision."""
    made = [candidate("fp16", [1.0]).built, candidate("int8", [1.0]).built]
    opened = []

    class Fails(FakeSession):
        def _run(self, x_NCHW):
            if self.precision is Precision.INT8 and len(self.calls) >= calls:
                raise error("no memory")
            return super()._run(x_NCHW)

    def open_one(artifact, *, frame, eager):
        if calls is None and artifact.precision is Precision.INT8:
            raise error("no memory")
        opened.append(Fails(precision=artifact.precision))
        return opened[-1]

    found, failures = measure(made, load_target("rtx").with_size(16, 20), open_one, seconds=0.0)
    assert [(c.called, len(c.latency.seconds)) for c in found] == [("fp16", module.CALLS * module.ROUNDS)]
    assert [str(failure.as_error()) for failure in failures] == ["int8 is left out: no memory"]
    assert all(session.closed for session in opened)


def test_where_none_runs_the_reason_is_not_what_is_missing_beside_it():
    lacks = MissingDependencyError("openvino", extra="openvino", needed_for="Running it in OpenVINO")
    parts = [(Precision.FP32, lacks, "openvino"), (Precision.FP32, BuildError("it fell."), "onnxruntime")]
    failures = [Failure(precision=one, error=error, backend=by) for one, error, by in parts]
    found = module._join_failures(failures)
    assert type(found) is BuildError
    assert "fp32 by onnxruntime is left out: it fell" in str(found)


class Backend(FakeSession):
    """Repeats pixels; what it loses makes them darker."""

    def __init__(self, backend: str, precision: Precision, lost: float) -> None:
        super().__init__(precision=precision)
        self.backend, self.lost = backend, lost

    def _run(self, x_NCHW):
        return super()._run(x_NCHW) * np.float32(1 - self.lost)


@pytest.mark.slow
def test_each_backend_of_a_cpu_is_timed_and_held_to_the_budget_as_it_computes(monkeypatch):
    made = [candidate("fp32", [1.0]).built, candidate("int8", [1.0], -0.0123).built]
    asked = []

    def open_one(artifact, *, backend, **how):
        asked.append((artifact.precision.value, backend, how))
        if backend == "openvino-bf16":
            raise UnsupportedError("this CPU does not compute in BF16")
        wrong = (backend, artifact.precision) == ("openvino", Precision.INT8)
        return Backend(backend, artifact.precision, 0.2 if wrong else 0.0)

    monkeypatch.setattr(module, "has_bf16", lambda: True)
    found, failures = measure(made, load_target("cpu").with_size(32, 40), open_one, seconds=0.0)
    assert [(c.called, c.backend) for c in found] == [
        ("onnxruntime fp32", "onnxruntime"),
        ("openvino fp32", "openvino"),
        ("onnxruntime int8", "onnxruntime"),
    ]
    assert [text.split(", ")[1] for text in map(Candidate.describe, found)] == ["+0.0000 dB"] * 3
    told = [str(failure.as_error()) for failure in failures]
    assert told[0] == "fp32 by openvino-bf16 is left out: this CPU does not compute in BF16"
    assert told[1].startswith("int8 by openvino is left out: openvino int8 loses ")
    assert told[1].endswith(" dB of PSNR-Y on this machine (shipped), over the budget of 0 dB")
    assert len(told) == 3
    assert asked[:2] == [
        ("fp32", "onnxruntime", {}),  # images of any size, for quality
        ("fp32", "onnxruntime", {"frame": (32, 40), "eager": True}),
    ]


@pytest.mark.slow
def test_a_backend_that_is_not_installed_is_named_once(monkeypatch):
    made = [candidate("fp32", [1.0]).built, candidate("int8", [1.0], -0.0123).built]

    def open_one(artifact, *, backend, **how):
        if backend == "openvino":
            raise MissingDependencyError("openvino", extra="openvino", needed_for="Running it in OpenVINO")
        return Backend(backend, artifact.precision, 0.0)

    monkeypatch.setattr(module, "has_bf16", lambda: False)
    found, failures = measure(made, load_target("cpu").with_size(32, 40), open_one, seconds=0.0)
    assert [c.called for c in found] == ["onnxruntime fp32", "onnxruntime int8"]
    assert [str(failure.as_error()) for failure in failures] == [
        "fp32 by openvino is left out: Running it in OpenVINO needs the Python package 'openvino', which is "
        "not installed; install it with: pip install 'hasn-edge[openvino]'"
    ]


@pytest.mark.slow
def test_the_fastest_on_this_cpu_is_published_with_the_reason(tiny, tmp_path):
    (tmp_path / "loose.toml").write_text("budget_db = 5.0\n")
    options = auto(tiny, size=(32, 40), recipe=tmp_path / "loose.toml", force=True, output=tmp_path / "out")
    built = autotune(options, seconds=0.0)
    (artifact,) = built.artifacts
    published = [p.name for p in (tmp_path / "out").iterdir() if p.is_file()]
    assert sorted(published) == [artifact.path.name, artifact.path.name + ".json"]
    assert load_artifact(artifact.path) == artifact
    facts = json.loads((tmp_path / "out" / f"{artifact.path.name}.json").read_text())["details"]["autotune"]
    names = [" ".join(text.split()[:2]) for text in facts["candidates"]]
    assert names[:2] == ["onnxruntime fp32", "openvino fp32"]
    assert "onnxruntime int8" in names  # OpenVINO's is wrong on some CPUs
    kept, said, _ = facts["why"].partition(" is kept: ")
    assert said
    assert any(text.startswith(f"{kept} ") for text in facts["candidates"])  # which one, speed decides
    assert kept.split()[0] == facts["backend"].split("-")[0], "openvino-bf16 is OpenVINO in BF16"
    assert facts["machine"] == describe_machine()
    assert built.summary[-1] == facts["why"]


@pytest.mark.slow
def test_a_candidate_that_misses_its_budget_is_left_out(tiny, tmp_path, monkeypatch):
    recipe = tmp_path / "strict.toml"
    recipe.write_text('observer = "percentile"\npercentile = 60.0\nbudget_db = 0.0\n')
    options = auto(tiny, size=(32, 40), recipe=recipe, force=True, output=tmp_path / "out")
    monkeypatch.setattr(module, "WORTH", 0.0)  # the last one would win
    built = autotune(options, seconds=0.0)
    assert built.artifacts[-1].precision is Precision.FP32
    assert re.match("int8 is left out: .*over the budget", built.left_out[0].message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("built", BuildError("assertion checkLinks::218")),
        ("built", ArtifactError("its golden image came out wrong")),
        ("built", UnsupportedError("TensorRT 9.9 has no INT8")),
        ("built", OutOfMemoryError("8 GB do not suffice")),
        ("opened", ArtifactError("it computes something else")),
    ],
    ids=["compiler", "golden", "unsupported", "memory", "opened"],
)
def test_a_candidate_that_fails_leaves_the_others(tmp_path, monkeypatch, where, error):
    """TensorRT 10.3 of JetPack 6 cannot build some INT8 networks; an engine may compute something else."""

    def builds(options, **rest):
        if options.precision == "int8" and where == "built":
            raise error
        artifact = publish(
            b"a graph",
            tmp_path / "candidates" / f"{options.precision}.onnx",
            spec=ModelSpec(),
            precision=Precision(options.precision),
            source="",
            details=details_of(Kind.ONNX),
        )
        return Built(artifacts=(artifact,), summary=())

    def opens(artifact, *, backend, **options):
        if artifact.precision is Precision.INT8 and where == "opened":
            raise error
        return FakeSession(precision=artifact.precision)

    monkeypatch.setattr(module, "WORTH", 0.0)  # the last one would win
    options = auto("net", size=(16, 20), output=tmp_path)
    built = autotune(options, build=builds, open_one=opens, seconds=0.0)
    artifact = load_artifact(tmp_path / "fp32.onnx")
    assert built.artifacts == (artifact,)
    by = ["", " by onnxruntime", " by openvino", *([" by openvino-bf16"] if has_bf16() else [])]
    by = by[:1] if where == "built" else by[1:]
    assert artifact.details.autotune.left_out == tuple(f"int8{each} is left out: {error}" for each in by)
    assert [str(each) for each in built.left_out] == list(artifact.details.autotune.left_out)


def test_what_is_wrong_with_every_precision_keeps_its_own_words(tmp_path):
    def fails(options, **rest):
        raise UnsupportedError("this board is another")

    with pytest.raises(UnsupportedError, match=r"^this board is another$"):
        autotune(auto("net", output=tmp_path / "out"), build=fails)


def test_auto_compares_ranges_of_one_kind(tmp_path):
    with pytest.raises(UnsupportedError, match="takes INT8's ranges from the graph; use precision='int8'"):
        autotune(auto("net", int8_method="calibrator", output=tmp_path))


def test_when_none_can_be_built_the_compilers_words_are_kept(tmp_path):
    def fails(options, **rest):
        raise BuildError(f"{options.precision} crashed.")

    with pytest.raises(BuildError, match=r"fp32 is left out: fp32 crashed\. int8 is left out: int8 crashed"):
        autotune(auto("net", output=tmp_path / "out"), build=fails)


def test_when_none_passes_nothing_is_written(tmp_path):
    def fails(options, **rest):
        raise VerificationError(f"{options.precision} is bad", say(f"keep {options.precision}"), say("wait"))

    with pytest.raises(VerificationError, match=r"fp32 is left out: fp32 is bad\. int8 is left out") as info:
        autotune(auto("net", output=tmp_path / "out"), build=fails)
    assert [str(cure) for cure in info.value.cures] == ["keep fp32", "wait", "keep int8"]
    assert not (tmp_path / "out").exists()


def test_a_limit_on_the_latency_is_recorded_or_refused(tmp_path, monkeypatch):
    def builds(options, **rest):
        artifact = publish(
            b"a graph",
            tmp_path / "candidates" / f"{options.precision}.onnx",
            spec=ModelSpec(),
            precision=Precision(options.precision),
            source="",
            details=details_of(Kind.ONNX, measured=measured(-0.01 * (options.precision == "int8"))),
        )
        recipe = tmp_path / "candidates" / "net-int8-search.toml"
        recipe.write_text("inherit = false")
        return Built(artifacts=(artifact,), summary=(), beside=(recipe,) * (options.precision == "int8"))

    def times(made, *rest, **options):
        milliseconds = {Precision.FP32: 20.0, Precision.INT8: 10.0}
        return tuple(
            Candidate(
                built=one, latency=Latency(rounds=((milliseconds[one.artifacts[-1].precision] / 1e3,),))
            )
            for one in made
        ), ()

    monkeypatch.setattr(module, "measure", times)
    for limit, kept in ((25.0, "fp32"), (16.0, "int8")):
        built = autotune(auto("net", output=tmp_path, max_latency=limit), build=builds)
        record = load_artifact(tmp_path / f"{kept}.onnx").details.autotune
        assert (record.max_latency_ms, record.why) == (limit, built.summary[-1])
        # With an INT8 file goes the recipe that makes it again, out of the candidates' folder.
        beside = (tmp_path / "net-int8-search.toml",) * (kept == "int8")
        assert built.beside == beside
        assert [path.read_text() for path in beside] == ["inherit = false"] * len(beside)
        assert built.notes[len(built.summary) :] == tuple(f"wrote {path}" for path in beside)
    with pytest.raises(BuildError, match="takes at most 5 ms here"):
        autotune(auto("net", output=tmp_path / "none", max_latency=5.0), build=builds)
    assert not (tmp_path / "none").exists()


def test_a_limit_on_the_latency_is_for_auto(tmp_path):
    with pytest.raises(
        UnsupportedError, match="max_latency chooses among precisions; the one asked for is int8"
    ):
        hasn_edge.build("hasn-x4", precision="int8", max_latency=16.0, output=tmp_path)
    with pytest.raises(UnsupportedError, match="max_latency is 0; expected a number of milliseconds above 0"):
        hasn_edge.build("hasn-x4", precision="auto", max_latency=0, output=tmp_path)


@pytest.mark.parametrize("target", ["portable", "rtx", "tensorrt"])
def test_what_cannot_run_here_cannot_be_timed(tiny, tmp_path, target, monkeypatch):
    monkeypatch.setattr(module, "gpu_facts", lambda: None)
    with pytest.raises(
        UnsupportedError,
        match="cannot run on this machine; use precision='fp16', or use .*, or build on",
    ):
        hasn_edge.build(tiny, precision="auto", target=target, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_the_target_is_not_for_is_named_with_the_target_that_is(monkeypatch, tmp_path):
    """An engine for other GPUs would be compiled for minutes, and refused when it is opened."""

    def refused(gpu, target):
        monkeypatch.setattr(module, "gpu_facts", lambda: gpu)
        with pytest.raises(UnsupportedError, match="NVIDIA") as info:
            options = BuildOptions(model="net", precision="auto", target=target, output=tmp_path)
            autotune(options, build=lambda *_, **rest: pytest.fail("it was built"))
        return [str(cure) for cure in info.value.cures]

    assert refused(TURING, "rtx")[0] == "use target='rtx-turing'"
    assert refused(HOPPER, "rtx") == ["use precision='fp16'", "use precision='int8'", "build on the device"]
    assert "use target='tensorrt'" in refused(ADA, "orin-nano")


@pytest.mark.parametrize("starts", [True, False])
def test_a_gpu_is_tried_before_a_build_without_a_context_here(lab, monkeypatch, tmp_path, starts):
    """It would take memory of a small board for as long as compilers run, which are other processes."""
    lab.set_up("cuda-python")

    def start() -> str:
        if not starts:
            raise NoCudaError("none works")
        return "cuda-python"

    def build(options, **rest):
        assert starts
        assert lab.gpu.primary == set()
        raise BuildError("it was built")

    monkeypatch.setattr(module, "gpu_facts", lambda: ADA)
    monkeypatch.setattr(module, "start_cuda", start)
    options = BuildOptions(model="net", precision="auto", target="rtx", output=tmp_path)
    with pytest.raises(HasnEdgeError, match="fp16 is left out: it was built" if starts else "^none works$"):
        autotune(options, build=build)


def test_folders_that_cannot_be_written_are_found_out_before_anything_is_built(tmp_path):
    """A build as root leaves folders of root's below a folder of the user's."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "candidates").write_text("in the way")
    with pytest.raises(OutputError, match="candidates"):
        autotune(auto("net", output=tmp_path), build=lambda *_, **rest: pytest.fail("it was built"))
