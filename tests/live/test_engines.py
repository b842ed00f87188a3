"""Which engine a run begins with, and what it can change to."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from hasn_edge.artifact import Artifact, load_artifact, publish
from hasn_edge.errors import ArtifactError, BuildError, InputError
from hasn_edge.live import engines
from hasn_edge.live.engines import EngineChoice, list_engines, open_first
from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.frame_source import PatternSource
from hasn_edge.model.zoo import DEFAULT_MODEL, bundled_onnx
from hasn_edge.runtime.choice import describe_machine
from hasn_edge.sidecar import AutotuneRecord, Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.fake_session import FakeSession
from tests.support.live_rig import Told, Watcher
from tests.support.samples import details_of

OWN = f"{DEFAULT_MODEL} fp32"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(engines, "gpu_facts", lambda: None)
    return tmp_path


@pytest.fixture
def gpu(folder, monkeypatch):
    """Give the machine a GPU that these packages can use."""

    def use(*, onnxruntime: bool = False, torch: bool = False) -> None:
        providers = ["CUDAExecutionProvider"] if onnxruntime else []
        packages = {
            "onnxruntime": SimpleNamespace(get_available_providers=lambda: [*providers, "CPU"]),
            "torch": SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: torch)),
        }
        monkeypatch.setattr(engines, "gpu_facts", lambda: "a GPU")
        for name, package in packages.items():
            monkeypatch.setitem(sys.modules, name, package)

    return use


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, dict]]:
    """What was opened, and how."""
    calls = []

    def open_any(what, **settings):
        name = what.path.stem if isinstance(what, Artifact) else Path(what).stem
        calls.append((name, settings))
        return FakeSession()

    monkeypatch.setattr(engines, "open_session", open_any)
    monkeypatch.setattr(engines, "open_model", open_any)
    return calls


def built(folder: Path, name: str, kind: Kind, precision: Precision, *, source: str | None = None, **facts):
    shipped = bundled_onnx(DEFAULT_MODEL)
    assert shipped is not None
    return publish(
        b"bytes of " + name.encode(),
        folder / f"{name}{kind.suffix}",
        spec=ModelSpec(),
        precision=precision,
        source=load_artifact(shipped).source if source is None else source,
        details=details_of(kind, **facts),
    )


def test_without_built_files_it_is_the_model(folder):
    assert list(list_engines(DEFAULT_MODEL, folder=folder)) == [OWN]
    assert list(list_engines(DEFAULT_MODEL, folder=folder / "missing")) == [OWN]


def test_best_first(folder):
    for name, kind, precision in (
        ("a-ts", Kind.TORCHSCRIPT, Precision.FP32),
        ("b-onnx16", Kind.ONNX, Precision.FP16),
        ("c-onnx8", Kind.ONNX, Precision.INT8),
        ("d-trt8", Kind.ENGINE, Precision.INT8),
        ("e-trt16", Kind.ENGINE, Precision.FP16),
    ):
        built(folder, name, kind, precision)
    built(folder, "f-other-size", Kind.ENGINE, Precision.FP16, size=[90, 160])
    found = list_engines(DEFAULT_MODEL, folder=folder, size=(180, 320))
    assert list(found) == [
        *("e-trt16.engine", "d-trt8.engine", OWN, "b-onnx16.onnx", "c-onnx8.onnx"),
        *("a-ts.ts", "f-other-size.engine"),
    ]
    assert found["f-other-size.engine"].size == (90, 160)


def test_on_a_cpu_only_what_was_measured_to_be_faster_here_stands_before_the_model(folder, calls):
    built(folder, "a-int8", Kind.ONNX, Precision.INT8)
    assert list(list_engines(DEFAULT_MODEL, folder=folder)) == [OWN, "a-int8.onnx"]
    record = AutotuneRecord(
        candidates=(), left_out=(), why="faster", backend="openvino", machine=describe_machine(), when="2026"
    )
    artifact = built(folder, "b-int8", Kind.ONNX, Precision.INT8, autotune=record)
    found = list_engines(DEFAULT_MODEL, folder=folder)
    assert list(found) == ["b-int8.onnx", OWN, "a-int8.onnx"]
    open_first(found, None, (180, 320), Told())
    open_first(found, "a-int8", (180, 320), Told())
    assert [(name, how.get("backend")) for name, how in calls] == [("b-int8", "openvino"), ("a-int8", None)]
    assert list(list_engines(DEFAULT_MODEL, folder=None)) == [OWN]
    elsewhere = msgspec.structs.replace(record, machine="another CPU")
    built(folder, "b-int8", Kind.ONNX, Precision.INT8, autotune=elsewhere)
    assert next(iter(list_engines(DEFAULT_MODEL, folder=folder))) == OWN
    assert artifact.details.autotune == record


def test_files_of_other_models_stand_last_and_are_the_first_only_by_name(folder, calls):
    """What a user trained and built is there to compare with, whichever model the run was started with."""
    built(folder, "other-trt", Kind.ENGINE, Precision.FP16, source="0" * 64)
    built(folder, "own", Kind.ONNX, Precision.FP32, size=[90, 160])
    found = list_engines(DEFAULT_MODEL, folder=folder, size=(180, 320))
    assert list(found) == [OWN, "own.onnx", "other-trt.engine"]
    assert open_first(found, None, None, Told())[0] == OWN
    assert open_first(found, "other-trt", None, Told())[0] == "other-trt.engine"


def test_without_the_model_none_of_another_one_steps_in(folder, monkeypatch):
    def refused(*args, **settings):
        raise BuildError("no such device")

    monkeypatch.setattr(engines, "open_session", refused)
    monkeypatch.setattr(engines, "open_model", refused)
    built(folder, "other", Kind.ONNX, Precision.INT8, source="0" * 64)
    told = Told()
    with pytest.raises(BuildError, match="no such device"):
        open_first(list_engines(DEFAULT_MODEL, folder=folder), None, None, told)
    assert told == []


def test_damaged_files_are_no_choice(folder):
    built(folder, "damaged", Kind.ONNX, Precision.INT8)
    (folder / "damaged.onnx").write_bytes(b"changed")
    (folder / "stray.onnx").write_bytes(b"no sidecar")
    assert list(list_engines(DEFAULT_MODEL, folder=folder)) == [OWN]


def test_named_files_are_the_only_choice_in_their_order(folder):
    for name in ("b", "a"):
        built(folder, name, Kind.ONNX, Precision.FP32)
    assert list(list_engines(DEFAULT_MODEL, [folder / "b.onnx", folder / "a.onnx"])) == ["b.onnx", "a.onnx"]
    with pytest.raises(ArtifactError, match="no such file"):
        list_engines(DEFAULT_MODEL, [folder / "c.onnx"])


def test_files_are_opened_as_their_kind_wants(folder, calls):
    built(folder, "trt", Kind.ENGINE, Precision.FP16)
    built(folder, "static", Kind.ONNX, Precision.FP32, size=[90, 160])
    built(folder, "ts", Kind.TORCHSCRIPT, Precision.FP32)
    found = list_engines(DEFAULT_MODEL, folder=folder, threads=3)
    for engine in found.values():
        engine.open((180, 320))
    assert dict(calls) == {
        "trt": {"in_flight": 2, "device": None, "cuda": None},
        f"{DEFAULT_MODEL}-fp32-cpu": {"threads": 3, "frame": (180, 320), "device": None},
        "static": {"threads": 3, "frame": None, "device": None},
        "ts": {"threads": 3, "frame": None, "device": None},
    }


@pytest.mark.parametrize("size", [(14, 40), (8, 8), (1, 1)])
def test_what_is_too_small_for_the_network_is_not_promised_to_it(folder, calls, size):
    """It is padded then: a graph for frames of that very size would have to compute them in tiles of it."""
    built(folder, "any", Kind.ONNX, Precision.FP32)
    for engine in list_engines(DEFAULT_MODEL, folder=folder).values():
        engine.open(size)
    assert [settings["frame"] for _, settings in calls] == [None, None]


def test_the_smallest_frames_are_computed():
    size = (8, 14)
    session = list_engines("hasn-x4-small", folder=Path("nowhere"))["hasn-x4-small fp32"].open(size)
    view = Watcher()
    with session:
        Live(PatternSource(size, frames=1, live=False), session, [view], size=size).run()
    assert view.shown[0].upscaled.shape == (32, 56, 3)


def test_without_an_engine_a_gpu_of_onnx_runtime_comes_first(folder, gpu, calls):
    gpu(onnxruntime=True)
    for name, kind, precision in (
        ("ts16", Kind.TORCHSCRIPT, Precision.FP16),
        ("onnx16", Kind.ONNX, Precision.FP16),
        ("onnx8", Kind.ONNX, Precision.INT8),
    ):
        built(folder, name, kind, precision)
    found = list_engines(DEFAULT_MODEL, folder=folder)
    gpus = ["onnx16.onnx", OWN, "onnx8.onnx"]
    assert list(found) == [*gpus, f"{OWN} cpu", "onnx16.onnx cpu", "onnx8.onnx cpu", "ts16.ts"]
    for engine in found.values():
        engine.open((180, 320))
    assert [settings["device"] for _, settings in calls] == ["cuda"] * 3 + ["cpu"] * 3 + [None]
    built(folder, "trt", Kind.ENGINE, Precision.FP16)
    assert next(iter(list_engines(DEFAULT_MODEL, folder=folder))) == "trt.engine"


def test_else_a_gpu_of_pytorch_does(folder, gpu, calls):
    gpu(torch=True)
    built(folder, "ts16", Kind.TORCHSCRIPT, Precision.FP16)
    found = list_engines(DEFAULT_MODEL, folder=folder, threads=2)
    assert list(found) == ["ts16.ts", OWN, f"{OWN} cpu", "ts16.ts cpu"]
    found[OWN].open((180, 320))
    found[f"{OWN} cpu"].open((180, 320))
    assert calls == [
        (DEFAULT_MODEL, {"backend": "pytorch", "device": "cuda", "threads": 2}),
        (f"{DEFAULT_MODEL}-fp32-cpu", {"device": "cpu", "threads": 2, "frame": (180, 320)}),
    ]


def test_a_gpu_that_nothing_can_use_changes_nothing(folder, gpu, monkeypatch):
    gpu()
    assert list(list_engines(DEFAULT_MODEL, folder=folder)) == [OWN]
    for name in ("onnxruntime", "torch"):
        monkeypatch.setitem(sys.modules, name, None)  # not installed
    assert list(list_engines(DEFAULT_MODEL, folder=folder)) == [OWN]


def test_a_gpu_that_does_not_start_is_said_and_the_processor_taken(folder, gpu, monkeypatch):
    gpu(onnxruntime=True)

    def open_session(artifact, *, device, **settings):
        if device == "cuda":
            raise BuildError("CUDAExecutionProvider did not start")
        return FakeSession()

    monkeypatch.setattr(engines, "open_session", open_session)
    told = Told()
    name, _ = open_first(list_engines(DEFAULT_MODEL, folder=folder), None, None, told)
    assert name == f"{OWN} cpu"
    assert told == [
        f"{OWN} is left out: CUDAExecutionProvider did not start",
        f"{OWN} cpu: computed by fake on cpu",
    ]


def test_pytorch_takes_the_gpu_that_onnx_runtime_does_not_start_on(folder, gpu, calls, monkeypatch):
    gpu(onnxruntime=True, torch=True)

    def refused(artifact, **settings):
        raise BuildError("CUDAExecutionProvider did not start")

    monkeypatch.setattr(engines, "open_session", refused)
    for device in (None, "cuda"):
        list_engines(DEFAULT_MODEL, folder=folder, device=device)[OWN].open(None)
    assert calls == [(DEFAULT_MODEL, {"backend": "pytorch", "device": "cuda", "threads": None})] * 2
    for device in ("tensorrt", "cpu"):
        with pytest.raises(BuildError, match="did not start"):
            list_engines(DEFAULT_MODEL, folder=folder, device=device)[OWN].open(None)


def test_a_device_that_was_asked_for_holds_for_all(folder, gpu, calls):
    gpu(onnxruntime=True, torch=True)
    for name, kind in (("trt", Kind.ENGINE), ("onnx", Kind.ONNX), ("ts", Kind.TORCHSCRIPT)):
        built(folder, name, kind, Precision.FP16)
    for device, names in {
        "cuda:1": {"trt.engine", "onnx.onnx", OWN, "ts.ts"},
        "tensorrt": {"onnx.onnx", OWN},
        "cpu": {OWN, "onnx.onnx", "ts.ts"},
    }.items():
        found = list_engines(DEFAULT_MODEL, folder=folder, device=device)
        assert set(found) == names
        for engine in found.values():
            engine.open(None)
        assert {settings["device"] for _, settings in calls[-len(names) :]} == {device}
    named = list_engines(DEFAULT_MODEL, [folder / "ts.ts", folder / "trt.engine"], device="cpu", cuda="torch")
    assert list(named) == ["ts.ts", "trt.engine"], "what was named is refused where it is opened"


def test_named_files_are_offered_on_the_gpu_and_on_the_processor(folder, gpu):
    gpu(onnxruntime=True)
    for name, kind in (("b", Kind.ONNX), ("a", Kind.ENGINE)):
        built(folder, name, kind, Precision.FP32)
    names = list(list_engines(DEFAULT_MODEL, [folder / "b.onnx", folder / "a.engine"]))
    assert names == ["b.onnx", "b.onnx cpu", "a.engine"]


def test_what_gives_engines_their_memory(folder, calls):
    built(folder, "trt", Kind.ENGINE, Precision.FP16)
    list_engines(DEFAULT_MODEL, folder=folder, cuda="pycuda")["trt.engine"].open(None)
    assert calls == [("trt", {"in_flight": 2, "device": None, "cuda": "pycuda"})]
    with pytest.raises(InputError, match="no engine to choose here; call hasn_edge.build.*use artifacts"):
        list_engines(DEFAULT_MODEL, folder=folder / "none", cuda="pycuda")


@pytest.mark.parametrize("device", ["vulkan", "cpu:0", "cuda:", "CUDA", "cuda:x"])
def test_unknown_devices(folder, device):
    with pytest.raises(InputError, match=f"no device called '{device}'; choose cpu, cuda, cuda:<index>"):
        list_engines(DEFAULT_MODEL, folder=folder, device=device)


def test_files_of_two_kinds_with_one_stem_are_two_choices(folder):
    built(folder, "x", Kind.ONNX, Precision.FP16)
    built(folder, "x", Kind.ENGINE, Precision.FP16)
    assert set(list_engines(DEFAULT_MODEL, folder=folder)) == {"x.onnx", "x.engine", OWN}


def working(name: str, opened: list) -> EngineChoice:
    def open_(size):
        opened.append((name, size))
        return FakeSession()

    return EngineChoice(open=open_)


def broken(size):
    raise BuildError("made for another GPU")


def test_what_does_not_work_here_is_left_out_and_said():
    opened, told = [], Told()
    choice = {"trt": EngineChoice(open=broken), "own": working("own", opened)}
    name, session = open_first(choice, None, (180, 320), told)
    assert name == "own"
    assert isinstance(session, FakeSession)
    assert opened == [("own", (180, 320))]
    assert told == ["trt is left out: made for another GPU", "own: computed by fake on cpu"]


def test_the_one_that_was_named_must_work():
    opened = []
    choice = {"trt": EngineChoice(open=broken), "own": working("own", opened)}
    with pytest.raises(BuildError, match="another GPU"):
        open_first(choice, "trt", None, Told())
    assert open_first(choice, "own", None, Told())[0] == "own"
    with pytest.raises(InputError, match="no engine called 'x'; choose one of: trt, own"):
        open_first(choice, "x", None, Told())


def test_the_ending_of_a_file_may_be_left_out_where_one_file_can_be_meant():
    """The bundled model and a file exported of it differ by more than a hyphen."""
    names = ("hasn-x4-fp32.onnx", "hasn-x4-fp32.onnx cpu", "hasn-x4 fp32", "two.onnx", "two.engine", "one.ts")
    choice = {name: working(name, []) for name in names}
    for wanted, meant in {
        "hasn-x4-fp32": "hasn-x4-fp32.onnx",
        "hasn-x4-fp32 cpu": "hasn-x4-fp32.onnx cpu",
        "hasn-x4-fp32.onnx": "hasn-x4-fp32.onnx",
        "hasn-x4 fp32": "hasn-x4 fp32",
        "one": "one.ts",
    }.items():
        assert open_first(choice, wanted, None, Told())[0] == meant
    with pytest.raises(InputError, match=r"'two' may be any of two.onnx, two.engine; name one"):
        open_first(choice, "two", None, Told())
    for wanted in ("two cpu", "one.onnx", ".ts", ""):
        with pytest.raises(InputError, match="no engine called"):
            open_first(choice, wanted, None, Told())


def test_the_last_one_must_work():
    with pytest.raises(BuildError, match="another GPU"):
        open_first({"trt": EngineChoice(open=broken)}, None, None, Told())
