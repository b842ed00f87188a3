"""Which candidate is kept of those that were timed, and the reason that is stated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hasn_edge.errors import BuildError, VerificationError
from hasn_edge.pipeline.autotune import Failure, choose_fastest, choose_within
from hasn_edge.pipeline.build import Built
from hasn_edge.sidecar import Kind
from hasn_edge.spec import Precision
from tests.support.candidates import candidate
from tests.support.samples import details_of


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


def test_the_reason_has_what_engines_move():
    """Where INT8 moves more bytes than FP16, that is why it is not faster."""
    kernels = {"all": 9, "convolutions": {}, "written_bytes": 0}
    made = []
    for precision, moved in (("fp16", 1.53e9), ("int8", 2.89e9)):
        one = candidate(precision, [2.0])
        details = details_of(Kind.ENGINE, kernels={**kernels, "read_bytes": int(moved)})
        artifact = replace(one.artifact, details=details)
        made.append(replace(one, built=Built(artifacts=(artifact,), summary=())))
    assert "fp16 moves 1,530 MB, int8 moves 2,890 MB (a coarser" in choose_fastest(made)[1]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (30.0, "fp32"),  # everything is fast enough: the least loss, not the least time
        (20.0, "fp32"),  # just fast enough
        (19.9, "fp16"),
        (9.0, "int8"),
    ],
)
def test_the_least_loss_that_is_fast_enough_is_kept(limit, kept):
    made = [candidate("fp32", [20.0]), candidate("fp16", [10.0], -0.002), candidate("int8", [5.0], -0.03)]
    best, why = choose_within(made, limit)
    assert best.artifact.precision.value == kept
    assert why.startswith(f"{kept} is kept: of ")
    assert f"take at most {limit:g} ms it loses the least, {best.loss_db:.4f} dB" in why


def test_a_limit_is_for_all_images_of_a_batch():
    """Each of them waits for the others: the time of one is no latency that anybody has."""
    made = [candidate("fp16", [40.0], images=4), candidate("int8", [16.0], -0.02, images=4)]
    best, why = choose_within(made, 16.0)
    assert why == (
        "int8 is kept: of 1 that take at most 16 ms for 4 images it loses the least, 0.0200 dB in 16.00 ms "
        "for 4 images (measured beside it: fp16 40.00 ms for 4 images, +0.0000 dB)"
    )
    assert best.artifact.precision is Precision.INT8
    with pytest.raises(BuildError) as info:
        choose_within(made, 15.0)
    assert str(info.value) == (
        "nothing that keeps its budget takes at most 15 ms for 4 images here; measured:\n"
        "  fp16 40.00 ms for 4 images, +0.0000 dB\n  int8 16.00 ms for 4 images, -0.0200 dB\n"
        "What helps: use max_latency=16.8, or use batch=1, or build for smaller frames, or take a smaller "
        "network, or leave out max_latency"
    )


def test_equal_losses_are_decided_by_time():
    made = [candidate("fp32", [10.0]), candidate("fp16", [9.0], -0.0009), candidate("int8", [5.0], -0.0011)]
    assert choose_within(made, 16.0)[0].artifact.precision is Precision.FP16
    gained = candidate("int8", [9.9], 0.02)
    assert choose_within([made[0], gained], 16.0)[0].artifact.precision is Precision.FP32, "1 % is no gain"


def test_where_nothing_is_fast_enough_the_message_has_what_was_measured():
    made = [candidate("fp32", [40.0]), candidate("fp16", [20.0], -0.0004)]
    failure = Failure(precision=Precision.INT8, error=VerificationError("it loses 0.1 dB"))
    with pytest.raises(BuildError) as info:
        choose_within(made, 16.0, [failure])
    assert str(info.value) == (
        "nothing that keeps its budget takes at most 16 ms here; measured:\n"
        "  fp32 40.00 ms, +0.0000 dB\n  fp16 20.00 ms, -0.0004 dB\n"
        "  int8 is left out: it loses 0.1 dB\n"
        "What helps: use max_latency=21.0, or build for smaller frames, or take a smaller network, or "
        "leave out max_latency"
    )


@pytest.mark.parametrize(("times", "kept"), [(1.04, "onnxruntime"), (1.06, "openvino")])
def test_another_backend_must_be_worth_leaving_onnx_runtime(times, kept):
    ort = replace(candidate("fp32", [10.0]), backend="onnxruntime", name="onnxruntime fp32")
    other = replace(candidate("fp32", [10.0 / times]), backend="openvino", name="openvino fp32")
    best, why = choose_fastest([ort, other])
    assert best.backend == kept
    assert why.endswith("must be 1.03 times as fast, one by another backend than ONNX Runtime 1.05 times)")
