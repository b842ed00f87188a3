"""The table of quantizers: a row that is measured again replaces itself alone."""

from __future__ import annotations

import json

import click
import pytest

from tests.support.scripts import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("benchmarks/quantizers.py")


def row(name: str, loss: float, run: str, *sets: str) -> dict[str, object]:
    cells = {each: [loss, "bird", 2 * loss] for each in sets}
    return {"quantizer": name, "run": run, "int8_share": 0.941, "cpu_minutes": 0.2, "sets": cells}


def test_a_row_is_measured_again_and_the_others_stay(script, tmp_path):
    stem, head = tmp_path / "quantizers_net_202611", {"patches": 44, "fingerprint": "f" * 64}
    order = ["ours", "theirs", "absent"]

    def keep(measured):
        script.keep(stem, "Quantizers of net", head, measured, order)

    keep(row("from elsewhere", -0.5, "first", "Set5"))
    keep(row("theirs", -0.4, "first", "Set5", "Set14"))
    keep(row("ours", -0.3, "first", "Set5", "Set14"))
    keep(row("ours", -0.1, "second", "Set5", "Set14"))
    kept = json.loads(stem.with_suffix(".json").read_text())
    assert list(kept["rows"]) == ["ours", "theirs", "from elsewhere"]
    page = stem.with_suffix(".md").read_text().splitlines()
    assert [line for line in page if line.startswith("|")] == [
        "| quantizer | MACs in INT8 | CPU minutes | Set5 | Set14 | run |",
        "|---|---|---|---|---|---|",
        "| ours | 94.1% | 0.20 | -0.1000 (bird -0.200) | -0.1000 (bird -0.200) | 1 |",
        "| theirs | 94.1% | 0.20 | -0.4000 (bird -0.800) | -0.4000 (bird -0.800) | 2 |",
        "| from elsewhere | 94.1% | 0.20 | -0.5000 (bird -1.000) | not run | 2 |",
    ]
    assert [line for line in page if line.startswith("- Run")] == ["- Run 1: second", "- Run 2: first"]
    with pytest.raises(click.ClickException, match="rows of other calibration images"):
        script.keep(stem, "Quantizers of net", {**head, "patches": 32}, row("ours", 0.0, "third"), order)


def test_a_part_that_no_row_holds_is_refused_with_the_rows(script):
    names = ["ours, `search`", "ours, `default`", "theirs"]
    assert script.select(names, ()) == names
    assert script.select(names, ("search", "their")) == ["ours, `search`", "theirs"]
    with pytest.raises(click.BadParameter, match="(?s)'serach'.*ours, `search`.*ours, `default`.*theirs"):
        script.select(names, ("theirs", "serach"))
