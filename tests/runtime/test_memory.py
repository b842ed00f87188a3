"""What a frame takes, and how much may be taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.model.hasn import HASN
from hasn_edge.runtime import memory
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.spec import ModelSpec
from tests.support.fake_session import FakeSession


def test_the_published_network_takes_what_was_measured():
    # Peak resident memory, bytes a pixel: ONNX Runtime 4.2e3, PyTorch 5.2e3, TorchScript 3.6e3 at most.
    assert 4200 < memory.bytes_per_pixel(ModelSpec(), "onnxruntime") < 4800
    assert 5200 < memory.bytes_per_pixel(ModelSpec(), "pytorch") < 5800
    assert 3600 < memory.bytes_per_pixel(ModelSpec(), "torchscript") < 4800


def test_the_limit_is_half_of_what_is_free(tmp_path):
    assert memory.default_limit_bytes(tmp_path) == 2_000_000_000  # the system does not say
    (tmp_path / "proc").mkdir()
    for free_kib, limit in ((64 << 20, 2_000_000_000), (1 << 20, 1 << 29)):
        (tmp_path / "proc/meminfo").write_text(f"MemAvailable: {free_kib} kB\n")
        assert memory.default_limit_bytes(tmp_path) == limit


@pytest.mark.parametrize(("size", "limit"), [((200, 800), 60_000_000), ((90, 900), 70_000_000)])
def test_tile_band_input_and_result_fit_together(size, limit):
    upscaler = Upscaler(FakeSession(), memory_limit_bytes=limit)
    result = upscaler(np.zeros((*size, 3), np.uint8))
    report = upscaler.last_report
    assert report is not None
    assert report.tiles > 1
    tile = report.tile.height * report.tile.width * memory.bytes_per_pixel(ModelSpec(), "fake")
    band = 4 * 3 * 16 * report.tile.height * size[1]
    assert tile + band + result.nbytes + 4 * 3 * size[0] * size[1] <= limit


def test_without_any_memory_small_tiles_are_still_tried():
    upscaler = Upscaler(FakeSession(), memory_limit_bytes=0)
    upscaler(np.zeros((100, 200, 3), np.uint8))
    assert upscaler.last_report is not None
    assert max(upscaler.last_report.tile) <= 64


CHILD = """
import sys
from pathlib import Path
import numpy as np
from hasn_edge.hardware.host import peak_memory_bytes as peak
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.runtime.upscaler import Upscaler
limit = int(sys.argv[2])
upscaler = Upscaler(OnnxRuntimeSession(Path(sys.argv[1]), threads=1), memory_limit_bytes=limit or None)
upscaler(np.zeros((16, 16, 3), np.uint8))
before = peak()
upscaler(np.zeros((300, 400, 3), np.uint8))
print(peak() - before, upscaler.last_report.tiles)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory as Linux counts it")
def test_a_large_image_keeps_within_the_limit(tmp_path: Path):
    """One block of the published width: the peak of six is the peak of one, the time is not."""
    path = tmp_path / "one-block.onnx"
    torch.manual_seed(0)
    path.write_bytes(onnx_from_model(HASN(ModelSpec(blocks=1)), simplify=False).SerializeToString())

    def growth(limit: int) -> tuple[int, int]:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(path), str(limit)],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        peak, tiles = done.stdout.split()
        return int(peak), int(tiles)

    limit = 200_000_000
    whole, tiled = growth(0), growth(limit)
    assert whole[1] == 1
    assert whole[0] > 2 * limit  # the measurement sees what it should
    assert tiled[1] > 1
    assert tiled[0] < limit
    assert tiled[0] > limit / 3  # and what may be used is used
