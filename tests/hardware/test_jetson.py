"""What three Jetson modules say in their files, and the reasons where they say nothing."""

from __future__ import annotations

import shutil

import pytest

from hasn_edge.hardware.jetson import Ina3221, Jetson, jetpack_of, total_of


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
