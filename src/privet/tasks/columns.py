"""Turning raw columns into model inputs of a width that does not depend on the values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from privet.errors import DataError
from privet.tasks.frames import Frame, Labels, Numbers

if TYPE_CHECKING:
    import pandas as pd

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
        return tuple(sorted(words, key=lambda word: (float(word), word)))
    except ValueError:
        return tuple(sorted(words))


def kinds(frames: Sequence[Frame], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of the columns `names` are numeric and which categorical, by what the files hold.

    Numbers are numeric; texts and truth values are categorical. Raises DataError for dates and the
    like, for texts with over `MOST_CATEGORIES` values, and for columns that are mostly numbers
    with some text among them.
    """
    import pandas as pd

    numeric: list[str] = []
    categorical: list[str] = []
    for name in names:
        column = pd.concat([frame.rows[name] for frame in frames], ignore_index=True)
        is_numeric = _is_numeric(frames[0].path, name, column)
        (numeric if is_numeric else categorical).append(name)
    return numeric, categorical


def _is_numeric(path: Path, name: str, column: pd.Series) -> bool:
    import pandas as pd

    kind = column.dtype.kind
    if kind in "iuf":
        return True
    where = f"{path}, column {name!r}"
    instead = "choose columns with data.numeric and data.categorical"
    if kind not in "bOTSU":
        raise DataError(f"{where}: {len(column)} values are {column.dtype}; {instead}")
    present = column.dropna().astype(str)
    text = pd.to_numeric(present, errors="coerce").isna().to_numpy()
    if kind != "b" and 0 < text.sum() < len(present) / 2:
        raise DataError(f"{where}: {text.sum()} of {len(column)} values are not numbers; {instead}")
    if present.nunique() > MOST_CATEGORIES:
        raise DataError(
            f"{where}: {present.nunique()} different texts in {len(column)} rows, more than "
            f"{MOST_CATEGORIES}; {instead}"
        )
    return False
