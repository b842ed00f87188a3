"""The files that three Jetson modules show, written below a folder as their kernels write them."""

from __future__ import annotations

from pathlib import Path

ORIN_MODES = """
#
# FORMAT:
# < PARAM TYPE=PARAM_TYPE NAME=PARAM_NAME >
#
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
GPU MAX_FREQ 612000000

< POWER_MODEL ID=1 NAME=25W >
GPU MAX_FREQ 918000000

< POWER_MODEL ID=2 NAME=MAXN_SUPER >
GPU MAX_FREQ -1

< PM_CONFIG DEFAULT=1 >
"""

XAVIER_MODES = """
< POWER_MODEL ID=0 NAME=MODE_15W_2CORE >
< POWER_MODEL ID=8 NAME=MODE_20W_6CORE >
< PM_CONFIG DEFAULT=0 >
"""

AGX_MODES = """
< POWER_MODEL ID=0 NAME=MAXN >
< POWER_MODEL ID=1 NAME=MODE_15W >
< POWER_MODEL ID=2 NAME=MODE_30W >
< POWER_MODEL ID=3 NAME=MODE_50W >
"""


def orin_nano(root: Path) -> Path:
    """Orin Nano 8GB developer kit, JetPack 6.2, MAXN SUPER, clocks floating, read without root."""
    _common(
        root,
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        chip="tegra234",
        release="# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
        "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
        mode="pmode:0002",
        modes=ORIN_MODES,
        gpu=("17000000.gpu", 306_000_000, 306_000_000, 1_020_000_000, "nvhost_podgov"),
        cpu=(729_600, 1_728_000, "schedutil"),
        zones={
            "cpu": 48_562, "gpu": 49_031, "cv0": None, "cv1": None, "cv2": None,
            "soc0": 47_250, "soc1": 47_968, "soc2": 48_093, "tj": 49_031,
        },
    )  # fmt: skip
    _hwmon(root, 0, {"name": "nvme", "temp1_input": "41850"})
    _ina3221(root, 1, [("VDD_IN", 5056, 960), ("VDD_CPU_GPU_CV", 5056, 168), ("VDD_SOC", 5048, 288)])
    return root


def agx_orin(root: Path) -> Path:
    """AGX Orin 64GB developer kit, JetPack 6.0, MAXN, clocks locked by jetson_clocks, read as root."""
    _common(
        root,
        model="NVIDIA Jetson AGX Orin Developer Kit",
        chip="tegra234",
        release="# R36 (release), REVISION: 3.0, GCID: 36106755, BOARD: generic, EABI: aarch64, "
        "DATE: Thu Apr 25 03:14:05 UTC 2024\n",
        mode="pmode:0000 fmode:cool",
        modes=AGX_MODES,
        gpu=("17000000.gpu", 1_300_500_000, 1_300_500_000, 1_300_500_000, "nvhost_podgov"),
        cpu=(2_201_600, 2_201_600, "schedutil"),
        zones={"cpu": 52_000, "gpu": 48_468, "tboard": 40_000, "tdiode": 41_250, "tj": 52_000},
    )
    emc = root / "sys/kernel/debug/bpmp/debug/clk/emc"
    emc.mkdir(parents=True)
    (emc / "rate").write_text("3199000000\n")
    _ina3221(root, 3, [("VDD_GPU_SOC", 19_928, 240), ("VDD_CPU_CV", 19_920, 56), ("VIN_SYS_5V0", 4_992, 936)])
    _ina3221(root, 4, [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 4_992, 160), ("NC", 0, 0)])
    return root


def xavier_nx(root: Path) -> Path:
    """Xavier NX 8GB developer kit, JetPack 5.1.2, 20 W with six cores."""
    _common(
        root,
        model="NVIDIA Jetson Xavier NX Developer Kit",
        chip="tegra194",
        release="# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, "
        "DATE: Tue Aug  1 19:57:35 UTC 2023\n",
        mode="pmode:0008",
        modes=XAVIER_MODES,
        gpu=("17000000.gv11b", 114_750_000, 114_750_000, 1_109_250_000, "nvhost_podgov"),
        cpu=(1_190_400, 1_420_800, "schedutil"),
        zones={"CPU": 41_000, "GPU": 39_500, "AUX": 40_000, "AO": 39_500, "PMIC": 50_000},
        suffix="-therm",
    )
    _ina3221(
        root,
        6,
        [("VDD_IN", 5_008, 748), ("VDD_CPU_GPU_CV", 5_008, 144), ("VDD_SOC", 5_000, 196)],
        extra={"in7_label": "sum of shunt voltages", "in7_input": "3", "curr4_input": "1088"},
    )
    return root


def _common(root, *, model, chip, release, mode, modes, gpu, cpu, zones, suffix="-thermal"):
    tree = root / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(model.encode() + b"\0")
    (tree / "compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia," + chip.encode() + b"\0")
    (root / "etc").mkdir()
    (root / "etc/nv_tegra_release").write_text(release)
    (root / "etc/nvpmodel.conf").write_text(modes)
    (root / "var/lib/nvpmodel").mkdir(parents=True)
    (root / "var/lib/nvpmodel/status").write_text(mode + "\n")
    name, current, low, high, governor = gpu
    for folder in (root / "sys/class/devfreq" / name, root / "sys/class/devfreq/15340000.vic"):
        folder.mkdir(parents=True)
        for file, value in (
            ("cur_freq", current),
            ("min_freq", low),
            ("max_freq", high),
            ("governor", governor),
        ):
            (folder / file).write_text(f"{value}\n")
    current, high, governor = cpu
    for policy in ("policy0", "policy4"):
        folder = root / "sys/devices/system/cpu/cpufreq" / policy
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{current}\n")
        (folder / "scaling_max_freq").write_text(f"{high}\n")
        (folder / "scaling_governor").write_text(f"{governor}\n")
    for index, (zone, value) in enumerate(zones.items()):
        folder = root / f"sys/class/thermal/thermal_zone{index}"
        folder.mkdir(parents=True)
        (folder / "type").write_text(f"{zone}{suffix}\n")
        if value is None:
            # A sensor of a part that is switched off opens and then fails to read: so does a folder.
            (folder / "temp").mkdir()
        else:
            (folder / "temp").write_text(f"{value}\n")


def _ina3221(root, number, channels, extra=()):
    files = {"name": "ina3221"}
    for index, (label, millivolts, milliamperes) in enumerate(channels, start=1):
        files[f"in{index}_label"] = label
        files[f"in{index}_input"] = str(millivolts)
        files[f"curr{index}_input"] = str(milliamperes)
        files[f"shunt{index}_resistor"] = "5000"
    _hwmon(root, number, {**files, **dict(extra)})


def _hwmon(root, number, files):
    folder = root / f"sys/class/hwmon/hwmon{number}"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")
