"""What INT8 saves of what a target pays: arithmetic, bytes that its kernels move, or time measured here."""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasn_edge.artifact import load_artifact
from hasn_edge.engine.capabilities import NAMES, Capabilities
from hasn_edge.engine.compile import engine_from_onnx, kernels_from_onnx
from hasn_edge.engine.target import EngineTarget
from hasn_edge.engine.worker_process import ANSWER_S, answer, ask_python
from hasn_edge.errors import BuildError, UnsupportedError, use
from hasn_edge.evaluation.latency import Latency, noise_frame, time_session
from hasn_edge.files import KeptValues
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.pipeline.context import FinishedFile, publish_file
from hasn_edge.pipeline.inspection import megabytes, of_images
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.quantize.recipe import GATE, Saving
from hasn_edge.runtime.choice import describe_machine
from hasn_edge.runtime.tensorrt.engine_session import TensorRTSession
from hasn_edge.sidecar import EngineDetails, Form, GraphDetails
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

    from hasn_edge.runtime.session import Session

ROUNDS, CALLS, SECONDS = 5, 3, 0.2
"""How a graph is timed: in rounds, in turns with the graph without INT8."""


def choose_saving(target: EngineTarget, gpu: GpuFacts | None) -> Saving:
    """Return what a search saves by default: time where the target's GPU is, bytes where it only compiles.

    Elsewhere it is arithmetic, on a CPU too: what a group takes there is within the noise of its timing, and
    a search shall find the same placement each time.
    """
    if not target.runtime.compiles:
        return Saving.MACS
    return Saving.MS if target.runs_on(gpu) else Saving.BYTES


class TargetCost:
    """What graphs of a build cost on its target, by what is INT8 in them.

    Args:
        variants: Of a build in INT8.
        target: What it is built for.
        capabilities: Of its compiler; ``None`` where the graph itself runs.
        saving: Bytes or milliseconds.
        memory: Folder that keeps what was measured; nothing is kept where ``None``.
        progress: Receives what is under way.

    Raises:
        UnsupportedError: the target has no such figure here.
    """

    def __init__(
        self,
        variants: Variants,
        target: EngineTarget,
        capabilities: Capabilities | None,
        saving: Saving,
        *,
        memory: Path | None = None,
        progress: Progress = ignore,
    ) -> None:
        self.variants, self.target, self.saving, self.progress = variants, target, saving, progress
        self._form = Form.CPU if capabilities is None else capabilities.form
        if saving is Saving.BYTES and capabilities is None:
            raise UnsupportedError(
                f"the target {target.name!r} runs the graph itself, and no compiler lists what it moves",
                use(cost=Saving.MACS.value),
                use(cost=Saving.MS.value),
            )
        self._measure = self._moved if saving is Saving.BYTES else self._time
        where = f"{capabilities.title} {target}" if capabilities else str(target)
        if saving is Saving.MS:
            where += describe_machine()
        self._where = where
        self._cache = memory
        self._kept = KeptValues[float](memory and memory / f"costs-{saving.value}-{target.name}.json")

    @property
    def float_name(self) -> str:
        """What is compared with: the precision of the same build without INT8."""
        return "FP32" if self._form is Form.CPU else "FP16"

    @cached_property
    def base(self) -> float:
        """What the build without INT8 costs, with all fusion rules of the target."""
        return self._cost("without INT8", *self._base_data)

    def of(self, names: tuple[str, ...], what: str) -> float:
        """Return what a graph costs in which the convolutions called in ``names`` are INT8, gates frozen."""
        return self._cost(what, *self._data(names))

    def gains(self, groups: Mapping[str, tuple[str, ...]], macs: Mapping[str, int]) -> dict[str, float]:
        """Return what INT8 of each group saves, as a share of :attr:`base`; below zero where it costs more.

        Groups of one kind (another block's, the same arithmetic) are measured together, twice: alone, and as
        the last that is not INT8 yet. The mean of both counts, because what neighbours are decides what is
        fused. Where no kind saves alone and all together do not either, the second half is left out.

        Args:
            groups: Their convolutions, by name.
            macs: Of each convolution.
        """
        kinds: dict[tuple[str, int], list[str]] = {}
        for name, own in groups.items():
            # Of our own blocks the number alone: CAB's two convolutions have as many MACs and other inputs.
            pattern = re.sub(r"^(block_)\d+" if name.startswith("block_") else r"()\d+", r"\1#", name)
            kinds.setdefault((pattern, sum(macs.get(each, 0) for each in own)), []).append(name)
        everything = tuple(each for own in groups.values() for each in own)
        nothing, whole = self.of((), "with nothing in INT8"), self.of(everything, "with everything in INT8")
        members = {
            kind: tuple(each for name in names for each in groups[name]) for kind, names in kinds.items()
        }
        first = {kind: nothing - self.of(own, f"with {kind[0]} in INT8") for kind, own in members.items()}
        saved = dict(first)
        if whole < self.base or any(
            saves > 0 for (pattern, _), saves in first.items() if not pattern.endswith(GATE)
        ):
            for kind, own in members.items():
                rest = tuple(each for each in everything if each not in own)
                saved[kind] = (first[kind] + self.of(rest, f"with all but {kind[0]} in INT8") - whole) / 2
        return {name: saved[kind] / len(names) / self.base for kind, names in kinds.items() for name in names}

    def words(self, value: float) -> str:
        """Return a cost as text with its unit."""
        figure = megabytes(value) if self.saving is Saving.BYTES else f"{value:.2f} ms"
        return figure + of_images(self.target.shapes.opt[0])

    def require_gain(self, gains: Mapping[str, float]) -> None:
        """Refuse a target on which no group saves anything.

        Raises:
            BuildError: none does.
        """
        integer = [each for each in gains.items() if not each[0].endswith(GATE)]
        name, gain = max(integer, key=lambda each: each[1])
        if gain <= 0:
            raise BuildError(
                f"INT8 saves nothing for {self.target.name}: {self.float_name} {self._takes(self.base)}, "
                f"prepared for INT8 {self.words(self.of((), 'with nothing in INT8'))}, and each group of "
                f"convolutions in INT8 adds to that, the least {name} ({self.words(-gain * self.base)} more)",
                use(precision=self.float_name.lower()),
                use(cost=Saving.MACS.value),
            )

    def confirm(self, names: tuple[str, ...]) -> str:
        """Return what a placement costs, as a sentence.

        Args:
            names: The convolutions in INT8.

        Raises:
            BuildError: it costs more than the build without INT8: predictions of groups did not add.
        """
        cost = self.of(names, "with the chosen placement")
        text = f"the placement {self._takes(cost)}, {self.float_name} {self._takes(self.base)}"
        if cost >= self.base:
            raise BuildError(
                f"INT8 saves nothing for {self.target.name} within this budget: {text}",
                use(precision=self.float_name.lower()),
                use(cost=Saving.MACS.value),
            )
        return f"{text} ({cost / self.base - 1:+.1%})"

    def _takes(self, cost: float) -> str:
        return f"{'moves' if self.saving is Saving.BYTES else 'takes'} {self.words(cost)}"

    def _data(self, names: tuple[str, ...] | None = None) -> tuple[bytes, Precision]:
        """Return what is compiled of :meth:`_graph`, and its precision."""
        graph, precision = self._graph(names)
        return self.variants.as_compiled(graph).SerializeToString(deterministic=True), precision

    @cached_property
    def _base_data(self) -> tuple[bytes, Precision]:
        return self._data()

    def _graph(self, names: tuple[str, ...] | None = None) -> tuple[ModelProto, Precision]:
        """Return a graph prepared for INT8, which excludes some fusion; the fully fused one for ``None``."""
        exporter, ranges = self.variants.int8
        recipe = self.variants.context.recipe
        assert recipe is not None
        frozen = tuple(name for name in names or () if name.endswith(GATE))
        integer = tuple(name for name in names or () if name not in frozen)
        wanted = Precision.INT8 if integer else Precision(self.float_name.lower())
        # FP16 of weakly typed graphs comes from a builder flag.
        own = Precision.FP32 if self._form.weakly_typed and not integer else wanted
        batch = self.variants.context.count
        # A graph that takes any number of images takes any size: an engine's is the profile's.
        size = None if batch is None else self.target.shapes.size
        if names is None:
            return self.variants.exporter.export(self._form, own, size=size, batch=batch), wanted
        recipe = replace(recipe, quantize=integer or recipe.quantize, keep_float=(), freeze=frozen)
        if frozen:
            ranges = replace(ranges, gates=self.variants.steady_gates)
        graph = exporter.export(self._form, own, size=size, batch=batch, ranges=ranges, recipe=recipe)
        return graph, wanted

    def _key(self, data: bytes, precision: Precision) -> str:
        return hashlib.sha256(f"{self._where} {precision.value}".encode() + data).hexdigest()[:20]

    def _cost(self, what: str, data: bytes, precision: Precision) -> float:
        def measure() -> float:
            self.progress(Step(f"measuring {self.saving.value} {what}"))
            return self._measure(data, precision)

        return self._kept.get(self._key(data, precision), measure)

    def _moved(self, data: bytes, precision: Precision) -> float:
        moved = kernels_from_onnx(data, self.target, precision=precision).moved_bytes
        if moved is None:
            raise UnsupportedError(
                f"{NAMES[self.target.runtime]} does not state the bytes of its kernels",
                use(cost=Saving.MACS.value),
            )
        return moved

    def _time(self, data: bytes, precision: Precision) -> float:
        """Return a median in milliseconds: the ratio to the float graph in rounds, times its first median.

        What slows the machine down for a while slows both.
        """
        shape = (*self.target.shapes.opt[:2], *self._frame)
        files = self._runnable(data, precision), self._base_file
        if self.target.runtime.compiles:
            with tempfile.TemporaryDirectory(prefix="hasn-edge-cost-") as name:
                paths = [
                    str(publish_file(self.variants.context, file, Path(name, str(number)), ignore).path)
                    for number, file in enumerate(files)
                ]
                mine, theirs = time_engines(paths, shape)
        else:
            with self._open(files[0]) as own, self._open(files[1]) as base:
                mine, theirs = time_in_turns((own, base), shape)
        # The file is one for all models of a target.
        median = theirs.median_ms
        first = self._kept.get(f"float {self._key(*self._base_data)}", lambda: median)
        return mine.times(theirs) * first

    @property
    def _frame(self) -> tuple[int, int]:
        """The target's optimal (height, width), or the next that the network takes."""
        return self.variants.context.checkpoint.spec.size.fitting(*self.target.shapes.opt[2:])

    @cached_property
    def _base_file(self) -> FinishedFile:
        return self._runnable(*self._base_data)

    def _runnable(self, data: bytes, precision: Precision) -> FinishedFile:
        """Return what the target runs of a graph: the graph itself, or an engine."""
        if not self.target.runtime.compiles:
            details: GraphDetails | EngineDetails = GraphDetails(form=self._form, opset=0)
        else:
            built = engine_from_onnx(data, self.target, precision=precision, cache=self._cache)
            data, details = built.plan, built.details()
        return FinishedFile(data=data, precision=precision, suffix="", details=details, notes=())

    def _open(self, graph: FinishedFile) -> Session:
        from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession

        spec = self.variants.context.checkpoint.spec
        return OnnxRuntimeSession(graph.data, spec, precision=graph.precision, frame=self._frame)


def time_in_turns(sessions: Sequence[Session], shape: tuple[int, ...]) -> list[Latency]:
    """Return what calls of each session take on noise of ``shape``, NCHW."""
    x = noise_frame(sessions[0], shape)  # type: ignore[arg-type]
    for session in sessions:
        session.times(x)
    rounds = [
        [time_session(session, x, at_least=CALLS, seconds=SECONDS) for session in sessions]
        for _ in range(ROUNDS)
    ]
    return [Latency(rounds=tuple(each[index].total for each in rounds)) for index in range(len(sessions))]


def time_engines(
    engines: Sequence[str], shape: tuple[int, ...], *, python: str = sys.executable
) -> list[Latency]:
    """Return :func:`time_in_turns` of engines, in a process of its own.

    CUDA's context would stay in this one, on a Jetson in the memory of the compiler, which goes on.

    Args:
        engines: Absolute paths.
        shape: NCHW.
        python: The interpreter.

    Raises:
        HasnEdgeError: as :class:`TensorRTSession`, or the process crashed or hangs.
    """
    found = ask_python(
        "hasn_edge.pipeline.costs",
        *map(str, (*shape, *engines)),
        work="timed two engines",
        late="two engines were not timed",
        limit_s=ANSWER_S,
        python=python,
    )
    return [Latency(rounds=tuple(map(tuple, rounds))) for rounds in found]


def main(*arguments: str) -> None:
    """Be the process of :func:`time_engines`, which gave the shape and the engines."""

    def samples() -> list[Any]:
        with ExitStack() as stack:
            # Without a golden image, which only published engines have.
            opened = (TensorRTSession(load_artifact(path), eager=True) for path in arguments[4:])
            sessions = [stack.enter_context(one) for one in opened]
            return [each.rounds for each in time_in_turns(sessions, tuple(map(int, arguments[:4])))]

    answer(samples)


if __name__ == "__main__":
    main(*sys.argv[1:])
