"""TensorRT's own way to INT8, on every version that has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasn_edge.engine.builder import Calibration
from hasn_edge.engine.calibrator import make_calibrator
from hasn_edge.engine.target import EngineTarget
from hasn_edge.errors import BuildError, HasnEdgeError, UnsupportedError
from tests.support.compiling import (
    BUILDER_FLAGS,
    EXPLICIT_BATCH,
    STRONG_ONLY,
    STRONG_WITH_FLAG,
    WEAK,
    MakeOnnx,
    compile_with,
    target_of,
)
from tests.support.fake_builder import fake_tensorrt


class TestCalibrator:
    """TensorRT's own way to INT8: batches go to the device one by one, ranges are kept."""

    def calibration(
        self, tmp_path: Path, batches: list[np.ndarray], *, known: Path | None = None, **changes: Any
    ) -> tuple[Calibration, list[np.ndarray], list[int]]:
        uploaded: list[np.ndarray] = []
        counted: list[int] = []

        def upload(batch: np.ndarray) -> int:
            uploaded.append(batch)
            return 0x7000

        def make(trt: Any) -> Any:
            return make_calibrator(
                trt,
                iter(batches),
                1,
                upload=changes.get("upload", upload),
                known=known,
                leave=tmp_path / "left",
                on_batch=counted.append,
            )

        calibration = Calibration(
            shape=changes.get("shape", (1, 3, 32, 32)),
            float_layers=changes.get("float_layers", ()),
            make=make,
        )
        return calibration, uploaded, counted

    @pytest.mark.parametrize("version", [*WEAK, *STRONG_WITH_FLAG])
    def test_every_version_that_has_one(self, hasn_onnx: MakeOnnx, tmp_path: Path, version: str) -> None:
        batches = [np.full((1, 3, 32, 32), i, np.float32) for i in range(3)]
        calibration, uploaded, counted = self.calibration(
            tmp_path, batches, float_layers=("conv_1", "upsampler.0")
        )
        trt = fake_tensorrt(version)
        made = compile_with(
            trt, hasn_onnx("fp32", form="weakly-typed"), target_of(version), calibration=calibration
        )
        assert trt.calls[0] == ("create_network", EXPLICIT_BATCH)  # never strongly typed
        assert {flag.name for flag in trt.config._flags} == BUILDER_FLAGS["int8"]
        assert trt.config._calibration_profile._shapes == {"input": ((1, 3, 32, 32),) * 3}
        assert made.facts["precision"] == "int8"
        assert made.facts["flags"]["fp16_layers"] == ["conv_1", "upsampler.0"]
        assert [int(x[0, 0, 0, 0]) for x in uploaded] == [0, 1, 2]
        assert counted == [1, 2, 3]
        assert (tmp_path / "left").read_bytes() == b"TRT-EntropyCalibration2 3"

    def test_known_ranges_take_no_image(self, hasn_onnx: MakeOnnx, tmp_path: Path) -> None:
        (tmp_path / "known").write_bytes(b"TRT-EntropyCalibration2")
        calibration, uploaded, _ = self.calibration(tmp_path, [], known=tmp_path / "known")
        graph = hasn_onnx("fp32", form="weakly-typed", size=(32, 32))
        target = target_of("8.6.1").with_size(32, 32)
        compile_with(fake_tensorrt("8.6.1"), graph, target, calibration=calibration)
        assert uploaded == []
        assert not (tmp_path / "left").exists()

    def test_ranges_that_are_not_there_yet_are_no_error(self, hasn_onnx: MakeOnnx, tmp_path: Path) -> None:
        batches = [np.zeros((1, 3, 32, 32), np.float32)]
        calibration, uploaded, _ = self.calibration(tmp_path, batches, known=tmp_path / "none")
        graph = hasn_onnx("fp32", form="weakly-typed")
        compile_with(fake_tensorrt("8.6.1"), graph, target_of("8.6.1"), calibration=calibration)
        assert len(uploaded) == 1

    @pytest.mark.parametrize("version", STRONG_ONLY)
    def test_versions_without(self, tmp_path: Path, version: str) -> None:
        calibration, _, _ = self.calibration(tmp_path, [])
        with pytest.raises(UnsupportedError, match=r"has no calibrator; TensorRT 8\.5 to 10 have"):
            compile_with(fake_tensorrt(version), b"", target_of(version), calibration=calibration)

    def test_what_goes_wrong_inside_is_told(self, hasn_onnx: MakeOnnx, tmp_path: Path) -> None:
        def broken(batch: np.ndarray) -> int:
            raise BuildError("cuMemAlloc_v2 failed: the GPU's memory is used up")

        batches = [np.zeros((1, 3, 32, 32), np.float32)]
        calibration, _, _ = self.calibration(tmp_path, batches, upload=broken)
        graph = hasn_onnx("fp32", form="weakly-typed")
        with pytest.raises(BuildError, match="calibration failed: cuMemAlloc_v2 failed: the GPU's memory"):
            compile_with(fake_tensorrt("8.6.1"), graph, target_of("8.6.1"), calibration=calibration)

    def test_an_interrupt_inside_stays_one(self, hasn_onnx: MakeOnnx, tmp_path: Path) -> None:
        def interrupted(batch: np.ndarray) -> int:
            raise KeyboardInterrupt

        batches = [np.zeros((1, 3, 32, 32), np.float32)]
        calibration, _, _ = self.calibration(tmp_path, batches, upload=interrupted)
        graph = hasn_onnx("fp32", form="weakly-typed")
        with pytest.raises(KeyboardInterrupt):
            compile_with(fake_tensorrt("8.6.1"), graph, target_of("8.6.1"), calibration=calibration)

    def test_what_it_cannot_take(self, hasn_onnx: MakeOnnx, tmp_path: Path) -> None:
        def refused(graph: bytes, target: EngineTarget | None = None, **changes: Any) -> str:
            calibration, _, _ = self.calibration(tmp_path, [], **changes)
            with pytest.raises(HasnEdgeError) as info:
                compile_with(
                    fake_tensorrt("8.6.1"), graph, target or target_of("8.6.1"), calibration=calibration
                )
            return str(info.value)

        assert "calibrator is for graphs without" in refused(hasn_onnx("int8", form="weakly-typed"))
        assert "takes float images, and the graph's input is uint8" in refused(
            hasn_onnx("fp32", form="weakly-typed", pixels=True)
        )
        static = hasn_onnx("fp32", form="weakly-typed", size=(48, 64))
        assert "images have shape (1, 3, 32, 32), and the graph is fixed to (1, 3, 48, 64)" in refused(
            static, target_of("8.6.1").with_size(48, 64)
        )
        assert "has no layer conv_9 to keep in FP16" in refused(
            hasn_onnx("fp32", form="weakly-typed"), float_layers=("conv_9",)
        )
