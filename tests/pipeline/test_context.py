"""What shall be built, as data: options are checked when they are made, and decide a graph's identity."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from hasn_edge.artifact import publish
from hasn_edge.errors import InputError, OutputError, UnsupportedError
from hasn_edge.files import file_sha256
from hasn_edge.pipeline import context
from hasn_edge.pipeline.api import build, export
from hasn_edge.pipeline.context import BuildOptions, load_context, refuse_other_sources
from hasn_edge.progress import Step, ignore
from hasn_edge.sidecar import Form, GraphDetails, Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.samples import details_of


@pytest.mark.parametrize(
    ("given", "precision"), [("FP16", "fp16"), (Precision.INT8, "int8"), ("auto", "auto")]
)
def test_precisions_are_taken_as_people_write_them(given, precision):
    assert BuildOptions(model="net", precision=given).precision == precision


@pytest.mark.parametrize("options", [{"precision": "fp8"}, {"int8_method": "magic"}])
def test_what_does_not_exist_is_refused_at_once(options):
    with pytest.raises(UnsupportedError, match="unknown .*; choose one of: "):
        BuildOptions(model="net", **options)


def test_the_target_takes_the_shapes_of_the_options():
    options = BuildOptions(model="net", size=(48, 64), batch=3)
    target = options.resolve_target("rtx")
    assert (target.name, target.shapes.size) == ("rtx", (48, 64))
    assert (target.shapes.min[0], target.shapes.opt[0], target.shapes.max[0]) == (1, 3, 3)
    assert replace(options, target="tensorrt").resolve_target("rtx").name == "tensorrt"


def test_loading_reports_what_is_under_way_and_reads_images_for_int8_only(tiny):
    steps: list[Step] = []
    plain = load_context(tiny, progress=steps.append)
    assert [step.text for step in steps] == ["loading the model"]
    assert (plain.name, plain.model, plain.recipe, plain.images) == ("tiny", tiny.name, None, None)
    quantized = load_context(tiny, recipe="default", progress=ignore)
    assert quantized.images is not None
    assert len(quantized.images) >= 30
    assert quantized.recipe is not None


@pytest.mark.parametrize(
    "change", [{"rules": ("norm_affine",)}, {"pixels": True}, {"batch": (1, 4)}, {"checkpoint": None}]
)
def test_whatever_decides_a_graph_changes_its_identity(tiny, change):
    context = load_context(tiny, progress=ignore)
    same = context.identity(Form.CPU, Precision.FP32, None)
    assert context.identity(Form.CPU, Precision.FP32, None) == same
    assert context.identity(Form.CPU, Precision.FP16, None) != same
    assert context.identity(Form.STRONGLY_TYPED, Precision.FP32, None) != same
    assert context.identity(Form.CPU, Precision.FP32, (48, 64)) != same
    if "checkpoint" in change:
        change = {"checkpoint": replace(context.checkpoint, sha256="0" * 64)}
    assert replace(context, **change).identity(Form.CPU, Precision.FP32, None) != same


def test_files_of_other_weights_are_not_replaced_unasked(tiny, tmp_path):
    def put(name, source):
        publish(
            b"graph",
            tmp_path / "out" / name,
            spec=ModelSpec(),
            precision=Precision.FP32,
            source=source,
            details=GraphDetails(form=Form.CPU, opset=17),
        )

    def check(**given):
        refuse_other_sources(tiny, tmp_path / "out", **{"called": None, "force": False, **given})

    check()
    put("tiny-fp32-cpu.onnx", file_sha256(tiny))
    put("tiny-larger-int8-cpu.onnx", "0" * 64)
    put("other-fp32-cpu.onnx", "0" * 64)
    check()
    put("tiny-int8-rtx.onnx", "0" * 64)
    with pytest.raises(OutputError, match="tiny-int8-rtx.onnx was made of other weights") as caught:
        check()
    assert "name='NAME'" in str(caught.value)
    assert "force=True" in str(caught.value)
    check(force=True)
    check(called="mine")
    with pytest.raises(OutputError, match="other-fp32-cpu.onnx"):
        check(called="other")
    for verb in (build, export):
        with pytest.raises(OutputError, match="tiny-int8-rtx.onnx was made of other weights"):
            verb(tiny, precision="fp32", output=tmp_path / "out")
    for name in ("a/b", "é" * 91):
        with pytest.raises(InputError, match="expected the start of a file's name"):
            build(tiny, precision="fp32", output=tmp_path / "out", name=name)


def test_a_longer_name_is_another_name(tiny, tmp_path):
    """``tiny-int8-v2`` begins as files of ``tiny`` do."""

    def put(name, kind=Kind.ONNX, **facts):
        publish(
            b"file",
            tmp_path / name,
            spec=ModelSpec(),
            precision=Precision.FP32,
            source="0" * 64,
            details=details_of(kind, **facts),
        )

    def check(called):
        refuse_other_sources(tiny, tmp_path, called=called, force=False)

    put("tiny-int8-v2-fp32-cpu.onnx")
    put("tiny-fp16-fp32-board.engine", Kind.ENGINE, target="board")
    check("tiny")
    with pytest.raises(OutputError, match="tiny-int8-v2-fp32-cpu.onnx was made of other weights"):
        check("tiny-int8-v2")
    put("tiny-fp16-board-int8.engine", Kind.ENGINE, target="board-int8")
    with pytest.raises(OutputError, match="tiny-fp16-board-int8.engine was made of other weights"):
        check("tiny")


def test_another_papers_network_keeps_its_name_and_loses_its_folder(monkeypatch):
    checkpoint = SimpleNamespace(spec=ModelSpec(), provenance={})
    monkeypatch.setattr(context, "load_foreign", lambda model: checkpoint)
    monkeypatch.setattr("hasn_edge.data.pairs.held_out_sets", lambda *_: ())
    found = load_context("span=some/where/a.pth", progress=ignore)
    assert found.model == "span=a.pth"
