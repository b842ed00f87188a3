"""How much memory a compiler may use for its work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.engine.workspace import choose_workspace
from hasn_edge.hardware.gpu import GpuFacts

MIB = 1 << 20


class TestWorkspace:
    JETSON = GpuFacts(
        name="Orin",
        compute_capability="8.7",
        total_memory_bytes=8 << 30,
        driver=None,
        cuda="12.6",
        integrated=True,
        l4t="36.4.3",
        sm_count=8,
    )

    def choose(self, facts: GpuFacts | None, free: int = 0, **target: int) -> tuple[int | None, str]:
        return choose_workspace(EngineTarget(runtime=EngineRuntime.TENSORRT, **target), facts, lambda: free)

    def test_a_quarter_of_free_memory_on_a_jetson(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("hasn_edge.hardware.host.available_memory_bytes", lambda: 4000 * MIB + 5)
        assert self.choose(self.JETSON) == (1000 * MIB, "free memory")
        monkeypatch.setattr("hasn_edge.hardware.host.available_memory_bytes", lambda: 100 * MIB)
        assert self.choose(self.JETSON) == (64 * MIB, "free memory")
        monkeypatch.setattr("hasn_edge.hardware.host.available_memory_bytes", lambda: None)
        assert self.choose(self.JETSON) == (None, "the compiler's default")

    def test_half_of_a_cards_free_memory(self) -> None:
        assert self.choose(replace(self.JETSON, integrated=False), free=9000 * MIB)[0] == 4500 * MIB

    def test_the_target_decides_and_without_a_gpu_the_compiler(self) -> None:
        assert self.choose(self.JETSON, workspace_bytes=1 << 28) == (1 << 28, "target")
        assert self.choose(None) == (None, "the compiler's default")
