"""An image of a run: loss, learning rate and validation scores over the iterations."""

from __future__ import annotations

from pathlib import Path

from hasn_edge.errors import InputError
from hasn_edge.files import writing
from hasn_edge.optional import require
from hasn_edge.train.run import CURVE, LOG, read_log


def draw_curve(folder: Path) -> Path:
    """Draw ``curve.png`` from a run's ``log.csv`` and return its path.

    Raises:
        InputError: the log has no rows.
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", extra="train", needed_for="Drawing the curve")
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    rows = read_log(folder / LOG)
    steps = [(int(row["iteration"]), float(row["loss"]), float(row["lr"])) for row in rows if row["loss"]]
    if not steps:
        raise InputError(f"{folder / LOG} has no rows to draw")
    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for name in dict.fromkeys(row["set"] for row in rows if row["set"]):
        points = [(int(r["iteration"]), float(r["psnr_y"])) for r in rows if r["set"] == name]
        best = max(value for _, value in points)
        upper.plot(*zip(*points, strict=True), marker=".", label=f"{name} (best {best:.2f} dB)")
    upper.set_ylabel("PSNR-Y of the average [dB]")
    if upper.lines:
        upper.legend(loc="lower right")
    upper.grid(alpha=0.3)
    iterations, losses, rates = zip(*steps, strict=True)
    lower.plot(iterations, losses, linewidth=0.8)
    lower.set_yscale("log")
    lower.set_ylabel("training loss")
    lower.set_xlabel("iteration")
    lower.grid(alpha=0.3)
    right = lower.twinx()
    right.plot(iterations, rates, color="tab:orange", linewidth=0.8)
    right.set_ylabel("learning rate", color="tab:orange")
    with writing(folder / CURVE) as temporary:
        figure.savefig(temporary, dpi=110)
    return folder / CURVE
