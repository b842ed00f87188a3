"""What a frame takes, how much may be taken, and the cores to take it with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.hardware import host
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


def test_the_limit_is_half_of_what_is_free(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 64 << 30)
    assert memory.default_limit_bytes() == 2_000_000_000
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 1 << 30)
    assert memory.default_limit_bytes() == 1 << 29
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: None)
    assert memory.default_limit_bytes() == 2_000_000_000
    (tmp_path / "memory.current").write_text("100000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.default_limit_bytes() == 2_000_000_000
    (tmp_path / "memory.max").write_text("500000000\n")
    assert memory.default_limit_bytes() == 200_000_000
    (tmp_path / "memory.max").write_text("50000000\n")  # used more than the limit that came later
    assert memory.default_limit_bytes() == 0


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


def test_cores_are_counted_once_and_quotas_hold(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "_SYSTEM", tmp_path)
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert host.compute_cores() == 4  # nothing known about siblings
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert host.compute_cores() == 2
    (tmp_path / "fs/cgroup").mkdir(parents=True)
    for text, expected in (("max 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("?", 2)):
        (tmp_path / "fs/cgroup/cpu.max").write_text(text + "\n")
        assert host.compute_cores() == expected


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
