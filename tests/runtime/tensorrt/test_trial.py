"""An engine is tried in a process of its own: its errors come back as they are, its death is an answer."""

from __future__ import annotations

import json
import os

import pytest

from hasn_edge.errors import ArtifactError, BuildError, UnsupportedError, error_from_values
from hasn_edge.hardware.gpu import driver_present
from hasn_edge.runtime.golden import make_golden
from hasn_edge.runtime.tensorrt import trial
from hasn_edge.runtime.tensorrt.trial import NoMemoryError, try_engine
from tests.support.fake_session import FakeSession
from tests.support.gpu_fixtures import SPEC


@pytest.fixture
def engine(lab):
    lab.set_up()
    with FakeSession(SPEC) as session:
        golden = make_golden(session, (32, 48))

    def make(**plan):
        facts = {"gpu": "Orin", "sm_count": 8, "compute_capability": "8.7", "golden": golden}
        return lab.engine(details=facts, **plan).path

    return make


def test_the_child_opens_it(engine, capsys):
    assert trial.main(str(engine())) == 0
    assert capsys.readouterr().out == ""
    assert trial.main(str(engine(behaviour="zeros"))) == 1
    error = error_from_values(json.loads(capsys.readouterr().out))
    assert isinstance(error, ArtifactError)
    assert "its output is all zeros" in error.message
    assert error.cures[0].action == "call"


@pytest.mark.slow
@pytest.mark.skipif(driver_present(), reason="this machine has an NVIDIA driver")
def test_its_error_comes_back(engine):
    with pytest.raises(UnsupportedError, match="this machine cannot run an engine"):
        try_engine(engine())


@pytest.mark.parametrize(
    "script",
    [
        "kill -9 $$",
        "echo 'terminate called: std::bad_alloc' >&2; exit 134",
        """echo '{"kind": "InputError", "message": "not enough memory", "cures": [], "more": {}}'; exit 1""",
        """echo '{"kind": "BuildError", "message": "Error Code 2: OutOfMemory", "cures": [], "more": {}}'
        exit 1""",
    ],
)
def test_memory_that_does_not_suffice_is_nothing_against_it(engine, python, script):
    with pytest.raises(NoMemoryError):
        try_engine(engine(), python=python(script))


def test_one_that_crashes_its_process_is_an_error(engine, python):
    with pytest.raises(
        BuildError, match=r"x4\.engine: the process that tried it crashed .*139\): Segmentation"
    ) as info:
        try_engine(engine(), python=python("echo 'Segmentation fault' >&2; exit 139"))
    assert not isinstance(info.value, NoMemoryError)


def test_one_that_hangs_is_ended(engine, python, tmp_path):
    script = f"echo $$ > {tmp_path / 'pid'}; exec sleep 60"
    with pytest.raises(BuildError, match=r"x4\.engine: .* did not end within 0\.3 s and was stopped") as info:
        try_engine(engine(), python=python(script), limit_s=0.3)
    assert not isinstance(info.value, NoMemoryError)
    assert [cure.action for cure in info.value.cures] == ["say"] * 3
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
