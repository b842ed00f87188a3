"""What a build hands to the compiler, and that an engine runs before it gets its name."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch

import hasn_edge
from hasn_edge.artifact import load_artifact
from hasn_edge.data.calibration import load_calibration
from hasn_edge.engine.capabilities import Capabilities
from hasn_edge.engine.compile import BuiltEngine
from hasn_edge.engine.engine_file import parse_plan_header
from hasn_edge.engine.target import EngineRuntime, load_target
from hasn_edge.errors import (
    ArtifactError,
    MissingDependencyError,
    NoCudaError,
    ShapeError,
    UnsupportedError,
    say,
)
from hasn_edge.fuse.apply import DEFAULT_RULES
from hasn_edge.model.checkpoint import load_checkpoint, save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.pipeline import autotune as fastest
from hasn_edge.pipeline import build as builder
from hasn_edge.pipeline.context import BuildOptions, load_context
from hasn_edge.pipeline.graph_exporter import GraphExporter
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import ignore
from hasn_edge.quantize.recipe import load_quant_recipe
from hasn_edge.runtime.golden import OWN_RANGES
from hasn_edge.runtime.tensorrt import open_engine
from hasn_edge.runtime.tensorrt.trial import NoMemoryError
from hasn_edge.sidecar import Form, Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.samples import ADA, HOPPER, NANO, TURING, USUAL, details_of

JETPACK_6 = Capabilities(
    runtime=EngineRuntime.TENSORRT, version="10.3.0", strong_typing=False, native_normalization=True,
    strong_typing_flag=True, explicit_batch_flag=True, precision_flags=True, calibrator=True,
    calibration_profile=True, compute_capabilities=(), optimization_level=True, hardware_compatibility=(),
    version_compatible=True, timing_cache=True, progress_monitor=True,
    parser_names_nodes=True,
)  # fmt: skip
PLAN = b"ftrt" + bytes(20) + bytes((10, 3, 0, 30)) + bytes(4096)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder / "tiny.safetensors", HASN(ModelSpec(features=16, blocks=1)))
    (folder / "loose.toml").write_text("budget_db = 5.0\n")
    return folder / "tiny.safetensors"


@pytest.fixture
def told(monkeypatch) -> SimpleNamespace:
    """An Orin Nano with JetPack 6; what its compiler receives."""
    seen = SimpleNamespace()

    def compiles(data, target, *, precision, progress, cache, calibrator):
        seen.graph, seen.target, seen.precision = onnx.load_from_string(data), target, precision
        seen.calibrator = calibrator
        return BuiltEngine(
            plan=PLAN,
            target=target,
            precision=precision,
            header=parse_plan_header(PLAN, file_bytes=len(PLAN), name="plan"),
            version="10.3.0.30",
            made_by={"TensorRT": "10.3.0.30"},
            warnings=(),
            seconds=1.0,
            facts=USUAL[Kind.ENGINE][1],
            kernels=None,
        )

    for module in (builder, fastest):
        monkeypatch.setattr(module, "gpu_facts", lambda: NANO)
    monkeypatch.setattr(builder, "find_module", lambda runtime: "tensorrt")
    seen.capabilities = JETPACK_6
    monkeypatch.setattr(builder, "ask_capabilities", lambda runtime: seen.capabilities)
    monkeypatch.setattr(builder, "engine_from_onnx", compiles)
    monkeypatch.setattr(builder, "smoke_test", lambda *engine: "not run: the GPU is a description")
    return seen


def operators(graph: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in graph.graph.node}


def input_dims(graph: onnx.ModelProto) -> list[int]:
    return [dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim]


def test_an_option_that_the_compiler_lacks_is_refused_before_any_work(tiny, told, tmp_path, monkeypatch):
    (tmp_path / "wide.toml").write_text('runtime = "tensorrt"\noptimization_level = 5\n')
    told.capabilities = replace(JETPACK_6, optimization_level=False)
    monkeypatch.setattr(builder, "load_target_context", None)  # what comes next
    with pytest.raises(UnsupportedError, match=r"TensorRT 10\.3\.0 has no optimization_level"):
        hasn_edge.build(tiny, target=tmp_path / "wide.toml", output=tmp_path)


def test_a_sidecar_has_the_name_that_was_given_without_its_folder(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    for given, name in ((tmp_path / "link", "link"), (".", "real"), ("../link/", "link"), (None, None)):
        assert builder._without_folder(given) == name


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [False, True])
def test_int8_is_compared_with_an_fp16_engine_of_the_same_ends(tiny, tmp_path, monkeypatch, pixels):
    """A float frame has four times the bytes of one of pixels: other ends would count as FP16's."""
    seen = []

    def kernels(data, target, *, precision):
        seen.append((onnx.load_from_string(data), precision))
        return SimpleNamespace(moved_bytes=1e6)

    monkeypatch.setattr(builder, "kernels_from_onnx", kernels)
    target = load_target("rtx").with_size(32, 40)
    int8 = BuiltEngine(
        plan=PLAN, target=target, precision=Precision.INT8, version="1.7", made_by={}, warnings=(),
        header=parse_plan_header(PLAN, file_bytes=len(PLAN), name="plan"), facts={}, seconds=1.0,
        kernels=SimpleNamespace(moved_bytes=2e6),
    )  # fmt: skip
    variants = Variants(load_context(tiny, pixels=pixels, progress=ignore), ignore)
    found = builder._compare_with_fp16(int8, variants, Form.STRONGLY_TYPED, target, (32, 40))
    ((graph, precision),) = seen
    uint8, floats = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    assert precision is Precision.FP16
    assert input_dims(graph) == ([1, 32, 40, 3] if pixels else [1, 3, 32, 40])
    for end in (graph.graph.input[0], graph.graph.output[0]):
        assert end.type.tensor_type.elem_type == (uint8 if pixels else floats)
    assert found.warnings == (
        "INT8 moves 2.0 MB where FP16 moves 1.0 MB, 2.00 times as much: expect it to be slower; FP16 is "
        "advised, or measure both on the GPU",
    )


@pytest.mark.slow
def test_fp16_comes_from_a_flag(tiny, told, tmp_path):
    built = hasn_edge.build(tiny, precision="fp16", size=(32, 40), output=tmp_path)
    assert told.precision is Precision.FP16
    assert (told.graph.opset_import[0].version, input_dims(told.graph)) == (17, [1, 3, 32, 40])
    assert all(w.data_type != onnx.TensorProto.FLOAT16 for w in told.graph.graph.initializer)
    engine = load_artifact(built.artifacts[-1].path)
    assert (engine.precision, engine.size) == (Precision.FP16, (32, 40))
    assert engine.engine.emulated_as == "strongly typed graph, fp16"
    assert engine.engine.golden.shape == (1, 3, 32, 40)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_normalization_is_one_node_from_10_on_only(tiny, told, tmp_path, monkeypatch, precision):
    def built(**rest) -> tuple[str, set[str]]:
        recipe = {"recipe": tiny.with_name("loose.toml"), "force": True} if precision == "int8" else {}
        made = hasn_edge.build(
            tiny, precision=precision, size=(32, 40), output=tmp_path / "out", **recipe, **rest
        )
        return made.artifacts[-1].engine.cache_key, operators(told.graph)

    key, found = built()
    assert "LayerNormalization" in found
    assert not found & {"ReduceMean", "Sqrt"}
    jetpack_5 = replace(JETPACK_6, version="8.5.2", native_normalization=False)
    monkeypatch.setattr(builder, "ask_capabilities", lambda runtime: jetpack_5)
    other, found = built()
    assert "LayerNormalization" not in found
    assert found >= {"ReduceMean", "Sqrt"}
    assert other != key
    # One does not overwrite the other's graph.
    graphs = {path.name for path in (tmp_path / "out").glob("*.onnx")}
    plain = "int8" if precision == "int8" else "fp32"
    assert graphs == {f"tiny-{plain}-weakly-typed-40x32.onnx", f"tiny-{plain}-weakly-typed-trt10-40x32.onnx"}


@pytest.mark.slow
def test_graphs_are_fused_for_their_backend(tiny, told, tmp_path):
    """INT8 reads what LayerNorm and ESA made: only floats have them behind the convolutions, or folded."""
    light = ("compose_esa", "pad_cab", "squeeze_first")
    for target in ("tensorrt", "portable"):
        built = hasn_edge.build(
            tiny, precision="fp32", target=target, size=(32, 40), output=tmp_path / target
        )
        assert built.artifacts[0].graph.fused == light
    checkpoint = load_checkpoint(tiny)
    recipe, images = load_quant_recipe(), load_calibration()
    assert "norm_factor" in DEFAULT_RULES["rtx"]
    exporter = GraphExporter.for_int8(checkpoint, DEFAULT_RULES["rtx"], images, recipe)
    assert set(exporter.rules) == set(light)
    plain = GraphExporter.for_int8(
        checkpoint, ("norm_affine", "norm_factor"), images, replace(recipe, equalize=None)
    )
    assert plain.rules == ("norm_affine",)


@pytest.mark.slow
def test_the_portable_graph_is_one_that_8_5_reads(tiny, told, tmp_path):
    built = hasn_edge.build(tiny, precision="fp32", target="portable", size=(32, 40), output=tmp_path)
    weakly_typed = onnx.load(built.artifacts[0].path)
    assert built.artifacts[0].path.name == "tiny-fp32-weakly-typed-40x32.onnx"
    assert "LayerNormalization" not in operators(weakly_typed)


@pytest.mark.slow
def test_the_calibrator_has_a_graph_that_takes_its_images(tiny, told, tmp_path):
    built = hasn_edge.build(
        tiny,
        precision="int8",
        int8_method="calibrator",
        recipe=tiny.with_name("loose.toml"),
        size=(32, 40),
        force=True,
        output=tmp_path,
    )
    shape = next(iter(told.calibrator.batches)).shape
    # Of any size: the images that ship are not the engine's size, which is the profile's.
    assert all(have in (0, want) for have, want in zip(input_dims(told.graph), shape, strict=True))
    assert told.target.shapes.size == (32, 40)
    # The published graph pads small images itself; an engine's profile refuses them.
    published = onnx.load(built.artifacts[0].path)
    assert "Pad" in operators(published) - operators(told.graph)
    engine = built.artifacts[-1]
    assert engine.size == (32, 40)
    tolerance = engine.engine.golden.tolerance
    assert (tolerance.rms, tolerance.largest) == OWN_RANGES


@pytest.mark.parametrize("method", ["qdq", "calibrator"])
def test_an_engine_of_another_budget_is_another(tiny, told, tmp_path, monkeypatch, method):
    """A stricter one has to be measured again."""
    keys = []

    def look(folder, key, *, start):
        keys.append(key)
        raise ArtifactError("far enough")

    monkeypatch.setattr(builder, "lookup", look)
    for budget_db in (5.0, 5.0, 0.001):
        (tmp_path / "own.toml").write_text(f"budget_db = {budget_db}\n")
        with pytest.raises(ArtifactError, match="far enough"):
            hasn_edge.build(
                tiny, precision="int8", int8_method=method, recipe=tmp_path / "own.toml", output=tmp_path
            )
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("asked", ["size", "dynamic", "file", "cpu", "portable"])
@pytest.mark.parametrize("precision", ["fp16", "int8", "auto"])
def test_sizes_below_the_networks_are_refused_before_anything_is_made(
    tiny, told, tmp_path, monkeypatch, asked, precision
):
    file = tmp_path / "small.toml"
    file.write_text(
        'runtime = "tensorrt"\n[shapes]\nmin = [1, 3, 32, 8]\nopt = [1, 3, 32, 32]\nmax = [1, 3, 64, 64]\n'
    )
    options = {
        "size": {"size": (32, 8)},
        "dynamic": {"dynamic": ((32, 8), (32, 32), (64, 64))},
        "file": {"target": file},
        "cpu": {"target": "cpu", "size": (32, 8)},
        "portable": {"target": "portable", "size": (32, 8)},
    }[asked]
    monkeypatch.setattr(fastest, "_require_runnable", lambda *_: None)
    monkeypatch.setattr(GraphExporter, "export", lambda *args, **rest: pytest.fail("a graph was made"))
    with pytest.raises(
        ShapeError,
        match=r"^tiny takes no less than 15x15 pixels, and 8x32 was asked for: .*; ask for 15x15 or ",
    ):
        hasn_edge.build(tiny, precision=precision, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("installed", "gpu", "target"),
    [
        ((EngineRuntime.TENSORRT, EngineRuntime.RTX), ADA, "tensorrt"),
        ((EngineRuntime.TENSORRT,), HOPPER, "tensorrt"),
        ((EngineRuntime.RTX,), ADA, "rtx"),
        ((EngineRuntime.RTX,), TURING, "rtx-turing"),
        ((EngineRuntime.RTX,), HOPPER, "cpu"),
        ((EngineRuntime.RTX,), None, "cpu"),
        ((), ADA, "cpu"),
    ],
)
def test_what_is_built_without_a_target_runs_on_the_gpu_that_is_here(monkeypatch, installed, gpu, target):
    def find(runtime):
        if runtime not in installed:
            raise MissingDependencyError(runtime.value, extra="tensorrt", needed_for="Building")

    monkeypatch.setattr(builder, "find_module", find)
    assert builder.default_target(gpu) == target


@pytest.mark.parametrize(
    ("options", "searched", "recipe"),
    [
        ({}, False, "default"),
        ({"recipe": "/home/me/mine.toml"}, False, "mine.toml"),
        ({"max_drop": 0.03}, True, "net-int8-search.toml"),
        ({"max_drop": 0.03, "finetune": "90s"}, False, "search"),  # what was adapted kept the drop
    ],
)
def test_a_sidecar_names_the_recipe_that_makes_the_same_int8(options, searched, recipe):
    context = SimpleNamespace(model="net", name="net", images=load_calibration())
    graph = SimpleNamespace(details=details_of(Kind.ONNX), precision=Precision.INT8)
    built = SimpleNamespace(context=context, searched=searched)
    facts = builder._facts(BuildOptions(model="net", precision="int8", **options), built, graph)
    assert (facts["asked"].recipe, facts["asked"].calibration) == (recipe, None)


def test_export_refuses_such_a_size_as_well(tiny, tmp_path):
    with pytest.raises(ShapeError, match=r"15x15 pixels, and 40x14 was asked for"):
        hasn_edge.export(tiny, size=(14, 40), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_calibrator_takes_no_pixels(tiny, told, tmp_path):
    with pytest.raises(UnsupportedError, match="takes float images; leave out pixels"):
        hasn_edge.build(
            tiny, precision="int8", int8_method="calibrator", pixels=True, output=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def build_here(tiny, ada, tmp_path):
    return lambda: hasn_edge.build(tiny, precision="fp32", target=ada, size=(32, 40), output=tmp_path / "out")


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_file()) if folder.exists() else []


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT for RTX is not installed: extra [rtx]",
)
class TestSmokeTest:
    @pytest.mark.slow
    def test_an_engine_runs_before_it_is_published(self, build_here, tmp_path, monkeypatch):
        seen = []

        def tried(path):
            assert names(tmp_path / "out") == []
            seen.append(load_artifact(path).kind)

        monkeypatch.setattr(builder, "gpu_facts", lambda: ADA)
        monkeypatch.setattr(builder, "try_engine", tried)
        built = build_here()
        assert seen == [Kind.ENGINE]
        assert built.summary[-1] == "the fp32 engine for rtx ran: its golden image came out right"
        assert len(names(tmp_path / "out")) == 4

    @pytest.mark.slow
    def test_one_that_computes_something_else_is_not_published(self, build_here, tmp_path, monkeypatch):
        def lies(path):
            raise ArtifactError("it loads, but computes something else")

        monkeypatch.setattr(builder, "gpu_facts", lambda: ADA)
        monkeypatch.setattr(builder, "try_engine", lies)
        with pytest.raises(ArtifactError, match="computes something else"):
            build_here()
        assert names(tmp_path / "out") == []

    @pytest.mark.slow
    @pytest.mark.parametrize("gpu", [None, replace(ADA, compute_capability="7.5")], ids=["none", "another"])
    def test_without_its_gpu_the_summary_states_that_it_did_not_run(
        self, build_here, tmp_path, monkeypatch, gpu
    ):
        monkeypatch.setattr(builder, "gpu_facts", lambda: gpu)
        monkeypatch.setattr(builder, "try_engine", lambda path: pytest.fail("there is no GPU for it"))
        built = build_here()
        assert built.summary[-1] == "the fp32 engine for rtx was not executed: that needs its GPU"

    @pytest.fixture
    def no_cuda_package(self, monkeypatch):
        """A Jetson as it often is: a GPU, TensorRT, PyTorch for the CPU, and nothing that opens CUDA."""
        for name in ("cuda", "pycuda"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        for module in (builder, fastest, open_engine):
            monkeypatch.setattr(module, "gpu_facts", lambda index=0: ADA)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "error",
        [
            NoCudaError("running an engine needs a Python package", say("pip install one")),
            NoMemoryError("the system ended the process that tried it, most likely for its memory"),
        ],
        ids=["no CUDA", "no memory"],
    )
    def test_one_that_cannot_be_tried_is_kept_and_the_summary_has_the_reason(
        self, build_here, tmp_path, monkeypatch, error
    ):
        def fails(path):
            raise error

        monkeypatch.setattr(builder, "gpu_facts", lambda: ADA)
        monkeypatch.setattr(builder, "try_engine", fails)
        built = build_here()
        assert built.summary[-1] == f"the fp32 engine for rtx was not executed: {error}"
        assert len(names(tmp_path / "out")) == 4

    @pytest.mark.usefixtures("no_cuda_package")
    def test_without_a_cuda_package_auto_compiles_nothing(self, tiny, tmp_path, monkeypatch):
        monkeypatch.setattr(GraphExporter, "export", lambda *args, **rest: pytest.fail("it began to build"))
        with pytest.raises(NoCudaError, match="running an engine needs a Python package"):
            hasn_edge.build(tiny, precision="auto", target="rtx", size=(32, 40), output=tmp_path / "out")
        assert names(tmp_path / "out") == []
