"""What a Jetson reports about itself in files: module, release, power mode, clocks, temperatures, power."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from hasn_edge.hardware.gpu import l4t_release, tegra_chip
from hasn_edge.hardware.power import Sample
from hasn_edge.hardware.readings import Readings, text_of, text_or_nothing
from hasn_edge.optional import version_tuple

JETPACKS = (
    # First L4T release, JetPack. A release belongs to the last line that is not after it.
    ("35.1", "5.0.2"),
    ("35.2", "5.1"),
    ("35.3", "5.1.1"),
    ("35.4", "5.1.2"),
    ("35.5", "5.1.3"),
    ("35.6", "5.1.4"),
    ("36.3", "6.0"),
    ("36.4", "6.1"),
    ("36.4.3", "6.2"),
    ("36.4.4", "6.2.1"),
    ("38.2", "7.0"),
    ("38.4", "7.1"),
    ("39.0", "7.2"),
)
"""JetPack of each L4T release, from NVIDIA's Jetson Linux archive."""

TOTALS = (
    ("VDD_IN",),  # Orin Nano, Orin NX, Xavier NX: the module's input
    ("VIN",),  # Thor
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin: no rail for the whole module
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier: likewise
)
"""Rails that add up to a module: NVIDIA Jetson Linux Developer Guide, software-based power monitoring."""

_GPU_CLOCK = re.compile(r"gpu|ga10b|gv11b|gb10b", re.IGNORECASE)


class Jetson:
    """A Jetson's files. Only reads; works without root, which few of them need.

    Args:
        root: Where the file system starts; a test's fixture, or ``/``.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = Path(root)

    @property
    def present(self) -> bool:
        """Whether this machine is a Jetson."""
        return tegra_chip(self.root) is not None or l4t_release(self.root) is not None

    def facts(self) -> Readings:
        """Return model, releases, power mode, clocks and temperatures."""
        facts = Readings()
        facts.ask("model", lambda: text_of(self.root / "proc/device-tree/model"))
        release = facts.ask("l4t", self.l4t)
        facts.ask("jetpack", lambda: jetpack_of(release))
        facts.ask("power_mode", self.power_mode)
        for name, file in (("gpu_hz", "cur_freq"), ("gpu_min_hz", "min_freq"), ("gpu_max_hz", "max_freq")):
            facts.ask(name, lambda file=file: int(text_of(self._gpu_folder() / file)))  # type: ignore[misc]
        facts.ask("gpu_governor", lambda: text_of(self._gpu_folder() / "governor"))
        low, high = facts.values["gpu_min_hz"], facts.values["gpu_max_hz"]
        facts.values["clocks_locked"] = None if None in (low, high) else low == high
        cpu = self.root / "sys/devices/system/cpu/cpufreq"
        facts.ask("cpu_governor", lambda: text_of(_first_policy(cpu, "scaling_governor")))
        facts.ask("cpu_hz", lambda: int(text_of(_first_policy(cpu, "scaling_cur_freq"))) * 1000)
        facts.ask("cpu_max_hz", lambda: int(text_of(_first_policy(cpu, "scaling_max_freq"))) * 1000)
        memory = self.root / "sys/kernel/debug/bpmp/debug/clk/emc/rate"
        facts.ask("memory_clock_hz", lambda: int(text_of(memory)))
        for zone, read in self._zones().items():
            facts.ask(f"celsius.{zone}", read)
        return facts

    def l4t(self) -> str:
        """Return the release of Jetson Linux, e.g. ``"36.4.3"``."""
        found = l4t_release(self.root)
        if found is None:
            raise LookupError("neither /etc/nv_tegra_release nor the kernel states a release of Jetson Linux")
        return found

    def power_mode(self) -> str:
        """Return the name of nvpmodel's mode, e.g. ``"MAXN_SUPER"``, from the files it keeps."""
        status = self.root / "var/lib/nvpmodel/status"
        found = re.search(r"pmode:(\d+)", text_of(status))
        if not found:
            raise ValueError(f"{status}: no mode in it; run nvpmodel -q")
        number = int(found[1])
        return self.power_modes().get(number, f"mode {number}")

    def power_modes(self) -> dict[int, str]:
        """Return the names of nvpmodel's modes by their numbers."""
        text = text_of(self.root / "etc/nvpmodel.conf")
        modes = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", text)
        return {int(number): name for number, name in modes}

    def gpu_hertz(self) -> float | None:
        """Return the GPU's present clock; ``None`` where it cannot be read."""
        try:
            return float(text_of(self._gpu_folder() / "cur_freq"))
        except (OSError, ValueError, LookupError):
            return None

    def celsius(self) -> dict[str, float]:
        """Return the temperatures that can be read now, by zone."""
        found = {}
        for zone, read in self._zones().items():
            try:
                found[zone] = read()
            except (OSError, ValueError):
                continue  # a sensor of a part that is switched off
        return found

    def _gpu_folder(self) -> Path:
        parent = self.root / "sys/class/devfreq"
        names = sorted(path for path in parent.glob("*") if _GPU_CLOCK.search(path.name))
        if not names:
            raise LookupError(f"{parent}: no clock of a GPU there")
        return names[0]

    def _zones(self) -> dict[str, Any]:
        zones = {}
        for folder in sorted((self.root / "sys/class/thermal").glob("thermal_zone*")):
            try:
                name = text_of(folder / "type")
            except OSError:
                name = folder.name

            def read(path: Path = folder / "temp") -> float:
                return int(text_of(path)) / 1000

            zones[name.removesuffix("-thermal")] = read
        return zones


class Ina3221:
    """The power sensors of a Jetson module (Texas Instruments INA3221), through the kernel's hwmon files.

    Thor's carrier has an INA238 besides, which measures what the others do not: the whole board's input.

    Raises:
        LookupError: the module has none, or the kernel does not show it.
    """

    def __init__(self, jetson: Jetson) -> None:
        self._jetson = jetson
        self._channels: dict[str, tuple[Path, ...]] = {}
        parent = jetson.root / "sys/class/hwmon"
        for folder in sorted(parent.glob("hwmon*")):
            if text_or_nothing(folder / "name") == "ina3221":
                self._channels.update(_channels(folder))
            elif text_or_nothing(folder / "name") == "ina238" and (folder / "power1_input").is_file():
                self._channels["VIN"] = (folder / "power1_input",)
        if not self._channels:
            raise LookupError(f"{parent}: no power sensor (ina3221) there")
        self.rails = tuple(self._channels)
        self.total = total_of(self.rails)

    def read(self) -> Sample:
        """Return the power of each rail: its voltage times its current, or what the sensor multiplied."""
        # hwmon's units are millivolts, milliamperes and microwatts: either way a millionth of a watt.
        watts = {
            rail: math.prod(int(text_of(path)) for path in files) / 1e6
            for rail, files in self._channels.items()
        }
        return Sample(watts=watts, celsius=self._jetson.celsius(), gpu_hertz=self._jetson.gpu_hertz())

    def close(self) -> None:
        """Nothing is held."""


def power_mode(root: Path = Path("/")) -> str | None:
    """Return the name of a Jetson's power mode; ``None`` where there is none or its file cannot be read.

    Args:
        root: Where the file system starts.
    """
    try:
        return Jetson(root).power_mode()
    except (OSError, ValueError):
        return None


def total_of(rails: tuple[str, ...]) -> tuple[str, ...]:
    """Return the rails among ``rails`` that add up to the module; none where that is not known."""
    return next((total for total in TOTALS if set(total) <= set(rails)), ())


def jetpack_of(l4t: str | None) -> str:
    """Return the JetPack of a release of Jetson Linux.

    Raises:
        LookupError: a release before those listed in :data:`JETPACKS`, or none.
    """
    if l4t is None:
        raise LookupError("the release of Jetson Linux is not known")
    found = version_tuple(l4t)
    known = [(version_tuple(first)[0], name) for first, name in JETPACKS if version_tuple(first) <= found]
    if not known or known[-1][0] != found[0]:
        raise LookupError(f"Jetson Linux {l4t} is not in the list of JetPacks")
    return known[-1][1]


def _channels(folder: Path) -> dict[str, tuple[Path, Path]]:
    found = {}
    for number in (1, 2, 3):  # channels above are sums and shunt voltages
        label = text_or_nothing(folder / f"in{number}_label")
        pair = (folder / f"in{number}_input", folder / f"curr{number}_input")
        if label and label != "NC" and all(path.is_file() for path in pair):
            found[label] = pair
    return found


def _first_policy(folder: Path, name: str) -> Path:
    found = sorted(folder.glob("policy*"))
    if not found:
        raise LookupError(f"{folder}: nothing there")
    return found[0] / name
