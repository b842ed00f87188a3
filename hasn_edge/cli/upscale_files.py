"""Which files the ``upscale`` verb was given, and what their results are called."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hasn_edge.cli.common import is_folder_name
from hasn_edge.cli.terminal import json_on_stdout, note, say, take_stdout
from hasn_edge.errors import HasnEdgeError, InputError, OutputError, counted, listed
from hasn_edge.errors import say as advise
from hasn_edge.files import require_writable
from hasn_edge.video.formats import PIPE

_NAMED = 3  # subfolders that are named before the rest are counted

_ENDING = re.compile(r"\.(?![a-z]\d+$)[a-z][a-z0-9]{1,4}")
"""What looks like the ending of a file, in lower case: no version (``out.v2``), no figure, no long word."""


def frame_of(files: Sequence[Path]) -> tuple[int, int] | None:
    """Return the (height, width) of all that comes where one video is upscaled, else ``None``."""
    if len(files) != 1 or files[0] == PIPE or not is_video(files[0]):
        return None
    from hasn_edge.video.decode import Decoder

    with suppress(HasnEdgeError), Decoder(files[0]) as decoder:  # what is wrong with it is said later
        return decoder.size
    return None


def is_video(path: Path) -> bool:
    """Say whether a file's name is that of a video, or of a pipe of one; a GIF of one frame is an image."""
    from hasn_edge.images.metadata import is_still
    from hasn_edge.video.formats import VIDEO_SUFFIXES

    suffix = path.suffix.lower()
    return path == PIPE or (suffix in VIDEO_SUFFIXES and not (suffix == ".gif" and is_still(path)))


def is_lossy(path: Path) -> bool:
    """Say whether a file holds what a camera or an encoder left: a JPEG or a video."""
    from hasn_edge.images.listing import usual_suffix

    return usual_suffix(path) == ".jpg" or is_video(path)


@dataclass(frozen=True, kw_only=True)
class ResultSize:
    """How large results shall be; without anything, what the network gives."""

    outscale: float | None = None
    size: tuple[int, int] | None = None
    """(height, width) in pixels that results fit into."""

    @property
    def any(self) -> bool:
        """Whether results are resampled."""
        return self.outscale is not None or self.size is not None

    def label(self, scale: int) -> str:
        """Return what results' names end in, for a network of this scale: ``x4``, ``x1.5``, ``1920x1080``."""
        if self.size is not None:
            return f"{self.size[1]}x{self.size[0]}"
        return f"x{scale if self.outscale is None else self.outscale:g}"

    def final(self, height: int, width: int, scale: int) -> tuple[int, int]:
        """Return the (height, width) of the result of an image."""
        factor: float = scale if self.outscale is None else self.outscale
        if self.size is not None:
            factor = min(self.size[0] / height, self.size[1] / width)
        return max(1, round(height * factor)), max(1, round(width * factor))


def find_files(
    inputs: tuple[str, ...], output: Path, *, recursive: bool = False
) -> tuple[list[Path], dict[Path, Path]]:
    """List the images and videos that were given, and say which subfolders are not looked into.

    Returns:
        The files; and of those in folders inside folders the folders that lead to them, below the given one.

    Raises:
        InputError: a folder without any of them, or one that may not be read.
    """
    from hasn_edge.images.listing import files_left_out, find_images, folders_inside
    from hasn_edge.video.formats import VIDEO_SUFFIXES

    for text in inputs:
        _refuse_address(text)
    # Results of an earlier run are not what the user forgot to name.
    deeper = folders_inside(inputs, also=VIDEO_SUFFIXES, without=output)
    given = inputs
    if recursive:
        inputs = (*inputs, *map(str, deeper))
    elif deeper:
        them, were = ("it", "was") if len(deeper) == 1 else ("them", "were")
        note(
            f"{counted(len(deeper), 'subfolder')} with images or videos in {them} {were} not entered: "
            f"{listed(deeper, _NAMED)}; to include {them}, name {them} as well, or use --recursive"
        )
    if unknown := files_left_out(inputs, also=VIDEO_SUFFIXES):
        are = "was left out: its ending is" if len(unknown) == 1 else "were left out: their endings are"
        note(
            f"{counted(len(unknown), 'file')} {are} not of an image or video that is known here: "
            f"{listed(unknown, _NAMED)}"
        )
    # A folder that holds nothing but folders has no images directly.
    folders = [text for text in inputs if not recursive or _holds_files(Path(text))] or list(inputs)
    files = find_images(folders, also=VIDEO_SUFFIXES)
    if not recursive:
        return files, {}
    roots = [Path(text) for text in given if Path(text).is_dir()]
    inside = {file: root for file in files for root in roots if file.is_relative_to(root)}
    return files, {file: file.parent.relative_to(root) for file, root in inside.items()}


def check_files(files: Sequence[Path]) -> None:
    """Refuse names of which no file has one, before a network is opened; single ones are skipped later."""
    if not any(file == PIPE or file.exists() for file in files):
        pattern = any(sign in str(files[0]) for sign in "*?")
        cures = [advise("name files that are there: the shell found none like this")] if pattern else []
        raise InputError(f"{files[0]}: no such file", *cures)


def check_pipes(inputs: tuple[str, ...], output: Path) -> None:
    """Refuse pipes that cannot be meant, and keep standard output free for frames that go there."""
    if str(PIPE) in inputs and (len(inputs) > 1 or sys.stdin.isatty()):
        raise click.UsageError(
            "- stands for raw frames from a pipe, alone: ffmpeg -i IN -f yuv4mpegpipe - | hasn-edge upscale -"
        )
    if output == PIPE:
        if json_on_stdout() or sys.stdout.isatty():
            raise click.UsageError(
                "-o - writes raw frames to standard output, which has to be a pipe; --json then needs a FILE"
            )
        take_stdout()


def check_output(inputs: Sequence[str], files: Sequence[Path], output: str, suffix: str | None) -> bool:
    """Refuse a file's name that the results cannot have, before any work.

    Args:
        inputs: What was named.
        files: What is upscaled.
        output: A folder's name, or a file's.
        suffix: The format that images were asked for in; ``None`` for any.

    Returns:
        Whether ``output`` is the name of the one result, and no folder's.

    Raises:
        InputError: a video of a format that cannot be written.
        OutputError: nothing can be written there.
    """
    from hasn_edge.images.listing import OTHER_SUFFIXES, SUFFIXES, usual_suffix
    from hasn_edge.video.formats import CONTAINERS

    path = Path(output)
    images = not all(map(is_video, files))
    folder, ending = is_folder_name(output), path.suffix.lower()
    read_only = (*OTHER_SUFFIXES, ".gif") if images else OTHER_SUFFIXES
    known = ending in SUFFIXES or is_video(path)
    # Of one that was named itself: a loop over folders does not end at the one that holds one image.
    one = [*map(Path, inputs)] == [files[0]] and _ENDING.fullmatch(ending) is not None
    if not folder and (ending in read_only or (one and not known)):
        raise click.UsageError(
            f"-o {output}: {path.suffix} cannot be written; name a folder, as {output}/, or a file in "
            f"{', '.join(SUFFIXES if images else CONTAINERS)}"
        )
    if folder or not known:
        require_writable(path, folder=True)
        return False
    if path != PIPE:
        require_writable(path)
    kind, a_kind = ("video", "a video") if is_video(path) else ("image", "an image")
    if len(files) != 1 or is_video(files[0]) != is_video(path):
        raise click.UsageError(
            f"-o {output} is the name of {a_kind} file, which one {kind} can become; name a folder, "
            f"as {output}/"
        )
    if kind == "video":
        from hasn_edge.video.formats import check_container

        check_container(path)
    elif suffix is not None and f".{suffix}" != usual_suffix(path):
        raise click.UsageError(
            f"--format {suffix} contradicts -o {output}; leave --format out, or name a file in .{suffix}"
        )
    return True


def name_results(
    files: list[Path],
    output: Path,
    label: str,
    suffix: str | None,
    audio: Any,
    folders: Mapping[Path, Path],
    *,
    named: bool,
) -> list[tuple[Path, Path]]:
    """Pair every file with its result; with ``named``, ``output`` is the one result's own name.

    Files whose results would be called alike keep their ending in it, so that which other files are there
    changes no result into another one's; those of the same name in different folders get a number.

    Raises:
        OutputError: a result would overwrite one of the files.
    """
    pairs: list[tuple[Path, Path]] = []
    taken: set[str] = set()
    sources = {file.resolve() for file in files}
    plain: dict[Path, Path] = {}
    kinds: dict[str, set[str]] = defaultdict(set)
    for file in files:
        ending = f".{suffix or 'png'}"
        if is_video(file) and not named:
            from hasn_edge.video.tracks import output_suffix

            ending = output_suffix(file, audio)
        stem = "stdin" if file == PIPE else file.stem
        plain[file] = output / folders.get(file, "") / f"{stem}_{label}{ending}"
        kinds[str(plain[file]).lower()].add(file.suffix.lower())
    for file, found in plain.items():
        if len(kinds[str(found).lower()]) > 1:
            found = found.with_stem(f"{file.stem}_{file.suffix[1:].lower()}_{label}")
        target, count = found, 2
        while str(target).lower() in taken:
            target = found.with_stem(f"{found.stem}_{count}")
            count += 1
        taken.add(str(target).lower())
        target = output if named else target
        if target != PIPE and target.resolve() in sources:
            raise OutputError(
                f"{target} is one of the {'videos' if is_video(file) else 'images'} to upscale and would "
                f"be overwritten; choose another {'name' if named else 'folder'} with -o"
            )
        pairs.append((file, target))
    return pairs


def check_existing(work: list[tuple[Path, Path]], *, skip: bool) -> list[tuple[Path, Path]]:
    """Say which results are there already, and leave them out where they shall stay.

    Args:
        work: Files and their results.
        skip: Whether results that are there shall stay. They are whole: only whole files take their names.
            Numbered ones do not say whose they are: those of files of one name are made again.
    """
    same = Counter((target.parent, file.name.lower()) for file, target in work)
    there = [(file, target) for file, target in work if target.exists() and target != PIPE]
    kept = {each for each in there if skip and same[each[1].parent, each[0].name.lower()] == 1}
    made = [each[1] for each in there if each not in kept]

    def begin(count: int) -> str:
        return ("1 result is" if count == 1 else f"{count} of {len(work)} results are") + " there already and"

    if kept:
        note(f"{begin(len(kept))} " + ("stays as it is" if len(kept) == 1 else "stay as they are"))
    if made:
        names = ", ".join(map(str, made[:_NAMED])) + (", ..." if len(made) > _NAMED else "")
        why = "whose they are is not known" if skip else "--skip-existing leaves them"
        note(f"{begin(len(made))} will be replaced: {names}; {why}")
    return [each for each in work if each not in kept]


def say_result(file: Path, target: Path, label: str, *, several: bool) -> None:
    """Print a result's path, and on standard error whose it is where its name does not say that."""
    say("standard output" if target == PIPE else str(target))
    if several and target.stem != f"{file.stem}_{label}":
        note(f"  {file} -> {target}")


def _holds_files(path: Path) -> bool:
    from hasn_edge.images.listing import SUFFIXES, files_in
    from hasn_edge.video.formats import VIDEO_SUFFIXES

    known = (*SUFFIXES, *VIDEO_SUFFIXES)
    # One that may not be read is kept: what lists it says so.
    return (
        not os.access(path, os.R_OK)
        or not path.is_dir()
        or any(each.suffix.lower() in known for each in files_in(path))
    )


def _refuse_address(text: str) -> None:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if found is None or Path(text).exists():
        return
    if found[1].lower() == "file":
        raise click.UsageError(
            f"{text} is an address, and upscale takes files; name the file without file://"
        )
    from hasn_edge.live.sources.opening import display_name

    raise click.UsageError(
        f"{display_name(text)} is an address, and upscale takes files: download the image or video first; "
        "live streams are for 'hasn-edge demo --source'"
    )
