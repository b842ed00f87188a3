"""The real compiler of TensorRT for RTX, in every test run: it needs no GPU."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hasn_edge.engine import capabilities, worker_process
from hasn_edge.engine import compile as compile_module
from hasn_edge.engine.compile import engine_from_onnx
from hasn_edge.engine.target import EngineRuntime, EngineTarget, ShapeRange, load_target
from hasn_edge.errors import BuildError, MissingDependencyError, OutputError, UnsupportedError
from hasn_edge.progress import Step
from hasn_edge.spec import ModelSpec, Precision
from tests.support.samples import as_json

MakeOnnx = Callable[..., bytes]

RTX = EngineTarget(
    name="test",
    shapes=ShapeRange(min=(1, 3, 32, 32), opt=(1, 3, 48, 64), max=(1, 3, 96, 96)),
    compute_capabilities=("ampere", "ada", "blackwell"),
)

# Bit of each GPU in the four bytes at offset 32 of a plan of version 1.7, found by building for each alone.
GPU_BITS = {"7.5": 0, "8.0": 1, "8.6": 2, "8.9": 3, "12.0": 4, "12.1": 5}


def gpus_of(plan: bytes) -> set[str]:
    mask = int.from_bytes(plan[32:36], "little")
    return {gpu for gpu, bit in GPU_BITS.items() if mask >> bit & 1}


@pytest.mark.usefixtures("needs_rtx")
class TestRealBuilds:
    def test_fp32_with_dynamic_size(self, hasn_onnx: MakeOnnx) -> None:
        steps: list[Step] = []
        engine = engine_from_onnx(hasn_onnx("fp32"), RTX, precision=Precision.FP32, progress=steps.append)
        details = as_json(engine.details())
        assert "size" not in details
        assert details["profile"] == {
            "min": [1, 3, 32, 32],
            "opt": [1, 3, 48, 64],
            "max": [1, 3, 96, 96],
        }
        assert details["inputs"] == [{"name": "input", "dtype": "float32", "shape": [1, 3, -1, -1]}]
        assert details["outputs"] == [{"name": "output", "dtype": "float32", "shape": [1, 3, -1, -1]}]
        assert details["layers"]["quantize"] == 0
        assert details["flags"]["tf32"] is False
        assert engine.header.runtime is EngineRuntime.RTX
        assert engine.made_by == {"TensorRT for RTX": details["version"]}
        assert gpus_of(engine.plan) == {"8.0", "8.6", "8.9", "12.0", "12.1"}
        assert Step("Building engine", 0, 6) in steps
        assert any(step.text == "Building engine" and step.done == step.total for step in steps)

    def test_fp16_with_static_size_wherever_it_is_run(
        self, hasn_onnx: MakeOnnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "tensorrt_rtx.py").write_text("raise SystemExit('a file of the user was imported')")
        monkeypatch.chdir(tmp_path)
        engine = engine_from_onnx(
            hasn_onnx("fp16", size=(40, 56)), RTX.with_size(40, 56), precision=Precision.FP16
        )
        details = as_json(engine.details())
        assert details["size"] == [40, 56]
        assert details["inputs"][0] == {"name": "input", "dtype": "float32", "shape": [1, 3, 40, 56]}
        assert details["outputs"][0] == {"name": "output", "dtype": "float32", "shape": [1, 3, 160, 224]}
        assert list(tmp_path.iterdir()) == [tmp_path / "tensorrt_rtx.py"]

    def test_int8_for_chosen_gpus(self, hasn_onnx: MakeOnnx) -> None:
        target = replace(RTX, compute_capabilities=("ada", "12.0"))
        engine = engine_from_onnx(hasn_onnx("int8"), target, precision=Precision.INT8)
        assert gpus_of(engine.plan) == {"8.9", "12.0"}
        details = as_json(engine.details())
        assert details["compute_capabilities"] == ["8.9", "12.0"]
        assert details["layers"]["quantize"] > details["layers"]["convolution"] / 2

    def test_one_size_of_a_dynamic_graph_for_turing(self, hasn_onnx: MakeOnnx) -> None:
        engine = engine_from_onnx(hasn_onnx("fp16"), load_target("rtx-turing").with_size(32, 32))
        assert gpus_of(engine.plan) == {"7.5"}
        assert engine.details().size == (32, 32)

    @pytest.mark.parametrize("size", [None, (40, 56)])
    def test_pixels_in_and_out(self, hasn_onnx: MakeOnnx, size: tuple[int, int] | None) -> None:
        target = RTX.with_size(*size) if size else RTX
        engine = engine_from_onnx(hasn_onnx("int8", size=size, pixels=True), target, precision=Precision.INT8)
        details = as_json(engine.details())
        shape = [1, *(size or (-1, -1)), 3]
        assert details["inputs"] == [{"name": "input", "dtype": "uint8", "shape": shape}]
        assert details["outputs"][0]["dtype"] == "uint8"
        assert details["profile"]["max"] == [1, *(size or (96, 96)), 3]
        assert engine.precision is Precision.INT8

    def test_a_weakly_typed_graph_would_become_an_fp32_engine(self, hasn_onnx: MakeOnnx) -> None:
        weak = hasn_onnx("fp32", form="weakly-typed")
        assert engine_from_onnx(weak, RTX).precision is Precision.FP32
        with pytest.raises(
            BuildError, match=r"TensorRT for RTX [\d.]+ takes types from the graph; give it the"
        ):
            engine_from_onnx(weak, RTX, precision=Precision.FP16)

    def test_a_cache_gets_no_timings_of_a_compiler_that_has_none(
        self, hasn_onnx: MakeOnnx, tmp_path: Path
    ) -> None:
        engine = engine_from_onnx(hasn_onnx("fp32"), RTX, cache=tmp_path / "cache")
        assert engine.details().gpu is None
        assert engine.details().flags.workspace_from == "the compiler's default"
        assert not (tmp_path / "cache").exists()

    def test_the_published_network_at_the_benchmarked_size(self, hasn_onnx: MakeOnnx) -> None:
        graph = hasn_onnx("int8", spec=ModelSpec(), size=(180, 320))
        engine = engine_from_onnx(graph, load_target("rtx-720p"))
        assert engine.facts["layers"]["convolution"] == 93
        assert engine.facts["outputs"][0]["shape"] == [1, 3, 720, 1280]
        assert len(engine.plan) > len(graph)

    def test_what_the_parser_refuses_is_told_with_node_and_reason(self, hasn_onnx: MakeOnnx) -> None:
        import onnx

        proto = onnx.load_from_string(hasn_onnx("fp32"))
        gelu = next(node for node in proto.graph.node if node.op_type == "Gelu")
        gelu.op_type = "Frobnicate"
        with pytest.raises(
            BuildError, match=r"TensorRT for RTX [\d.]+ cannot read the ONNX graph:\n"
        ) as info:
            engine_from_onnx(proto.SerializeToString(), RTX)
        assert f"'{gelu.name}' (Frobnicate): " in str(info.value)
        assert "Plugin not found" in str(info.value)

    def test_mixed_types_are_told_without_the_missing_driver(self, hasn_onnx: MakeOnnx) -> None:
        import onnx
        from onnx import numpy_helper

        proto = onnx.load_from_string(hasn_onnx("fp16"))
        conv = next(node for node in proto.graph.node if node.op_type == "Conv")
        weight = next(w for w in proto.graph.initializer if w.name == conv.input[1])
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype("f4"), weight.name))
        with pytest.raises(BuildError, match="must be of same type. `input` type is Half but") as info:
            engine_from_onnx(proto.SerializeToString(), RTX)
        assert f"'{conv.name}' (Conv)" in str(info.value)
        assert "messages of" not in str(info.value)
        assert "CUDA driver version" not in str(info.value)

    def test_no_plan_is_explained_by_the_compiler(self, hasn_onnx: MakeOnnx) -> None:
        with pytest.raises(
            BuildError, match=r"(?s)could not compile the graph; messages of .*:\n  .*within workspace limit"
        ):
            engine_from_onnx(
                hasn_onnx("int8", size=(64, 64)), replace(RTX.with_size(64, 64), workspace_bytes=1 << 20)
            )

    def test_things_that_cannot_be_built(self, hasn_onnx: MakeOnnx) -> None:
        with pytest.raises(BuildError, match="not an ONNX graph"):
            engine_from_onnx(b"hello", RTX)
        with pytest.raises(UnsupportedError, match=r"compute capability 9.0; it can for 7.5, 8.0, 8.6"):
            engine_from_onnx(b"", replace(RTX, compute_capabilities=("hopper", "ada")))
        with pytest.raises(UnsupportedError, match=r"fixed to \(1, 3, 40, 56\), but the target asks for"):
            engine_from_onnx(hasn_onnx("fp32", size=(40, 56)), RTX)


def test_targets_without_a_compiler_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu", "portable"):
        with pytest.raises(
            UnsupportedError, match=f"target '{name}' has no engine: .* takes the graph itself"
        ):
            engine_from_onnx(b"", load_target(name))
    monkeypatch.setattr(capabilities.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"TensorRT for RTX needs .*'hasn-edge\[rtx\]'"):
        engine_from_onnx(b"", RTX)
    with pytest.raises(MissingDependencyError, match=r"TensorRT needs .*'hasn-edge\[tensorrt\]'"):
        engine_from_onnx(b"", EngineTarget(runtime=EngineRuntime.TENSORRT))


@pytest.mark.usefixtures("needs_rtx")
def test_an_installed_but_broken_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('libtensorrt_rtx.so.1: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        BuildError, match="cannot be loaded: libtensorrt_rtx.so.1: cannot open.*--force-reins"
    ):
        engine_from_onnx(b"", RTX)


class TestTheChild:
    """How the parent takes it when the compiler's process ends in other ways than it should."""

    @pytest.fixture(autouse=True)
    def _compiler_present(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compile_module, "find_module", lambda runtime: "any")

    def child(self, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
        code = (
            f"import json, os, signal, sys, time\nsay = lambda **v: print(json.dumps(v), flush=True)\n{code}"
        )
        monkeypatch.setattr(
            worker_process, "command", lambda *arguments: [sys.executable, "-c", code, *arguments]
        )

    def test_killed_for_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.child(
            monkeypatch,
            "say(event='loaded', title='TensorRT for RTX 9.9')\n"
            "for _ in range(3): say(event='message', severity='WARNING', text='getting large')\n"
            "os.kill(os.getpid(), signal.SIGKILL)",
        )
        with pytest.raises(
            BuildError, match=r"(?s)9.9 was killed \(SIGKILL\).*ran out of memory.*lower workspace_bytes"
        ) as info:
            engine_from_onnx(b"", RTX)
        assert info.value.message.endswith("its last messages:\n  getting large (3 times)")

    @pytest.mark.skipif(capabilities.driver_present(), reason="this machine has an NVIDIA driver")
    def test_tensorrt_on_a_machine_without_a_gpu(self) -> None:
        with pytest.raises(
            UnsupportedError, match="no NVIDIA driver .*or choose a target of TensorRT for RTX"
        ):
            engine_from_onnx(b"", EngineTarget(runtime=EngineRuntime.TENSORRT))

    def test_crashed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.child(monkeypatch, "os.kill(os.getpid(), signal.SIGSEGV)")
        with pytest.raises(BuildError, match=r"TensorRT for RTX crashed \(SIGSEGV\) while it compiled"):
            engine_from_onnx(b"", RTX)

    def test_stopped_with_words_on_stderr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.child(monkeypatch, "sys.exit('some library: cannot go on')")
        with pytest.raises(
            BuildError, match="exit code 1 before it was done; .*:\n  some library: cannot go"
        ):
            engine_from_onnx(b"", RTX)

    def test_a_plan_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.child(
            monkeypatch,
            "say(event='message', severity='ERROR', text='line one\\nline two')\n"
            "say(event='failed', kind='BuildError', text='could not compile', cures=[])\nsys.exit(1)",
        )
        with pytest.raises(BuildError, match="could not compile; messages of .*:\n  line one\n    line two$"):
            engine_from_onnx(b"", RTX)

    def test_memory_that_ran_out_inside_the_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.child(
            monkeypatch,
            "say(event='message', severity='ERROR', text='Unexpected exception std::bad_alloc')\n"
            "say(event='failed', kind='BuildError', text='could not compile the graph', cures=[])\n"
            "sys.exit(1)",
        )
        with pytest.raises(
            BuildError,
            match=r"(?s)the graph: it ran out of memory; .*:\n  Unexpected.*bad_alloc\nWhat helps: free some",
        ):
            engine_from_onnx(b"", RTX)

    def test_a_disk_without_room(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        cure = {"action": "say", "text": "make some"}
        self.child(
            monkeypatch,
            f"say(event='failed', kind='OutputError', text='no room', cures=[{cure}])\nsys.exit(1)",
        )
        with pytest.raises(OutputError, match="^no room; make some$"):
            engine_from_onnx(b"", RTX)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
        with pytest.raises(OutputError, match="temporary files in .*absent.*set TMPDIR"):
            engine_from_onnx(b"", RTX)

    def test_a_caller_that_gives_up_takes_the_child_along(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.child(
            monkeypatch,
            f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
            "say(event='step', phase='a', done=0, steps=1)\ntime.sleep(60)",
        )

        def give_up(step: Step) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            engine_from_onnx(b"", RTX, progress=give_up)
        assert time.monotonic() - started < 30
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
        assert [path.name for path in tmp_path.iterdir()] == ["pid"]
