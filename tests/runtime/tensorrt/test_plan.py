"""An engine's file in TensorRT: loading it, its messages, the kernels that are kept; on fake_gpu.py."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace

import pytest

from hasn_edge.errors import ArtifactError, BuildError
from hasn_edge.runtime.tensorrt import plan
from hasn_edge.runtime.tensorrt.engine_session import TensorRTSession
from hasn_edge.runtime.tensorrt.plan import LoadedPlan
from tests.support.engine_runs import image, run_and_check


class TestLoading:
    def test_a_foreign_engine(self, lab):
        lab.set_up()
        with pytest.raises(
            ArtifactError,
            match=r"(?s)x4\.engine: TensorRT 10\.3\.0 does not load this engine: .* messages of "
            r"TensorRT 10\.3\.0:\n  .*expecting compute 8\.9 got compute 8\.7",
        ):
            TensorRTSession(lab.engine(behaviour="foreign"), cuda="cuda-python")

    def test_the_build_that_makes_it_again_is_of_this_engine(self, lab):
        lab.set_up()
        engine = lab.engine(behaviour="foreign", details={"model": "mine.pth", "target": "orin-nano"})
        with pytest.raises(ArtifactError) as info:
            TensorRTSession(engine, cuda="cuda-python")
        (again,) = info.value.cures
        given = {name: again.arguments.get(name) for name in ("model", "target", "rebuild")}
        assert given == {"model": "mine.pth", "target": "orin-nano", "rebuild": True}
        note = "only the name of 'mine.pth' is known here: write the folder as well"
        assert note in info.value.message.partition("; messages of ")[0]

    def test_version_compatible_engines_bring_code_for_the_processor(self, lab):
        lab.set_up()
        engine = lab.engine(host_code=True, details={"flags": {"version_compatible": True}})
        with TensorRTSession(engine, cuda="cuda-python") as session:
            run_and_check(session)
        with pytest.raises(ArtifactError, match="engine_host_code_allowed is not set"):
            TensorRTSession(lab.engine(host_code=True), cuda="cuda-python")

    def test_a_file_that_is_no_engine(self, lab):
        lab.set_up()
        engine = lab.engine()
        engine.path.write_bytes(b"\x08" * 2000)
        with pytest.raises(ArtifactError, match="not a TensorRT plan"):
            TensorRTSession(engine, cuda="cuda-python")
        engine.path.unlink()
        with pytest.raises(ArtifactError, match="cannot be read: No such file"):
            TensorRTSession(engine, cuda="cuda-python")


class TestKernelsOfTensorRTForRTX:
    """It compiles for the GPU when an engine runs: once, not in every process."""

    def engine(self, lab, **plan):
        return lab.engine(version=(1, 7, 1, 116), rtx=True, **plan)

    @pytest.mark.parametrize(
        ("eager", "size", "asked", "said"),
        [
            (False, None, None, "general ones run until they are compiled"),
            (True, None, "EAGER", "compiled before it runs"),
            (True, (32, 48), None, None),
        ],
    )
    def test_of_a_size_are_there_before_it_is_timed(self, lab, eager, size, asked, said):
        lab.set_up(version="1.7.1.116", rtx=True)
        engine = self.engine(lab, size=size)
        with TensorRTSession(engine, cuda="cuda-python", in_flight=2, eager=eager) as session:
            assert lab.trt.specialization == [asked] * 2
            assert session.facts()["kernels"] == said

    def run(self, lab, engine, *, version: str = "1.7.1.116", **settings) -> int:
        """Run in a process of its own, as far as TensorRT is concerned; return how much it compiled."""
        lab.set_up(version=version, rtx=True)
        with TensorRTSession(engine, cuda="cuda-python", **settings) as session:
            run_and_check(session, times=2)
        return lab.trt.kernels_compiled

    @pytest.mark.parametrize("settings", [{}, {"graphs": False}, {"in_flight": 3}], ids=str)
    def test_are_kept_for_the_next_process(self, lab, settings):
        engine = self.engine(lab)
        assert self.run(lab, engine, **settings) > 0
        kept = engine.path.with_name(f"{engine.path.name}.runtime-cache")
        before = kept.read_bytes()
        assert self.run(lab, engine, **settings) == 0
        assert kept.read_bytes() == before

    @pytest.mark.parametrize("damage", ["bytes", "version"])
    def test_that_do_not_fit_are_compiled_again_and_replaced(self, lab, damage):
        engine = self.engine(lab)
        self.run(lab, engine)
        kept = engine.path.with_name(f"{engine.path.name}.runtime-cache")
        if damage == "bytes":
            kept.write_bytes(b"\0" * 100)
        version = "1.7.1.116" if damage == "bytes" else "1.8.0.1"
        assert self.run(lab, engine, version=version) > 0
        assert self.run(lab, engine, version=version) == 0

    def test_that_cannot_be_written_are_no_error(self, lab):
        engine = self.engine(lab)
        (lab.folder / "x4.engine.runtime-cache").mkdir()
        assert self.run(lab, engine) > 0
        assert self.run(lab, engine) > 0
        names = ["x4.engine", "x4.engine.json", "x4.engine.runtime-cache"]
        assert sorted(path.name for path in lab.folder.iterdir()) == names

    def test_plans_of_tensorrt_hold_their_own(self, lab):
        lab.set_up()
        engine = lab.engine()
        with TensorRTSession(engine, cuda="cuda-python") as session:
            run_and_check(session)
        assert sorted(path.name for path in lab.folder.iterdir()) == ["x4.engine", "x4.engine.json"]


@pytest.mark.slow
def test_engines_opened_one_after_the_other_have_one_logger(lab):
    """The library keeps a plain pointer to the first, also when the engine is gone that brought it."""
    lab.set_up()
    engine = lab.engine()
    for _ in range(2):
        with TensorRTSession(engine, cuda="cuda-python") as session:
            run_and_check(session)
        del session
        gc.collect()


@pytest.mark.parametrize("when", ["opened", "run"])
def test_what_is_raised_under_a_message_comes_after_the_call(lab, monkeypatch, when):
    """Ctrl-C in a program without handlers of ours is raised wherever Python runs, which is here."""

    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    def message(loaded, *_) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(plan.log, "info", interrupted)
            loaded._logger.log(SimpleNamespace(name="INFO"), "text")

    lab.set_up()
    if when == "opened":
        monkeypatch.setattr(LoadedPlan, "check", message)
        with pytest.raises(KeyboardInterrupt):
            TensorRTSession(lab.engine(), cuda="cuda-python")
        return
    with TensorRTSession(lab.engine(), cuda="cuda-python") as session:
        message(session._plan)
        with pytest.raises(KeyboardInterrupt):
            session.run(image())
        run_and_check(session)


def test_messages_of_another_engine_are_not_this_ones(lab):
    lab.set_up()
    engine = lab.engine()
    with TensorRTSession(engine, cuda="cuda-python") as session:
        run_and_check(session)

        def other() -> None:
            with pytest.raises(ArtifactError, match="incompatible device"):
                TensorRTSession(lab.engine("y", behaviour="foreign"), cuda="cuda-python")

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        lab.trt.refuse.add("execute_async_v3")
        with pytest.raises(BuildError, match="Internal Error") as info:
            session.run(image())
        assert "incompatible device" not in str(info.value)
        lab.trt.refuse.clear()
