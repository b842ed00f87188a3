"""From what a user asked for to a live run that is ready to start."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hasn_edge.artifact import require_writable
from hasn_edge.errors import MissingDependencyError, OutputError, SourceError, UnsupportedError
from hasn_edge.live.engines import list_engines, named, open_first
from hasn_edge.live.fit import describe_misfit, keep_shape, square_pixels
from hasn_edge.live.pipeline import Live
from hasn_edge.live.recording import FrameWriter
from hasn_edge.live.self_test import self_test_size
from hasn_edge.live.sources.base import FrameSource, Paced, PatternSource
from hasn_edge.live.sources.open import first_camera, open_source, takes_size
from hasn_edge.live.views.base import View
from hasn_edge.live.views.window_check import has_display
from hasn_edge.runtime.session import Session

DEFAULT_SIZE = (180, 320)
"""(height, width) that the network gets where neither the user nor the engine says otherwise; of files and
streams, which keep their shape, as many pixels at most."""

VIEWS = ("auto", "window", "web", "none")

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What was asked for; see the options of ``hasn-edge demo``."""

    model: str
    artifacts: tuple[Path, ...] = ()
    engine: str | None = None
    threads: int | None = None
    device: str | None = None
    cuda: str | None = None
    source: str | None = None
    size: tuple[int, int] | Literal["native"] | None = None
    view: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    record: Path | None = None
    codec: str | None = None
    quality: float | None = None
    self_test: bool = False
    seconds: float | None = None


def open_live(request: DemoOptions, stack: ExitStack, tell: Tell, views: tuple[View, ...] = ()) -> Live:
    """Open the engine, the source and the views that a user asked for.

    Args:
        request: What was asked for.
        stack: Gets what closes it all again.
        tell: Told what the user should know, in sentences.
        views: Further views.

    Raises:
        HasnEdgeError: something of it does not exist or does not work.
    """
    writer = _checked_writer(request)
    shown = _views(request, tell)
    for view in (*shown, *views):
        stack.callback(view.close)
    asked = None if request.size == "native" else request.size
    engines = list_engines(
        request.model,
        request.artifacts,
        size=asked,
        threads=request.threads,
        device=request.device,
        cuda=request.cuda,
    )
    source = None if takes_size(request.source) else _source(request.source, None, tell)
    if source is not None:
        stack.callback(source.close)
    wanted = None if request.engine is None else named(engines, request.engine)
    first = engines[wanted or next(iter(engines))]
    expected = None if first.scale is None else _usual_size(request, source, first.scale)
    name, session = open_first(engines, wanted, expected, tell)
    runs: list[Live] = []
    stack.callback(_close, session, runs)
    usual = _usual_size(request, source, session.spec.scale)
    size = session.size or usual if request.size is None else usual
    misfits = describe_misfit(name, session.size, size)
    if misfits is not None:
        tell(misfits)
    if source is None:
        scale = session.spec.scale if request.self_test else 1
        source = _source(request.source, None if size is None else (size[0] * scale, size[1] * scale), tell)
        stack.callback(source.close)
    if request.view != "none" and not source.live:
        source = Paced(source)
    live = Live(
        source,
        session,
        (*shown, *views),
        name=name,
        engines={key: partial(engine.open, size) for key, engine in engines.items()},
        size=size,
        self_test=request.self_test,
        open_writer=None if writer is None else partial(writer, source.fps or 30.0),
        seconds=request.seconds,
    )
    runs.append(live)
    return live


def _usual_size(request: DemoOptions, source: FrameSource | None, scale: int) -> tuple[int, int] | None:
    """Return the (height, width) that the network gets where its engine takes any; ``None`` for the source's.

    Files and streams keep their shape unless the user asks for another one, and are not enlarged beforehand.
    """
    if request.size == "native":
        return None
    if request.size is not None:
        return request.size
    if source is None or source.size is None:
        return DEFAULT_SIZE
    own = square_pixels(source.size, source.aspect or 1.0)
    return keep_shape(self_test_size(own, scale) if request.self_test else own, DEFAULT_SIZE)


def _close(session: Session, runs: list[Live]) -> None:
    """Close the session, unless a thread is still inside it."""
    if not any("infer" in run.stuck for run in runs):
        session.close()


def _source(text: str | None, size: tuple[int, int] | None, tell: Tell) -> FrameSource:
    """Open the source; without a word and without a camera that works, the test pattern."""
    if text is not None:
        return open_source(text, size)
    try:
        camera = first_camera(size)
    except SourceError as exc:
        tell(f"no camera works: showing the test pattern; tried {exc}")
    else:
        if camera is not None:
            return camera
        tell("no camera found: showing the test pattern; --source takes an address or a video file too")
    return PatternSource(size or DEFAULT_SIZE)


def _views(request: DemoOptions, tell: Tell) -> list[View]:
    """Open the view: the one asked for, or the first that works here."""
    if request.view == "none":
        return []
    if request.view != "auto":
        return [_OPEN[request.view](request, tell)]
    reasons: list[str] = []
    for name in ("window", "web"):
        try:
            view = _OPEN[name](request, tell)
        except (UnsupportedError, MissingDependencyError) as exc:
            reasons.append(f"{name}: {exc}")
        else:
            # Without a display nobody expects a window.
            if reasons and has_display():
                why = reasons[0].removeprefix("window: ").split(";")[0]
                tell(f"shown in the browser: {why}; --view window says how to mend that")
            return [view]
    tell(f"nothing is shown, only measured ({'; '.join(reasons)})")
    return []


def _window(request: DemoOptions, tell: Tell) -> View:
    from hasn_edge.live.views.window import WindowView

    return WindowView()


def _web(request: DemoOptions, tell: Tell) -> View:
    from hasn_edge.live.web.view import WebView

    view = WebView(host=request.host, port=request.port, token=request.token, tell=tell)
    view.bind()
    return view


_OPEN: dict[str, Callable[[DemoOptions, Tell], View]] = {"window": _window, "web": _web}


def _checked_writer(
    request: DemoOptions,
) -> Callable[[float, tuple[int, int]], AbstractContextManager[FrameWriter]] | None:
    """Return what opens the recording, after refusing what can be known to fail before anything runs."""
    if request.record is None:
        return None
    from hasn_edge.video.writer import VideoWriter, check_writer

    path, source = request.record, Path(request.source or "")
    if source.is_file() and path.exists() and path.samefile(source):
        raise OutputError(
            f"{path} is the video to show and would be overwritten; choose another name with --record"
        )
    require_writable(path)
    check_writer(path, codec=request.codec, quality=request.quality)

    def opened(fps: float, size: tuple[int, int]) -> Any:
        return VideoWriter(path, size, fps, codec=request.codec, quality=request.quality)

    return opened
