"""The package's own dataclasses as JSON and back: one definition of an answer, whoever hears it.

A number that is not finite is null; an enum its number or word; an array nested lists. What comes
from a socket is not trusted: a field that is unknown, missing or of another type, or a number that
64 bits do not hold, is an InvalidRequestError that names it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

import numpy as np

from ada3d_ros import measures, usage
from ada3d_ros import types as boundary
from ada3d_ros.errors import InvalidRequestError

T = TypeVar("T")
Json = Any
INT64 = 2**63
# Names that annotations of the boundary types use.
_NAMES = {**vars(measures), **vars(usage), **vars(boundary)}


def parsed_json(data: bytes | str, what: str) -> Json:
    """What a text of JSON holds. what: begins the sentence that says otherwise. Raises
    InvalidRequestError, also where it is nested deeper than any of ours.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidRequestError(f"{what} is no JSON.") from None


def is_int64(value: Any) -> bool:
    """Whether it is a whole number that 64 bits hold."""
    return type(value) is int and -INT64 <= value < INT64


def to_json(value: Any) -> Json:
    """A dataclass of types.py, usage.py or measures.py, or a part of one."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "biu" or np.isfinite(value).all():
            return value.tolist()
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, (str, int, bool)):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_json(kind: type[T], data: Json, where: str = "") -> T:
    """What `to_json` made of a dataclass of this kind. Raises InvalidRequestError."""
    where = where or kind.__name__
    if not isinstance(data, Mapping):
        raise _error(where, data, "an object")
    known = _fields(typing.cast(Any, kind))
    if unknown := [name for name in data if name not in known]:
        raise InvalidRequestError(f"{where} has no field {unknown[0]!r}.")
    values = {}
    for name, (hint, required) in known.items():
        if name in data:
            values[name] = _read(hint, data[name], f"{where}.{name}")
        elif required:
            raise InvalidRequestError(f"{where} lacks {name!r}.")
    return kind(**values)


@functools.cache
def _fields(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    """Name -> type and whether it must be given, of what the constructor takes."""
    hints = typing.get_type_hints(kind, localns=_NAMES)
    nothing = dataclasses.MISSING
    return {
        f.name: (hints[f.name], f.default is nothing and f.default_factory is nothing)
        for f in dataclasses.fields(kind)
        if f.init
    }


def _read(hint: Any, data: Json, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        (hint,) = (kind for kind in arguments if kind is not types.NoneType)
        return _read(hint, data, where)
    if origin is tuple:
        return _tuple(arguments, data, where)
    if origin is np.ndarray:
        return _array(arguments, data, where)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type[Any], hint), data, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(data)
        except ValueError:
            allowed = ", ".join(str(member.value) for member in hint)
            raise _error(where, data, f"one of {allowed}") from None
    return _scalar(hint, data, where)


def _scalar(hint: Any, data: Json, where: str) -> Any:
    if hint is float:
        if data is None:
            return math.nan
        if isinstance(data, float) or is_int64(data):
            return float(data)
        raise _error(where, data, "a number or null")
    if hint is int:
        if is_int64(data):
            return data
        raise _error(where, data, "int of 64 bits" if type(data) is int else "int")
    if hint in (str, bool) and type(data) is hint:
        return data
    raise _error(where, data, getattr(hint, "__name__", str(hint)))


def _tuple(arguments: Sequence[Any], data: Json, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _error(where, data, "a list")
    if arguments[-1:] == (Ellipsis,):
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if len(data) != len(arguments):
        raise _error(where, data, f"a list of {len(arguments)}")
    pairs = zip(arguments, data, strict=True)
    return tuple(_read(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(pairs))


def _array(arguments: Sequence[Any], data: Json, where: str) -> np.ndarray[Any, Any]:
    dtype = typing.get_args(arguments[1])[0]
    try:
        return np.array(data, dtype=np.float64).astype(dtype)
    except (ValueError, TypeError, OverflowError):
        raise _error(where, data, "an array of numbers") from None


def _error(where: str, data: Json, wanted: str) -> InvalidRequestError:
    shown = repr(data)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return InvalidRequestError(f"{where} = {shown}: expected {wanted}.")
