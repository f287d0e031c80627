"""Reading CSV and Parquet files, and taking columns out of them with errors that say where."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from privet.errors import DataError, nearest
from privet.tasks.files import read_bytes

if TYPE_CHECKING:
    import pandas as pd

Numbers = npt.NDArray[np.float64]
Labels = npt.NDArray[np.object_]

MISSING_MARKS = ("", "?", "NA", "N/A", "NaN", "nan", "NULL", "null")
_SEPARATORS = ",;\t|"
_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Frame:
    """The rows of one file, and the path they came from, for messages."""

    path: Path
    rows: pd.DataFrame

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
        import pandas as pd

        given = self.rows[column]
        if given.dtype.kind in "mM":
            raise self._unfit(column, len(self), f"are {given.dtype}, not numbers")
        try:
            parsed = pd.to_numeric(given, errors="coerce").to_numpy(dtype=float, na_value=math.nan)
        except (TypeError, ValueError):
            raise self._unfit(column, len(self), "are not numbers") from None
        text = int((np.isnan(parsed) & given.notna().to_numpy()).sum())
        if text:
            raise self._unfit(column, text, "are not numbers")
        if np.isinf(parsed).any():
            raise self._unfit(column, int(np.isinf(parsed).sum()), "are infinite")
        return parsed

    def labels(self, column: str) -> Labels:
        """A column as texts (n,), None where a value is missing; 1, 1.0 and "1" are one text."""
        texts = [None if missing else label_text(value) for value, missing in self._cells(column)]
        return np.array(texts, dtype=object)

    def _cells(self, column: str) -> Iterable[tuple[object, bool]]:
        return zip(self.rows[column].tolist(), self.rows[column].isna().tolist(), strict=True)

    def _unfit(self, column: str, count: int, what: str) -> DataError:
        return DataError(f"{self.path}, column {column!r}: {count} of {len(self)} values {what}")


def label_text(value: object) -> str:
    """The text that stands for a category: 1, 1.0, True and " 1" are "1", "1", "True" and "1"."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def read_frame(path: Path) -> Frame:
    """Read a Parquet file (.parquet, .pq), or anything else as text with a header line.

    The separator of a text file is the one of comma, semicolon, tab and bar that is most frequent
    in its header; spaces after it are left out and `MISSING_MARKS` are missing values.
    Raises DataError when the file is unreadable or has no rows.
    """
    import pandas as pd

    try:
        rows = pd.read_parquet(path) if path.suffix.lower() in _PARQUET else _read_text(path)
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty (0 rows)") from None
    except (OSError, EOFError, ValueError) as error:  # parse and decoding errors are ValueErrors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read: {reason}") from error
    if rows.empty:
        raise DataError(f"{path} has {len(rows.columns)} columns and 0 rows")
    return Frame(path, rows.rename(columns=lambda name: str(name).strip()))


def _read_text(path: Path) -> pd.DataFrame:
    import pandas as pd

    raw = read_bytes(path)
    header = raw.partition(b"\n")[0].decode("utf-8-sig")
    return pd.read_csv(
        io.BytesIO(raw),
        sep=max(_SEPARATORS, key=header.count),
        encoding="utf-8-sig",
        skipinitialspace=True,
        keep_default_na=False,
        na_values=list(MISSING_MARKS),
        low_memory=False,
    )
