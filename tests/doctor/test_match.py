"""Which profile a machine is: boards by their device tree and power mode, cards by the driver's facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hasn_edge.doctor.environment import Environment
from hasn_edge.doctor.match import match_profile, mode_name
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.hardware.jetson import Jetson


@pytest.mark.parametrize(
    ("model", "mode", "target"),
    [
        (
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            "MAXN_SUPER",
            "orin-nano-super",
        ),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "15W", "orin-nano-super"),
        ("NVIDIA Orin Nano Developer Kit", "15W", "orin-nano"),
        ("NVIDIA Orin Nano Developer Kit", "7W", "orin-nano"),
        ("NVIDIA Orin Nano Developer Kit", "MAXN_SUPER", "orin-nano-super"),
        ("NVIDIA Orin Nano Developer Kit", None, "orin-nano"),
        ("NVIDIA Orin NX Developer Kit", "MAXN", "orin-nx"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "MAXN", "agx-orin"),
        ("NVIDIA Jetson Xavier NX Developer Kit", "MODE_15W_6CORE", "xavier-nx"),
        ("Jetson-AGX Xavier", "MAXN", "agx-xavier"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "MAXN", "thor"),
        ("NVIDIA Jetson Nano Developer Kit", "MAXN", None),
        (None, None, None),
    ],
)
def test_boards(model, mode, target):
    found = match_profile(Environment(jetson={"model": model, "power_mode": mode}))
    assert (found and found.target) == target


GIB = 2**30


@pytest.mark.parametrize(
    ("model", "gibibytes", "target", "exact"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", 61.4, "agx-orin", True),
        ("NVIDIA Jetson AGX Orin Developer Kit", 29.9, "agx-orin-32gb", True),
        ("NVIDIA Orin NX Developer Kit", 15.3, "orin-nx", True),
        ("NVIDIA Orin NX Developer Kit", 7.4, "orin-nx-8gb", True),
        ("NVIDIA Orin Nano Developer Kit", 7.4, "orin-nano", True),
        ("NVIDIA Orin Nano Developer Kit", 3.4, "orin-nano-4gb", True),
        ("NVIDIA Jetson Xavier NX Developer Kit", 6.7, "xavier-nx", True),
        ("NVIDIA Jetson Xavier NX Developer Kit", 14.9, "xavier-nx", False),
        ("Jetson-AGX Xavier", 30.4, "agx-xavier", True),
        ("Jetson-AGX Xavier", 62.0, "agx-xavier", False),
        ("NVIDIA Jetson AGX Thor Developer Kit", 122.8, "thor", True),
        ("NVIDIA Jetson AGX Thor Developer Kit", 61.0, "thor", False),
        ("NVIDIA Jetson AGX Thor Developer Kit", None, "thor", True),
        ("NVIDIA Jetson AGX Orin Developer Kit", None, "agx-orin", True),
    ],
)
def test_modules_of_one_name_are_told_apart_by_their_memory(model, gibibytes, target, exact):
    memory = None if gibibytes is None else int(gibibytes * GIB)
    found = match_profile(Environment(jetson={"model": model, "power_mode": None}, memory_bytes=memory))
    assert (found.target, found.exact) == (target, exact)


def test_boards_by_their_files(orin_nano, agx_orin, xavier_nx):
    for root, target in ((orin_nano, "orin-nano-super"), (agx_orin, "agx-orin"), (xavier_nx, "xavier-nx")):
        assert match_profile(Environment(root=root, jetson=Jetson(root).facts().values)).target == target


def test_cards():
    card = GpuFacts(
        name="NVIDIA GeForce RTX 4090", compute_capability="8.9", total_memory_bytes=25_300_000_000,
        driver="580.65.06", cuda="13.0", integrated=False, l4t=None, sm_count=128,
    )  # fmt: skip
    assert match_profile(Environment(gpu=card)).target == "rtx-4090"
    assert match_profile(Environment(gpu=card)).profile.sm_count == 128
    small = replace(
        card,
        name="NVIDIA GeForce RTX 3080",
        compute_capability="8.6",
        sm_count=68,
        total_memory_bytes=10_500_000_000,
    )
    assert match_profile(Environment(gpu=small)).target == "rtx-3080"
    assert match_profile(Environment(gpu=replace(small, sm_count=70))) is None, "the card of 12 GB is another"
    assert (
        match_profile(Environment(gpu=replace(card, name="NVIDIA GeForce RTX 4090 D", sm_count=114))) is None
    )
    smaller = replace(small, name="NVIDIA GeForce RTX 3060", sm_count=28)
    assert match_profile(Environment(gpu=replace(smaller, total_memory_bytes=12_600_000_000))) is not None
    assert match_profile(Environment(gpu=replace(smaller, total_memory_bytes=8_400_000_000))) is None
    old = replace(
        card, name="Tesla T4", compute_capability="7.5", sm_count=40, total_memory_bytes=15_600_000_000
    )
    assert match_profile(Environment(gpu=old)).target == "t4", "the driver's name for it"
    for name, count, target in (("4070", 46, "rtx-4070"), ("4070 SUPER", 56, None)):
        found = match_profile(
            Environment(
                gpu=replace(
                    card,
                    name=f"NVIDIA GeForce RTX {name}",
                    sm_count=count,
                    total_memory_bytes=12_600_000_000,
                )
            )
        )
        assert (found and found.target) == target
    assert match_profile(Environment()) is None


def test_names_of_modes():
    assert {mode_name(mode) for mode in ("MAXN_SUPER", "MAXN SUPER", "maxn super")} == {"MAXN SUPER"}
    assert mode_name("MODE_15W") == "15W"
