"""Writes tensorrt_api.json: which names each TensorRT has, and with which arguments.

``python tests/support/record_api.py SOURCE...`` adds versions to the file. A source is the name of an
installed module (``tensorrt``; its bindings import without a GPU) or a JSON dump ``{"version": ..., "api":
{name: {"members": {name: docstring}} | {"enum": [name, ...]} | {"value": type}}}``.
"""

from __future__ import annotations

import enum
import functools
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

MANIFEST = Path(__file__).with_name("tensorrt_api.json")

# Repeat ILayer's members, or belong to plugins and algorithm selection, which hasn-edge does not use.
LEFT_OUT = re.compile(
    r"^I\w+Layer$|^I?Plugin|^IAlgorithm|^IV?\d?Plugin|Field(Collection)?$|^TensorDesc$|^Dims"
)


def record(source: str) -> tuple[str, dict[str, str]]:
    """Return the version of a source, and its names with their signatures."""
    dump = json.loads(Path(source).read_text()) if source.endswith(".json") else dump_module(source)
    version = dump["version"]
    if "rtx" in Path(source).name:
        version = f"rtx {version}"
    names: dict[str, str] = {}
    for name, facts in dump["api"].items():
        if LEFT_OUT.search(name) and name != "ILayer":
            continue
        if "enum" in facts:
            names[name] = "enum"
            names.update({f"{name}.{member}": "enum member" for member in facts["enum"]})
        elif "members" in facts:
            names[name] = "class"
            for member, doc in facts["members"].items():
                if not member.startswith("_"):
                    names[f"{name}.{member}"] = signature(member, doc)
        elif not name.startswith("_") and facts["value"] != "module":
            names[name] = facts["value"]
    return version, names


def signature(member: str, doc: str) -> str:
    """Return ``(self, bytes: int) -> bool`` from pybind's first docstring line, ``value`` of a property."""
    first = doc.strip().partition("\n")[0]
    if not first.startswith(member + "("):
        return "value"
    first = re.sub(r"\b\w*(tensorrt|nvinfer1|nvonnxparser)\w*(\.|::)", "", first[len(member) :])
    first = re.sub(r"\b(tensorrt(_rtx)?|capi|typing|collections\.abc)\.", "", first)
    first = first.replace("SupportsInt", "int").replace("SupportsFloat", "float")
    first = re.sub(r"\b(List|Sequence)\[", "list[", first)
    return re.sub(r"^\(self: \w+", "(self", first)


def dump_module(name: str) -> dict[str, Any]:
    """Walk an installed module."""
    module = importlib.import_module(name)
    api: dict[str, Any] = {}
    for key in dir(module):
        value = getattr(module, key)
        if not isinstance(value, type):
            api[key] = {"value": type(value).__name__}
        elif hasattr(value, "__members__") or issubclass(value, enum.Enum):
            api[key] = {"enum": sorted(value.__members__)}
        else:
            api[key] = {"members": {m: getattr(value, m).__doc__ or "" for m in dir(value)}}
    return {"version": module.__version__, "api": api}


def merge(manifest: dict[str, Any], version: str, names: dict[str, str]) -> None:
    """Add a version; replaces what is recorded of it."""
    for signatures in manifest["names"].values():
        for versions in signatures.values():
            if version in versions:
                versions.remove(version)
    if version not in manifest["versions"]:
        manifest["versions"].append(version)
    manifest["versions"].sort(key=order)
    for name, what in names.items():
        versions = manifest["names"].setdefault(name, {}).setdefault(what, [])
        versions.append(version)
        versions.sort(key=order)


def order(version: str) -> tuple[bool, list[int]]:
    """Sort TensorRT before TensorRT for RTX, each by number."""
    return version.startswith("rtx"), [int(n) for n in re.findall(r"\d+", version)]


def save(manifest: dict[str, Any]) -> None:
    """Write one name a line; versions as a range where nothing lies between that lacks the name."""
    lines = []
    known = manifest["versions"]
    for name in sorted(manifest["names"]):
        entry = {what: shorten(v, known) for what, v in manifest["names"][name].items() if v}
        if entry:
            lines.append(f"{json.dumps(name)}: {json.dumps(entry)}")
    text = ",\n".join(lines)
    MANIFEST.write_text(f'{{"versions": {json.dumps(known)},\n"names": {{\n{text}\n}}}}\n')


def shorten(versions: list[str], known: list[str]) -> str:
    """Write ``8.6.1 .. 10.16.1.11, rtx 1.7.1.116``."""
    runs: list[list[str]] = []
    for version in versions:
        if runs and known.index(version) == known.index(runs[-1][-1]) + 1:
            runs[-1].append(version)
        else:
            runs.append([version])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} .. {run[-1]}" for run in runs)


@functools.cache
def load() -> dict[str, Any]:
    """Read the file, ranges written out; do not change it but to save it."""
    manifest = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {"versions": [], "names": {}}
    known = manifest["versions"]
    for entry in manifest["names"].values():
        for what, text in entry.items():
            versions: list[str] = []
            for run in text.split(", "):
                first, _, last = run.partition(" .. ")
                versions += known[known.index(first) : known.index(last or first) + 1]
            entry[what] = versions
    return manifest


if __name__ == "__main__":
    found = load()
    for argument in sys.argv[1:]:
        merge(found, *record(argument))
    save(found)
