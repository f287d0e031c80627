"""Columns that could be meant in two ways: refused, with the setting that says which.

What a table's options leave open is read from its records; nothing of that is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from privet.errors import DataError

_FEWEST = 20
"""Rows from which on numbers that all differ say something."""
_ID = re.compile(
    r"(?i:^|[\W_])(?i:id|ids|nr|no|number|index|key|uid|uuid|mrn|ssn|row)$|[a-z]I[dD]$|^[pu]id$"
)
_NINES = re.compile(r"-?9+")
_ALMOST_NUMBER = re.compile(r"[^\w.+-]*[+-]?\d[\d.,' \u00a0\u202f]*\s*[%‰€$£¥]?", re.ASCII)
_NO_VALUE = frozenset({"none", "nil", "-", "--", ".", "n.a.", "#n/a", "<na>", "(null)", "\\n"})
_TRUE_OR_FALSE = frozenset({"true", "false"})


def check_feature(path: Path, name: str, numbers: npt.NDArray[np.float64]) -> None:
    """DataError for a numeric column, NaN where a value is missing, that only counts or names rows.

    For columns that nobody asked for: whoever lists one means it.
    """
    out = f"data.exclude = [{name!r}] leaves it out, data.numeric uses it"
    if name.startswith("Unnamed: "):
        raise DataError(f"{path}: a column has no name, such as saved row numbers: {out}")
    present = numbers[~np.isnan(numbers)]
    different, counts = np.unique(present, return_counts=True)
    if len(present) and np.abs(different).max() > 2**53:
        raise DataError(f"{path}, column {name!r}: numbers too long to tell them apart: {out}")
    _check_nines(path, name, different, counts)
    whole = len(present) > _FEWEST and bool((present == np.floor(present)).all())
    if not whole or len(different) < len(present):
        return
    if different[0] in (0, 1) and (np.diff(different) == 1).all():
        raise DataError(f"{path}, column {name!r}: numbers its rows from {different[0]:.0f}: {out}")
    if _ID.search(name):
        raise DataError(f"{path}, column {name!r}: every row has a number of its own: {out}")


def _check_nines(
    path: Path, name: str, different: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]
) -> None:
    """DataError for a -999 or 99 that is there often and far from everything else."""
    for place, others in ((0, different[1:]), (-1, different[:-1])):
        far = len(others) > 1 and abs(different[place] - others[place]) > np.ptp(others)
        mark = f"{different[place]:.15g}" if far else ""
        if _NINES.fullmatch(mark) and counts[place] > 2:
            raise DataError(
                f"{path}, column {name!r}: {mark} is there {counts[place]} times, far from all "
                f"others: data.missing_marks = [{mark!r}] if it stands for no value, else list the "
                "column in data.numeric"
            )


def check_words(path: Path, name: str, words: Collection[str], *, listed: bool) -> None:
    """DataError for words of a column of which some stand for no value, or two for one.

    Also for numbers that are written with more than digits and a point, unless `listed`: then the
    settings say that the column is one of words.
    """
    where = f"{path}, column {name!r}"
    if marks := sorted(word for word in words if word.lower() in _NO_VALUE):
        raise DataError(
            f"{where}: {marks[0]!r} may be a value or stand for none: "
            f"data.missing_marks = [{marks[0]!r}], or list the column's values"
        )
    lower: dict[str, str] = {}
    for word in sorted(words):
        if other := lower.get(word.lower()):
            raise DataError(
                f"{where}: {other!r} and {word!r} differ in capitals only: write one way"
            )
        lower[word.lower()] = word
    truths = _TRUE_OR_FALSE & lower.keys()
    if truths and {"0", "1"} & lower.keys():
        raise DataError(f"{where}: both {lower[min(truths)]!r} and 0 or 1 are there: write one way")
    almost = [word for word in words if _ALMOST_NUMBER.fullmatch(word)]
    odd = sorted(word for word in almost if not _plain(word))
    if odd and not listed and len(almost) > len(words) / 2:
        raise DataError(
            f"{where}: {odd[0]!r} looks like a number: say data.decimal or data.thousands, remove "
            "signs such as %, or list the column in data.categorical"
        )


def check_same_coding(name: str, words: Mapping[str, Collection[str]]) -> None:
    """DataError when two of the places by which `words` are have no word in common."""
    places = [place for place in words if words[place]]
    for other in places[1:]:
        first = places[0]
        if not {*words[first]} & {*words[other]}:
            said = [f"{sorted(words[place])[0]!r} in {place}" for place in (first, other)]
            raise DataError(
                f"column {name!r}: {' and '.join(said)}: they have no value in common; write one "
                f"way, or say all in data.categories.{name}, or data.exclude = [{name!r}]"
            )


def _plain(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
