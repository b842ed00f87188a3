"""A configuration object as commented TOML: what ``load_config`` reads back, readable as documentation."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dump_config(config: object, *, comments: bool = True) -> str:
    """Return ``config`` as TOML text.

    Args:
        config: An instance of a dataclass that :func:`hasn_edge.config.load_config` can build.
        comments: Put each attribute's docstring above its key. Unset optional values appear as comments.
    """
    return "\n".join(_table(config, (), comments)).strip() + "\n"


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the docstrings that stand under the attributes of ``cls`` and its bases, by attribute name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # made at run time, or installed without sources
            continue
        body = ast.parse(source).body[0]
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for attribute, below in pairwise(statements):
            if (
                isinstance(attribute, ast.AnnAssign)
                and isinstance(attribute.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                found[attribute.target.id] = inspect.cleandoc(below.value.value)
    return found


def _table(config: Any, path: tuple[str, ...], comments: bool) -> Iterator[str]:
    docs = attribute_docs(type(config)) if comments else {}
    later: list[tuple[str, Any]] = []
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value) or isinstance(value, Mapping) or _is_tables(value):
            later.append((field.name, value))  # TOML wants a table's own keys before its sub-tables
            continue
        yield from _comment(docs.get(field.name))
        if value is not None:
            yield f"{field.name} = {_value(value)}"
        elif comments:
            yield f"# {field.name} is not set"
    for name, value in later:
        inner = (*path, name)
        header = ".".join(_key(p) for p in inner)
        if _is_tables(value):
            for item in value:
                yield from ("", f"[[{header}]]", *_table(item, inner, comments))
            continue
        yield from ("", *_comment(docs.get(name)), f"[{header}]")
        if is_dataclass(value):
            yield from _table(value, inner, comments)
        else:
            yield from (f"{_key(k)} = {_value(v)}" for k, v in value.items())


def _comment(doc: str | None) -> Iterator[str]:
    for line in (doc or "").splitlines():
        yield f"# {line}".rstrip()


def _is_tables(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) > 0 and all(is_dataclass(v) for v in value)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple | list):
        return f"[{', '.join(_value(v) for v in value)}]"
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(f"no TOML form for {type(value).__name__}")
