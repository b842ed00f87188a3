"""Options that several verbs share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from hasn_edge.files import shipped_path

if TYPE_CHECKING:
    from hasn_edge.artifact import Artifact
    from hasn_edge.runtime.session import Session

F = TypeVar("F", bound=Callable[..., Any])

WHY_TILES = {
    "memory": "because of memory",
    "static size": "because the file has one size",
    "engine size": "because the engine takes no larger ones",
}
"""In words, the reasons for tiles but that the user asked for them."""

AUTO = "auto"
"""What ``--model`` takes where the source decides."""


class NamesOption(click.Option):
    """An option that takes a name of those that ship, or a file: listed in its help and completed by shells.

    ``{names}`` in its help becomes the names. They are looked up when they are shown.
    """

    def __init__(self, *args: Any, names: Callable[[], Iterable[str]], **more: Any) -> None:
        super().__init__(*args, **more)
        self.names = names

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option and its help, the names filled in."""
        record = super().get_help_record(ctx)
        return record and (record[0], record[1].replace("{names}", ", ".join(self.names())))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so, and let the shell add files."""
        items = [CompletionItem(name) for name in self.names() if name.startswith(incomplete)]
        return [*items, CompletionItem(incomplete, type="file")]


def model_names() -> Iterable[str]:
    """Return the bundled models' names."""
    from hasn_edge.model.zoo import bundled_models

    return bundled_models()


def model_names_and_auto() -> Iterable[str]:
    """Return the bundled models' names, and ``auto``."""
    return (*model_names(), AUTO)


def network_names() -> Iterable[str]:
    """Return the names of the networks of other papers."""
    from hasn_edge.model.comparators import NETWORKS

    return NETWORKS


def quant_recipe_names() -> Iterable[str]:
    """Return the names of the INT8 recipes that ship."""
    return _toml_names(shipped_path("calibration", "recipes"))


def train_recipe_names() -> Iterable[str]:
    """Return the names of the training recipes that ship."""
    return _toml_names(Path(__file__).parents[1] / "train" / "recipes")


def target_names() -> Iterable[str]:
    """Return the names of the targets that ship, boards among them."""
    return _toml_names(shipped_path("engines", "targets"))


def board_names() -> Iterable[str]:
    """Return the names of the targets that ship with a device's profile, which can be estimated."""
    return _toml_names(shipped_path("engines", "targets"), having="[device]")


def _toml_names(folder: Path, *, having: str = "") -> Iterable[str]:
    # Other modules list them too, but importing these takes longer than help may.
    return sorted(path.stem for path in folder.glob("*.toml") if having in path.read_text(encoding="utf-8"))


model_option = click.option(
    "--model",
    cls=NamesOption,
    names=model_names,
    metavar="NAME|FILE",
    default=None,
    help="Bundled name ({names}; hasn-edge models lists what each is for), a .safetensors or .pth file, any "
    "super-resolution network's .onnx, or another paper's network as span=FILE.  [default: the bundled "
    "model]",
)

source_model_option = click.option(
    "--model",
    cls=NamesOption,
    names=model_names_and_auto,
    metavar="NAME|FILE|auto",
    default=None,
    help="{names}, a .safetensors or .pth file, or any super-resolution network's .onnx; auto takes the one "
    "for cameras where all that is upscaled comes from cameras, streams, videos or JPEG files.  [default: "
    "the bundled model]",
)


def is_given(context: click.Context, option: str) -> bool:
    """Whether the user gave the option."""
    return context.get_parameter_source(option) is not click.core.ParameterSource.DEFAULT


def options_given(context: click.Context, names: Sequence[str | None]) -> list[str]:
    """Return the options that the user gave, as they are written, of those whose parameters are named."""
    params = [each for each in context.command.params if each.name in names]
    return [each.opts[0] for each in params if each.name is not None and is_given(context, each.name)]


def refuse_idle_options(context: click.Context, why: str, *, used: Sequence[str] = ()) -> None:
    """Refuse the options that have no effect beside another one; ``-v`` and ``-q`` always have theirs.

    Args:
        context: Of the verb.
        why: What leaves them without effect, such as ``"--estimate measures nothing"``.
        used: The parameters that have an effect all the same.
    """
    known = {*used, "verbose", "quiet"}
    given = options_given(context, [each.name for each in context.command.params if each.name not in known])
    if given:
        raise click.UsageError(f"{why}: leave out {', '.join(given)}")


def quant_recipe_option(what: str = "INT8 recipe", *, default: str = "default") -> Callable[[F], F]:
    """Return the option that names an INT8 recipe, described as ``what``."""
    return click.option(
        "--recipe",
        cls=NamesOption,
        names=quant_recipe_names,
        default=default,
        show_default=True,
        metavar="NAME|FILE",
        help=f"{what}: {{names}}, or a TOML file of what differs from default.",
    )


artifact_option = click.option(
    "--artifact",
    type=click.Path(path_type=Path),
    default=None,
    help="A file that export or build made (.onnx, .ts, .pt2, .engine) instead of --model.",
)

cuda_option = click.option(
    "--cuda",
    type=click.Choice(["torch", "cuda-python", "pycuda"]),
    default=None,
    help="What gives an engine its memory and streams; pycuda has no CUDA graphs.  [default: the first "
    "that is installed and works: cuda-python, pycuda, torch]",
)

backend_option = click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "openvino", "openvino-bf16"]),
    default=None,
    help="What runs an .onnx --artifact; the last computes in BF16 what is FP32.  [default: onnxruntime]",
)

engines_option = click.option(
    "--engines/--no-engines",
    default=True,
    show_default=True,
    help="Run the model as the file and backend of ./engines that build --precision auto measured to be best "
    "on this machine, where there is one.",
)

threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), default=None, help="CPU threads.  [default: all cores]"
)

data_option = click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]DIR",
    help="Set of images: DIR/HR with DIR/LRbicx4, or a plain folder of originals; repeatable.  "
    "[default: the images that ship]",
)


def is_folder_name(text: str) -> bool:
    """Return whether a name is a folder's whatever its ending: one is there, or a slash ends it."""
    return text.endswith(("/", os.sep)) or Path(text).is_dir()


class ExistingPath(click.Path):
    """A file or folder that exists. Click would report one that may not be looked for as missing."""

    def __init__(self, **more: Any) -> None:
        super().__init__(exists=True, path_type=Path, **more)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raise the operating system's error, such as of permission, but for that nothing is there."""
        with suppress(FileNotFoundError, NotADirectoryError):
            Path(value).stat()
        return super().convert(value, param, ctx)


EXISTING_FOLDER = ExistingPath(file_okay=False)


class ResultFolder(click.Path):
    """A folder to write. A name of a model's file, such as ``net.onnx``, would become a folder in silence."""

    _FILES = (".onnx", ".engine", ".plan", ".trt", ".ts", ".pt2", ".pt", ".pth", ".safetensors", ".npz")

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse a file's name; click refuses files that are there."""
        text = os.fspath(value)
        if text.lower().endswith(self._FILES) and not is_folder_name(text) and not Path(text).exists():
            named = any(each.name == "name" for each in ctx.command.params) if ctx is not None else False
            name = "; --name sets how the names of files begin" if named else ""
            self.fail(
                f"{text!r} is a file's name, and a folder's is expected{name}; for a folder write {text}/"
            )
        return super().convert(value, param, ctx)


def _writable(ctx: click.Context, parameter: click.Parameter, value: Path) -> Path:
    from hasn_edge.files import require_writable

    if not ctx.resilient_parsing:  # a shell that completes
        require_writable(value, folder=True)  # measuring what cannot be kept takes minutes
    return value


output_option = click.option(
    "-o",
    "--output",
    type=ResultFolder(),
    default=Path("engines"),
    callback=_writable,
    show_default=True,
    help="Folder for the files.",
)

name_option = click.option(
    "--name",
    default=None,
    help="What files' names begin with.  [default: the model's; of a run's best.safetensors the run's]",
)

force_option = click.option(
    "--force",
    is_flag=True,
    help="Replace files of that name that were made of other weights; build INT8 of a network that is worse "
    "than bicubic interpolation.",
)


def device_option(default: str = "cpu; cuda for an engine") -> Callable[[F], F]:
    """Return ``--device``; ``default`` is what its help says of the verb's."""
    return click.option(
        "--device",
        metavar="cpu|cuda[:N]|tensorrt[:N]",
        default=None,
        help=f"Where to run; tensorrt is ONNX Runtime's.  [default: {default}]",
    )


class SizeParam(click.ParamType[Any]):
    """``WIDTHxHEIGHT`` in pixels, as everybody writes it; becomes ``(height, width)``."""

    name = "WxH"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the name; click writes those of types in capitals."""
        return self.name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse ``320x180``."""
        if isinstance(value, tuple):
            return value
        width, cross, height = str(value).lower().partition("x")
        if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            self.fail(
                f"{value!r} is no size; expected WIDTHxHEIGHT in pixels, for example 320x180", param, ctx
            )
        if max(int(width), int(height)) > 16384:
            self.fail(f"{value!r} is too large; at most 16384 pixels a side", param, ctx)
        return int(height), int(width)


SIZE = SizeParam()


class TimeParam(click.ParamType[float]):
    """A time in seconds, or ``[H:]MM:SS``, with decimals."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse ``90``, ``1:30`` or ``0:01:30.5``."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(?:(?:(\d+):)?([0-5]?\d):)?(\d+(?:\.\d+)?)", str(value))
        if found is None or (found[2] is not None and float(found[3]) >= 60):
            self.fail(f"{value!r} is no time; expected seconds or H:MM:SS, such as 90 or 1:30", param, ctx)
        hours, minutes, seconds = (float(text or 0) for text in found.groups())
        return 3600 * hours + 60 * minutes + seconds


TIME = TimeParam()


def describe_artifact(artifact: Artifact) -> dict[str, Any]:
    """Return an artifact as JSON values: its path, and what its sidecar states."""
    return {"path": str(artifact.path), **artifact.to_dict()}


def chosen_model(model: str | None) -> str:
    """Return the model to use where none may have been named."""
    from hasn_edge.model.zoo import DEFAULT_MODEL

    return DEFAULT_MODEL if model is None else model


def model_of_source(model: str | None, what: str, *, lossy: bool) -> tuple[str, str | None]:
    """Return the model to use for a source, and a note: which one that is, or which one is made for it.

    Print the note only when all is open: where opening fails, the error is the only message.

    Args:
        model: What was asked for: a name, a file, ``auto`` or nothing.
        what: What will be upscaled, as the note calls it.
        lossy: Whether all of it comes from cameras, streams, videos or JPEG files.
    """
    from hasn_edge.model.zoo import CAMERA_MODEL, DEFAULT_MODEL

    if model == AUTO:
        chosen, why = (CAMERA_MODEL, "blur, noise and JPEG") if lossy else (DEFAULT_MODEL, "clean images")
        return chosen, f"{what}: {chosen}, which was trained for {why}"
    text = f"{what}: {DEFAULT_MODEL} keeps noise and JPEG's blocks; --model auto takes {CAMERA_MODEL}"
    return chosen_model(model), text if model is None and lossy else None


def open_chosen(
    model: str | None,
    artifact: Path | None,
    *,
    threads: int | None = None,
    device: str | None = None,
    cuda: str | None = None,
    in_flight: int = 1,
    backend: Any = None,
    engines: bool = False,
    frame: tuple[int, int] | None = None,
) -> Session:
    """Open the session that ``--model`` or ``--artifact`` names; an engine with ``in_flight`` executions.

    With ``engines``, a model runs as what was measured to be best for it on this machine, which is noted.
    Where every image has the (height, width) of ``frame``, it is opened for this size alone, which is faster.
    """
    from hasn_edge.artifact import load_artifact
    from hasn_edge.runtime.open import open_model, open_session
    from hasn_edge.sidecar import Kind

    if artifact is not None:
        if model is not None:
            raise click.UsageError("--model and --artifact exclude each other: an artifact holds its model")
        built = load_artifact(artifact)
        several = in_flight if built.kind is Kind.ENGINE else 1
        return open_session(
            built,
            backend=backend,
            threads=threads,
            device=device,
            cuda=cuda,
            in_flight=several,
        )
    if cuda is not None:
        raise click.UsageError("--cuda is for engines: name one with --artifact FILE.engine")
    if backend is not None:
        raise click.UsageError("--backend is for graphs: name one with --artifact FILE.onnx")
    if engines and device in (None, "cpu"):
        session = _open_measured(chosen_model(model), threads, frame)
        if session is not None:
            return session
    return open_model(chosen_model(model), threads=threads, device=device)


def _open_measured(model: str, threads: int | None, frame: tuple[int, int] | None) -> Session | None:
    """Open what a measurement on this machine chose for a model; note it, or why it does not open."""
    from hasn_edge.cli.cures import message_of
    from hasn_edge.cli.terminal import note
    from hasn_edge.errors import HasnEdgeError
    from hasn_edge.runtime.choice import find_choice
    from hasn_edge.runtime.memory import bytes_per_pixel, default_limit_bytes
    from hasn_edge.runtime.open import open_session

    choice = find_choice(model)
    if choice is None:
        return None
    path, spec = choice.artifact.path, choice.artifact.spec
    if frame is not None:  # what would be padded or cut into tiles comes in other sizes
        pixels = default_limit_bytes() // bytes_per_pixel(spec, "onnxruntime")
        frame = frame if spec.size.padding(*frame) == (0, 0) and frame[0] * frame[1] <= pixels else None
    try:
        session = open_session(choice.artifact, backend=choice.backend, threads=threads, frame=frame)
    except HasnEdgeError as exc:
        here = click.get_current_context(silent=True)
        note(f"{path} is left out: {message_of(exc, here.command if here else None)}")
        return None
    note(f"Using {path} ({choice.why}); --no-engines runs {model} itself")
    return session
