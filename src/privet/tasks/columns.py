"""Reading columns of CSV and Parquet files, and turning them into model inputs.

The width of the inputs does not depend on the values; errors say where in the file.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from privet.errors import DataError, nearest
from privet.tasks.doubtful import USED, check_feature, check_texts
from privet.tasks.text_tables import TRUTHS, TextFormat, read_texts, typed

if TYPE_CHECKING:
    import pandas as pd

Numbers = npt.NDArray[np.float64]
Labels = npt.NDArray[np.object_]

_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Frame:
    """The rows of one file, the path they came from, for messages, and how it writes numbers."""

    path: Path
    rows: pd.DataFrame
    how: TextFormat
    texts: pd.DataFrame | None = None
    """Of a text file that was read with `keep_texts`: the cells as they are written."""
    separator: str = ","
    """Of a text file."""

    def __len__(self) -> int:
        return len(self.rows)

    def require(self, columns: Iterable[str]) -> None:
        """Raise DataError for the first of `columns` that the file does not have."""
        known = [str(column) for column in self.rows.columns]
        for column in columns:
            if column not in known:
                raise DataError(
                    f"{self.path} has no column {column!r}; its {len(self)} rows have "
                    f"{', '.join(known[:20])}.{nearest(column, known)}"
                )

    def numbers(self, column: str) -> Numbers:
        """A numeric column as float64 (n,), NaN where a value is missing.

        Raises DataError with a count when values are text, dates or infinite.
        """
        given = self.rows[column]
        if given.dtype.kind in "mM":
            raise self._unfit(column, len(self), f"are {given.dtype}, not numbers")
        parsed = self.parsed(column)
        text = (np.isnan(parsed) & given.notna().to_numpy()).nonzero()[0]
        if len(text):
            said = f"are not numbers, such as {str(given.iloc[text[0]])[:40]!r}"
            raise self._unfit(column, len(text), f"{said}; {_MARKS}")
        if np.isinf(parsed).any():
            raise self._unfit(column, int(np.isinf(parsed).sum()), f"are infinite; {_MARKS}")
        return parsed

    def parsed(self, column: str) -> Numbers:
        """A column as float64 (n,), NaN where a value is missing or no number."""
        given = self.rows[column]
        if given.dtype.kind in "iufb":
            return given.to_numpy(dtype=float, na_value=math.nan)
        return np.array([self._number(cell) for cell in given], dtype=float)  # None becomes NaN

    def _number(self, cell: object) -> float | None:
        if isinstance(cell, str):
            return self.how.number(cell.strip())
        return float(cell) if isinstance(cell, int | float | np.number | np.bool_) else None

    def labels(self, column: str) -> Labels:
        """A column as texts (n,), None where a value is missing; 1, 1.0 and "1" are one text."""
        texts = [None if missing else label_text(value) for value, missing in self._cells(column)]
        return np.array(texts, dtype=object)

    def _cells(self, column: str) -> Iterable[tuple[object, bool]]:
        return zip(self.rows[column].tolist(), self.rows[column].isna().tolist(), strict=True)

    def _unfit(self, column: str, count: int, what: str) -> DataError:
        return DataError(f"{self.path}, column {column!r}: {count} of {len(self)} values {what}")


def label_text(value: object) -> str:
    """The text that stands for a category: 1, 1.0 and " 1" are "1", True and "TRUE" are "True"."""
    # Whole numbers are read as floats in a column where one is missing.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = composed(str(value))
    return TRUTHS.get(text, text)


def composed(text: str) -> str:
    """`text` without spaces around it, and of one form: some systems take an umlaut apart."""
    return unicodedata.normalize("NFC", text).strip()


def finite(cell: object) -> float | None:
    """The finite number that a cell holds, if it holds one."""
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def reader_of(words: Sequence[str]) -> Callable[[object], str | None]:
    """Which of `words` a cell holds, or None; 1, 1.0 and "1.0" are the word "1"."""
    known = frozenset(words)

    def read(cell: object) -> str | None:
        text = label_text(cell)
        if text in known:
            return text
        value = finite(text)
        # As a column of whole numbers is written as soon as one of them is missing.
        whole = str(int(value)) if value is not None and value.is_integer() else ""
        return whole if whole in known else None

    return read


def read_frame(path: Path, how: TextFormat, *, keep_texts: bool = False) -> Frame:
    """Read a Parquet file (.parquet, .pq), or anything else as text with a header line.

    Spaces around names and after separators are left out; marks of `how` are missing values.
    Raises DataError when the file is unreadable, has no rows or, as text, is not what `how` says.
    """
    import pandas as pd

    texts, separator = None, ","
    try:
        if is_parquet(path.name):
            rows = _marked(_with_index(pd.read_parquet(path)), how)
        else:
            texts, separator = read_texts(path, how)
            rows = typed(texts, how)
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty (0 rows)") from None
    except (OSError, EOFError, ValueError) as error:  # parse and decoding errors are ValueErrors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read: {reason}") from error
    if rows.empty:
        raise DataError(f"{path} has {len(rows.columns)} columns and 0 rows")
    rows = rows.rename(columns=lambda name: composed(str(name)))
    if twice := rows.columns[rows.columns.duplicated()].tolist():
        raise DataError(f"{path}: two columns are called {twice[0]!r}; rename one in the header")
    return Frame(path, rows, how, texts if keep_texts else None, separator)


def is_parquet(name: str) -> bool:
    """Whether a file of this name is read as Parquet, and not as text."""
    return name.lower().endswith(_PARQUET)


def _with_index(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` of a Parquet file with a named index as what it is in the file: a column."""
    import pandas as pd

    index = rows.index
    named = [name for name in index.names if name is not None]
    return rows if isinstance(index, pd.RangeIndex) or not named else rows.reset_index(named)


def _marked(rows: pd.DataFrame, how: TextFormat) -> pd.DataFrame:
    """`rows` of a Parquet file without what stands for no value; decimals are floats."""
    return rows.apply(lambda cells: _floats(cells).mask(cells.map(how.absent).astype(bool)))


def _floats(cells: pd.Series) -> pd.Series:
    import pandas as pd

    decimals = pd.api.types.infer_dtype(cells) == "decimal"
    return cells.astype(float) if decimals else cells


_WORDS = ("boolean", "categorical", "empty", "string", "mixed", "mixed-integer")
_WAY_OUT = re.compile(r"[:;](?: or)? data\.exclude")
_MARKS = "a mark of missing values is said in data.missing_marks"
MOST_CATEGORIES = 100
MISSING = "(missing)"


@dataclass(frozen=True)
class Standardiser:
    """`(x - centre) / spread`, one of each for every numeric column, then clipped to `limit`.

    `limit` is 1 for a public range and infinite for statistics.
    """

    centre: Numbers
    spread: Numbers
    limit: Numbers

    def __call__(self, values: Numbers) -> Numbers:
        """Scale `values` (n, k); NaN stays NaN."""
        return np.clip((values - self.centre) / self.spread, -self.limit, self.limit)


def scale_of(
    values: Numbers, names: Sequence[str], ranges: Mapping[str, tuple[float, float]]
) -> Standardiser:
    """Public `ranges` to [-1, 1]; columns without one by mean and deviation of `values` (n, k).

    NaN values count for nothing. A column that is constant or all missing has spread 1.
    """
    centre, spread, limit = np.zeros(len(names)), np.ones(len(names)), np.ones(len(names))
    for i, name in enumerate(names):
        present = values[~np.isnan(values[:, i]), i]
        if name in ranges:
            low, high = ranges[name]
            centre[i], spread[i] = (low + high) / 2, (high - low) / 2
        else:
            limit[i] = np.inf
            centre[i] = present.mean() if len(present) else 0.0
            spread[i] = (present.std() if len(present) else 0.0) or 1.0
    return Standardiser(centre, spread, limit)


def filled(values: Numbers, *, indicators: bool) -> Numbers:
    """Scaled `values` (n, k) with 0 for missing ones; with `indicators`, (n, 2k): 1 if missing."""
    missing = np.isnan(values)
    complete = np.where(missing, 0.0, values)
    return np.column_stack([complete, missing]) if indicators else complete


def one_hot(labels: Labels, vocabulary: Sequence[str]) -> Numbers:
    """(n, len(vocabulary)): 1 where the label is that word; every label must be in it."""
    place = {word: i for i, word in enumerate(vocabulary)}
    matrix = np.zeros((len(labels), len(vocabulary)))
    matrix[np.arange(len(labels)), [place[label] for label in labels]] = 1.0
    return matrix


def in_order(words: set[str]) -> tuple[str, ...]:
    """Sorted as numbers when all are numbers, else as texts."""
    try:
        # The text decides between 1 and 1.0: a set has another order in every process.
        return tuple(sorted(words, key=lambda word: (float(word), word)))
    except ValueError:
        return tuple(sorted(words))


def kinds(frames: Sequence[Frame], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of the columns `names` are numeric and which categorical, by what the files hold.

    Numbers are numeric; texts and truth values are categorical. Raises DataError for dates and the
    like, for texts with over `MOST_CATEGORIES` values, for columns that are mostly numbers with
    some text among them, and for those that number or name their rows: for all of them at once.
    """
    numeric: list[str] = []
    categorical: list[str] = []
    refused: dict[str, DataError] = {}
    for name in names:
        try:
            (numeric if _is_number(frames, name) else categorical).append(name)
        except DataError as error:
            refused[name] = error
    if refused:
        raise _together(frames[0].path, refused)
    return numeric, categorical


def _together(path: Path, refused: Mapping[str, DataError]) -> DataError:
    """All that is the matter: whoever is told of one column at a time comes back for each."""
    if len(refused) == 1:
        return next(iter(refused.values()))
    # Each with what is the matter alone: the ways out are the same, and said once.
    whats = (_WAY_OUT.split(str(error).removeprefix(f"{path}, "))[0] for error in refused.values())
    return DataError(
        f"{path}: {len(refused)} columns cannot be used as they are: {'; '.join(whats)}. "
        f"data.exclude = {[*refused]} leaves them out; {USED}"
    )


def _is_number(frames: Sequence[Frame], name: str) -> bool:
    """Whether a column is one of numbers, in all files together: text in one is text in all."""
    import pandas as pd

    column = pd.concat([frame.rows[name] for frame in frames], ignore_index=True)
    numbers = np.concatenate([frame.parsed(name) for frame in frames])
    if not _is_numeric(frames[0].path, name, column, numbers):
        return False
    for frame in frames:
        check_feature(frame.path, name, frame.numbers(name))
    return True


def _is_numeric(path: Path, name: str, column: pd.Series, numbers: Numbers) -> bool:
    import pandas as pd

    kind = column.dtype.kind
    if kind in "iuf":
        return True
    where = f"{path}, column {name!r}"
    instead = f"data.exclude = [{name!r}] leaves it out; {USED}"
    present = column.dropna()
    what = pd.api.types.infer_dtype(present)
    if "mixed" in what and not all(isinstance(each, str | float | int) for each in present):
        what = "of several types, or lists"
    if kind not in "bOTSU" or what not in _WORDS:
        what = what if kind == "O" else str(column.dtype)
        raise DataError(f"{where}: {len(column)} values are {what}; {instead}")
    known = ~np.isnan(numbers[column.notna().to_numpy()])
    if what in ("boolean", "categorical") or present.empty:
        return present.empty
    texts = [str(cell) for cell in present[~known]]
    # Mostly numbers: a mark for missing values, rather than categories of which many are numbers.
    if 0 < len(texts) < len(present) / 2:
        raise DataError(
            f"{where}: {len(texts)} of {len(column)} values are not numbers, such as "
            f"{texts[0]!r}; {_MARKS}; or {instead}"
        )
    if not texts:
        check_feature(path, name, numbers)
        raise DataError(
            f"{where}: numbers that are written as texts, as codes are, such as "
            f"{min(map(str, present))!r}: {instead}"
        )
    check_texts(path, name, texts)
    if present.nunique() > MOST_CATEGORIES:
        raise DataError(
            f"{where}: {present.nunique()} different texts in {len(column)} rows, more than "
            f"{MOST_CATEGORIES}; {instead}"
        )
    return False
