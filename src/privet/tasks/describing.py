"""A first description of a table, made from its records, for their holder to correct."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tomli_w

from privet.errors import DataError, PrivetError, nearest
from privet.files import read_file
from privet.tasks.columns import MOST_CATEGORIES, finite, in_order, label_text
from privet.tasks.held_table import Column, read_columns

_LEARNED = "# LEARNED FROM RECORDS: replace it by what is publicly known"
_HEADER = """\
# A description of {name} for silo.toml. It was made from records, so it is for their holder's eyes:
# lines that say LEARNED FROM RECORDS tell of them, and every requester sees this text or can guess
# it. Put there what is known without looking at a record, and leave out what no job shall use.
"""
_FEWEST = 20
"""Rows from which on a column of whole numbers that all differ is taken to name persons."""


def describe(path: Path, *, name: str, target: str | None = None) -> str:
    """TOML of a table `[datasets.NAME]`: `target`, or else the last column, from the others.

    PrivetError when the file is no table or the target has no classes.
    """
    try:
        columns, _ = read_columns(read_file(path), path.name)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    chosen = target if target is not None else [*columns][-1]
    if chosen not in columns:
        raise PrivetError(f"--target {chosen}: no such column.{nearest(chosen, columns)}")
    classes = _words(columns[chosen])
    if not 2 <= len(classes) <= MOST_CATEGORIES:
        raise PrivetError(
            f"--target {chosen}: a target has from 2 to {MOST_CATEGORIES} classes, "
            f"the column has {len(classes)} values"
        )
    others = {column: cells for column, cells in columns.items() if column != chosen}
    lines = _lines(path.name, name, chosen, classes, others)
    return _HEADER.format(name=path.name) + "\n".join(lines) + "\n"


def _lines(
    file: str, name: str, target: str, classes: Sequence[str], others: Mapping[str, Column]
) -> Iterator[str]:
    kinds = {column: _kind(cells) for column, cells in others.items()}
    numeric = [column for column, kind in kinds.items() if kind == "numeric"]
    categorical = [column for column, kind in kinds.items() if kind == "categorical"]
    yield f"[datasets.{_key(name)}]"
    yield 'task = "table"'
    yield f"file = {_value(file)}"
    yield f"target = {_value(target)}"
    yield f"numeric = {_value(numeric)}"
    yield f"categorical = {_value(categorical)}"
    for column, kind in kinds.items():
        if kind not in ("numeric", "categorical"):
            yield f"# Left out: {_value(column)}, {kind}."
    yield '# person = "..."  # a column that says whose each row is: one row a person is used'
    yield 'missing = "impute"  # or "drop": leave out a record that lacks a value'
    yield _LEARNED
    yield f"classes = {_value(classes)}"
    for column in numeric:
        values = [value for value in map(finite, others[column]) if value is not None]
        yield _LEARNED
        yield f"ranges.{_key(column)} = {_value([min(values), max(values)])}"
    for column in categorical:
        yield _LEARNED
        yield f"categories.{_key(column)} = {_value(_words(others[column]))}"


def _kind(cells: Column) -> str:
    """ "numeric" or "categorical", or why the column is neither."""
    present = [cell for cell in cells if cell is not None]
    if not present:
        return "empty"
    numbers = [value for value in map(finite, present) if value is not None]
    whole = all(value.is_integer() for value in numbers)
    different = len({*numbers}) == len(present)
    if whole and different and len(present) > _FEWEST:
        return "every value is another whole number, perhaps a person's"
    # Mostly numbers: the others are marks for missing values.
    if len(numbers) > len(present) / 2 and min(numbers) < max(numbers):
        return "numeric"
    words = _words(present)
    if len(words) > MOST_CATEGORIES:
        return f"{len(words)} different texts"
    return "categorical" if len(words) > 1 else "one value only"


def _words(cells: Column) -> tuple[str, ...]:
    return in_order({label_text(cell) for cell in cells if cell is not None})


def settings(table: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """A TOML line for each setting of a table, those of tables in it with dotted keys."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{prefix}{_key(key)}.")
        else:
            yield f"{prefix}{_key(key)} = {_value(value)}"


def _value(value: object) -> str:
    # The library writes every list over several lines.
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def _key(name: str) -> str:
    return tomli_w.dumps({name: 0}).removesuffix(" = 0\n")
