"""What is compared on which device, and what is built for it."""

from __future__ import annotations

import pytest

from hasn_edge.artifact import publish
from hasn_edge.bench import cases
from hasn_edge.bench.board import Board
from hasn_edge.bench.cases import Backends, CaseMaker, find_backends, find_compared
from hasn_edge.bench.options import BenchOptions
from hasn_edge.cli import bench
from hasn_edge.cli.cures import cure_text
from hasn_edge.errors import BuildError, InputError, MissingDependencyError, OutputError, UnsupportedError
from hasn_edge.model.comparators import load_comparator
from hasn_edge.sidecar import Kind
from hasn_edge.spec import Precision
from tests.support.bench_rig import SPEC
from tests.support.samples import ADA, AGX, HOPPER, NANO, TURING, details_of, plan


class Builds:
    """Stands for ``build_one`` and ``export``: publishes what they would, and remembers what was asked."""

    def __init__(self, folder):
        self.folder, self.asked, self.fails = folder, [], ()

    def artifact(self, name, kind, precision, size=None):
        return publish(
            bytes(2000) + name.encode(), self.folder / name, spec=SPEC,
            precision=Precision(precision), source="0" * 64, details=details_of(kind, size=size),
        )  # fmt: skip

    def build(self, options, *, cache, known, progress):
        precision, target, size = options.precision, options.target, options.size
        if precision in self.fails:
            raise BuildError(f"{precision} fails")
        output = options.output
        self.asked.append((precision, target, size))
        kept = self.folder / "engines"
        if target == "cpu":
            assert (output, cache, known) == (self.folder, None, ())
        else:
            assert (output, cache, known) == (kept / "cache" / "candidates", kept / "cache", (kept,))
        graph = self.artifact(f"{precision}-{target}.onnx", Kind.ONNX, precision, size)
        if target == "cpu":
            return type("Built", (), {"artifacts": (graph,)})
        engine = self.artifact(f"{precision}-{target}.engine", Kind.ENGINE, precision, size)
        return type("Built", (), {"artifacts": (graph, engine)})

    def export(self, model, *, precision, **options):
        return self.artifact(f"{precision}.ts", Kind.TORCHSCRIPT, precision)


@pytest.fixture
def compare(tmp_path):
    builds = Builds(tmp_path)

    def make(kind, *, fails=(), graphs=("onnxruntime",), compiled=False, compared=(), **backends):
        builds.fails = fails
        maker = CaseMaker(
            options=BenchOptions(
                model="m", threads=2, cuda="torch", graph_backends=graphs, compiled=compiled
            ),
            board=Board(kind=kind, title=kind),
            backends=Backends(**backends),
            size=(48, 64),
            folder=tmp_path,
            engines=tmp_path / "engines",
            compared=find_compared(compared, 4, (48, 64)),
            build=builds.build,
            export=builds.export,
        )
        return maker.cases([]), builds.asked

    return make


def test_a_precision_that_cannot_be_built_is_a_case_that_states_so(compare):
    """The INT8 of JetPack 6's TensorRT does not build some networks; FP16 is measured all the same."""
    found, _ = compare("jetson", fails=("int8",), engines="tensorrt")
    assert [(case.label, case.failure and case.failure.message) for case in found] == [
        ("PyTorch fp32, CPU", None),
        ("TensorRT fp32", None),
        ("TensorRT fp16", None),
        ("TensorRT int8", "int8 fails"),
    ]
    found, _ = compare("cpu", fails=("int8",))
    assert [case.label for case in found if case.failure] == ["ONNX Runtime int8"]
    with pytest.raises(BuildError, match="fp32 fails"):
        compare("jetson", fails=("fp32", "fp16", "int8"), engines="tensorrt")


def test_a_board_without_pytorch_takes_the_engines_that_lie_there(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "source_of", lambda model: "0" * 64)
    monkeypatch.setattr(cases, "installed_version", lambda name: None)

    def build(options, **rest):
        raise MissingDependencyError("torch", extra="export", needed_for="Building")

    for name, precision, size, recipe in (
        ("one", "fp16", (48, 64), None),
        ("other", "int8", (180, 320), "default"),
        ("third", "int8", (48, 64), "conservative"),
    ):
        facts = {"gpu": "Orin", "compute_capability": "8.7", "sm_count": 8, "size": list(size)}
        facts["asked"] = {"recipe": recipe}
        graph = publish(
            b"graph" + name.encode(), tmp_path / f"{name}.onnx", spec=SPEC,
            precision=Precision(precision), source="0" * 64, details=details_of(Kind.ONNX),
        )  # fmt: skip
        publish(
            plan(b"ftrt", (10, 3, 0, 30)), tmp_path / f"{name}.engine", spec=SPEC, parent=graph.sha256,
            precision=Precision(precision), source="0" * 64, details=details_of(Kind.ENGINE, **facts),
        )  # fmt: skip

    def made(gpu, model="hasn-x4", onnxruntime_gpu=False):
        return CaseMaker(
            options=BenchOptions(model=model, precisions=("fp16", "int8"), threads=1),
            board=Board(kind="jetson", title="x", gpu=gpu),
            backends=Backends(engines="tensorrt", onnxruntime_gpu=onnxruntime_gpu),
            size=(48, 64),
            folder=tmp_path,
            engines=tmp_path,
            build=build,
        ).cases([])

    reference, fp16, int8 = made(NANO)
    assert (reference.label, reference.device) == ("ONNX Runtime fp32, as it ships", None)
    assert (fp16.label, fp16.artifact.path.name) == ("TensorRT fp16", "one.engine")
    assert int8.label == "TensorRT int8"
    assert int8.failure.message.startswith("Building needs the Python package 'torch', which is not")
    assert [cure_text(cure, bench.command) for cure in int8.failure.cures] == [
        "use --artifact FILE.engine",
        "run: hasn-edge build --model BUNDLE --precision int8 --target tensorrt --size 64x48",
    ]
    with pytest.raises(UnsupportedError, match="no engine of this model, size and GPU"):
        made(AGX)  # both engines are of another GPU: nothing but the reference would run
    assert [case.failure is None for case in made(NANO, onnxruntime_gpu=True)] == [True, True, False, False]


def test_a_folder_for_engines_that_cannot_be_written_is_found_out_first(compare, tmp_path):
    (tmp_path / "engines").write_text("in the way")
    with pytest.raises(OutputError, match="engines"):
        compare("jetson", engines="tensorrt")


def test_the_compiled_network_stands_beside_the_eager_one(compare):
    for kind, gpu, where in (("cpu", False, ""), ("cuda", True, ", GPU")):
        found, _ = compare(kind, compiled=True, engines="tensorrt", torch_gpu=gpu)
        assert [case.label for case in found][:2] == [f"PyTorch fp32{where}", f"torch.compile fp32{where}"]
        assert [(case.compiled, case.threads) for case in found][:3] == [(False, 2), (True, 2), (False, 2)]


def test_what_is_compared_on_a_jetson(compare):
    found, asked = compare("jetson", engines="tensorrt", torch_gpu=True)
    assert [(case.label, case.device, case.cuda, case.timed) for case in found] == [
        ("PyTorch fp32, GPU", "cuda", None, True),
        ("TensorRT fp32", "cuda", "torch", True),
        ("TorchScript fp32", "cuda", None, True),
        ("TensorRT fp16", "cuda", "torch", True),
        ("TorchScript fp16", "cuda", None, True),
        ("INT8 emulated exactly", None, None, False),
        ("TensorRT int8", "cuda", "torch", True),
    ]
    assert asked == [(p, "tensorrt", (48, 64)) for p in ("fp32", "fp16", "int8")]


def test_each_graph_is_a_case_of_each_backend_on_a_cpu(compare):
    backends = ("onnxruntime", "openvino", "openvino-bf16")
    found, _ = compare("cpu", graphs=backends)
    assert [(case.label, case.backend) for case in found if case.backend is not None] == [
        (f"{name} {precision}", backend)
        for precision in ("fp32", "fp16", "int8")
        for name, backend in zip(("ONNX Runtime", "OpenVINO", "OpenVINO BF16"), backends, strict=True)
    ]
    found, _ = compare("cuda", graphs=backends, onnxruntime_gpu=True)
    assert {case.backend for case in found} == {None}


def test_what_is_compared_where_little_is_installed(compare):
    found, asked = compare("rtx", engines="rtx")
    assert found[0].label == "PyTorch fp32, CPU"
    assert found[0].device is None
    assert {target for _, target, _ in asked} == {"rtx"}
    found, asked = compare("cuda", onnxruntime_gpu=True)
    assert [case.label for case in found] == [
        "PyTorch fp32, CPU",
        "ONNX Runtime fp32",
        "ONNX Runtime fp16",
    ]


def test_other_networks_are_cases_as_the_models_own(compare):
    found, asked = compare("cpu", compared=("span-ntire2024",), graphs=("onnxruntime", "openvino"))
    own = [case for case in found if case.network is None]
    assert own == compare("cpu", graphs=("onnxruntime", "openvino"))[0]
    others = found[len(own) :]
    assert [(case.label, case.model, case.backend) for case in others] == [
        ("span-ntire2024, PyTorch fp32", "span-ntire2024=random", None),
        ("span-ntire2024, ONNX Runtime fp32", None, "onnxruntime"),
        ("span-ntire2024, OpenVINO fp32", None, "openvino"),
    ]
    network = others[0].network
    assert {case.network.name for case in others} == {"span-ntire2024"}
    assert not network.trained
    assert all(
        case.not_measured == ("quality: its weights are random, and tell what it costs alone",)
        for case in others
    )
    assert network.counts[256, 256].macs / 1e9 == pytest.approx(9.83, abs=0.01)
    assert network.counts[48, 64].macs * 256 * 256 == network.counts[256, 256].macs * 48 * 64
    found, asked = compare("jetson", engines="tensorrt", torch_gpu=True, compared=("fsrcnn",))
    assert [(case.label, case.device) for case in found if case.network] == [
        ("fsrcnn, PyTorch fp32, GPU", "cuda"),
        ("fsrcnn, TensorRT fp32", "cuda"),
        ("fsrcnn, TensorRT fp16", "cuda"),
    ]
    assert asked[-2:] == [(p, "tensorrt", (48, 64)) for p in ("fp32", "fp16")]


def test_no_two_cases_have_one_label(compare, monkeypatch):
    """A report's cases are told apart by their labels, and so are those of two reports."""
    found, _ = compare("cpu", compared=("fsrcnn", "fsrcnn"))
    assert [case.label for case in found if case.network] == [
        "fsrcnn, PyTorch fp32",
        "fsrcnn, ONNX Runtime fp32",
        "fsrcnn, PyTorch fp32 (2)",
        "fsrcnn, ONNX Runtime fp32 (2)",
    ]
    random = load_comparator("fsrcnn", "random")
    monkeypatch.setattr(cases, "load_comparator", lambda name, weights: random)
    files = ("fsrcnn=a/net.pth", "fsrcnn=b/net.pth", "fsrcnn=b/other.pth")
    assert [one.name for one in find_compared(files, 4, (48, 64))] == [
        "fsrcnn (a/net.pth)",
        "fsrcnn (b/net.pth)",
        "fsrcnn (other.pth)",
    ]


def test_names_of_other_networks_are_refused_at_once():
    with pytest.raises(InputError, match="no network called 'edsr' to compare with; choose from: carn, "):
        find_compared(("span", "edsr"), 4, (48, 64))
    with pytest.raises(InputError, match="span is of scale 4, and the model of scale 2"):
        find_compared(("span",), 2, (48, 64))


def test_what_is_installed_for_a_device(monkeypatch):
    missing = MissingDependencyError("tensorrt", extra="tensorrt", needed_for="Building")

    def find(kind, *, torch_gpu, ort_gpu=False, modules=("tensorrt", "rtx"), gpu=None):
        def find_module(runtime):
            if runtime.value not in modules:
                raise missing

        monkeypatch.setattr(cases, "find_module", find_module)
        monkeypatch.setattr(cases, "_torch_has_gpu", lambda: torch_gpu)
        monkeypatch.setattr(cases, "_onnxruntime_has_gpu", lambda: ort_gpu)
        return find_backends(Board(kind=kind, title=kind, gpu=gpu))

    assert find("jetson", torch_gpu=True) == Backends(engines="tensorrt", torch_gpu=True)
    assert find("rtx", torch_gpu=False) == Backends(engines="rtx")
    assert find("rtx", torch_gpu=False, gpu=ADA).engines == "rtx"
    assert find("rtx", torch_gpu=False, gpu=TURING).engines == "rtx-turing"
    with pytest.raises(UnsupportedError, match="no target of TensorRT for RTX is for NVIDIA H200 .*cuda"):
        find("rtx", torch_gpu=False, gpu=HOPPER)
    assert find("cuda", torch_gpu=False, ort_gpu=True, modules=()) == Backends(onnxruntime_gpu=True)
    assert find("cpu", torch_gpu=True, ort_gpu=True) == Backends()
    with pytest.raises(MissingDependencyError, match="tensorrt"):
        find("cuda", torch_gpu=False, modules=())
    with pytest.raises(MissingDependencyError, match="tensorrt"):
        find("jetson", torch_gpu=True, modules=("rtx",))
    missing = UnsupportedError("needs JetPack's TensorRT, which this Python does not see")  # on a Jetson
    found = find("cuda", torch_gpu=True, modules=())
    assert (found, found.without_engines) == (Backends(torch_gpu=True), missing)
    for kind, torch_gpu in (("cuda", False), ("jetson", True)):
        with pytest.raises(UnsupportedError, match="does not see"):
            find(kind, torch_gpu=torch_gpu, modules=())
