"""Arguments of the public functions against their annotations: a wrong type is one of our errors.

It is checked at the package's door only: inside, mypy has seen to it.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import sys
import types
from collections.abc import Callable, Sequence
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
}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function``, refusing arguments of other types than it is annotated with.

    Annotations that exist for type checkers only are not checked. An argument too many stays a ``TypeError``.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        bound = signature.bind(*args, **given)
        for name, value in bound.arguments.items():
            hint = _evaluate(signature.parameters[name].annotation, function)
            if not _fits(value, hint):
                raise InputError(
                    f"{function.__name__}: {name} is {value!r:.60} ({type(value).__name__}); expected "
                    f"{' or '.join(_describe(hint))}"
                )
        return function(*args, **given)

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


def _fits(value: object, hint: Any) -> bool:
    return any(_fits_one(value, each) for each in _alternatives(hint))


def _fits_one(value: object, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:  # which is a class from Python 3.11 on
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin is Literal:
        return isinstance(value, str) or value in arguments  # the function lists the names that it knows
    if origin is tuple:
        items = (
            arguments[:1] * len(value) if arguments[-1:] == (...,) and isinstance(value, tuple) else arguments
        )
        return (
            isinstance(value, tuple | list)
            and len(value) == len(items)
            and all(_fits(each, item) for each, item in zip(value, items, strict=True))
        )
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if hint in (str, Path) or origin is os.PathLike:
        return isinstance(value, str | os.PathLike)
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
            words.append("a list")
        else:
            words.append("a path" if get_origin(each) is os.PathLike else _WORDS.get(name, name))
    return list(dict.fromkeys(words))
