"""One input on its way: CUDA graphs, and memory for both ends and for what is between; on fake_gpu.py."""

from __future__ import annotations

import numpy as np
import pytest

from hasn_edge.errors import InputError
from hasn_edge.runtime.tensorrt.engine_session import TensorRTSession
from tests.support.engine_runs import CUDA, SHAPE, WITH_GRAPHS, calls, image, repeated, run_and_check


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
