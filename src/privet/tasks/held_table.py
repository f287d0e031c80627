"""A table as a data holder's silo reads it: nothing that a record holds can make it fail.

Every cell is read by itself, by the holder's description alone. `Table` has its library guess types
from whole columns: one odd cell would change how others are read, and its errors count records.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from privet.errors import DataError, ExperimentError
from privet.tasks.columns import (
    composed,
    finite,
    is_parquet,
    label_text,
    reader_of,
    scale_of,
)
from privet.tasks.files import names_inside, read_inside
from privet.tasks.objectives import Number, Survival
from privet.tasks.table import Table
from privet.tasks.table_layout import TRUE, TRUTHS, Rows
from privet.tasks.task import Examples
from privet.tasks.text_tables import TRUTH_OF, TextFormat

if TYPE_CHECKING:
    import pyarrow as pa

Column = Sequence[object]


@dataclass(frozen=True)
class Coverage:
    """What of a table its description does not cover; for the holder's eyes only."""

    records: int
    """That can be trained on."""
    left_out: int
    """Rows without a class, or with a gap where `missing` is "drop"."""
    broken: int
    """Lines with another number of cells than the header, or with a quote too many."""
    repeated: int = 0
    """Rows that could be trained on, of persons of whom another one is, or of nobody."""
    uncovered: Mapping[str, Counter[str]] = field(default_factory=dict)
    """By column: values that are no number or no listed word, with how often they are there."""


class HeldTable(Table):
    """`Table` for a real silo, and for test data of a server, with options of either.

    What the description does not cover counts as missing: text among numbers, infinite numbers,
    words that are no category, and absent cells. `missing` says what becomes of that record. A
    record whose class is none of `classes` is left out, as is a line with another number of cells
    than the header. With `person`, of each person one row is used, found from their rows alone; a
    row of nobody is left out. All rows of `file` or `files` train; rows of `test_file` test.

    Files lie in the data folder, links out of it are not followed. Raises ExperimentError for
    options that leave something open to the records, DataError for a file that is no table at all.
    """

    held = True

    def __init__(
        self, *, model: str | None = None, data_dir: Path | None = None, **options: object
    ) -> None:
        super().__init__(model=model, data_dir=data_dir, **options)
        if not self._options.declared:
            raise ExperimentError("a table on real silos is described in full")

    def train_data(self) -> Examples:
        rows = self._one_of_each(self._all_rows(self.file_names()))
        own = scale_of(rows.numbers, self._layout.numeric, self._options.ranges)
        return self._encoded(rows, {None: own}, ())

    def test_data(self) -> Examples | None:
        return self._tested

    @cached_property
    def _tested(self) -> Examples | None:
        name = self._options.test_file
        if not name:
            return None
        rows = self._all_rows([name])
        # Of no silo: what has no public range cannot be scaled as somebody's is.
        return self._encoded(rows, {}, ()) if len(rows) else None

    def coverage(self) -> Coverage:
        """What the description leaves out of the files to train on."""
        rows = broken = 0
        found = {name: Counter[str]() for name in self._readers}
        for name in self.file_names():
            columns, lost = self._columns(name)
            broken += lost
            values = self._values(columns)
            rows += len(values[self._options.target])
            for column in self._readers:
                pairs = zip(columns[column], values[column], strict=True)
                found[column].update(
                    str(cell) for cell, value in pairs if cell is not None and value is None
                )
        seen = {name: words for name, words in found.items() if words}
        usable = self._all_rows(self.file_names())
        records = len(self._one_of_each(usable))
        return Coverage(records, rows - len(usable), broken, len(usable) - records, seen)

    @cached_property
    def _readers(self) -> dict[str, Callable[[object], float | str | None]]:
        """What makes a value of a cell, by column in use; None where the cell is not covered."""
        layout = self._layout
        options = self._options
        words = {**layout.vocabularies, **({options.event: TRUTHS} if options.event else {})}
        if options.has_classes:
            words[options.target] = layout.classes
        numbers = dict.fromkeys(
            [*layout.numeric, *([] if options.has_classes else [options.target])],
            partial(number, how=options.text_format),
        )
        return {**numbers, **{name: reader_of(known) for name, known in words.items()}}

    def file_names(self) -> list[str]:
        """The files to train on; a pattern stands for those of the data folder that fit."""
        options = self._options
        if options.file:
            return [options.file]
        if isinstance(options.files, str):
            return names_inside(self._data_dir, options.files)
        return list(options.files or ())

    def _all_rows(self, names: Sequence[str]) -> Rows:
        return Rows.joined([self._rows(self._columns(name)[0]) for name in names])

    def _one_of_each(self, rows: Rows) -> Rows:
        """One row a person, whichever of them hashes lowest: no other person's rows decide that."""
        if self._options.person is None:
            return rows
        chosen: dict[str, tuple[bytes, int]] = {}
        for place, whose in enumerate(rows.silo):
            if whose is not None:
                row = rows.numbers[place].tobytes(), *rows.labels[place], rows.targets[place]
                drawn = hashlib.sha256(repr(row).encode()).digest(), place
                chosen[whose] = min(chosen.get(whose, drawn), drawn)
        found = rows.at(np.array(sorted(place for _, place in chosen.values()), dtype=np.int64))
        return replace(found, silo=np.full(len(found), None, dtype=object))

    def _columns(self, name: str) -> tuple[dict[str, Column], int]:
        """The columns of a file that are in use, and how many of its lines are broken.

        DataError when one of the columns is not there.
        """
        how = self._options.text_format
        columns, broken = read_columns(read_inside(self._data_dir, name), name, how)
        person = self._options.person
        used = [*self._readers, *([person] if person else [])]
        for column in used:
            if column not in columns:
                raise DataError(f"{name} has no column {column!r}")
        return {column: columns[column] for column in used}, broken

    def _values(self, columns: Mapping[str, Column]) -> dict[str, list[float | str | None]]:
        return {
            name: [None if cell is None else read(cell) for cell in columns[name]]
            for name, read in self._readers.items()
        }

    def _targets(
        self, values: Mapping[str, list[float | str | None]]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Targets (n,) and which of them can be trained on: neither absent nor impossible."""
        objective, given = self._layout.objective, values[self._options.target]
        if self._options.has_classes:
            places = {word: place for place, word in enumerate(self._layout.classes)}
            found = np.array(
                [-1 if word is None else places[str(word)] for word in given], dtype=np.int64
            )
            return found, found >= 0
        numbers = np.array(given, dtype=float)  # None becomes NaN
        kept = ~np.isnan(numbers)
        if isinstance(objective, Survival):
            came = np.array(values[str(self._options.event)], dtype=object)
            kept &= (numbers >= 0) & (came != None)  # noqa: E711 - `is` would not go by element
            return objective.targets(numbers, np.isin(came, TRUE)), kept
        assert isinstance(objective, Number)
        # Whatever lies outside the range is another unit or a slip, and no error may tell of it.
        kept &= (numbers >= objective.low) & (numbers <= objective.high)
        return objective.scaled(numbers).astype(np.float32), kept

    def _rows(self, columns: Mapping[str, Column]) -> Rows:
        """Those that can be trained on; of the persons, where the description has a column."""
        values = self._values(columns)
        layout, target = self._layout, values[self._options.target]
        numbers = np.empty((len(target), len(layout.numeric)))
        labels = np.empty((len(target), len(layout.vocabularies)), dtype=object)
        for place, name in enumerate(layout.numeric):
            numbers[:, place] = np.array(values[name], dtype=float)  # None becomes NaN
        for place, name in enumerate(layout.vocabularies):
            labels[:, place] = values[name]
        targets, kept = self._targets(values)
        if self._options.missing == "drop":
            gaps = labels == None  # noqa: E711 - `is` would not go element by element
            kept &= ~np.isnan(numbers).any(axis=1) & ~gaps.any(axis=1)
        whose = np.full(len(target), None, dtype=object)
        if self._options.person:
            whose[:] = [
                cell if cell is None else _name(cell) for cell in columns[self._options.person]
            ]
        return Rows(numbers, labels, targets, whose).at(kept)


def _name(cell: object) -> str:
    """Whose a row is, by the text of a cell; "7.0" is 7, as whole numbers are written at times."""
    text = label_text(cell)
    whole, point, zeros = text.partition(".")
    return whole if point and whole.isdigit() and not zeros.strip("0") else text


def number(cell: object, how: TextFormat) -> float | None:
    """The finite number that a cell holds, as the file writes numbers, if it holds one."""
    if isinstance(cell, str):
        return finite(TRUTH_OF.get(cell, how.number(cell)))
    return finite(cell)


def read_columns(
    raw: bytes, name: str, how: TextFormat | None = None
) -> tuple[dict[str, Column], int]:
    """The columns of a CSV or Parquet file, each cell a value or None, and its broken lines."""
    how = how or TextFormat()
    return (_parquet(raw, how), 0) if is_parquet(name) else _text(raw, how)


def _text(raw: bytes, how: TextFormat) -> tuple[dict[str, Column], int]:
    # A cell may be long, and a byte may be of another encoding: neither is a reason to fail.
    csv.field_size_limit(sys.maxsize)
    text = raw.decode(how.encoding, errors="replace")
    first, *rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    separator = how.separator_of(first)
    header = [composed(name) for name in _split(first, separator)]
    if not any(header):
        raise DataError("the file has no header")
    lines = [line for line in rest if line.strip()]
    split = (_split(line, separator) for line in lines)
    rows = [cells for cells in split if len(cells) == len(header)]
    cells = zip(*rows, strict=True) if rows else ([] for _ in header)
    columns = _by_name(header, [[_cell(cell, how) for cell in column] for column in cells])
    return columns, len(lines) - len(rows)


def _by_name(names: Sequence[str], columns: Sequence[Column]) -> dict[str, Column]:
    """Of two columns of one name the first."""
    found: dict[str, Column] = {}
    for name, column in zip(names, columns, strict=True):
        found.setdefault(name, column)
    return found


def _split(line: str, separator: str) -> list[str]:
    """The cells of one line; none of a line that is not whole by itself.

    Line by line, or a record with a quote too many would swallow those after it.
    """
    try:
        found = csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True)
        return next(found, [])
    except csv.Error:
        return []


def _cell(text: str, how: TextFormat) -> str | None:
    return None if how.absent(text) else text.strip()


def _parquet(raw: bytes, how: TextFormat) -> dict[str, Column]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(raw))
        names = [composed(str(name)) for name in table.column_names]
        columns = [_arrow_cells(column, how) for column in table.columns]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError("the file is no Parquet file that can be read") from error
    return _by_name(names, columns)


def _arrow_cells(column: pa.ChunkedArray, how: TextFormat) -> Column:
    """The cells of a column, texts where one odd value could keep all from being read."""
    import pyarrow as pa

    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array(
            [part.storage for part in column.chunks], column.type.storage_type
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type):  # no number and no word, and anything may be inside
        return [None if null else str(column.type) for null in column.is_null().to_pylist()]
    if pa.types.is_temporal(column.type):  # the year 10,000 is no date of Python's
        column = column.cast(pa.string())
    kinds = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
    if any(are(column.type) for are in kinds):
        cells = column.cast(pa.large_binary()).to_pylist()  # whatever the encoding
        texts = [None if cell is None else cell.decode(errors="replace") for cell in cells]
        return [None if text is None else _cell(text, how) for text in texts]
    return [None if how.absent(cell) else cell for cell in column.to_pylist()]
