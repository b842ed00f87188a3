"""What stands beside the paper's figures: every count of its tables, and which network the figures advise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.scripts import load_script

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def tables():
    module = load_script("benchmarks/paper_tables.py")
    return module, [*module.counted_tables(), *module.other_tables()]


@pytest.mark.slow
def test_every_count_of_the_tables_is_ours_but_spabs(tables):
    module, found = tables
    assert [table.number for table in found] == [2, 3, 4, 5, 6, 7, 8, 9]
    rows = [row for table in found for row in table.rows]
    assert sum(row.parameters is not None for row in rows) == 18
    assert [note for row in rows for note in module.count_cells(row)[1]] == ["SPAB: -349k"]


def test_quality_stands_beside_the_row_that_it_belongs_to(tables):
    module, found = tables
    measured = {module.FULL: {"Set5": (32.181, 0.8948)}}
    pages = {table.number: "\n".join(module.table_lines(table, measured)) for table in found}
    assert "32.17 / 0.8953; ours 32.181 / 0.8948 (+0.011 / -0.0005)" in pages[9]
    assert [number for number, page in pages.items() if "; ours 3" in page] == [9], "others were trained less"
    variant = {module.cb(kernel_size=9): {"Set14": (28.5, 0.7800)}}
    assert "; ours 28.500 / 0.7800 (+0.090 / +0.0026)" in "\n".join(module.table_lines(found[2], variant))


def test_what_is_advised_follows_from_the_figures():
    module = load_script("benchmarks/comparators.py")
    rows = {
        "hasn-x4": {"cited": (32.17, 28.59), "moved": 1_500_000_000, "ms": 400.0, "parameters": 435_272},
        "small": {"cited": (32.20, 28.66), "moved": 370_000_000, "ms": 500.0, "parameters": 500_000},
        "worse": {"cited": (30.0, 27.0), "moved": 1, "ms": 1.0, "parameters": 1},
        "alike": {"cited": (32.13, None), "moved": 1_400_000_000, "ms": None, "parameters": 600_000},
    }
    as_good, _, moved, milliseconds, parameters, _ = module.answers(rows)
    assert as_good.endswith("small, alike.")
    assert moved.endswith("these come before HASN with its 1,500 MB: small (370).")
    assert milliseconds == "On this CPU, none of them is clearly below HASN's 400 ms: choose HASN."
    assert parameters.startswith("Where the file has to be small, none of them")


def test_the_committed_page_is_that_of_the_committed_figures():
    store = FOLDER / "results" / "comparators_202611.json"
    page = load_script("benchmarks/comparators.py").page(json.loads(store.read_text(encoding="utf-8")))
    assert store.with_suffix(".md").read_text(encoding="utf-8") == page
