"""NVIDIA's tegrastats, where the sensor's own files cannot be read: one line of text a reading."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from hasn_edge.hardware.jetson import total_of
from hasn_edge.hardware.power import Sample

PROGRAM = Path("/usr/bin/tegrastats")

INTERVAL_MILLISECONDS = 100

_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*)\s+(\d+)(?:mW)?/(\d+)(?:mW)?(?=\s|$)")
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
_GPU = re.compile(r"\bGR3D_FREQ\s+\d+%@\[?(\d+)")
_NO_RAILS = {"RAM", "SWAP", "IRAM", "MTS", "NC"}

_NO_SENSOR = {"PMIC"}
"""Always reads 100 degrees: nothing is connected."""

_OFF = -256.0
"""What tegrastats prints for the temperature of a part that is switched off."""


def parse_tegrastats(line: str) -> Sample:
    """Read one line, of JetPack 4 to 7: with and without units, with and without the rights of root.

    Power is the present one by rail, without tegrastats' own average.
    """
    gpu = _GPU.search(line)
    return Sample(
        watts={name: int(now) / 1000 for name, now, _ in _RAIL.findall(line) if name not in _NO_RAILS},
        celsius={
            name.lower(): float(value)
            for name, value in _TEMPERATURE.findall(line)
            if float(value) != _OFF and name not in _NO_SENSOR
        },
        gpu_hertz=int(gpu[1]) * 1e6 if gpu else None,
    )


class Tegrastats:
    """Runs tegrastats in the background and gives its last line.

    Raises:
        OSError: it cannot be started, or prints nothing within ``wait_s`` seconds.
        LookupError: its lines name no power rail.
    """

    def __init__(
        self,
        *,
        argv: Sequence[str] = (str(PROGRAM), "--interval", str(INTERVAL_MILLISECONDS)),
        start: Callable[..., subprocess.Popen[str]] = subprocess.Popen,
        wait_s: float = 2.0,
    ) -> None:
        self._process = start(
            list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._line = ""
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tegrastats", daemon=True)
        self._thread.start()
        if not self._first.wait(wait_s) or not self._line:
            self.close()
            raise OSError("tegrastats printed nothing; it may need to run as root")
        self.rails = tuple(parse_tegrastats(self._line).watts)
        if not self.rails:
            self.close()
            raise LookupError("tegrastats names no power rail on this module")
        self.total = total_of(self.rails)

    def read(self) -> Sample:
        """Return what the last line reports."""
        if self._process.poll() is not None:
            raise OSError("tegrastats ended")
        return parse_tegrastats(self._line)

    def close(self) -> None:
        """End it; safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=5)
        self._thread.join(timeout=5)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip():
                self._line = line
                self._first.set()
        self._first.set()
