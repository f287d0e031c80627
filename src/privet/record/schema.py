"""One schema for what is written down, read in two ways.

`strictly` takes what privet writes and nothing else, as an auditor must. `mended` goes on as a page
must: the file may be of a process that was killed, and names and reasons come from silos, so what
is missing or of another kind becomes empty, and text is cleaned.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from types import UnionType
from typing import Annotated, Any, Self, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from privet.errors import DataError

SCHEMA = 2
"""Of a line of the history, and of the summary. Version 1, whose lines do not say so, is read."""


class Recorded(BaseModel):
    """A part of the record. Made in code, it is checked as strictly as when it is read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def strictly(cls, content: object) -> Self:
        """Every key, once, of its kind, and no other; DataError names the first that is not."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    @classmethod
    def mended(cls, content: object) -> Self:
        """As far as it can be read; ValueError for what is no object at all."""
        found = content if isinstance(content, Mapping) else _unfit(content)
        fields = {name: mend(found) for name, mend in _fields(cls)}
        return cast(Self, cls.model_construct(**fields))  # the plugin for mypy says another thing


def parsed(text: str) -> Any:
    """Strict JSON; ValueError for a key that is there twice."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:40]!r} is there twice")
        found[key] = value
    return found


def clean(value: object) -> str:
    """`value` as text that can be shown and encoded: no control characters, no lone surrogates."""
    return _cleaned(str(value))


@lru_cache(maxsize=2**14)  # the names of silos come again in every round
def _cleaned(text: str) -> str:
    text = text.replace("\n", " ").replace("\t", " ")
    bad = {character for character in set(text) if unicodedata.category(character) in ("Cc", "Cs")}
    return text.translate({ord(character): "\N{REPLACEMENT CHARACTER}" for character in bad})


_Mend = Callable[[Any], Any]


def _unfit(value: object) -> Any:
    raise ValueError(f"{clean(repr(value))[:40]} is of another kind")


def _number(value: object) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        return float(value) if fits else _unfit(value)  # type: ignore[arg-type]
    # A whole number in JSON can be longer than any float.
    except OverflowError:
        return _unfit(value)  # type: ignore[no-any-return]


def _count(value: object) -> int:
    # JSON tells true from 1, Python does not.
    fits = isinstance(value, int) and not isinstance(value, bool)
    return value if fits else _unfit(value)  # type: ignore[return-value]


def _mapping(mend: _Mend) -> _Mend:
    def mended(value: Any) -> dict[str, Any]:
        items = value.items() if isinstance(value, Mapping) else _unfit(value)
        return {clean(name): found for name, each in items for found in _fitting(mend, each)}

    return mended


def _listing(mend: _Mend) -> _Mend:
    def mended(value: Any) -> list[Any]:
        entries = value if isinstance(value, list) else _unfit(value)
        return [found for each in entries for found in _fitting(mend, each)]

    return mended


def _fitting(mend: _Mend, value: object) -> list[Any]:
    try:
        return [mend(value)]
    except ValueError:
        return []


@cache
def _mender(kind: Any) -> tuple[_Mend, Callable[[], Any]]:
    """How a value becomes one of `kind`, a field's annotation (ValueError: it does not), and what
    stands in its place where it does not."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _mender(inside[0])
    if origin in (Union, UnionType):  # always with None
        mend = _mender(inside[0])[0]
        return lambda value: None if value is None else mend(value), lambda: None
    if kind == dict[str, Any]:  # an event: whoever compares it wants it as it came
        return lambda value: value, dict
    if origin in (dict, list):
        mend = _mender(inside[-1])[0]
        return (_mapping if origin is dict else _listing)(mend), origin
    if issubclass(kind, Recorded):
        return kind.mended, lambda: kind.mended({})
    return _PLAIN[kind]


_PLAIN: Mapping[Any, tuple[_Mend, Callable[[], Any]]] = {
    str: (clean, lambda: "unknown"),
    float: (_number, lambda: float("nan")),
    int: (_count, int),
    bool: (lambda value: value is True, bool),
}


@cache
def _fields(kind: type[Recorded]) -> list[tuple[str, _Mend]]:
    return [(name, _field(name, each.annotation)) for name, each in kind.model_fields.items()]


def _field(name: str, kind: Any) -> _Mend:
    mend, empty = _mender(kind)

    def mended(content: Mapping[str, Any]) -> Any:
        found = _fitting(mend, content[name]) if name in content else []
        return found[0] if found else empty()

    return mended
