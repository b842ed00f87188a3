"""Arguments of the public functions against their annotations: a wrong type is one of our errors.

It is checked at the package's door only: inside, mypy has seen to it. What passes is of the annotated type
itself: NumPy's integers, enumerations and lists for tuples would otherwise go on into comparisons, names of
files and JSON.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from hasn_edge.errors import InputError

_WORDS = {
    "str": "a string",
    "Path": "a path",
    "int": "an integer",
    "float": "a number",
    "bool": "True or False",
    "NoneType": "None",
    "Callable": "a function",
}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function``, refusing arguments of other types than it is annotated with.

    It receives plain values: ``int`` for other integers, ``tuple`` for a list, ``str`` for its subclasses.
    Annotations that exist for type checkers only are not checked. An argument too many stays a ``TypeError``.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        bound = signature.bind(*args, **given)
        for name, value in bound.arguments.items():
            hint = _evaluate(signature.parameters[name].annotation, function)
            try:
                bound.arguments[name] = _convert(value, hint)
            except _UnfitError:
                raise InputError(
                    f"{function.__name__}: {name} is {value!r:.60} ({type(value).__name__}); expected "
                    f"{' or '.join(_describe(hint))}"
                ) from None
        return function(*bound.args, **bound.kwargs)

    return call


def _evaluate(annotation: Any, function: Callable[..., Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, vars(sys.modules[function.__module__]))  # our own source
    except NameError:  # imported for type checkers only
        return Any


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


class _UnfitError(Exception):
    """A value is not of a type."""


def _convert(value: object, hint: Any) -> Any:
    for each in _alternatives(hint):
        with suppress(_UnfitError):
            return _convert_one(value, each)
    raise _UnfitError


def _convert_one(value: object, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, tuple | list):
        items = arguments[:1] * len(value) if arguments[-1:] == (...,) else arguments
        if len(value) == len(items):
            return tuple(_convert(each, item) for each, item in zip(value, items, strict=True))
    elif origin is Sequence and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(_convert(each, arguments[0]) for each in value)
    elif _fits(value, hint):
        if hint in (int, float) and type(value) not in (int, float):
            return hint(value)
        # An enumeration's own __str__ is another on each version of Python.
        return str.__str__(value) if isinstance(value, str) else value
    raise _UnfitError


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type that has no items."""
    origin = get_origin(hint)
    if hint is Any:  # which is a class from Python 3.11 on
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin is Literal:
        return isinstance(value, str) or value in get_args(hint)  # the function lists the names that it knows
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if hint in (str, Path) or origin is os.PathLike:
        text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
        return isinstance(text, str) and "\0" not in text  # which no system has in a name
    if origin in (tuple, Sequence):
        return False
    if origin is Callable:
        return callable(value)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _describe(hint: Any) -> list[str]:
    words = []
    for each in _alternatives(hint):
        name = getattr(each, "__name__", str(each))
        if get_origin(each) is tuple:
            inside = ", ".join(_describe(item)[0] if item is not ... else "..." for item in get_args(each))
            words.append(f"a tuple of {inside}")
        elif get_origin(each) is Literal:
            words.append("a string")
        elif get_origin(each) is Sequence:
            words.append(f"a list, each item {' or '.join(_describe(get_args(each)[0]))}")
        else:
            words.append("a path" if get_origin(each) is os.PathLike else _WORDS.get(name, name))
    return list(dict.fromkeys(words))
