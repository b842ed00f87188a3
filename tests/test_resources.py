from __future__ import annotations

from pathlib import Path

import pytest

from hasn_edge import resources
from hasn_edge.errors import InputError


def test_a_checkout_has_the_folders_beside_the_package() -> None:
    assert resources.shipped("engines", "targets").is_dir()
    assert resources.shipped("engines", "targets", "rtx.toml").is_file()


def test_a_wheel_has_them_inside_and_looks_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package" / "_shipped" / "engines").mkdir(parents=True)
    (tmp_path / "calibration").mkdir()  # of somebody else, in the same site-packages
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "package")
    assert resources.shipped("engines") == tmp_path / "package" / "_shipped" / "engines"
    with pytest.raises(InputError, match="calibration ships with hasn-edge but is missing; .*reinstall"):
        resources.shipped("calibration")
