"""TOML files into strict, frozen, typed configuration objects, and back into commented TOML."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum, EnumMeta
from functools import reduce
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from hasn_edge.errors import ConfigError, counted

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
"""Keys that TOML takes without quotes."""

_NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "Path": "a path (a string)",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
_TYPES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    list: "a list",
    dict: "a table",
}


def load_config(
    path: str | os.PathLike[str], cls: type[T], overrides: Iterable[str] = (), *, label: str = "override"
) -> T:
    """Read a TOML file into ``cls``, a keyword-only dataclass whose fields may be dataclasses again.

    Field types may be ``bool``, ``int``, ``float``, ``str``, ``Path``, enums, literals, tuples, mappings
    with string keys, optional types, ``Annotated[..., msgspec.Meta(ge=...)]`` and nested dataclasses. An
    integer is accepted where a float is expected; nothing else is converted. Paths are kept as written.

    Args:
        path: The TOML file.
        cls: The dataclass to build. What it leaves without a default must be in the file.
        overrides: ``"table.key=value"`` settings that win over the file. The value is read as TOML; text
            fields take it unquoted too, ``none`` clears an optional field, and a number in the key is the
            place in a list (``phases.0.patch``).
        label: What messages call an override.

    Raises:
        ConfigError: no such file, not TOML, an unknown or missing key, a wrong type or a value out of range.
            The message names the file (or the override) and the dotted key.
    """
    return config_from_mapping(read_toml(path), cls, source=str(path), overrides=overrides, label=label)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a TOML file's tables as plain values.

    Raises:
        ConfigError: no such file, one that cannot be read, or not TOML.
    """
    path = Path(path)
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with a BOM or without
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {getattr(exc, 'strerror', exc)}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    return values


def config_from_mapping(
    values: Mapping[str, Any],
    cls: type[T],
    *,
    source: str,
    overrides: Iterable[str] = (),
    label: str = "override",
) -> T:
    """Build ``cls`` from nested plain values, as :func:`load_config` does from a file's.

    Args:
        values: What a TOML parser returns; not modified.
        cls: The dataclass to build.
        source: What error messages call the origin of ``values``.
        overrides: As for :func:`load_config`.
        label: Likewise.

    Raises:
        ConfigError: as for :func:`load_config`.
    """
    _refuse_unknown(values, cls, cls, source)
    merged = cast(dict[str, Any], _copy(values))
    origins: dict[str, str] = {}
    for text in overrides:
        said = f"{label} {text!r}"
        key, changes = _override(text, cls, said)
        origins[re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", key)] = said
        _refuse_unknown(changes, cls, cls, said)
        _merge(merged, changes, said)
    for key, value in _leaves(merged):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{_origin(key, origins, source)}: {key} is {value}; expected a finite number")
    try:
        return msgspec.convert(merged, cls, dec_hook=_path_hook)
    except msgspec.ValidationError as exc:
        raise ConfigError(_explain(str(exc), merged, cls, origins, source)) from exc
    except ConfigError as exc:  # a dataclass's own check in __post_init__
        raise ConfigError(f"{' with '.join([source, *origins.values()])}: {exc}") from exc


def _path_hook(hint: type, value: object) -> object:
    if hint is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected `{hint.__name__}`, got `{type(value).__name__}`")


# -- what the type hints say ------------------------------------------------------------------------------


def _plain(hint: Any) -> tuple[Any, bool]:
    """Strip ``Annotated`` and ``| None``; return the bare hint and whether ``None`` is allowed."""
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        rest = [a for a in get_args(hint) if a is not type(None)]
        if len(rest) == 1:
            return _plain(rest[0])[0], len(rest) < len(get_args(hint))
        return hint, len(rest) < len(get_args(hint))
    return hint, False


def _inner(hint: Any, key: str | int) -> Any:
    """Return the hint of what ``key`` selects inside a value of type ``hint``; ``None`` if it cannot tell."""
    hint, _ = _plain(hint)
    if isinstance(key, str) and key.isdecimal() and get_origin(hint) is tuple:
        key = int(key)
    if is_dataclass(hint):
        return get_type_hints(hint, include_extras=True).get(str(key))
    arguments = get_args(hint)
    if isinstance(key, int) and get_origin(hint) is tuple and arguments[-1:] != (...,):
        return arguments[key] if key < len(arguments) else None
    if isinstance(key, int):
        return arguments[0] if arguments else None
    return arguments[1] if len(arguments) == 2 else None


def _tables(cls: Any, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key that ``cls`` knows."""
    for name, hint in get_type_hints(cls, include_extras=True).items():
        yield prefix + name
        bare, _ = _plain(hint)
        if is_dataclass(bare):
            yield from _tables(bare, f"{prefix}{name}.")


def _unknown_key(key: str, hint: Any, root: Any, source: str) -> ConfigError:
    """Describe the unknown dotted ``key``, the last part of which does not belong to ``hint``."""
    table, _, name = key.rpartition(".")
    siblings = [f.name for f in fields(hint)]
    near = difflib.get_close_matches(name, siblings, n=1)
    elsewhere = [k for k in _tables(root) if k.rpartition(".")[2] == name]
    if near:
        cure = f"did you mean {table + '.' if table else ''}{near[0]}?"
    elif elsewhere:
        cure = f"did you mean {elsewhere[0]}?"
    else:
        cure = f"known {'there' if table else 'keys'}: {', '.join(siblings)}"
    return ConfigError(f"{source}: unknown key {key}; {cure}")


def _refuse_unknown(values: object, hint: Any, root: Any, source: str, prefix: str = "") -> None:
    hint, _ = _plain(hint)
    if isinstance(values, list):
        for i, value in enumerate(values):
            _refuse_unknown(value, _inner(hint, i), root, source, f"{prefix[:-1]}[{i}].")
    if not isinstance(values, Mapping):
        return
    for key, value in values.items():
        if is_dataclass(hint) and key not in {f.name for f in fields(hint)}:
            raise _unknown_key(prefix + key, hint, root, source)
        _refuse_unknown(value, _inner(hint, key), root, source, f"{prefix}{key}.")


# -- overrides --------------------------------------------------------------------------------------------


def _override(text: str, cls: Any, said: str) -> tuple[str, dict[str, Any]]:
    """Read ``"a.b=value"``, which messages call ``said``; return the dotted key and its tables."""
    key, equals, raw = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"{said}: expected KEY=VALUE, for example train.batch_size=16")
    hint: Any = cls
    for part in key.split("."):
        hint = _inner(hint, part)
    bare, optional = _plain(hint)
    if optional and raw.lower() in ("none", "null"):
        return key, reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), cast(Any, None))
    texts = get_args(bare) if get_origin(bare) is Literal else ()
    is_text = (isinstance(bare, type) and issubclass(bare, str | Path)) or any(
        isinstance(a, str) for a in texts
    )
    for literal in (raw, json.dumps(raw))[(is_text and raw[:1] not in ("'", '"')) or "\n" in raw :]:
        with suppress(tomllib.TOMLDecodeError):
            return key, tomllib.loads(f"{key} = {literal}")
    raise ConfigError(f"{said}: {key} is no dotted key; expected KEY=VALUE, for example train.ema=0.9")


def _merge(values: dict[str, Any], changes: Mapping[str, Any], said: str) -> None:
    """Lay ``changes``, which messages call ``said``, over ``values``, table by table."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value, said)
        elif isinstance(value, dict) and value and all(place.isdecimal() for place in value):
            items = values.setdefault(key, [{}])  # a list of one default, where the file leaves it out
            for place, inner in value.items():
                if not isinstance(items, list) or int(place) >= len(items):
                    count = len(items) if isinstance(items, list) else 0
                    raise ConfigError(
                        f"{said}: {key} has {counted(count, 'entry', 'entries')}, the first is {key}.0"
                    )
                if isinstance(inner, dict) and isinstance(items[int(place)], dict):
                    _merge(items[int(place)], inner, said)
                else:
                    items[int(place)] = inner
        else:
            values[key] = value


# -- error messages ---------------------------------------------------------------------------------------


def _copy(values: object) -> Any:
    if isinstance(values, Mapping):
        return {k: _copy(v) for k, v in values.items()}
    return [_copy(v) for v in values] if isinstance(values, list | tuple) else values


def _leaves(values: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(values, list):
        for i, value in enumerate(values):
            yield from _leaves(value, f"{prefix}[{i}]")
    else:
        yield prefix, values


def _origin(key: str, origins: Mapping[str, str], source: str) -> str:
    for override, label in origins.items():
        inside = key.startswith((f"{override}.", f"{override}["))
        if inside or key == override or override.startswith(f"{key}."):
            return label
    return source


def _explain(message: str, values: Any, cls: Any, origins: Mapping[str, str], source: str) -> str:
    """Turn msgspec's message into ours: the origin, the key, what came, what was expected."""
    text, _, where = message.partition(" - at `$")
    key = where.rstrip("`").lstrip(".")
    label = _origin(key, origins, source)
    missing = re.fullmatch(r"Object missing required field `(.+)`", text)
    if missing:
        return f"{source}: missing key {key + '.' if key else ''}{missing[1]}"
    key, inside, _ = key.partition("[...]")  # msgspec does not say which key of a mapping
    value, hint = values, cls
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", key):
        step: str | int = int(index) if index else name
        hint = _inner(hint, step)
        value = value[step]
    came = f"{_shorten(value)} ({_TYPES.get(type(value), type(value).__name__)})"
    if text.startswith("Invalid enum value"):
        bare, _ = _plain(hint)
        members = list(bare) if isinstance(bare, EnumMeta) else get_args(bare)
        choices = [str(m.value if isinstance(m, Enum) else m) for m in members]
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint_text = f"; did you mean {near[0]!r}?" if near else ""
        return f"{label}: {key} is {came}; expected one of: {', '.join(choices)}{hint_text}"
    if text.startswith("Expected"):
        each = "every value in it: " if inside else ""
        return f"{label}: {key} is {came}; {each}{_in_words(text)}"
    return f"{label}: {key or cast(type, cls).__name__}: {text}"  # a ValueError of a dataclass's own check


def _in_words(text: str) -> str:
    """Turn "Expected `int | null`, got `str`" into "expected an integer or nothing"."""
    text = re.sub(r", got (`\w+`|\d+)$", "", text)
    quoted = re.sub(r"`([^`]+)`", lambda m: " or ".join(_NAMES.get(n, n) for n in m[1].split(" | ")), text)
    return quoted[:1].lower() + quoted[1:]


def _shorten(value: object) -> str:
    text = repr(value.value if isinstance(value, Enum) else value)
    return text if len(text) <= 60 else text[:57] + "..."


# -- a configuration as commented TOML ----------------------------------------------------------------------


def dump_config(config: object, *, comments: bool = True) -> str:
    """Return ``config`` as TOML text.

    Args:
        config: An instance of a dataclass that :func:`load_config` can build.
        comments: Put each attribute's docstring above its key. Unset optional values appear as comments.
    """
    return "\n".join(_table(config, (), comments)).strip() + "\n"


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the docstrings that stand under the attributes of ``cls`` and its bases, by attribute name.

    They are read from the source: editors and readers look for them there, and ``msgspec.Meta`` descriptions
    in every annotation made the recipes twice as long.
    """
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
