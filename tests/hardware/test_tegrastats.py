"""What tegrastats prints on three Jetson modules, and the process in the background."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hasn_edge.hardware.tegrastats import Tegrastats, parse_tegrastats

LINES = {
    "Orin Nano, JetPack 6, user": (
        "01-21-2025 10:12:33 RAM 2345/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) CPU "
        "[3%@729,1%@729,0%@729,2%@729,off,off] GR3D_FREQ 37% cpu@48.562C soc2@48.093C soc0@47.25C "
        "gpu@49.031C tj@49.031C soc1@47.968C VDD_IN 4854mW/4812mW VDD_CPU_GPU_CV 849mW/840mW "
        "VDD_SOC 1454mW/1450mW",
        {"VDD_IN": 4.854, "VDD_CPU_GPU_CV": 0.849, "VDD_SOC": 1.454},
        {"cpu": 48.562, "soc2": 48.093, "soc0": 47.25, "gpu": 49.031, "tj": 49.031, "soc1": 47.968},
        None,
    ),
    "AGX Orin, JetPack 5, root": (
        "03-03-2024 09:00:00 RAM 5543/62780MB (lfb 8x4MB) SWAP 0/31390MB (cached 0MB) CPU [0%@2201,0%@2201] "
        "EMC_FREQ 12%@3199 GR3D_FREQ 99%@[1300,1300] VIC_FREQ 729 APE 174 CV0@-256C CPU@52C Tboard@40C "
        "SOC2@49.1C Tdiode@41.25C GPU@48.468C tj@52C VDD_GPU_SOC 4783mW/4783mW VDD_CPU_CV 1115mW/1115mW "
        "VIN_SYS_5V0 4672mW/4672mW NC 0mW/0mW VDDQ_VDD2_1V8AO 798mW/798mW NC 0mW/0mW",
        {"VDD_GPU_SOC": 4.783, "VDD_CPU_CV": 1.115, "VIN_SYS_5V0": 4.672, "VDDQ_VDD2_1V8AO": 0.798},
        {"cpu": 52, "tboard": 40, "soc2": 49.1, "tdiode": 41.25, "gpu": 48.468, "tj": 52},
        1.3e9,
    ),
    "Xavier NX, JetPack 4": (
        "RAM 2020/7773MB (lfb 1164x4MB) SWAP 0/3886MB (cached 0MB) CPU [9%@345,21%@345,25%@345,3%@345,1%@345,"
        "1%@345] EMC_FREQ 0%@1600 GR3D_FREQ 0%@114 APE 150 MTS fg 0% bg 1% AO@39.5C GPU@39.5C PMIC@100C "
        "AUX@40C CPU@41C thermal@40.1C VDD_IN 3746/3740 VDD_CPU_GPU_CV 721/720 VDD_SOC 980/979",
        {"VDD_IN": 3.746, "VDD_CPU_GPU_CV": 0.721, "VDD_SOC": 0.98},
        {"ao": 39.5, "gpu": 39.5, "aux": 40, "cpu": 41, "thermal": 40.1},
        114e6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_lines_of_tegrastats(name):
    line, watts, celsius, gpu_hertz = LINES[name]
    sample = parse_tegrastats(line)
    assert sample.watts == pytest.approx(watts)
    assert sample.celsius == celsius
    assert sample.gpu_hertz == gpu_hertz


def printing(*lines: str, then: str = "import time; time.sleep(30)") -> list[str]:
    return [sys.executable, "-u", "-c", "".join(f"print({line!r})\n" for line in lines) + then]


def test_tegrastats_in_the_background():
    first = LINES["Orin Nano, JetPack 6, user"][0]
    source = Tegrastats(argv=printing(first), wait_s=60)
    try:
        assert source.total == ("VDD_IN",)
        assert source.read().watts["VDD_SOC"] == 1.454
    finally:
        source.close()
    with pytest.raises(OSError, match="tegrastats ended"):
        source.read()


def test_tegrastats_that_says_nothing():
    with pytest.raises(OSError, match="printed nothing"):
        Tegrastats(argv=printing(then=""), wait_s=60)
    with pytest.raises(LookupError, match="names no power rail"):
        Tegrastats(argv=printing("RAM 1/2MB (lfb 1x4MB) CPU [1%@1] GR3D_FREQ 0%"), wait_s=60)
    with pytest.raises(FileNotFoundError):
        Tegrastats(argv=["/nonexistent/tegrastats"])


def test_tegrastats_is_never_started_through_a_shell():
    seen = {}

    def start(argv, **options):
        seen.update(options, argv=argv)
        return subprocess.Popen(printing(LINES["Xavier NX, JetPack 4"][0]), **options)

    Tegrastats(start=start, wait_s=60).close()
    assert seen["argv"] == ["/usr/bin/tegrastats", "--interval", "100"]
    assert not seen.get("shell")
