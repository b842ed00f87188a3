"""Where the files that ship with hasn-edge are: calibration, engine targets, benchmark suites."""

from __future__ import annotations

from pathlib import Path

from hasn_edge.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def shipped_root() -> Path:
    """Return the folder that holds ``calibration/``, ``engines/`` and ``benchmarks/``.

    A wheel carries them inside the package (``setup.py`` puts them there); in a checkout, and in an
    editable installation of one, they are beside it.
    """
    installed = _PACKAGE / "_shipped"
    return installed if installed.is_dir() else _PACKAGE.parent


def shipped(*parts: str) -> Path:
    """Return the path of a file or folder that ships with hasn-edge.

    Args:
        parts: Path below the three folders, e.g. ``shipped("calibration", "patches")``.

    Raises:
        InputError: the installation is incomplete.
    """
    path = shipped_root().joinpath(*parts)
    if not path.exists():
        raise InputError(
            f"{path} ships with hasn-edge but is missing; the installation is incomplete, "
            "repair it with: pip install --force-reinstall hasn-edge"
        )
    return path
