"""From what a user asked for to a live run that is ready to start."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hasn_edge.errors import Cure, MissingDependencyError, OutputError, SourceError, UnsupportedError, use
from hasn_edge.files import require_writable
from hasn_edge.live.engines import find_engine, list_engines, open_first
from hasn_edge.live.fit import describe_misfit, keep_shape, square_pixels
from hasn_edge.live.notices import Tell
from hasn_edge.live.pipeline import Live
from hasn_edge.live.recording import FrameWriter
from hasn_edge.live.self_test import self_test_size
from hasn_edge.live.sources.frame_source import DEFAULT_SIZE, FrameSource, Paced, PatternSource
from hasn_edge.live.sources.opening import first_camera, open_source, takes_size
from hasn_edge.live.views.live_view import View
from hasn_edge.live.views.window_check import IN_THE_BROWSER, has_display
from hasn_edge.runtime.choice import ENGINES
from hasn_edge.runtime.session import Session


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What was asked for; ``hasn-edge demo`` has an option for each, and says what it means."""

    model: str
    artifacts: tuple[Path, ...] = ()
    engine: str | None = None
    engines: bool = True
    threads: int | None = None
    device: str | None = None
    cuda: str | None = None
    source: str | None = None
    size: tuple[int, int] | Literal["native"] | None = None
    view: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    record: Path | None = None
    codec: str | None = None
    quality: float | None = None
    self_test: bool = False
    seconds: float | None = None


def open_live(
    options: DemoOptions,
    stack: ExitStack,
    tell: Tell,
    views: tuple[View, ...] = (),
    *,
    cure_text: Callable[[Cure], str] = str,
) -> Live:
    """Open the engine, the source and the views that a user asked for.

    Args:
        options: What was asked for.
        stack: Gets what closes it all again.
        tell: Receives what the user should know.
        views: Further views.
        cure_text: Writes what helps into notices and figures, for whoever starts the run.

    Raises:
        HasnEdgeError: something of it does not exist or does not work.
    """
    writer = _checked_writer(options)
    shown = _views(options, tell)
    for view in (*shown, *views):
        stack.callback(view.close)
    asked = None if options.size == "native" else options.size
    engines = list_engines(
        options.model,
        options.artifacts,
        folder=ENGINES if options.engines else None,
        size=asked,
        threads=options.threads,
        device=options.device,
        cuda=options.cuda,
    )
    source = None if takes_size(options.source) else _source(options.source, None, tell)
    if source is not None:
        stack.push(source)
    wanted = None if options.engine is None else find_engine(engines, options.engine)
    first = engines[wanted or next(iter(engines))]
    expected = None if first.scale is None else _usual_size(options, source, first.scale)
    name, session = open_first(engines, wanted, expected, tell)
    runs: list[Live] = []
    stack.push(partial(_close, session, runs))
    usual = _usual_size(options, source, session.spec.scale)
    size = session.size or usual if options.size is None else usual
    misfits = describe_misfit(name, session.size, size)
    if misfits is not None:
        tell(misfits)
    if source is None:
        scale = session.spec.scale if options.self_test else 1
        source = _source(options.source, None if size is None else (size[0] * scale, size[1] * scale), tell)
        stack.push(source)
    if options.view != "none" and not source.live:
        source = Paced(source)
    # Only where the browser was asked for: a run that was left to itself may have no viewer ever.
    in_browser = not source.live and any(view.watched is not None for view in shown)
    waits = in_browser and options.view == "web"
    if waits:
        tell(f"{source.name} begins when somebody opens the page", note=True)
    elif in_browser:
        tell(f"{source.name} begins at once; to have it wait for the page", use(view="web"), note=True)
    live = Live(
        source,
        session,
        (*shown, *views),
        name=name,
        engines={key: partial(engine.open, size) for key, engine in engines.items()},
        size=size,
        self_test=options.self_test,
        open_writer=None if writer is None else partial(writer, source.fps or 30.0),
        seconds=options.seconds,
        wait_for_viewer=waits,
        cure_text=cure_text,
    )
    runs.append(live)
    return live


def _usual_size(options: DemoOptions, source: FrameSource | None, scale: int) -> tuple[int, int] | None:
    """Return the (height, width) that the network gets where its engine takes any; ``None`` for the source's.

    Files and streams keep their shape unless the user asks for another one, and are not enlarged beforehand.
    """
    if options.size == "native":
        return None
    if options.size is not None:
        return options.size
    if source is None or source.size is None:
        return DEFAULT_SIZE
    own = square_pixels(source.size, source.aspect or 1.0)
    return keep_shape(self_test_size(own, scale) if options.self_test else own, DEFAULT_SIZE)


def _close(session: Session, runs: list[Live], *error: object) -> None:
    """Close the session, unless a thread is still inside it."""
    if not any("infer" in run.stuck for run in runs):
        session.__exit__(*error)


def _source(text: str | None, size: tuple[int, int] | None, tell: Tell) -> FrameSource:
    """Open the source; where none is named and no camera works, the test pattern."""
    if text is not None:
        return open_source(text, size)
    try:
        camera = first_camera(size)
    except SourceError as exc:
        tell(f"no camera works: showing the test pattern; tried {exc.message}", *exc.cures)
    else:
        if camera is not None:
            return camera
        text = "no camera found: showing the test pattern; an address or a video file can be shown too"
        tell(text, use(source="clip.mp4"))
    return PatternSource(size or DEFAULT_SIZE)


def _views(options: DemoOptions, tell: Tell) -> list[View]:
    """Open the view: the one asked for, or the first that works here."""
    if options.view == "none":
        return []
    if options.view != "auto":
        return [_OPEN[options.view](options, tell)]
    reasons: list[str] = []
    cures: list[Cure] = []
    for name in ("window", "web"):
        try:
            view = _OPEN[name](options, tell)
        except (UnsupportedError, MissingDependencyError) as exc:
            reasons.append(exc.message)
            cures += [cure for cure in exc.cures if cure != IN_THE_BROWSER]
        else:
            # Without a display no user expects a window.
            if reasons and has_display():
                tell(f"shown in the browser: {reasons[0]}", *cures)
            return [view]
    window, web = reasons
    tell(f"nothing is shown, only measured (window: {window}; web: {web})", *cures)
    return []


def _window(options: DemoOptions, tell: Tell) -> View:
    from hasn_edge.live.views.window import WindowView

    return WindowView()


def _web(options: DemoOptions, tell: Tell) -> View:
    from hasn_edge.live.web.view import WebView

    view = WebView(
        host=options.host,
        port=options.port,
        token=options.token,
        tell=tell,
        allow_hosts=options.allow_hosts,
        allow_origins=options.allow_origins,
    )
    view.bind()
    return view


_OPEN: dict[str, Callable[[DemoOptions, Tell], View]] = {"window": _window, "web": _web}


def _checked_writer(
    options: DemoOptions,
) -> Callable[[float, tuple[int, int]], AbstractContextManager[FrameWriter]] | None:
    """Return what opens the recording, after refusing what can be known to fail before anything runs."""
    if options.record is None:
        return None
    from hasn_edge.video.writer import VideoWriter, check_writer

    path, source = options.record, Path(options.source or "")
    if source.is_file() and path.exists() and path.samefile(source):
        raise OutputError(
            f"{path} is the video to show and would be overwritten",
            use(record=path.with_stem(f"{path.stem}_upscaled")),
        )
    require_writable(path)
    check_writer(path, codec=options.codec, quality=options.quality)

    def opened(fps: float, size: tuple[int, int]) -> Any:
        return VideoWriter(path, size, fps, codec=options.codec, quality=options.quality)

    return opened
