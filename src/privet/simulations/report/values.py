"""Values out of files that may hold anything: of the kind that is wanted, or nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any


def clean(value: object) -> str:
    """`value` as text that can be shown and encoded: no control characters, no lone surrogates."""
    text = str(value).replace("\n", " ").replace("\t", " ")
    bad = {character for character in set(text) if unicodedata.category(character) in ("Cc", "Cs")}
    return text.translate({ord(character): "\N{REPLACEMENT CHARACTER}" for character in bad})


def number(value: object) -> float | None:
    """A number, which may be NaN or infinite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def count(value: object) -> int | None:
    """A whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def numbers(found: Mapping[str, object] | None) -> dict[str, float]:
    """The entries that are numbers."""
    read = {clean(name): number(value) for name, value in (found or {}).items()}
    return {name: value for name, value in read.items() if value is not None}


def counts(found: Mapping[str, object] | None) -> dict[str, int]:
    """The entries that are whole numbers."""
    read = {clean(name): count(value) for name, value in (found or {}).items()}
    return {name: value for name, value in read.items() if value is not None}


def names(found: Iterable[object] | None) -> frozenset[str]:
    """Every entry as text."""
    return frozenset(clean(name) for name in found or ())


def dicts(found: object) -> list[dict[str, Any]]:
    """The objects of a list."""
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
