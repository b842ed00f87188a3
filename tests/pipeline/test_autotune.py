"""Choosing a precision by measurement: who is kept, who is left out, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import hasn_edge
from hasn_edge.artifact import Artifact, load_artifact, publish
from hasn_edge.engine.target import load_target
from hasn_edge.errors import ArtifactError, BuildError, UnsupportedError, VerificationError, say
from hasn_edge.evaluation.latency import Latency
from hasn_edge.pipeline import autotune as module
from hasn_edge.pipeline.autotune import Candidate, autotune, choose_fastest, measure
from hasn_edge.pipeline.build import Built
from hasn_edge.pipeline.context import BuildOptions
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.fake_session import FakeSession
from tests.support.samples import details_of, measured


def candidate(precision: str, milliseconds: list[float], loss: float = 0.0) -> Candidate:
    artifact = Artifact(
        path=Path(f"{precision}.onnx"),
        spec=ModelSpec(),
        precision=Precision(precision),
        sha256="",
        source="",
        details=details_of(Kind.ONNX, measured=measured(loss)),
    )
    rounds = tuple((ms / 1e3,) * 3 for ms in milliseconds)
    return Candidate(built=Built(artifacts=(artifact,), summary=()), latency=Latency(rounds=rounds))


def auto(model, **options) -> BuildOptions:
    return BuildOptions(model=model, precision="auto", target="cpu", **options)


@pytest.mark.parametrize(
    ("fp16", "int8", "kept"),
    [
        ([10, 10, 10], [5, 5, 5], "int8"),
        ([10, 10, 10], [9.8, 9.8, 9.8], "fp16"),  # 2 % are not worth the loss
        ([10, 10, 10], [9.7, 9.7, 9.7], "int8"),  # 3.09 % are
        ([10, 10, 10], [20, 20, 20], "fp16"),
        ([10, 30, 30], [8, 24, 24], "int8"),  # the machine slowed down for both
        ([30, 10, 10], [11, 11, 11], "fp16"),  # one slow round decides nothing
    ],
)
def test_a_coarser_format_must_earn_its_place(fp16, int8, kept):
    best, why = choose_fastest([candidate("fp16", fp16), candidate("int8", int8, -0.02)])
    assert best.artifact.precision.value == kept
    assert why.startswith(f"{kept} is kept: ")


def test_a_candidate_is_described_by_its_time_and_loss():
    a, b = candidate("fp16", [10.0], -0.0004), candidate("int8", [4.0], -0.0123)
    assert a.describe() == "fp16 10.00 ms, -0.0004 dB"
    assert b.describe() == "int8 4.00 ms, -0.0123 dB"
    assert "fp16 took 2.50 times as long" in choose_fastest([a, b])[1]
    assert "the only one whose quality passes" in choose_fastest([a])[1]


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
        assert frame == (180, 320)
        assert eager  # TensorRT for RTX would be timed while it still compiles
        opened.append(Slow(precision=artifact.precision))
        return opened[-1]

    Slow.order.clear()
    found, failures = measure(made, load_target("cpu").with_size(180, 320), open_one, seconds=0.0)
    calls = 1 + module.CALLS  # a warm-up before each round
    assert Slow.order == (["fp16"] * calls + ["int8"] * calls) * module.ROUNDS
    assert [len(c.latency.seconds) for c in found] == [module.CALLS * module.ROUNDS] * 2
    assert all(session.closed for session in opened)
    assert failures == ()


@pytest.mark.slow
def test_the_fastest_on_this_cpu_is_published_with_the_reason(tiny, tmp_path):
    (tmp_path / "loose.toml").write_text("budget_db = 5.0\n")
    options = auto(tiny, size=(32, 40), recipe=tmp_path / "loose.toml", output=tmp_path / "out")
    built = autotune(options, seconds=0.0)
    (artifact,) = built.artifacts
    published = [p.name for p in (tmp_path / "out").iterdir() if p.is_file()]
    assert sorted(published) == [artifact.path.name, artifact.path.name + ".json"]
    assert load_artifact(artifact.path) == artifact
    facts = json.loads((tmp_path / "out" / f"{artifact.path.name}.json").read_text())["details"]["autotune"]
    assert [text.split()[0] for text in facts["candidates"]] == ["fp32", "fp16", "int8"]
    assert facts["why"].startswith(f"{artifact.precision.value} is kept: ")
    assert built.summary[-1] == facts["why"]


@pytest.mark.slow
def test_a_candidate_that_misses_its_budget_is_left_out(tiny, tmp_path):
    recipe = tmp_path / "strict.toml"
    recipe.write_text('observer = "percentile"\npercentile = 60.0\nbudget_db = 0.0\n')
    options = auto(tiny, size=(32, 40), recipe=recipe, output=tmp_path / "out")
    built = autotune(options, seconds=0.0, worth=0.0)  # the last one would win
    assert built.artifacts[-1].precision is Precision.FP16
    assert [error.message.split(": ")[0] for error in built.left_out] == ["int8 is left out"]


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("built", BuildError("assertion checkLinks::218")),
        ("built", ArtifactError("its golden image came out wrong")),
        ("built", UnsupportedError("TensorRT 9.9 has no INT8")),
        ("opened", ArtifactError("it computes something else")),
    ],
    ids=["compiler", "golden", "unsupported", "opened"],
)
def test_a_candidate_that_fails_leaves_the_others(tmp_path, where, error):
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

    def opens(artifact, **options):
        if artifact.precision is Precision.INT8 and where == "opened":
            raise error
        return FakeSession(precision=artifact.precision)

    built = autotune(
        auto("net", size=(16, 20), output=tmp_path), build=builds, open_one=opens, seconds=0.0, worth=0.0
    )  # the last one would win
    artifact = load_artifact(tmp_path / "fp16.onnx")
    assert built.artifacts == (artifact,)
    assert artifact.details.autotune.left_out == (f"int8 is left out: {error}",)
    assert [str(each) for each in built.left_out] == [f"int8 is left out: {error}"]


def test_what_is_wrong_with_every_precision_keeps_its_own_words(tmp_path):
    def fails(options, **rest):
        raise UnsupportedError("this board is another")

    with pytest.raises(UnsupportedError, match=r"^this board is another$"):
        autotune(auto("net", output=tmp_path / "out"), build=fails)


def test_auto_compares_ranges_of_one_kind(tmp_path):
    with pytest.raises(UnsupportedError, match="takes INT8's ranges from the graph; use precision='int8'"):
        hasn_edge.build("net", precision="auto", target="cpu", int8_method="calibrator", output=tmp_path)


def test_when_none_can_be_built_the_compilers_words_are_kept(tmp_path):
    def fails(options, **rest):
        raise BuildError(f"{options.precision} crashed.")

    with pytest.raises(BuildError, match=r"fp16 is left out: fp16 crashed\. int8 is left out: int8 crashed"):
        autotune(auto("net", output=tmp_path / "out"), build=fails)


def test_when_none_passes_nothing_is_written(tmp_path):
    def fails(options, **rest):
        raise VerificationError(f"{options.precision} is bad", say(f"keep {options.precision}"), say("wait"))

    with pytest.raises(VerificationError, match=r"fp32 is left out: fp32 is bad\. fp16 is left out") as info:
        autotune(auto("net", output=tmp_path / "out"), build=fails)
    assert [str(cure) for cure in info.value.cures] == ["keep fp32", "wait", "keep fp16", "keep int8"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["portable", "rtx", "tensorrt"])
def test_what_cannot_run_here_cannot_be_timed(tiny, tmp_path, target, monkeypatch):
    monkeypatch.setattr(module, "gpu_facts", lambda: None)
    with pytest.raises(
        UnsupportedError,
        match="cannot run on this machine; use precision='fp16', or use .*, or build on",
    ):
        hasn_edge.build(tiny, precision="auto", target=target, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pixels_are_timed_as_pixels():
    session = FakeSession(ModelSpec())
    assert module._noise_frame(session, (1, 3, 20, 30)).dtype == np.float32
    session.pixels = True
    assert module._noise_frame(session, (1, 3, 20, 30)).shape == (1, 20, 30, 3)
