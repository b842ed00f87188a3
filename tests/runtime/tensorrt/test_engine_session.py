"""What only the TensorRT session has: graphs, executions in flight, failures, times; on fake_gpu.py."""

from __future__ import annotations

import gc
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from hasn_edge.errors import ArtifactError, BuildError, ConfigError, InputError, ShapeError
from hasn_edge.runtime.tensorrt.engine_session import TensorRTSession

CUDA = ("cuda-python", "pycuda", "torch")
WITH_GRAPHS = ("cuda-python", "torch")
SHAPE = (1, 3, 16, 20)


def image(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def repeated(x: np.ndarray) -> np.ndarray:
    return x.repeat(4, axis=2).repeat(4, axis=3)


def run_and_check(session: TensorRTSession, *, times: int = 1, shape: tuple[int, ...] = SHAPE) -> None:
    for seed in range(times):
        x = image(seed, shape)
        np.testing.assert_array_equal(session.run(x), repeated(x))


def calls(lab, *names: str) -> list[str]:
    """Return the calls of these names since the last time, in order."""
    found = [name for name in lab.gpu.calls if name in names]
    lab.gpu.calls.clear()
    return found


class TestGraphs:
    @pytest.mark.parametrize("cuda", WITH_GRAPHS)
    def test_first_plain_then_recorded_then_launched(self, lab, cuda):
        lab.set_up(cuda)
        with TensorRTSession(lab.engine(), cuda=cuda) as session:
            steps = ("begin_capture", "network", "end_capture", "launch")
            run_and_check(session)
            assert calls(lab, *steps) == ["network"]
            run_and_check(session)
            assert calls(lab, *steps) == ["begin_capture", "network", "end_capture", "launch"]
            run_and_check(session, times=3)
            assert calls(lab, *steps) == ["launch"] * 3
            assert session.facts()["graphs"] is True
            assert session.facts()["graphs_reason"] is None

    @pytest.mark.parametrize("cuda", WITH_GRAPHS)
    def test_a_new_shape_drops_the_graph(self, lab, cuda):
        lab.set_up(cuda)
        with TensorRTSession(lab.engine(), cuda=cuda) as session:
            run_and_check(session, times=3)
            for shape in ((1, 3, 18, 15), SHAPE, (2, 3, 16, 20), (1, 3, 64, 80), SHAPE):
                calls(lab)
                run_and_check(session, times=3, shape=shape)
                assert calls(lab, "network", "launch", "end_capture") == [
                    "network", "network", "end_capture", "launch", "launch"
                ]  # fmt: skip
                assert len(lab.gpu.graphs) == 1

    @pytest.mark.parametrize("cuda", WITH_GRAPHS)
    def test_a_refused_enqueue_would_record_an_empty_graph(self, lab, cuda):
        lab.set_up(cuda).trt.refuse.add("execute_async_v3 in capture")
        with TensorRTSession(lab.engine(), cuda=cuda) as session:
            run_and_check(session, times=4)
            assert lab.trt.capture_attempts == 1  # refused once is refused
            assert lab.gpu.graphs == []
            facts = session.facts()
            assert facts["graphs"] is False
            assert "TensorRT 10.3.0 refused to be recorded" in facts["graphs_reason"]
            assert "unjoined work, cannot be captured" in facts["graphs_reason"]

    @pytest.mark.slow
    @pytest.mark.parametrize("cuda", WITH_GRAPHS)
    @pytest.mark.parametrize("call", ["begin_capture", "end_capture", "launch"])
    def test_what_cuda_refuses_runs_plainly(self, lab, cuda, call):
        lab.set_up(cuda)
        with TensorRTSession(lab.engine(), cuda=cuda) as session:
            run_and_check(session)
            lab.gpu.fail[call] = "cudaErrorIllegalState"
            run_and_check(session, times=3)
            assert session.facts()["graphs"] is False
            assert f"CUDA (through {cuda}) failed to" in session.facts()["graphs_reason"]
            assert lab.gpu.graphs == []
        assert lab.gpu.fail == {}

    def test_a_graph_that_cannot_be_prepared(self, lab):
        lab.set_up()
        with TensorRTSession(lab.engine(), cuda="cuda-python") as session:
            run_and_check(session)
            lab.gpu.fail["instantiate"] = "cudaErrorMemoryAllocation"
            run_and_check(session, times=2)
            assert lab.gpu.graphs == []
            assert "out of memory" in session.facts()["graphs_reason"]

    def test_pycuda_has_none(self, lab):
        lab.set_up("pycuda")
        with TensorRTSession(lab.engine(), cuda="pycuda") as session:
            run_and_check(session, times=3)
            assert session.facts()["graphs_reason"] == "pycuda has no CUDA graphs"
            assert "begin_capture" not in lab.gpu.calls

    def test_not_asked_for(self, lab):
        lab.set_up()
        with TensorRTSession(lab.engine(), cuda="cuda-python", graphs=False) as session:
            run_and_check(session, times=3)
            assert session.facts()["graphs_reason"] == "not asked for"
            assert "begin_capture" not in lab.gpu.calls

    def test_tensorrt_for_rtx_records_by_itself(self, lab):
        lab.set_up(version="1.7.1.116", rtx=True)
        engine = lab.engine(version=(1, 7, 1, 116), rtx=True)
        with TensorRTSession(engine, cuda="cuda-python") as session:
            run_and_check(session, times=3)
            assert "begin_capture" not in lab.gpu.calls
            assert session.facts()["graphs"] is True
            assert [name for name, _ in lab.trt.live if name.startswith("IRuntimeConfig")]

    @pytest.mark.parametrize("capturable", [True, False])
    def test_tensorrt_for_rtx_that_does_not_is_recorded_if_it_lets_itself(self, lab, capturable):
        lab.set_up(version="1.7.1.116", rtx=True).trt.refuse.add("cuda_graph_strategy")
        if not capturable:
            lab.trt.refuse.add("is_stream_capturable")
        engine = lab.engine(version=(1, 7, 1, 116), rtx=True)
        with TensorRTSession(engine, cuda="cuda-python") as session:
            run_and_check(session, times=3)
            assert lab.gpu.calls.count("launch") == (2 if capturable else 0)
            assert session.facts()["graphs"] is capturable
            if not capturable:
                assert "reports that this engine cannot be recorded" in session.facts()["graphs_reason"]


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


class TestInFlight:
    @pytest.mark.parametrize("cuda", CUDA)
    def test_so_many_are_under_way_before_one_is_waited_for(self, lab, cuda):
        lab.set_up(cuda)
        with TensorRTSession(lab.engine(), cuda=cuda, in_flight=3) as session:
            inputs = [image(i) for i in range(7)]
            pending = [session.submit(x) for x in inputs]
            steps = calls(lab, "network", "synchronize")
            assert steps[:4] == ["network"] * 3 + ["synchronize"]
            assert steps.count("synchronize") == 4  # the first four made room for the last four
            for i in (6, 0, 3, 1, 2, 5, 4):
                np.testing.assert_array_equal(pending[i].result(), repeated(inputs[i]))
            assert session.facts()["in_flight"] == session.in_flight == 3

    def test_every_execution_has_a_stream_a_context_and_a_graph(self, lab):
        lab.set_up()
        with TensorRTSession(lab.engine(), cuda="cuda-python", in_flight=3) as session:
            for _ in range(3):
                for pending in [session.submit(image(i)) for i in range(3)]:
                    pending.result()
            assert len(lab.gpu.streams) == len(lab.gpu.graphs) == 3
            assert sum(name.startswith("IExecutionContext") for name, _ in lab.trt.live) == 3

    def test_many_images_of_an_engine_for_one_use_all_executions(self, lab):
        lab.set_up()
        engine = lab.engine(size=(16, 20))
        with TensorRTSession(engine, cuda="cuda-python", in_flight=2) as session:
            x = image(1, (5, 3, 16, 20))
            np.testing.assert_array_equal(session.run(x), repeated(x))
            assert calls(lab, "network", "synchronize")[:3] == ["network", "network", "synchronize"]

    def test_results_outlive_the_session(self, lab):
        lab.set_up()
        with TensorRTSession(lab.engine(), cuda="cuda-python", in_flight=2) as session:
            pending = [session.submit(image(i)) for i in range(2)]
        for i in range(2):
            np.testing.assert_array_equal(pending[i].result(), repeated(image(i)))

    def test_tensorrt_8_needs_an_engine_for_each_context(self, lab):
        lab.set_up(version="8.6.1")
        artifact = lab.engine(version=(8, 6, 1, 6))
        with TensorRTSession(artifact, cuda="cuda-python", in_flight=3) as session:
            assert sum(name.startswith("ICudaEngine") for name, _ in lab.trt.live) == 3
            for pending in [session.submit(image(i)) for i in range(3)]:
                assert np.isfinite(pending.result()).all()

    @pytest.mark.parametrize("in_flight", [0, 17])
    def test_how_many(self, lab, in_flight):
        lab.set_up()
        with pytest.raises(ConfigError, match=f"in_flight is {in_flight}; expected 1 to 16"):
            TensorRTSession(lab.engine(), in_flight=in_flight)


class TestMemory:
    @pytest.mark.parametrize("cuda", CUDA)
    def test_buffers_grow_and_are_kept(self, lab, cuda):
        lab.set_up(cuda)
        with TensorRTSession(lab.engine(), cuda=cuda) as session:
            for shape, allocations in (
                ((1, 3, 15, 15), 5),  # both sides of input and output, and the network's activations
                ((1, 3, 64, 80), 5),
                (SHAPE, 0),
                ((2, 3, 16, 20), 0),
            ):
                calls(lab)
                run_and_check(session, shape=shape)
                assert len(calls(lab, "malloc", "host_alloc")) == allocations

    @pytest.mark.parametrize("cuda", CUDA)
    def test_nothing_is_copied_where_memory_is_shared(self, lab, cuda):
        lab.set_up(cuda, integrated=True)
        with TensorRTSession(lab.engine(), cuda=cuda) as session:
            run_and_check(session, times=3)
            assert calls(lab, "malloc", "to_device", "to_host") == ["malloc"]  # the network's activations
            assert session.facts()["memory"] == "mapped, nothing copied"
            timing = session.times(image())
            assert timing.to_device_s is timing.to_host_s is None
        with TensorRTSession(lab.engine(), cuda=cuda, mapped=False) as session:
            run_and_check(session, times=3)
            assert calls(lab, "to_device", "to_host") == ["to_device", "to_host"] * 3

    @pytest.mark.parametrize("cuda", CUDA)
    def test_what_does_not_fit_is_said_and_the_session_lives(self, lab, cuda):
        lab.set_up(cuda)
        lab.gpu.memory_bytes = 200_000
        with TensorRTSession(lab.engine(), cuda=cuda) as session:
            with pytest.raises(
                InputError, match=r"tensorrt: not enough memory .* 64 x 80 pixels and batch 4"
            ):
                session.run(image(0, (4, 3, 64, 80)))
            run_and_check(session, times=3)

    def test_an_engine_of_pixels_moves_a_quarter(self, lab):
        lab.set_up()
        floats, pixels = (
            lab.engine("floats", size=(16, 20)),
            lab.engine("pixels", size=(16, 20), dtype="UINT8"),
        )
        with TensorRTSession(floats, cuda="cuda-python") as session:
            plain = session.times(image())
        with TensorRTSession(pixels, cuda="cuda-python") as session:
            assert session.pixels
            assert session.facts()["pixels"] is True
            x_NHWC = np.random.default_rng(0).integers(0, 256, (1, 16, 20, 3), dtype=np.uint8)
            for _ in range(3):
                got = session.run_pixels(x_NHWC)
                np.testing.assert_array_equal(got, x_NHWC.repeat(4, axis=1).repeat(4, axis=2))
            small = session.times(x_NHWC)
            np.testing.assert_allclose(session.run(image()), repeated(image()), atol=0.5 / 255 + 1e-6)
        assert plain.to_device_s == pytest.approx(4 * small.to_device_s)
        assert plain.to_host_s == pytest.approx(4 * small.to_host_s)


class TestTimes:
    @pytest.mark.parametrize("cuda", CUDA)
    def test_events_measure_the_network_alone(self, lab, cuda):
        lab.set_up(cuda)
        with TensorRTSession(lab.engine(), cuda=cuda, in_flight=2) as session:
            pending = session.submit(image(5))
            session.times(image())
            steps = calls(lab, "network", "synchronize")
            assert steps == ["network", "synchronize", "network", "synchronize"]  # alone on the GPU
            for _ in range(3):
                timing = session.times(image())
                assert timing.gpu_s == pytest.approx(lab.fakes.KERNEL_SECONDS)
                assert timing.to_device_s == pytest.approx(image().nbytes * 1e-9)
                assert timing.to_host_s == pytest.approx(16 * image().nbytes * 1e-9)
                assert 0 < timing.enqueue_s < timing.total_s
            np.testing.assert_array_equal(pending.result(), repeated(image(5)))
            run_and_check(session)  # untimed again
            with pytest.raises(ShapeError, match="expected float32"):
                session.times(image()[0])

    def test_one_image_of_an_engine_for_one(self, lab):
        lab.set_up()
        with (
            TensorRTSession(lab.engine(size=(16, 20)), cuda="cuda-python") as session,
            pytest.raises(ShapeError, match="times takes one image of this engine, got 2"),
        ):
            session.times(image(0, (2, 3, 16, 20)))


class TestShapes:
    def test_a_fixed_size(self, lab):
        lab.set_up()
        with TensorRTSession(lab.engine(size=(16, 20)), cuda="cuda-python") as session:
            assert (session.size, session.batch) == ((16, 20), 1)
            assert session.smallest == session.largest == (16, 20)
            with pytest.raises(ShapeError, match="exactly 16 x 20 pixels"):
                session.run(image(0, (1, 3, 20, 16)))
            run_and_check(session, times=3)

    def test_a_range(self, lab):
        lab.set_up()
        engine = lab.engine(minimum=(1, 3, 32, 32), maximum=(2, 3, 64, 80))
        with TensorRTSession(engine, cuda="cuda-python") as session:
            assert (session.size, session.batch) == (None, None)
            assert (session.smallest, session.largest) == ((32, 32), (64, 80))
            with pytest.raises(ShapeError, match="at least 32 x 32 pixels, got 31 x 40"):
                session.run(image(0, (1, 3, 31, 40)))
            with pytest.raises(ShapeError, match="at most 64 x 80 pixels, got 80 x 64"):
                session.run(image(0, (1, 3, 80, 64)))
            with pytest.raises(ShapeError, match="takes 1 to 2 images at a time, got 3"):
                session.run(image(0, (3, 3, 32, 32)))
            run_and_check(session, shape=(2, 3, 64, 80))

    def test_a_range_that_begins_below_what_the_network_takes(self, lab):
        lab.set_up()
        engine = lab.engine(minimum=(1, 3, 8, 9), maximum=(1, 3, 64, 80))
        with TensorRTSession(engine, cuda="cuda-python") as session:
            assert session.smallest == (15, 15)
            with pytest.raises(ShapeError, match="at least 15 x 15 pixels, got 14 x 40"):
                session.run(image(0, (1, 3, 14, 40)))

    @pytest.mark.parametrize(
        ("plan", "details"),
        [
            ({"size": (16, 20)}, {"size": [20, 16]}),
            ({}, {"size": [16, 20]}),
            ({"size": (16, 20)}, {"pixels": True}),
            ({"size": (16, 20), "dtype": "UINT8"}, {"pixels": False}),
        ],
    )
    def test_a_sidecar_that_says_something_else(self, lab, plan, details):
        lab.set_up()
        with pytest.raises(
            ArtifactError, match=r"the engine takes .* its sidecar states .* hasn_edge\.build"
        ):
            TensorRTSession(lab.engine(**plan, details=details), cuda="cuda-python")

    @pytest.mark.parametrize(
        ("plan", "message"),
        [
            ({"dtype": "HALF"}, r"expected float32 \(N, 3, H, W\) or uint8 \(N, H, W, 3\) .* got float16"),
            ({"dtype": "FP8"}, "'input' has type FP8, which no array has"),
            ({"output_dtype": "UINT8"}, "and uint8 .* out"),
            ({"minimum": (1, 1, 15, 15), "maximum": (1, 1, 64, 64)}, r"got float32 \(1, 1, -1, -1\) in"),
            ({"minimum": (3, 15, 15), "maximum": (3, 15, 15)}, r"got float32 \(3, 15, 15\) in"),
            ({"more_outputs": 1}, "expected one input and one output, got 1 and 2"),
        ],
    )
    @pytest.mark.parametrize("cuda", CUDA)
    def test_an_engine_of_something_else(self, lab, cuda, plan, message):
        lab.set_up(cuda)
        with pytest.raises(ArtifactError, match=message):
            TensorRTSession(lab.engine(**plan), cuda=cuda)


class TestActivations:
    """What lies between input and output is allocated for the sizes in use where the library allows it."""

    def used(self, lab) -> int:
        return sum(len(a.array) for a in lab.gpu.allocations if not a.pinned)

    @pytest.mark.parametrize("cuda", CUDA)
    @pytest.mark.parametrize(("version", "rtx"), [("10.3.0", False), ("11.4.0", False), ("1.7.1.116", True)])
    def test_of_the_size_in_use(self, lab, cuda, version, rtx):
        lab.set_up(cuda, version=version, rtx=rtx, integrated=True)
        engine = lab.engine(rtx=rtx, activation_bytes=100)
        with TensorRTSession(engine, cuda=cuda, in_flight=2) as session:
            assert self.used(lab) == 0  # input and output are the CPU's
            run_and_check(session, times=4)
            assert self.used(lab) == 2 * 100 * 3 * 16 * 20
            run_and_check(session, times=4, shape=(1, 3, 20, 40))
            assert self.used(lab) == 2 * 100 * 3 * 20 * 40
            run_and_check(session, times=4)
            assert self.used(lab) == 2 * 100 * 3 * 20 * 40
            assert session.facts()["activations"] == "of the sizes in use"

    def test_what_a_session_takes_of_the_gpu_is_among_its_facts(self, lab):
        lab.set_up()
        with TensorRTSession(lab.engine(activation_bytes=100), cuda="cuda-python", in_flight=2) as session:
            assert session.facts()["gpu_memory_bytes"] == 0
            run_and_check(session, times=4)
            ends = 4 * 3 * 16 * 20 * (1 + 16)
            assert session.facts()["gpu_memory_bytes"] == 2 * (100 * 3 * 16 * 20 + ends)

    @pytest.mark.parametrize("version", ["8.5.2", "8.6.1", "10.0.1"])
    def test_older_versions_hold_those_of_the_largest(self, lab, version):
        lab.set_up(version=version, integrated=True)
        with TensorRTSession(lab.engine(activation_bytes=10), cuda="cuda-python") as session:
            assert self.used(lab) == 10 * 4 * 3 * 64 * 80
            run_and_check(session, times=3)
            assert session.facts()["activations"] == "of the largest size"

    def test_that_one_size_takes_are_the_librarys(self, lab):
        lab.set_up(integrated=True)
        with TensorRTSession(lab.engine(size=(16, 20), activation_bytes=10), cuda="cuda-python") as session:
            assert self.used(lab) == 10 * 3 * 16 * 20
            run_and_check(session, times=3)

    def test_a_small_gpu_runs_small_images_of_a_large_range(self, lab):
        lab.set_up(integrated=True)
        lab.gpu.memory_bytes = 100 * 3 * 64 * 80
        with TensorRTSession(lab.engine(activation_bytes=100), cuda="cuda-python", in_flight=2) as session:
            run_and_check(session, times=3)
            with pytest.raises(InputError, match="not enough memory .* 64 x 80 pixels and batch 2"):
                session.run(image(shape=(2, 3, 64, 80)))
            run_and_check(session, times=3)

    @pytest.mark.parametrize("size", [None, (16, 20)])
    def test_an_engine_that_must_be_lent_memory(self, lab, size):
        """As version 0.1 built them for TensorRT for RTX."""
        lab.set_up(version="1.7.1.116", rtx=True)
        engine = lab.engine(rtx=True, size=size, require_user_allocation=True)
        with TensorRTSession(engine, cuda="cuda-python", in_flight=2) as session:
            run_and_check(session, times=5)

    def test_a_library_that_lends_nothing(self, lab):
        lab.set_up()
        lab.trt.refuse.add("USER_MANAGED")
        with TensorRTSession(lab.engine(), cuda="cuda-python", in_flight=2) as session:
            run_and_check(session, times=5)
            assert session.facts()["activations"] == "of the largest size"

    @pytest.mark.parametrize("cuda", CUDA)
    def test_a_library_that_demands_memory_for_the_largest_size(self, lab, cuda):
        """So one of two descriptions of the call goes; the other is satisfied with what this size takes."""
        lab.set_up(cuda, integrated=True)
        lab.trt.refuse.add("set_device_memory")
        with TensorRTSession(lab.engine(activation_bytes=10), cuda=cuda) as session:
            run_and_check(session, times=4)
            run_and_check(session, times=4, shape=(1, 3, 20, 40))
            assert self.used(lab) == 10 * 4 * 3 * 64 * 80


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


class TestFailures:
    def test_a_foreign_engine(self, lab):
        lab.set_up()
        with pytest.raises(
            ArtifactError,
            match=r"(?s)x4\.engine: TensorRT 10\.3\.0 does not load this engine: .* messages of "
            r"TensorRT 10\.3\.0:\n  .*expecting compute 8\.9 got compute 8\.7",
        ):
            TensorRTSession(lab.engine(behaviour="foreign"), cuda="cuda-python")

    @pytest.mark.parametrize("cuda", CUDA)
    @pytest.mark.parametrize(
        ("refuse", "fail", "message"),
        [
            ("Runtime", None, "TensorRT 10.3.0 cannot start on this GPU"),
            (
                "create_execution_context",
                None,
                "(?s)no execution context; .*could not be allocated\nWhat helps: free some",
            ),
            (None, "create_stream", "failed to make a stream"),
        ],
    )
    def test_what_began_is_taken_down(self, lab, cuda, refuse, fail, message):
        lab.set_up(cuda)
        if refuse:
            lab.trt.refuse.add(refuse)
        if fail:
            lab.gpu.fail[fail] = "cudaErrorIllegalState"
        with pytest.raises(BuildError, match=message):
            TensorRTSession(lab.engine(), cuda=cuda, in_flight=2)

    def test_the_second_execution_fails(self, lab):
        lab.set_up()
        lab.trt.contexts = 1
        with pytest.raises(BuildError, match="no execution context"):
            TensorRTSession(lab.engine(), cuda="cuda-python", in_flight=2)

    @pytest.mark.parametrize("cuda", CUDA)
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            ("set_input_shape", r"refused an input of \(1, 3, 16, 20\)"),
            ("infer_shapes", r"does not know the output's shape for an input of \(1, 3, 16, 20\)"),
            ("infer_shapes raises", "cannot compute the output's shape: Failed to infer shapes"),
            ("set_tensor_address", "refused the memory of 'input'"),
            ("execute_async_v3", r"refused to run an input of \(1, 3, 16, 20\)"),
        ],
    )
    def test_refusals_carry_tensorrts_words_and_pass(self, lab, cuda, call, message):
        lab.set_up(cuda)
        with TensorRTSession(lab.engine(), cuda=cuda) as session:
            lab.trt.refuse.add(call)
            said = (
                ""
                if call.startswith("infer_shapes")
                else rf"; messages of TensorRT 10\.3\.0:\n  IExecutionContext::{call}: Internal Error"
            )
            for _ in range(2):
                with pytest.raises(BuildError, match=rf"(?s)TensorRT 10\.3\.0 {message}{said}") as caught:
                    session.run(image())
                assert str(caught.value).count("Internal Error") == bool(said)
            lab.trt.refuse.clear()
            with pytest.raises(BuildError, match="profile") as caught:
                session._run(image(0, (1, 3, 14, 14)))
            assert "Internal Error" not in str(caught.value)  # nor any other word of before
            run_and_check(session, times=3)

    @pytest.mark.parametrize("cuda", CUDA)
    @pytest.mark.parametrize("call", ["to_device", "to_host", "asynchronous"])
    def test_what_fails_on_the_gpu_is_raised_with_the_result(self, lab, cuda, call):
        lab.set_up(cuda)
        with TensorRTSession(lab.engine(), cuda=cuda) as session:
            run_and_check(session)
            lab.gpu.fail[call] = "cudaErrorIllegalAddress"
            with pytest.raises(BuildError, match=rf"CUDA \(through {cuda}\) failed to"):
                session.run(image())
            run_and_check(session, times=2)

    @pytest.mark.parametrize("cuda", CUDA)
    def test_closing_goes_on_after_a_failure(self, lab, cuda):
        lab.set_up(cuda)
        session = TensorRTSession(lab.engine(), cuda=cuda, in_flight=2)
        run_and_check(session, times=2)
        lab.gpu.fail["synchronize"] = "cudaErrorIllegalAddress"
        with pytest.raises(BuildError, match="failed to finish the queued work"):
            session.close()
        assert session.closed
        session.close()

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


@pytest.mark.parametrize("cuda", CUDA)
def test_opened_in_one_thread_and_used_in_another(lab, cuda):
    lab.set_up(cuda)
    results = []
    with TensorRTSession(lab.engine(), cuda=cuda, in_flight=2) as session:
        first = session.submit(image(1))

        def work() -> None:
            results.append(first.result())
            results.extend(session.run(image(2)) for _ in range(3))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    np.testing.assert_array_equal(results[0], repeated(image(1)))
    for y in results[1:]:
        np.testing.assert_array_equal(y, repeated(image(2)))


def test_ctrl_c_while_waiting_leaves_a_session_that_works(lab):
    lab.set_up()
    with TensorRTSession(lab.engine(), cuda="cuda-python") as session:
        run_and_check(session)
        lab.gpu.fail["synchronize"] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            session.run(image())
        run_and_check(session, times=3)


def test_a_backend_of_the_caller_stays_open(lab):
    lab.set_up("pycuda")
    from hasn_edge.runtime.cuda import choose

    cuda = choose("pycuda")
    for _ in range(2):
        with TensorRTSession(lab.engine(), cuda=cuda) as session:
            run_and_check(session)
    cuda.close()


def recorded_versions() -> list[str]:
    return json.loads(RECORD.read_text())["versions"]


RECORD = Path(__file__).parents[2] / "support" / "tensorrt_api.json"


@pytest.mark.slow
@pytest.mark.parametrize("version", recorded_versions())
def test_the_fake_has_only_names_that_tensorrt_has(lab, version):
    record = json.loads(RECORD.read_text())
    order = record["versions"]

    def has(name: str) -> bool:
        ranges = ", ".join(record["names"].get(name, {}).values()).split(", ")
        ends = [[order.index(v) for v in part.split(" .. ")] for part in ranges if part]
        return any(span[0] <= order.index(version) <= span[-1] for span in ends)

    rtx = version.startswith("rtx ")
    trt = lab.fakes.make_tensorrt(lab.gpu, version=version.removeprefix("rtx "), rtx=rtx)
    checked = 0
    for name, thing in vars(trt).items():
        if not isinstance(thing, type):
            continue
        assert has(name), f"TensorRT {version} has no {name}"
        members = getattr(thing, "__members__", None) or {n for n in vars(thing) if not n.startswith("_")}
        for member in members:
            if (name, member) not in {("DataType", "FP8")}:
                assert has(f"{name}.{member}"), f"TensorRT {version} has no {name}.{member}"
            checked += 1
    assert checked >= 20
    gc.collect()
