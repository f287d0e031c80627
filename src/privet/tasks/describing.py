"""A first description of a table, made from its records, for their holder to correct."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tomli_w

from privet.errors import DataError, PrivetError, nearest
from privet.files import read_file
from privet.tasks.columns import MOST_CATEGORIES, in_order, is_parquet, label_text
from privet.tasks.doubtful import feature_fault, texts_fault, words_fault
from privet.tasks.held_table import Column, number, read_columns
from privet.tasks.table_layout import TableOptions
from privet.tasks.text_tables import LEADING_ZERO, TextFormat, decoded

_LEARNED = "# LEARNED FROM RECORDS: replace it by what is publicly known"
_HEADER = """\
# A description of {name} for silo.toml. It was made from records, so it is for their holder's eyes:
# lines that say LEARNED FROM RECORDS tell of them, and every requester sees this text or can guess
# it. Put there what is known without looking at a record, and leave out what no job shall use.
"""
_FEWEST = 20
"""Rows from which on a column of whole numbers that all differ is taken to name persons."""


def describe(
    path: Path, *, name: str, target: str | None = None, written: Mapping[str, object] | None = None
) -> str:
    """TOML of a table `[datasets.NAME]`: `target`, or else the last column, from the others.

    `written`: options of a text file, such as `encoding` and `decimal`. Columns that could be meant
    in two ways are left out with the reason. PrivetError when the file is no table or not written
    so, or the target has no classes.
    """
    written = written or {}
    how = TableOptions.of({"target": "", "file": path.name, **written}).text_format
    try:
        raw = read_file(path)
        if not is_parquet(path.name):
            decoded(path, raw, how)
        columns, _ = read_columns(raw, path.name, how)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except DataError as error:
        said = str(error).removeprefix(f"{path} ").replace("data.", "--")
        raise DataError(f"{path}: {said}") from None
    chosen = target if target is not None else [*columns][-1]
    if chosen not in columns:
        shown = ", ".join([*columns][:20])
        near = nearest(chosen, columns)
        raise PrivetError(f"--target {chosen}: no such column.{near} The file has {shown}")
    classes = _words(columns[chosen])
    if not 2 <= len(classes) <= MOST_CATEGORIES:
        raise PrivetError(
            f"--target {chosen}: a target has from 2 to {MOST_CATEGORIES} classes, "
            f"the column has {len(classes)} values"
        )
    others = {column: cells for column, cells in columns.items() if column != chosen}
    lines = _lines({"file": path.name, **written}, how, name, (chosen, classes), others)
    return _HEADER.format(name=path.name) + "\n".join(lines) + "\n"


def _lines(
    file: Mapping[str, object],
    how: TextFormat,
    name: str,
    target: tuple[str, Sequence[str]],
    others: Mapping[str, Column],
) -> Iterator[str]:
    kinds = {column: _kind(column, cells, how) for column, cells in others.items()}
    numeric = [column for column, kind in kinds.items() if kind == "numeric"]
    categorical = [column for column, kind in kinds.items() if kind == "categorical"]
    yield f"[datasets.{_key(name)}]"
    yield 'task = "table"'
    yield from settings(file)
    yield f"target = {_value(target[0])}"
    yield f"numeric = {_value(numeric)}"
    yield f"categorical = {_value(categorical)}"
    for column, kind in kinds.items():
        if kind not in ("numeric", "categorical"):
            yield f"# Left out: {_value(column)}, {kind}."
    yield '# person = "..."  # a column that says whose each row is: one row a person is used'
    yield 'missing = "impute"  # or "drop": leave out a record that lacks a value'
    yield _LEARNED
    if fault := _said(words_fault(target[1], said="classes")):
        yield f"# {fault}"
    yield f"classes = {_value(target[1])}"
    for column in numeric:
        values = [value for cell in others[column] if (value := number(cell, how)) is not None]
        yield _LEARNED
        yield f"ranges.{_key(column)} = {_value([min(values), max(values)])}"
    for column in categorical:
        yield _LEARNED
        yield f"categories.{_key(column)} = {_value(_words(others[column]))}"


def _kind(name: str, cells: Column, how: TextFormat) -> str:
    """ "numeric" or "categorical", or why the column is neither."""
    present = [cell for cell in cells if cell is not None]
    if not present:
        return "empty"
    read = [None if isinstance(cell, bool) else number(cell, how) for cell in present]
    numbers = [value for value in read if value is not None]
    if len(numbers) == len(present) > _FEWEST and _other_whole_numbers(numbers):
        return "every value is another whole number, perhaps a person's"
    zeros = [cell for cell in present if isinstance(cell, str) and LEADING_ZERO.match(cell)]
    if zeros and len(numbers) == len(present):
        return f"numbers that are written as codes are, such as {zeros[0]!r}"
    # Mostly numbers: the others are marks for missing values.
    if len(numbers) > len(present) / 2 and min(numbers) < max(numbers):
        return _said(feature_fault(name, np.array(numbers))) or "numeric"
    return _kind_of_words(_words(present), [str(cell) for cell in present])


def _other_whole_numbers(numbers: Sequence[float]) -> bool:
    return all(value.is_integer() for value in numbers) and len({*numbers}) == len(numbers)


def _kind_of_words(words: Sequence[str], texts: Sequence[str]) -> str:
    if len(words) > MOST_CATEGORIES:
        return f"{len(words)} different texts"
    if len(words) < 2:
        return "one value only"
    return _said(texts_fault(texts) or words_fault(words, said="categories")) or "categorical"


def _said(fault: str | None) -> str | None:
    """A fault as the settings of a description are called, which is no job's."""
    return fault and fault.replace("data.", "")


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
