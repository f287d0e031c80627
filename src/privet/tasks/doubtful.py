"""Columns that could be meant in two ways: refused, with the setting that says which.

What a table's options leave open is read from its records. Patterns recognise what is often read
wrongly; what they do not know ("120/80") is a word, and stands so in what is printed first.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from privet.errors import DataError

USED = "a range in data.ranges uses it as a number, all its values in data.categories as words"
_FEWEST = 20
"""Rows from which on values that all differ say something."""
_WHO = "patient|person|subject|case|customer|client|user|record|participant|respondent|member"
_WHAT = "account|order|sample|visit|encounter|admission|employee|student"
_ID = re.compile(
    r"(?i:(?:^|[\W_])(?:id|ids|nr|nbr|uid|uuid|mrn|ssn)\.?$|nummer$|^id[\W_])|^[pu]id$"
    rf"|[a-z](?:I[dD]|Nr)\.?$|(?i:^(?:{_WHO})$|(?:{_WHO}|{_WHAT})(?:s|en)?[_ ]?id$)"
)
_COUNT = re.compile(r"(?i)(?:^|[\W_])(?:no|number|index|key|row)\.?$")
_MARK = re.compile(r"-?(?:9*[6-9]|8+|7+)(?:\.9+)?")
_NINES = re.compile(r"-?9+(?:\.9+)?")
_DIGITS = r"(?:\d{1,3}(?:[.,'’ \u00a0\u2009\u202f]\d{3})+|\d+)(?:[.,]\d*)?"
_ALMOST_NUMBER = re.compile(
    rf"(?:CHF|EUR|USD|[^\w.+<>≤≥-])*[+−–-]?{_DIGITS}\s*(?:[%‰€$£¥)-]|CHF|EUR|USD)*", re.ASCII
)
_UNIT = re.compile(rf"[+−–-]?{_DIGITS}(?P<unit>.*)", re.ASCII)
_DAY = r"\d{4}([-/.])\d\d?\1\d\d?|\d\d?([-/.])\d\d?\2(?:\d{4}|\d\d)"
_MONTH = "jan|feb|mar|mär|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez"
_TIME = r"\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?[APap][Mm])?"
_DATE = re.compile(
    rf"(?:{_DAY}|\d\d?[- ]?(?i:{_MONTH})[- ]?\d{{2,4}})(?:[ T:].*)?|{_TIME}", re.ASCII
)
_NO_VALUE = re.compile(
    r"(?i)none|nil|n\.?/?a\.?|nan|nat|null|<na>|\(null\)|\\n|\(?missing\)?|n\.d\.|k\. ?a\."
    r"|keine angabe|[-–—]+|[.…]+|\*|#(?:n/a|null!|div/0!|value!|wert!|ref!|name\?|num!)"
)
_GRADES = {"-": "+", "*": "**"}
"""Beside +, a - is a finding; beside **, a * is one of several grades."""
_TOTAL = re.compile(r"(?i)(?:grand |sub)?totale?s?|summen?|sum|somme|gesamt(?:summe)?|insgesamt")
_TRUE_OR_FALSE = frozenset({"true", "false"})


def check_feature(path: Path, name: str, numbers: npt.NDArray[np.float64]) -> None:
    """DataError for a numeric column, NaN where a value is missing, that only counts or names rows.

    For columns that nobody asked for: whoever lists one means it.
    """
    _refuse(path, name, feature_fault(name, numbers))


def check_range(
    path: Path, name: str, numbers: npt.NDArray[np.float64], limits: tuple[float, float]
) -> None:
    """DataError for a -999 or the like that a column's public range does not cover."""
    covered = (numbers >= limits[0]) & (numbers <= limits[1])
    if not covered[~np.isnan(numbers)].all():
        different, counts = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
        _refuse(path, name, _nines_fault(different, counts))


def _refuse(path: Path, name: str, fault: str | None) -> None:
    if fault:
        out = f"data.exclude = [{name!r}] leaves it out; {USED}"
        raise DataError(f"{path}, column {name!r}: {fault}: {out}")


def feature_fault(name: str, numbers: npt.NDArray[np.float64]) -> str | None:
    """Why a numeric column may be meant otherwise, if so: `check_feature` refuses it."""
    if name.startswith("Unnamed: "):
        return "it has no name, such as saved row numbers"
    present = numbers[~np.isnan(numbers)]
    different, counts = np.unique(present, return_counts=True)
    if len(present) and np.abs(different).max() > 2**53:
        return "numbers too long to tell them apart"
    if fault := _nines_fault(different, counts):
        return fault
    if len(present) <= _FEWEST or (present != np.floor(present)).any():
        return None
    own = len(different) == len(present)
    if own and different[0] in (0, 1) and (np.diff(different) == 1).all():
        return f"numbers its rows from {different[0]:.0f}"
    if own and (_ID.search(name) or _COUNT.search(name)):
        return "every row has a number of its own"
    if len(different) > _FEWEST and _ID.search(name):
        return f"{len(different)} different numbers in {len(present)} rows, such as an ID"
    return None


def _nines_fault(different: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> str | None:
    """A -999, or 97 to 99, that is there often and far from everything else."""
    for step in (1, -1):
        values, often = different[::step], counts[::step]
        outward = len(values) and step * values[0] < 0
        # Large amounts have a last value far out that is one, such as one that was cut off there.
        marks = _far_marks(values, times=1 if step > 0 else 2) if outward else []
        nines = [place for place, mark in enumerate(marks) if _NINES.fullmatch(mark)]
        if nines and (often[: len(marks)].max() > 2 or any("999" in marks[at] for at in nines)):
            return (
                f"{marks[nines[0]]} is there {often[nines[0]]} times, far from all others "
                f"(data.missing_marks = {marks} if it stands for no value)"
            )
    return None


def _far_marks(values: npt.NDArray[np.float64], *, times: float) -> list[str]:
    """Those at the beginning that may be marks, if they lie `times` the others' span from them."""
    marks: list[str] = []
    for value, rest in ((values[i], values[i + 1 :]) for i in range(len(values) - 2)):
        marks.append(f"{value:.15g}")
        if not _MARK.fullmatch(marks[-1]):
            break
        if abs(value - rest[0]) > times * np.ptp(rest):
            return marks
    return []


def check_texts(path: Path, name: str, texts: Sequence[str]) -> None:
    """DataError for texts that are dates, numbers or names of rows; of columns that nobody listed.

    Numbers that are written with more than digits and what the settings say.
    """
    _refuse(path, name, texts_fault(texts))


def texts_fault(texts: Sequence[str]) -> str | None:
    """Why texts may be meant otherwise than as words, if so: `check_texts` refuses them."""
    words = sorted({*texts})
    if dates := _most(words, _DATE):
        return f"{dates[0]!r} looks like a date or a time"
    units = {found["unit"] if (found := _UNIT.fullmatch(word)) else None for word in words}
    one_unit = len(words) > _FEWEST and len(units) == 1 and None not in units
    if odd := _most(words, _ALMOST_NUMBER) or (words if one_unit else []):
        return (
            f"{odd[0]!r} looks like a number (say data.decimal or data.thousands, or remove signs "
            "such as %)"
        )
    if len(words) == len(texts) > _FEWEST:
        return f"{len(words)} different texts in {len(texts)} rows"
    return None


def _most(words: Sequence[str], pattern: re.Pattern[str]) -> list[str]:
    """Those that fit, if more than half do."""
    found = [word for word in words if pattern.fullmatch(word)]
    return found if len(found) > len(words) / 2 else []


def check_words(path: Path, name: str, words: Collection[str], *, said: str) -> None:
    """DataError for words of a column of which some stand for no value, or two for one.

    `said`: the setting that lists what the column can have.
    """
    if fault := words_fault(words, said=said):
        raise DataError(f"{path}, column {name!r}: {fault}")


def words_fault(words: Collection[str], *, said: str) -> str | None:
    """Why some words may be meant otherwise, if so: `check_words` refuses them."""
    listed = f"list the column's values in {said}"
    doubtful = [word for word in words if _NO_VALUE.fullmatch(word)]
    if marks := sorted(word for word in doubtful if _GRADES.get(word) not in words):
        first = repr(marks[0])
        return (
            f"{first} may be a value or stand for none: data.missing_marks = [{first}], or {listed}"
        )
    lower: dict[str, str] = {}
    for word in sorted(words):
        if other := lower.get(word.lower()):
            return f"{other!r} and {word!r} differ in capitals only: write one way, or {listed}"
        lower[word.lower()] = word
    truths = _TRUE_OR_FALSE & lower.keys()
    if truths and {"0", "1"} & lower.keys():
        return f"both {lower[min(truths)]!r} and 0 or 1 are there: write one way"
    return None


def check_last(path: Path, name: str, labels: Sequence[str | None], *, said: str) -> None:
    """DataError for a file of which the last row, and no other, is called a total."""
    last = labels[-1] or ""
    if _TOTAL.fullmatch(last) and labels.count(last) == 1:
        raise DataError(
            f"{path}, column {name!r}: {last!r} is there once, in the last row: remove a row of "
            f"totals, or list the column's values in {said}"
        )


def check_same_coding(name: str, words: Mapping[str, Collection[str]], *, out: str) -> None:
    """DataError when two of the places by which `words` are have no word in common."""
    places = [place for place in words if words[place]]
    for other in places[1:]:
        first = places[0]
        if not {*words[first]} & {*words[other]}:
            said = [f"{sorted(words[place])[0]!r} in {place}" for place in (first, other)]
            raise DataError(
                f"column {name!r}: {' and '.join(said)}: they have no value in common; write one "
                f"way, or say all in {out}"
            )


def other_encoding(raw: bytes, *, utf8: bool) -> str:
    """What to do about bytes that are not of the encoding that the settings say."""
    if raw.startswith((b"PK\x03\x04", b"\x1f\x8b", b"\xd0\xcf\x11\xe0", b"%PDF")):
        return "it is a spreadsheet, archive or document: save it as CSV or Parquet"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "say data.encoding, such as utf-16"
    return f"say data.encoding, such as {'latin-1, cp1252' if utf8 else 'utf-8'}"


def check_not_utf8(path: Path, raw: bytes, encoding: str) -> None:
    """DataError for UTF-8 that is called an encoding of one byte a letter, in which all is text."""
    if raw.isascii() or not encoding.startswith(("iso8859", "cp125", "mac")):
        return
    try:
        raw.decode()
    except UnicodeDecodeError:
        return
    line = next(n for n, text in enumerate(raw.split(b"\n"), 1) if not text.isascii())
    raise DataError(
        f"{path} cannot be read: line {line} is utf-8, and not {encoding}; say data.encoding, such "
        "as utf-8"
    )


def check_characters(path: Path, text: str) -> None:
    """DataError for control characters that no table has: the encoding is another one."""
    found = re.search("[\0\x80-\x9f]", text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        what = "a NUL" if found.group() == "\0" else f"the control {found.group()!r}"
        raise DataError(
            f"{path} cannot be read: line {line} has {what} character; say data.encoding, such as "
            f"{'utf-16' if found.group() == chr(0) else 'cp1252'}"
        )


def what_is_before(header: Sequence[str]) -> str:
    """What may be wrong with a header of another length than the lines after it."""
    odd = len(header) == 1 or header[0].lower().startswith(("sep=", "#"))
    return "; lines before the header, such as a title or sep=, have to go" if odd else ""
