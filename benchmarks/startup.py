"""Cold start: how long ``hasn-edge --help`` and upscaling one small image take as whole processes."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from result_files import machine_words, publish

from hasn_edge.files import shipped_path


def seconds(*args: str) -> float:
    """Return the wall-clock time of one run of the command line."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "hasn_edge", *args], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Time both commands and print, and with ``-o`` keep, the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, default=None, help="folder for startup_cpu.md")
    options = parser.parse_args()
    image = str(shipped_path("calibration", "heldout", "LRbicx4", "coffee-0.png"))
    lines = ["# Cold start of the command line", "", "| command | median, s | slowest, s |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        cases = (("--help",), ("upscale", image, "-o", folder))
        for name, args in zip(("--help", "upscale a 60x60 image"), cases, strict=True):
            taken = [seconds(*args) for _ in range(options.runs)]
            lines.append(f"| `hasn-edge {name}` | {statistics.median(taken):.2f} | {max(taken):.2f} |")
    measured = f"Whole processes, {options.runs} runs each, files in the page cache"
    lines += ["", f"{measured}. Machine: {machine_words()}."]
    publish("\n".join(lines) + "\n", options.output, "startup_cpu")


if __name__ == "__main__":
    main()
