"""Tensors out of a weights file, whatever project wrapped them, without executing anything in the file."""

from __future__ import annotations

import pickle
import re
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hasn_edge.errors import CheckpointError, first_line, say, use
from hasn_edge.spec import SPEC_KEY

_COPY = say("copy it again")
ENDS = ("conv_1.weight", "upsampler.0.weight")
"""The parameters by which a HASN is found among other tensors."""

_INSIDE = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What DataParallel and averaging, torch.compile, FSDP and recomputation put into parameters' names."""
_AVERAGED = re.compile(r"(?i)(^|[._-])(ema|swa|averaged?|avg|shadow)([._-]|$)")
_DEPTH = 4  # dictionaries inside each other that are searched

_HTML = re.compile(rb"(?i)\s*(<!doctype html|<html|<head|<\?xml)")
_MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched", "run: git lfs pull"),
    (b"\x1f\x8b", "a gzip archive", "unpack it, and give the file in it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, and give the file in it"),
    (b"Rar!", "a RAR archive", "unpack it, and give the file in it"),
    (b"\xfd7zXZ", "an XZ archive", "unpack it, and give the file in it"),
    (b"BZh", "a bzip2 archive", "unpack it, and give the file in it"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it, and give the file in it"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them", "save the weights with torch.save or as .safetensors"),
    (b"GGUF", "a GGUF file", "give the .pth or .safetensors file that it was made from"),
    (b"\x89PNG", "a PNG image", "give the .pth or .safetensors file"),
    (b"\xff\xd8\xff", "a JPEG image", "give the .pth or .safetensors file"),
    (b"%PDF", "a PDF document", "give the .pth or .safetensors file"),
)
"""How files begin that are taken for weights, what they are, and what helps."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """What a file holds."""

    tensors: Mapping[str, Tensor]
    """By the names that the network gives them, without what wrappers add."""
    metadata: Mapping[str, str]
    """The strings of a ``.safetensors`` file; of a ``.pth`` the network's, under :data:`SPEC_KEY`."""


def read_weights(path: Path, ends: tuple[str, str] = ENDS) -> WeightsFile:
    """Read the tensors of one network from a file of either kind; the content decides, not the ending.

    Tensors may lie in dictionaries (``params_ema``, ``state_dict``, ``model``, ...) and behind prefixes
    (``module.``, ``_orig_mod.``, a LightningModule's attribute). Averaged weights win over the others.

    Args:
        path: The file.
        ends: Two parameters by which the network is found among other tensors.

    Raises:
        CheckpointError: it holds no tensors, or those of several networks; says what the file is instead.
    """
    _refuse_others(path)
    if _is_safetensors(path):
        tensors, metadata = _read_safetensors(path)
        return WeightsFile(tensors=_one_network(path, {"": tensors}, ends), metadata=metadata)
    content = _unpickle(path)
    found = {name: table for name, table in _tables(content) if any(_is_tensor(v) for v in table.values())}
    if not found:
        some = ", ".join(map(repr, list(content)[:4])) if isinstance(content, Mapping) else ""
        kind = f"a dictionary of {some}" if some else f"a {type(content).__name__}"
        raise CheckpointError(
            f"{path}: holds no dictionary of tensors but {kind}; expected tensors by name, as they are or "
            "under 'params_ema', 'params', 'state_dict' or 'model'"
        )
    spec = _find_spec(content, found.values())
    return WeightsFile(
        tensors=_one_network(path, found, ends), metadata={} if spec is None else {SPEC_KEY: spec}
    )


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _tables(content: object, name: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the dictionaries of ``content``, from the outside in, each with the keys that lead to it."""
    if isinstance(content, Mapping) and depth:
        yield name, content
        for key, value in content.items():
            yield from _tables(value, f"{name}.{key}" if name else str(key), depth - 1)


def _one_network(
    path: Path, tables: Mapping[str, Mapping[str, Any]], ends: tuple[str, str]
) -> dict[str, Tensor]:
    """Return the tensors of the network among ``tables``, under its own names."""
    bare = {
        place: {_without_wrappers(str(name)): value for name, value in table.items()}
        for place, table in tables.items()
    }
    found = dict(_find_networks(bare, ends))
    if not found:  # another one is reported by its names, and one of ours with a part missing by that part
        return max(({n: v.detach() for n, v in t.items() if _is_tensor(v)} for t in bare.values()), key=len)
    best = [place for place in found if _AVERAGED.search(place)] or list(found)
    tensors = found[best[0]]
    if not all(_equal(found[place], tensors) for place in best[1:]):
        raise CheckpointError(
            f"{path}: holds {len(best)} networks ({', '.join(repr(place) for place in best)})",
            say("save the one that you want: torch.save(torch.load(FILE)[NAME], ...)"),
        )
    for name, value in tensors.items():
        if not _is_tensor(value):
            raise CheckpointError(f"{path}: {name!r} is {type(value).__name__}, expected a tensor")
    return {name: value.detach() for name, value in tensors.items()}


def _find_networks(
    tables: Mapping[str, Mapping[str, Any]], ends: tuple[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where a table has the parameters ``ends`` behind one prefix, and all behind it without it."""
    first_name, last_name = ends
    for place, table in tables.items():
        for name in table:
            prefix = name.removesuffix(first_name)
            if prefix != name and (not prefix or prefix.endswith(".")) and prefix + last_name in table:
                yield (
                    ".".join(filter(None, (place, prefix.rstrip(".")))),
                    {
                        each.removeprefix(prefix): value
                        for each, value in table.items()
                        if each.startswith(prefix) and each.rpartition(".")[2] != "n_averaged"
                    },
                )


def _equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        _is_tensor(a[name]) and _is_tensor(b[name]) and torch.equal(a[name], b[name]) for name in a
    )


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _INSIDE)


def _find_spec(content: object, tables: Any) -> str | None:
    """Return the network that a ``.pth`` names: beside its tensors, or with them (see `HASN`)."""
    places = [content] if isinstance(content, Mapping) else []
    notes = [note for table in tables for note in getattr(table, "_metadata", {}).values()]
    for place in (*places, *notes):
        spec = place.get(SPEC_KEY) if isinstance(place, Mapping) else None
        if isinstance(spec, str):
            return spec
    return None


# -- what a file is ---------------------------------------------------------------------------------------


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as stream:
        begin = stream.read(9)
    return begin[8:] == b"{" or (path.suffix == ".safetensors" and begin[:2] != b"PK")


def _refuse_others(path: Path) -> None:
    """Refuse, by its first bytes, what is no file of weights."""
    with path.open("rb") as stream:
        begin = stream.read(1024)
    if not begin:
        raise CheckpointError(f"{path}: the file is empty", _COPY)
    if _HTML.match(begin):
        raise CheckpointError(
            f"{path}: not weights but an HTML page: the page about the file was saved, or a login page",
            say("download the file itself (the link 'download' or 'raw')"),
        )
    for magic, kind, cure in _MAGIC:
        if begin.startswith(magic):
            raise CheckpointError(f"{path}: not weights but {kind}", say(cure))
    if begin.startswith(b"PK") and zipfile.is_zipfile(path):
        _refuse_zip(path)
    elif b"ustar" in begin[257:263] and tarfile.is_tarfile(path):
        raise CheckpointError(
            f"{path}: not weights but a tar archive", say("unpack it, and give the file in it")
        )
    elif path.suffix == ".onnx":
        raise CheckpointError(f"{path}: not weights but an ONNX graph", use(artifact=str(path)))
    elif _is_text(begin):
        kind = (
            "a script"
            if begin.startswith(b"#!") or re.search(rb"(?m)^(import|from) \w", begin)
            else ("JSON text" if begin.lstrip()[:1] in (b"{", b"[") else "text")
        )
        words = " ".join(begin.decode("utf-8", "replace").split())[:60]
        raise CheckpointError(
            f"{path}: not weights but {kind} that begins with {words!r}",
            say("give the .pth or .safetensors file"),
        )


def _is_text(begin: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in begin) and not begin.startswith(b"\x80")


def _refuse_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return  # PyTorch says what is wrong with it
    if any("/code/" in f"/{name}" for name in names):
        raise CheckpointError(
            f"{path}: not weights but a TorchScript program",
            say("save its weights: torch.save(m.state_dict())"),
        )
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        raise CheckpointError(f"{path}: not weights but a program of torch.export (.pt2)")
    if not any(name.endswith("data.pkl") for name in names):
        some = ", ".join(names[:3])
        raise CheckpointError(
            f"{path}: not weights but a ZIP archive of {some or 'nothing'}",
            say("unpack it, and give the file in it"),
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as exc:
        raise CheckpointError(
            f"{path}: not a complete safetensors file ({exc})", say("copy or train it again")
        ) from exc


def _refuse_flipped_bytes(path: Path) -> None:
    """Compare the checksums that a ``.pth`` carries, which PyTorch writes and does not read."""
    if not zipfile.is_zipfile(path):
        return  # the format before PyTorch 1.6 has none
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as exc:
        raise CheckpointError(f"{path}: damaged ({exc})", _COPY) from exc
    if wrong is not None:
        raise CheckpointError(f"{path}: damaged: the checksum of {wrong} in it is wrong", _COPY)


def _unpickle(path: Path) -> object:
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:  # by its path, its ending would decide
            warnings.simplefilter("ignore")
            content: object = torch.load(stream, map_location="cpu", weights_only=True)
        _refuse_flipped_bytes(path)
    except pickle.UnpicklingError as exc:
        # PyTorch's own text ends in how to load the file all the same, executing what is in it.
        found = re.search(r"GLOBAL ([\w.]+)", str(exc))
        reason = f" (it refers to {found[1]})" if found else ""
        raise CheckpointError(
            f"{path}: refused: it holds more than tensors, or is no PyTorch file{reason}. Nothing in it "
            "was executed",
            say("save its weights alone: torch.save(model.state_dict(), ...)"),
        ) from exc
    except (RuntimeError, EOFError, OSError, LookupError, ValueError, AttributeError) as exc:
        if not zipfile.is_zipfile(path) and path.suffix not in (".pth", ".pt", ".ckpt"):
            raise CheckpointError(f"{path}: not a file of weights; expected .safetensors or .pth") from exc
        raise CheckpointError(f"{path}: not a complete PyTorch file ({first_line(exc)})", _COPY) from exc
    return content
