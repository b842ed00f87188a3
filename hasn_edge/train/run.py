"""A run's folder: its recipe and data, its log, its states and its best weights."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hasn_edge.config import config_from_mapping
from hasn_edge.errors import CheckpointError, ConfigError
from hasn_edge.files import writing
from hasn_edge.train.recipe import Recipe
from hasn_edge.train.state import saved_iterations, state_path

FILE = "run.json"
LOG = "log.csv"
BEST = "best.safetensors"
LAST = "last.safetensors"
LAST_PTH = "last.pth"
"""The last weights and their average as BasicSR writes them, for other projects to read."""
CURVE = "curve.png"


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """What resuming needs to know: written once when a run begins."""

    recipe: Recipe
    data: tuple[str, ...]
    """Prepared folders, absolute."""
    fingerprint: str
    """Of the data; resuming on other data is refused."""
    sets: tuple[str, ...]
    """Validation sets as ``NAME=DIR``, the best weights being chosen on the first."""
    start: str | None
    """The weights the run began with, as the user named them; ``None`` for the recipe's initialization."""
    start_sha256: str | None = None
    branched_at: int | None = None
    """The iteration of another run whose full state this one began with; ``None`` where it began at 0."""
    versions: Mapping[str, str]


def parse_state(text: str) -> tuple[Path, int | None] | None:
    """Return folder and iteration of ``RUN@N`` (also ``RUN@100k``); ``None`` if no folder is named like that.

    The iteration is ``None`` where what follows the ``@`` is no number.
    """
    head, at, tail = text.rpartition("@")
    if not at or not Path(head).is_dir():
        return None
    digits, factor = (tail[:-1], 1000) if tail[-1:] in ("k", "K") else (tail, 1)
    return Path(head), int(digits) * factor if digits.isdigit() else None


def kept_state(run: Path, iteration: int | None, *, named: str) -> Path:
    """Return where ``run`` keeps the state after ``iteration``.

    Raises:
        CheckpointError: it keeps none; the message begins with ``named``, what the user wrote.
    """
    kept = saved_iterations(run)
    if iteration is None or iteration not in kept:
        raise CheckpointError(
            f"{named}: {run} keeps no state of iteration {named.rpartition('@')[2]}; it keeps "
            f"{sorted(kept) or 'none'}; list wanted iterations in the recipe's keep_at"
        )
    return state_path(run, iteration)


def write_run_file(folder: Path, run: RunFile) -> None:
    """Write ``run.json`` into ``folder``."""
    with writing(folder / FILE) as temporary:
        temporary.write_text(json.dumps(msgspec.to_builtins(run), indent=1) + "\n", encoding="utf-8")


def read_run_file(folder: Path) -> RunFile:
    """Read what :func:`write_run_file` wrote.

    Raises:
        ConfigError: ``folder`` holds no run, or a damaged one.
    """
    path = Path(folder) / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder}: not a training run ({FILE} is missing); give the folder that "
                          "'hasn-edge train' printed when it began") from None  # fmt: skip
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: not readable ({exc})") from exc
    return config_from_mapping(values, RunFile, source=str(path))


class CsvLog:
    """``log.csv``: a row per interval and per validation; resuming cuts it to the state's iteration."""

    COLUMNS = ("iteration", "lr", "loss", "it_per_s", "loader_patches_per_s", "set", "psnr_y", "ssim_y")

    def __init__(self, path: Path, *, iteration: int) -> None:
        """Open ``path``, keeping the rows up to ``iteration``."""
        rows = [row for row in read_log(path) if int(row["iteration"]) <= iteration]
        with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self._stream = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._stream, self.COLUMNS)

    def add(self, **values: Any) -> None:
        """Append one row; columns that are not given stay empty."""
        self._writer.writerow(values)
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the complete rows of a ``log.csv``; an interrupted last row is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            row for row in csv.DictReader(stream) if None not in row.values() and row["iteration"].isdigit()
        ]


def best_score(folder: Path, name: str) -> float:
    """Return the highest PSNR-Y on set ``name`` that the log knows while ``best.safetensors`` exists."""
    if not (folder / BEST).is_file():
        return -math.inf
    values = [float(row["psnr_y"]) for row in read_log(folder / LOG) if row["set"] == name and row["psnr_y"]]
    return max(values, default=-math.inf)
