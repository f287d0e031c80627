"""Text files of a table: how they are written, and what is refused rather than guessed at.

A line with more cells than the header shifts columns in silence, and a number with a comma in it
becomes a word. So a file is looked through before anything is made of it, and whatever could be
meant in two ways is refused with the place and the setting that says which.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from privet.errors import DataError
from privet.tasks.doubtful import check_characters, check_not_utf8, other_encoding, what_is_before
from privet.tasks.files import read_bytes

if TYPE_CHECKING:
    import pandas as pd

MISSING_MARKS = ("", "?", "NA", "N/A", "NaN", "nan", "NULL", "null")
"""Cells that stand for no value, whatever the settings say."""
SEPARATORS = ",;\t|"
UTF8 = "utf-8-sig"
"""Spreadsheets put a byte order mark in front."""
TRUTHS = {"true": "True", "TRUE": "True", "false": "False", "FALSE": "False"}
"""Truth values as R, SQL and spreadsheets write them, and as Python does."""
TRUTH_OF = {**{text: word == "True" for text, word in TRUTHS.items()}, "True": True, "False": False}
_GROUPING = {" ": " \u00a0\u2009\u202f", "'": "'\u2019"}
"""What a person may mean by a separator of thousands: spaces that do not break, curved marks."""
LEADING_ZERO = re.compile(r"[+-]?0[0-9]")
"""How codes begin that are no numbers."""
_LONGEST = 2**53
"""Whole numbers above are not told apart as float64."""


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
        """Texts that stand for no value."""
        return frozenset((*MISSING_MARKS, *self.missing_marks))

    @cached_property
    def marked_numbers(self) -> frozenset[float]:
        """Numbers that stand for no value, however they are written."""
        plain = [TextFormat().number(mark) for mark in self.missing_marks]
        found = [*plain, *map(self.number, self.missing_marks)]
        return frozenset(number for number in found if number is not None)

    def absent(self, cell: object) -> bool:
        """Whether a cell, a text or a number, stands for no value; -999.0 does where -999 does."""
        if isinstance(cell, str):
            text = cell.strip()
            marked = self.marked_numbers
            return text in self.marks or bool(marked and self.number(text) in marked)
        number = isinstance(cell, int | float | Decimal) and not isinstance(cell, bool)
        return number and cell in self.marked_numbers

    def separator_of(self, text: str) -> str:
        """The separator of a file: of its first line, where it is in no quotes."""
        header = re.match(r'(?:"[^"]*"|[^"\r\n])*', text)
        outside = re.sub(r'"[^"]*"', "", header.group() if header else text)
        return self.separator or max(SEPARATORS, key=outside.count)

    @cached_property
    def _grouping(self) -> str:
        return re.escape(_GROUPING.get(self.thousands or "", self.thousands or ""))

    @cached_property
    def _number(self) -> re.Pattern[str]:
        point = re.escape(self.decimal)
        groups = rf"[0-9]{{1,3}}(?:[{self._grouping}][0-9]{{3}})+|" if self.thousands else ""
        digits = rf"(?:{groups}[0-9]+)(?:{point}[0-9]*)?|{point}[0-9]+"
        return re.compile(rf"[+-]?(?:(?:{digits})(?:[eE][+-]?[0-9]+)?|[iI]nf|[iI]nfinity)")

    def number(self, cell: str) -> float | None:
        """The number that a cell holds, infinite ones too, written as this says and not otherwise.

        With thousands ".", 1.234 is a number; 1.5 and 01.02.2020 are none.
        """
        if not self._number.fullmatch(cell):
            return None
        plain = re.sub(f"[{self._grouping}]", "", cell) if self.thousands else cell
        return float(plain.replace(self.decimal, "."))

    def numbers(self, cells: pd.Series) -> pd.Series:
        """`number` of each cell, NaN where it is none: for millions of them."""
        import pandas as pd

        found = cells[cells.str.fullmatch(self._number.pattern, na=False)]
        if self.thousands:
            found = found.str.replace(f"[{self._grouping}]", "", regex=True)
        plain = found.str.replace(self.decimal, ".", regex=False).to_numpy(dtype=object)
        return pd.Series(plain.astype(float), index=found.index).reindex(cells.index)


def known_encoding(name: str) -> str:
    """`name` as Python calls it; ValueError for one that it does not know, or that is no text's."""
    try:
        found = codecs.lookup(name)
        "".encode(found.name)  # "hex" and the like are found, too
    except LookupError:
        raise ValueError(f"data.encoding = {name!r} is not known; utf-8, latin-1, cp1252") from None
    return UTF8 if found.name == "utf-8" else found.name


def typed(texts: pd.DataFrame, how: TextFormat) -> pd.DataFrame:
    """Rows of texts with numbers and truth values where all of a column are, and gaps as such."""
    return texts.apply(_typed, how=how)


def read_texts(path: Path, how: TextFormat) -> tuple[pd.DataFrame, str]:
    """The rows of a text file with a header, each cell a text, and what separates cells.

    DataError with the line for bytes of another encoding, lines of another number of cells than
    the header, and control characters; and for names of columns that are there twice.
    """
    import pandas as pd

    text = decoded(path, read_bytes(path), how)
    separator = how.separator_of(text)
    _check_lines(path, text, separator)
    rows = pd.read_csv(
        io.StringIO(text),
        sep=separator,
        skipinitialspace=True,
        # Else a column too many would become the names of rows, and shift all others.
        index_col=False,
        # What cells mean is for `how` alone: pandas would read 01.02.2020 as 1022020.
        dtype=str,
        na_filter=False,
    )
    return _filled(rows), separator


def _filled(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` without those, and without columns of no name, that spreadsheets leave empty."""
    rows = rows.apply(lambda cells: cells.str.strip())
    used = rows != ""
    kept = [not name.startswith("Unnamed: ") or used[name].any() for name in rows.columns]
    return rows.loc[used.any(axis=1), kept].reset_index(drop=True)


def _typed(cells: pd.Series, how: TextFormat) -> pd.Series:
    """Numbers or truth values where all cells are, else texts; without a value where it is a mark.

    Numbers that as such would lose something stay texts: leading zeros, more digits than a float's.
    """
    cells = cells.mask(cells.isin(how.marks))
    numbers = how.numbers(cells)
    marked = numbers.isin(how.marked_numbers)
    cells, numbers = cells.mask(marked), numbers.mask(marked)
    present = cells.dropna()
    if len(present) and present.isin(TRUTH_OF.keys()).all():
        return cells.map(TRUTH_OF).astype(bool if len(present) == len(cells) else object)
    lost = (
        present.str.match(LEADING_ZERO.pattern).any()
        or numbers[np.isfinite(numbers)].abs().max() > _LONGEST
    )
    return cells.astype(object) if lost or numbers.count() < len(present) else numbers


def decoded(path: Path, raw: bytes, how: TextFormat) -> str:
    """The text of a file; DataError with the line for bytes of another encoding than `how` says."""
    check_not_utf8(path, raw, how.encoding)
    try:
        text = raw.decode(how.encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} cannot be read: line {line} has byte 0x{raw[error.start]:02x}, which is not "
            f"{error.encoding}; {other_encoding(raw, utf8=how.encoding == UTF8)}"
        ) from None
    check_characters(path, text)
    return text


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
                + what_is_before(names)
            )


def _rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each row, with the line on which it ends."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path} cannot be read: line {reader.line_num}: {error}") from None
