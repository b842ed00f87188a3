"""What a session of an engine adds: executions in flight, times, sizes, failures; on fake_gpu.py."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from hasn_edge.errors import ArtifactError, BuildError, ConfigError, ShapeError
from hasn_edge.runtime.tensorrt.engine_session import TensorRTSession
from tests.support.engine_runs import CUDA, calls, image, repeated, run_and_check


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
        with TensorRTSession(lab.engine(size=(16, 20)), cuda="cuda-python") as session:
            with pytest.raises(ShapeError, match="times takes one image of this engine, got 2"):
                session.times(image(0, (2, 3, 16, 20)))
            for x, got in ((7, "as a NumPy array, got int"), (np.array(7.0), "got 0 dimensions")):
                with pytest.raises(ShapeError, match=got):
                    session.times(x)


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
        with pytest.raises(ArtifactError, match=message) as info:
            TensorRTSession(lab.engine(**plan, details={"model": "mine.pth"}), cuda=cuda)
        assert info.value.message.endswith(
            "; only the name of 'mine.pth' is known here: write the folder as well"
        )


class TestFailures:
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

    @pytest.mark.parametrize("also", [None, "synchronize"])
    def test_the_second_execution_fails(self, lab, also):
        lab.set_up()
        lab.trt.contexts = 1
        if also:  # while what began is taken down
            lab.gpu.fail[also] = "cudaErrorIllegalAddress"
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

    def test_an_error_is_not_replaced_by_that_of_closing(self, lab):
        lab.set_up()
        with pytest.raises(ZeroDivisionError), TensorRTSession(lab.engine(), cuda="cuda-python") as session:
            run_and_check(session)
            lab.gpu.fail["synchronize"] = "cudaErrorIllegalAddress"
            raise ZeroDivisionError


@pytest.mark.parametrize("cuda", CUDA)
def test_memory_that_does_not_suffice_to_open_is_a_message(lab, cuda):
    lab.set_up(cuda)
    artifact = lab.engine()
    lab.gpu.fail["create_stream"] = "cudaErrorMemoryAllocation"
    with pytest.raises(BuildError, match=r"x4\.engine: CUDA .* could not .*free some of the GPU's memory"):
        TensorRTSession(artifact, cuda=cuda)
    with TensorRTSession(artifact, cuda=cuda) as session:
        run_and_check(session)


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
