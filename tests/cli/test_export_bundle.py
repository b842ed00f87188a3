"""The command line of bundles: what goes with them, and what does not."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from hasn_edge.cli import cli


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["export", "--format", "bundle", "--precision", "fp16"], "leave out --precision"),
        (["export", "--format", "bundle", "--size", "320x180"], "leave out --size"),
        (["build", "--from", ".", "--model", "hasn-x4"], "--from is a finished model; leave out --model"),
        (["build", "--from", "absent"], "does not exist"),
    ],
)
def test_options_that_do_not_go_together(args, said):
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 2
    assert said in result.output


def test_a_folder_that_is_no_bundle(tmp_path):
    result = CliRunner().invoke(cli, ["build", "--from", str(tmp_path)])
    assert result.exit_code == 1
    assert "no bundle" in result.output
