"""What three Jetson modules say in their files, in tegrastats' lines, and what is said where they do not."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from hasn_edge.hardware.jetson import Ina3221, Jetson, jetpack_of, total_of
from hasn_edge.hardware.tegrastats import Tegrastats, parse_tegrastats


def test_orin_nano(orin_nano):
    jetson = Jetson(orin_nano)
    assert jetson.present
    facts = jetson.facts()
    found = facts.values
    assert found["model"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (found["l4t"], found["jetpack"], found["power_mode"]) == ("36.4.3", "6.2", "MAXN_SUPER")
    assert (found["gpu_hz"], found["gpu_max_hz"]) == (306_000_000, 1_020_000_000)
    assert found["clocks_locked"] is False
    assert (found["cpu_hz"], found["cpu_max_hz"], found["cpu_governor"]) == (
        729_600_000,
        1_728_000_000,
        "schedutil",
    )
    assert found["celsius.tj"] == 49.031
    assert found["celsius.cv0"] is None
    assert "thermal_zone2/temp" in facts.reasons["celsius.cv0"]
    assert found["memory_clock_hz"] is None
    assert facts.reasons["memory_clock_hz"].endswith("emc/rate: no such file")
    assert set(facts.reasons) == {name for name, value in found.items() if value is None}
    assert facts.to_dict()["not_read"] == facts.reasons


def test_power_of_orin_nano_is_its_input(orin_nano):
    sensor = Ina3221(Jetson(orin_nano))
    assert sensor.rails == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
    assert sensor.total == ("VDD_IN",)
    sample = sensor.read()
    assert sample.watts == pytest.approx({"VDD_IN": 4.85376, "VDD_CPU_GPU_CV": 0.849408, "VDD_SOC": 1.453824})
    assert sample.gpu_hertz == 306e6
    assert sample.celsius["gpu"] == 49.031
    assert "cv0" not in sample.celsius


def test_agx_orin_has_no_rail_for_the_whole_module(agx_orin):
    jetson = Jetson(agx_orin)
    found = jetson.facts().values
    assert (found["l4t"], found["jetpack"], found["power_mode"]) == ("36.3.0", "6.0", "MAXN")
    assert found["clocks_locked"] is True
    assert found["memory_clock_hz"] == 3_199_000_000
    sensor = Ina3221(jetson)
    assert sensor.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
    assert sensor.total == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    watts = sensor.read().watts
    assert watts["VDD_GPU_SOC"] == pytest.approx(4.78272)
    assert sum(watts[rail] for rail in sensor.total) == pytest.approx(4.78272 + 1.11552 + 4.672512)


def test_xavier_nx(xavier_nx):
    jetson = Jetson(xavier_nx)
    found = jetson.facts().values
    assert (found["l4t"], found["jetpack"], found["power_mode"]) == ("35.4.1", "5.1.2", "MODE_20W_6CORE")
    assert found["gpu_max_hz"] == 1_109_250_000
    sensor = Ina3221(jetson)
    assert sensor.rails == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
    assert sensor.read().watts["VDD_IN"] == pytest.approx(3.745984)


def test_what_cannot_be_read_is_none_with_its_reason(orin_nano, tmp_path):
    shutil.rmtree(orin_nano / "sys")
    (orin_nano / "var/lib/nvpmodel/status").write_text("")
    (orin_nano / "etc/nv_tegra_release").write_text("# R99 (release), REVISION: 1.0")
    jetson = Jetson(orin_nano)
    facts = jetson.facts()
    assert facts.values["l4t"] == "99.1.0"
    assert facts.reasons["jetpack"] == "Jetson Linux 99.1.0 is not in the list of JetPacks"
    assert facts.values["gpu_hz"] is None
    assert facts.reasons["gpu_hz"].endswith("sys/class/devfreq: no clock of a GPU there")
    assert "no mode in it; run nvpmodel -q" in facts.reasons["power_mode"]
    assert facts.values["clocks_locked"] is None
    with pytest.raises(LookupError, match="no power sensor"):
        Ina3221(jetson)
    assert not Jetson(tmp_path).present


def test_a_mode_without_a_name_is_its_number(orin_nano):
    (orin_nano / "var/lib/nvpmodel/status").write_text("pmode:0007\n")
    assert Jetson(orin_nano).power_mode() == "mode 7"


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("35.4.1", "5.1.2"),
        ("36.3.0", "6.0"),
        ("36.4.0", "6.1"),
        ("36.4.3", "6.2"),
        ("36.4.7", "6.2.1"),
        ("36.5.0", "6.2.1"),
        ("38.2.0", "7.0"),
        ("38.4.0", "7.1"),
        ("39.2.0", "7.2"),
    ],
)
def test_jetpack_of_a_release(l4t, jetpack):
    assert jetpack_of(l4t) == jetpack


@pytest.mark.parametrize("l4t", ["32.7.1", "37.0", None])
def test_a_release_that_is_not_known(l4t):
    with pytest.raises(LookupError):
        jetpack_of(l4t)


def test_rails_without_a_known_total():
    assert total_of(("VDD_GPU", "VDD_CPU_SOC_MSS")) == ()
    assert total_of(("SYS5V", "GPU", "CPU", "SOC", "CV", "VDDRQ")) == (
        "GPU",
        "CPU",
        "SOC",
        "CV",
        "VDDRQ",
        "SYS5V",
    )


def test_thor_measures_its_input_with_another_sensor(tmp_path):
    """INA3221 for parts of it, INA238 for the whole: jetson-stats' pull request 900, the kernel's ina238."""
    hwmon = tmp_path / "sys/class/hwmon"
    values = {
        "hwmon3": {"name": "ina3221", "in1_label": "VDD_GPU", "in1_input": "12000", "curr1_input": "250",
                   "in3_label": "VIN_SYS_5V0", "in3_input": "5000", "curr3_input": "900"},
        "hwmon4": {"name": "ina238", "in1_input": "19900", "curr1_input": "1450", "power1_input": "28900000"},
    }  # fmt: skip
    for name, files in values.items():
        (hwmon / name).mkdir(parents=True)
        for file, text in files.items():
            (hwmon / name / file).write_text(text + "\n")
    sensor = Ina3221(Jetson(tmp_path))
    assert sensor.total == ("VIN",)
    assert sensor.read().watts == pytest.approx({"VDD_GPU": 3.0, "VIN_SYS_5V0": 4.5, "VIN": 28.9})


LINES = {
    "Orin Nano, JetPack 6, user": (
        "01-21-2025 10:12:33 RAM 2345/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) CPU "
        "[3%@729,1%@729,0%@729,2%@729,off,off] GR3D_FREQ 37% cpu@48.562C soc2@48.093C soc0@47.25C "
        "gpu@49.031C tj@49.031C soc1@47.968C VDD_IN 4854mW/4812mW VDD_CPU_GPU_CV 849mW/840mW "
        "VDD_SOC 1454mW/1450mW",
        {"VDD_IN": 4.854, "VDD_CPU_GPU_CV": 0.849, "VDD_SOC": 1.454},
        {"cpu": 48.562, "soc2": 48.093, "soc0": 47.25, "gpu": 49.031, "tj": 49.031, "soc1": 47.968},
        (0.37, None, None),
    ),
    "AGX Orin, JetPack 5, root": (
        "03-03-2024 09:00:00 RAM 5543/62780MB (lfb 8x4MB) SWAP 0/31390MB (cached 0MB) CPU [0%@2201,0%@2201] "
        "EMC_FREQ 12%@3199 GR3D_FREQ 99%@[1300,1300] VIC_FREQ 729 APE 174 CV0@-256C CPU@52C Tboard@40C "
        "SOC2@49.1C Tdiode@41.25C GPU@48.468C tj@52C VDD_GPU_SOC 4783mW/4783mW VDD_CPU_CV 1115mW/1115mW "
        "VIN_SYS_5V0 4672mW/4672mW NC 0mW/0mW VDDQ_VDD2_1V8AO 798mW/798mW NC 0mW/0mW",
        {"VDD_GPU_SOC": 4.783, "VDD_CPU_CV": 1.115, "VIN_SYS_5V0": 4.672, "VDDQ_VDD2_1V8AO": 0.798},
        {"cpu": 52, "tboard": 40, "soc2": 49.1, "tdiode": 41.25, "gpu": 48.468, "tj": 52},
        (0.99, 1.3e9, 3.199e9),
    ),
    "Xavier NX, JetPack 4": (
        "RAM 2020/7773MB (lfb 1164x4MB) SWAP 0/3886MB (cached 0MB) CPU [9%@345,21%@345,25%@345,3%@345,1%@345,"
        "1%@345] EMC_FREQ 0%@1600 GR3D_FREQ 0%@114 APE 150 MTS fg 0% bg 1% AO@39.5C GPU@39.5C PMIC@100C "
        "AUX@40C CPU@41C thermal@40.1C VDD_IN 3746/3740 VDD_CPU_GPU_CV 721/720 VDD_SOC 980/979",
        {"VDD_IN": 3.746, "VDD_CPU_GPU_CV": 0.721, "VDD_SOC": 0.98},
        {"ao": 39.5, "gpu": 39.5, "aux": 40, "cpu": 41, "thermal": 40.1},
        (0.0, 114e6, 1.6e9),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_lines_of_tegrastats(name):
    line, watts, celsius, (load, gpu, memory) = LINES[name]
    stats = parse_tegrastats(line)
    assert stats.watts == pytest.approx(watts)
    assert stats.celsius == celsius
    assert (stats.gpu_load, stats.gpu_hertz, stats.memory_hertz) == (load, gpu, memory)


def printing(*lines: str, then: str = "import time; time.sleep(30)") -> list[str]:
    return [sys.executable, "-u", "-c", "".join(f"print({line!r})\n" for line in lines) + then]


def test_tegrastats_in_the_background():
    first = LINES["Orin Nano, JetPack 6, user"][0]
    source = Tegrastats(argv=printing(first))
    try:
        assert source.total == ("VDD_IN",)
        assert source.read().watts["VDD_SOC"] == 1.454
    finally:
        source.close()
    with pytest.raises(OSError, match="tegrastats ended"):
        source.read()


def test_tegrastats_that_says_nothing():
    with pytest.raises(OSError, match="printed nothing"):
        Tegrastats(argv=printing(then=""))
    with pytest.raises(LookupError, match="names no power rail"):
        Tegrastats(argv=printing("RAM 1/2MB (lfb 1x4MB) CPU [1%@1] GR3D_FREQ 0%"))
    with pytest.raises(FileNotFoundError):
        Tegrastats(argv=["/nonexistent/tegrastats"])


def test_tegrastats_is_never_started_through_a_shell():
    seen = {}

    def start(argv, **options):
        seen.update(options, argv=argv)
        return subprocess.Popen(printing(LINES["Xavier NX, JetPack 4"][0]), **options)

    Tegrastats(start=start).close()
    assert seen["argv"] == ["/usr/bin/tegrastats", "--interval", "100"]
    assert not seen.get("shell")
