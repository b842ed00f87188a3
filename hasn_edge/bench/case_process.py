"""A child process that hosts one benched model, so that its memory and its libraries are its own.

Where memory suffices all cases are alive at once and are timed in rounds: when the machine slows down, it
slows down for all.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from hasn_edge import interrupt
from hasn_edge.artifact import Artifact
from hasn_edge.engine.worker_process import NO_ANSWER
from hasn_edge.errors import BuildError, HasnEdgeError, UnsupportedError, say
from hasn_edge.evaluation.latency import Round, noise_frame, time_session
from hasn_edge.files import Closeable
from hasn_edge.hardware.host import peak_memory_bytes
from hasn_edge.sidecar import Kind

if TYPE_CHECKING:
    from hasn_edge.data.pairs import EvalSet
    from hasn_edge.evaluation.evaluate import Scores
    from hasn_edge.model.complexity import NetworkCounts
    from hasn_edge.runtime.open import GraphBackend, ModelBackend
    from hasn_edge.runtime.session import Session

SILENCE_S = 3600.0
"""A child that sends nothing for so many seconds is taken to hang. One call, one image or opening a model
takes less on the slowest board, where compiling a whole engine takes half of it. However many calls and
images there are, the child gives signs of life between them."""

ALIVE_S = 60.0
"""Seconds between signs of life: so rare that they cost the calls that are timed nothing."""


@dataclass(frozen=True, kw_only=True)
class ComparedNetwork:
    """Another paper's network."""

    name: str
    """What it is called in the report: of a file, with the file's name and the folders that tell it
    apart."""
    model: str
    """``"NETWORK=FILE"``, or ``"NETWORK=random"``."""
    trained: bool
    """Whether it has weights, so that its quality means something."""
    counts: Mapping[tuple[int, int], NetworkCounts]
    """By (height, width) of the input."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that is compared: a model in PyTorch, or a built file."""

    label: str
    model: str | None = None
    """Bundled name, weights file or another paper's network, run unfused by PyTorch."""
    compiled: bool = False
    """Run :attr:`model` through ``torch.compile``, not eagerly."""
    network: ComparedNetwork | None = None
    """What is run where it is not the benchmark's own network."""
    artifact: Artifact | None = None
    backend: GraphBackend | None = None
    """What runs an ONNX graph; ONNX Runtime where ``None``."""
    exact: bool = False
    """ONNX Runtime without graph optimizations: exact Q/DQ arithmetic, not a speed."""
    threads: int | None = None
    tile: int | None = None
    """Tile side in pixels for the quality figures; ``None`` for whole frames."""
    device: str | None = None
    """Where it runs; ``None`` for the backend's choice: the CPU, or the GPU for an engine."""
    cuda: str | None = None
    """What gives an engine its memory and streams; ``None`` for the first that works."""
    timed: bool = True
    not_measured: tuple[str, ...] = ()
    """What the report lacks of this case, and why."""
    precision: str = "fp32"
    """Of a case without a file."""
    failure: HasnEdgeError | None = None
    """Why there is nothing to run: its build failed, for one."""

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU, as every engine does."""
        engine = self.artifact is not None and self.artifact.kind is Kind.ENGINE
        return engine or self.device not in (None, "cpu")

    def open(self, frame: tuple[int, int] | None = None) -> Session:
        """Open the session; where ``frame`` is given, for frames of this (height, width) only. It is slow."""
        from hasn_edge.runtime.open import open_model, open_session

        if self.artifact is not None:
            return open_session(
                self.artifact,
                backend=self.backend,
                device=self.device,
                exact=self.exact,
                threads=self.threads,
                frame=frame,
                cuda=self.cuda,
                eager=frame is not None,  # it is timed
            )
        assert self.model is not None
        backend: ModelBackend | None = "torch.compile" if self.compiled else "pytorch"
        if self.model.endswith(".onnx"):
            backend = None
        return open_model(self.model, backend=backend, device=self.device, threads=self.threads)


_GRACE_S = 5.0
"""How long a child that was told to end is waited for."""
_GUARD = say('in a script of your own, call it under: if __name__ == "__main__":')


class _Child(multiprocessing.get_context("spawn").Process):  # type: ignore[misc]
    """A process that is waited for no longer than :data:`_GRACE_S`, by Python neither, when that ends.

    One that waits for a driver may survive all that ends processes.
    """

    def join(self, timeout: float | None = None) -> None:
        super().join(_GRACE_S if timeout is None else timeout)


class Worker(Closeable):
    """The parent's handle on one case. Use as a context manager; the child ends with it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise UnsupportedError(
                "a benchmark starts processes, which import the script that called it, and this one began a "
                "benchmark again",
                _GUARD,
            )
        self._connection, child = multiprocessing.Pipe()
        self._process = _Child(target=_serve, args=(child, case), daemon=True)
        with interrupt.hold():
            self._process.start()
        child.close()

    def open(self, size: tuple[int, int]) -> Mapping[str, Any]:
        """Open the model for frames of one (height, width); return ``backend``, ``precision``, ``device``."""
        facts: Mapping[str, Any] = self._ask("open", size)
        return facts

    def time(self, *, warmup: int, at_least: int, seconds: float = 0.2) -> Round:
        """Time calls on one frame of noise of the size it was opened for, after ``warmup`` untimed ones.

        It goes on until ``at_least`` samples exist and ``seconds`` have passed.
        """
        found: Round = self._ask("time", warmup, at_least, seconds)
        return found

    def facts(self) -> Mapping[str, Any]:
        """Return how the session runs (graphs, memory, CUDA access); ask after a round."""
        facts: Mapping[str, Any] = self._ask("facts")
        return facts

    def peak_bytes(self) -> int | None:
        """Return the child's largest resident memory so far, its libraries included."""
        peak: int | None = self._ask("peak")
        return peak

    def score(self, eval_set: EvalSet, *, framed: bool = False) -> Scores:
        """Return PSNR-Y and SSIM on an evaluation set, outputs included.

        Args:
            eval_set: Images.
            framed: They all have the size that the session was opened for.
        """
        scores: Scores = self._ask("score", eval_set, framed)
        return scores

    def close(self) -> None:
        """End the child; safe to call twice."""
        with suppress(OSError, ValueError):
            self._connection.send(None)
        self._connection.close()
        self._process.join()
        for end in (self._process.terminate, self._process.kill):
            if self._process.is_alive():
                end()
                self._process.join()

    def _ask(self, verb: str, *args: object) -> Any:
        try:
            self._connection.send((verb, args))
            answer = None
            while answer is None:  # None is a sign of life
                if not self._connection.poll(SILENCE_S):
                    raise self._hanging(verb)
                answer = self._connection.recv()
        except (EOFError, OSError) as exc:
            self._process.join()
            code = self._process.exitcode
            stopped = f"{self.case.label}: stopped while asked to {verb}"
            if code == -signal.SIGKILL:
                killed = f"{stopped}: the system killed it, most likely because memory was short"
                raise BuildError(killed, say("bench a smaller size")) from exc
            script = getattr(sys.modules["__main__"], "__spec__", None) is None
            cures = (_GUARD,) if code == 1 and script else ()
            raise BuildError(f"{stopped}: its process ended with code {code}", *cures) from exc
        ok, value = answer
        if not ok:
            raise value
        return value

    def _hanging(self, verb: str) -> BuildError:
        """Kill the child; return the error that states it."""
        self._process.kill()
        return BuildError(
            f"{self.case.label}: stopped, because it gave no sign of life for {SILENCE_S / 60:g} minutes "
            f"while asked to {verb}",
            *(NO_ANSWER if self.case.on_gpu else [say("bench it alone, or with a smaller size")]),
        )


def _serve(connection: Connection, case: Case) -> None:
    interrupt.ignore()  # the parent handles Ctrl-C and closes us
    interrupt.die_with_parent()  # which, when it is killed, would leave minutes of load behind
    said = time.monotonic()

    def alive() -> None:
        nonlocal said
        if time.monotonic() - said >= ALIVE_S:
            said = time.monotonic()
            with suppress(BrokenPipeError):  # the parent was interrupted
                connection.send(None)

    host = CaseHost(case.open, tile=case.tile, alive=alive)
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        if request is None:
            host.close()
            return
        verb, args = request
        try:
            answer = (True, getattr(host, verb)(*args))
        except HasnEdgeError as exc:
            answer = (False, exc)
        except Exception:
            # A bug of ours: the parent shows the child's traceback, which pickling would lose.
            answer = (False, RuntimeError(f"{case.label}:\n{traceback.format_exc()}"))
        try:
            connection.send(answer)
        except BrokenPipeError:  # the parent was interrupted, and waits for no answer
            return


class CaseHost:
    """The child's side: one method per request.

    Args:
        open_session: Opens the case, see :meth:`Case.open`.
        tile: See :attr:`Case.tile`.
        alive: Is called between calls and images: the parent waits for a sign of life only so long.
    """

    def __init__(
        self,
        open_session: Callable[..., Session],
        *,
        tile: int | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.open_session, self.tile, self.alive = open_session, tile, alive
        self.sessions: list[Session] = []
        self.frame = (0, 0)

    def open(self, size: tuple[int, int]) -> dict[str, Any]:
        """See :meth:`Worker.open`."""
        # The session knows the frame's size, as one for a camera does.
        session = self.open_session(frame=size)
        self.sessions, self.frame = [session], size
        return {
            "backend": session.backend,
            "precision": session.number_format,
            "device": session.device,
        }

    def time(self, warmup: int, at_least: int, seconds: float) -> Round:
        """See :meth:`Worker.time`."""
        session = self.sessions[0]
        x = noise_frame(session, (1, session.spec.channels, *self.frame))
        if warmup:
            time_session(session, x, at_least=warmup, seconds=0, between=self.alive)
        return time_session(session, x, at_least=at_least, seconds=seconds, between=self.alive)

    def facts(self) -> dict[str, Any]:
        """See :meth:`Worker.facts`."""
        return self.sessions[0].facts()

    def peak(self) -> int | None:
        """See :meth:`Worker.peak_bytes`."""
        return peak_memory_bytes()

    def score(self, eval_set: EvalSet, framed: bool) -> Scores:
        """See :meth:`Worker.score`."""
        from hasn_edge.evaluation.evaluate import score_session

        if not framed and self.sessions[-1].size is not None and len(self.sessions) == 1:
            self.sessions.append(self.open_session())  # images have other sizes than the timed frame
        session = self.sessions[-1]
        return score_session(
            session, eval_set, tile=self.tile, whole=True, progress=lambda step: self.alive()
        )

    def close(self) -> None:
        """Close what was opened."""
        for session in self.sessions:
            session.close()
