"""The list of all checks: quiet where all is well, and each with tests of its own."""

from __future__ import annotations

from pathlib import Path

from hasn_edge.doctor.checks import CHECKS, run_checks
from hasn_edge.doctor.environment import Environment, collect_environment
from hasn_edge.doctor.result import State


def test_no_problem_is_found_where_all_is_well(desktop, jetson):
    assert run_checks(desktop) == ()
    assert run_checks(jetson) == ()
    assert run_checks(Environment(root=desktop.root, engines=desktop.engines)) == ()


def test_every_check_has_a_docstring_and_a_test():
    for check in CHECKS:
        room = check.__module__.split(".")[-1]
        tests = Path(__file__).parent / "checks" / f"test_{room}.py"
        assert f"{room}.{check.__name__}" in tests.read_text(encoding="utf-8"), check
        assert check.__doc__


def test_every_problem_of_this_machine_has_a_cure():
    for result in run_checks(collect_environment()):
        assert result.wrong or result.state is State.INFO
        assert result.cures
