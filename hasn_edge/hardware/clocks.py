"""Full, fixed clocks on a Jetson for the length of a measurement, and the state before it back afterwards."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hasn_edge.errors import BuildError, UnsupportedError, say
from hasn_edge.interrupt import HANG_UP, catching

log = logging.getLogger(__name__)

PROGRAM = Path("/usr/bin/jetson_clocks")

RunProgram = Callable[[Sequence[str]], None]
"""Runs a program with its arguments and waits for its end."""


@contextmanager
def full_clocks(*, program: Path = PROGRAM, run: RunProgram | None = None) -> Iterator[None]:
    """Set every clock to the power mode's maximum while the block runs; the fan too where the script does.

    The state before is stored by ``jetson_clocks --store`` and restored at the end, whatever happens in
    the block; where that fails, it is logged, and what the block did is not lost for it. The power mode
    itself (nvpmodel) stays as it is. In the main thread SIGTERM and SIGHUP end the block too, by
    ``SystemExit``, and nothing but SIGKILL ends the restoring: what comes meanwhile takes effect after it.

    Raises:
        UnsupportedError: no ``jetson_clocks`` here, or this process is not root's.
        BuildError: it failed before the block; its own message is carried.
    """
    if run is None:
        require_clocks(program)
        run = _run
    ends = (signal.SIGTERM, *HANG_UP)
    with (
        catching(_end, signals=ends),
        tempfile.TemporaryDirectory(prefix="hasn-edge-clocks-") as folder,
    ):
        state = str(Path(folder) / "state")  # must not exist: the script would ask whether to overwrite it
        run((str(program), "--store", state))
        try:
            run((str(program),))
            yield
        finally:
            held: list[int] = []
            with catching(held.append, signals=(signal.SIGINT, *ends)):
                try:
                    run((str(program), "--restore", state))
                except BuildError as exc:
                    log.error("the clocks may not be as before, until the board restarts: %s", exc.message)
            if held:
                signal.raise_signal(held[0])


def _end(number: int) -> NoReturn:
    raise SystemExit(128 + number)


def require_clocks(program: Path = PROGRAM) -> None:
    """Check that clocks could be set, and set none.

    Raises:
        UnsupportedError: no ``jetson_clocks`` here, or this process is not root's.
    """
    if not program.is_file():
        raise UnsupportedError(
            f"setting clocks needs {program}, which a Jetson has",
            say("on a desktop lock clocks with: sudo nvidia-smi -lgc MHZ"),
        )
    if os.geteuid() != 0:
        raise UnsupportedError("setting the machine's clocks needs root", say("run it with sudo"))


def _run(argv: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            list(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
            start_new_session=True,  # a terminal sends Ctrl-C to all processes of its session
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BuildError(f"{' '.join(argv)}: {exc}") from exc
    # It ends with 0 also where a clock could not be set or restored, and only prints that.
    problems = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.startswith("Error")]
    if done.returncode != 0 or problems:
        reason = "; ".join(problems) or (done.stderr or done.stdout).strip()
        reason = reason or f"exit code {done.returncode}"
        raise BuildError(f"{' '.join(argv)} failed: {reason}")
