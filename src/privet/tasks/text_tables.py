"""Text files of a table: how they are written, and what is refused rather than guessed at.

A line with more cells than the header shifts columns in silence, and a number with a comma in it
becomes a word. So a file is looked through before anything is made of it, and whatever could be
meant in two ways is refused with the place and the setting that says which.
"""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from privet.errors import DataError
from privet.tasks.files import read_bytes

if TYPE_CHECKING:
    import pandas as pd

MISSING_MARKS = ("", "?", "NA", "N/A", "NaN", "nan", "NULL", "null")
"""Cells that stand for no value, whatever the settings say."""
SEPARATORS = ",;\t|"
UTF8 = "utf-8-sig"
"""Spreadsheets put a byte order mark in front."""


@dataclass(frozen=True)
class TextFormat:
    """How the text files of a table are written."""

    encoding: str = UTF8
    separator: str | None = None
    """Unset: the one of comma, semicolon, tab and bar that is most frequent in the header."""
    decimal: str = "."
    thousands: str | None = None
    missing_marks: tuple[str, ...] = ()
    """Cells that stand for no value, besides `MISSING_MARKS`."""

    @cached_property
    def marks(self) -> frozenset[str]:
        """Every cell that stands for no value."""
        return frozenset((*MISSING_MARKS, *self.missing_marks))

    def separator_of(self, header: str) -> str:
        """The separator of a file with this first line."""
        return self.separator or max(SEPARATORS, key=header.count)

    def number_text(self, cell: str) -> str:
        """A cell as Python writes the number that it may hold."""
        cell = cell.replace(self.thousands, "") if self.thousands else cell
        # A point in a file of decimal commas is no decimal point.
        return cell if self.decimal == "." else cell.replace(".", "?").replace(self.decimal, ".")


def known_encoding(name: str) -> str:
    """`name` as Python calls it; ValueError for one that it does not know, or that is no text's."""
    try:
        found = codecs.lookup(name)
        "".encode(found.name)  # "hex" and the like are found, too
    except LookupError:
        raise ValueError(f"data.encoding = {name!r} is not known; utf-8, latin-1, cp1252") from None
    return UTF8 if found.name == "utf-8" else found.name


def read_text_table(path: Path, how: TextFormat) -> pd.DataFrame:
    """The rows of a text file with a header; cells are numbers where all of a column are.

    DataError with the line for bytes of another encoding, lines of another number of cells than
    the header, and control characters; and for names of columns that are there twice.
    """
    import pandas as pd

    text = _decoded(path, read_bytes(path), how)
    separator = how.separator_of(text.partition("\n")[0])
    _check_lines(path, text, separator)
    return pd.read_csv(
        io.StringIO(text),
        sep=separator,
        decimal=how.decimal,
        thousands=how.thousands,
        skipinitialspace=True,
        # Else a column too many would become the names of rows, and shift all others.
        index_col=False,
        # Only the marks that are documented: pandas' own list takes "None" and others too.
        keep_default_na=False,
        na_values=list(how.marks),
        # Else pandas guesses types piece by piece, and a column of a long file can have several.
        low_memory=False,
    )


def _decoded(path: Path, raw: bytes, how: TextFormat) -> str:
    try:
        return raw.decode(how.encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        others = "latin-1, cp1252" if how.encoding == UTF8 else "utf-8"
        raise DataError(
            f"{path} cannot be read: line {line} has byte 0x{raw[error.start]:02x}, which is not "
            f"{error.encoding}; say data.encoding, such as {others}"
        ) from None


def _check_lines(path: Path, text: str, separator: str) -> None:
    rows = _rows(path, text, separator)
    line, header = next(rows, (0, []))
    names = [name.strip() for name in header]
    for place, name in enumerate(names):
        if name and name in names[:place]:
            raise DataError(f"{path}: two columns are called {name!r}; rename one in the header")
    for line, row in rows:
        # An empty line is none, as long as a row has more than one cell.
        if len(row) != len(header) and row:
            raise DataError(
                f"{path} cannot be read: line {line} has {len(row)} cells, the header {len(header)}"
            )


def _rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each row, with the line on which it ends."""
    csv.field_size_limit(sys.maxsize)
    for number, line in enumerate(text.split("\n"), 1) if "\0" in text else ():
        if "\0" in line:
            raise DataError(f"{path} cannot be read: line {number} has a NUL character")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path} cannot be read: line {reader.line_num}: {error}") from None
