"""Which columns a table gives a model, and the values that each can have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privet.errors import DataError
from privet.tasks.columns import MISSING, MOST_CATEGORIES, Scale, filled, in_order, kinds, one_hot
from privet.tasks.frames import Frame, Labels, Numbers
from privet.tasks.table_options import TableOptions


@dataclass(frozen=True)
class Rows:
    """n rows as read: `numbers` (n, k) with NaN, `labels` (n, c), `targets` (n,), `silo` (n,)."""

    numbers: Numbers
    labels: Labels
    targets: npt.NDArray[np.int64]
    silo: Labels

    def __len__(self) -> int:
        return len(self.targets)

    def at(self, rows: npt.NDArray[np.generic]) -> Rows:
        """The rows at integer indices or where a mask is true."""
        return Rows(self.numbers[rows], self.labels[rows], self.targets[rows], self.silo[rows])

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """All rows of `parts`, one part after the other."""
        return Rows(
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.silo for part in parts]),
        )


@dataclass(frozen=True)
class Layout:
    """The columns in use; equal layouts give model inputs of equal meaning."""

    numeric: tuple[str, ...]
    vocabularies: Mapping[str, tuple[str, ...]]
    classes: tuple[str, ...]
    options: TableOptions

    @property
    def width(self) -> int:
        """How many inputs a model gets."""
        numbers = len(self.numeric) * (2 if self._imputes else 1)
        return numbers + sum(len(self._words(name)) for name in self.vocabularies)

    @property
    def _imputes(self) -> bool:
        return self.options.missing == "impute"

    @classmethod
    def declared(cls, options: TableOptions) -> Layout | None:
        """The layout if the options say everything, so that no file need be read; else None."""
        words = {name: options.vocabulary(name) for name in options.categorical or []}
        classes = options.class_names()
        if (options.numeric is None and options.categorical is None) or classes is None:
            return None
        complete = {name: found for name, found in words.items() if found is not None}
        if len(complete) < len(words):
            return None
        return cls(tuple(options.numeric or ()), complete, classes, options)

    @classmethod
    def found(cls, options: TableOptions, frames: Sequence[Frame]) -> Layout:
        """The layout with what the options leave open taken from all `frames`.

        Raises DataError for a column that is not there or not usable and a target of one class.
        """
        numeric, categorical = _features(options, frames)
        words = {
            name: options.vocabulary(name) or in_order(_values(frames, name))
            for name in categorical
        }
        classes = options.class_names() or _classes(frames, options.target)
        return cls(tuple(numeric), words, classes, options)

    def read(self, frame: Frame, *, silo: str | None) -> Rows:
        """The rows of one file under the policy for missing values; all of `silo` or its column's.

        Raises DataError for unknown columns and for values that do not fit.
        """
        options = self.options
        used = [*self.numeric, *self.vocabularies]
        frame.require([*used, options.target, *([options.silo] if options.silo else [])])
        frame = _complete(frame, used, options)
        labels = [_known(frame, name, words) for name, words in self.vocabularies.items()]
        targets = _known(frame, options.target, self.classes)
        place = {name: i for i, name in enumerate(self.classes)}
        return Rows(
            np.column_stack([np.empty((len(frame), 0)), *map(frame.numbers, self.numeric)]),
            np.column_stack([np.empty((len(frame), 0), dtype=object), *labels]),
            np.array([place[label] for label in targets], dtype=np.int64),
            frame.labels(options.silo) if options.silo else np.full(len(frame), silo, dtype=object),
        )

    def inputs(self, rows: Rows, scale: Scale) -> Numbers:
        """Model inputs (n, width): scaled numbers, their indicators, then a column per value."""
        blocks = [filled(scale(rows.numbers), indicators=self._imputes)]
        for i, name in enumerate(self.vocabularies):
            labels = np.where(rows.labels[:, i] == None, MISSING, rows.labels[:, i])  # noqa: E711
            blocks.append(one_hot(labels, self._words(name)))
        return np.column_stack(blocks)

    def _words(self, name: str) -> tuple[str, ...]:
        words = self.vocabularies[name]
        return (*words, MISSING) if self._imputes else words


def _features(options: TableOptions, frames: Sequence[Frame]) -> tuple[list[str], list[str]]:
    """Numeric and categorical column names: as listed, or every column by its kind."""
    if options.numeric is not None or options.categorical is not None:
        names = (list(options.numeric or []), list(options.categorical or []))
    else:
        rest = [c for c in frames[0].rows.columns if c not in (options.target, options.silo)]
        for frame in frames:
            frame.require([options.target, *rest])
        names = kinds(frames, rest)
    for frame in frames:
        frame.require([*names[0], *names[1], options.target])
    return names


def _values(frames: Sequence[Frame], name: str) -> set[str]:
    return {label for frame in frames for label in frame.labels(name) if label is not None}


def _classes(frames: Sequence[Frame], target: str) -> tuple[str, ...]:
    classes = in_order(_values(frames, target))
    rows = sum(len(frame) for frame in frames)
    where = f"{frames[0].path}, target {target!r}"
    if len(classes) < 2:
        raise DataError(f"{where}: {rows} rows of {len(classes)} class(es); at least 2 are needed")
    if len(classes) > MOST_CATEGORIES:
        raise DataError(
            f"{where}: {len(classes)} different values in {rows} rows; "
            f"a table's target is a class, one of at most {MOST_CATEGORIES}"
        )
    return classes


def _complete(frame: Frame, used: Sequence[str], options: TableOptions) -> Frame:
    """`frame` without the rows that lack a value which may not be missing."""
    needed = [options.target, *([options.silo] if options.silo else [])]
    if options.missing == "drop":
        kept = frame.rows.dropna(subset=[*used, options.target])
        if kept.empty:
            raise DataError(f"{frame.path}: every one of {len(frame)} rows lacks a value")
        frame = Frame(frame.path, kept)
    if options.missing == "refuse":
        needed += used
    for name in needed:
        missing = int(frame.rows[name].isna().sum())
        if missing:
            raise DataError(
                f"{frame.path}, column {name!r}: {missing} of {len(frame)} values are missing "
                f"(data.missing = {options.missing!r})"
            )
    return frame


def _known(frame: Frame, name: str, words: Sequence[str]) -> Labels:
    """The labels of a column, each in `words` or None."""
    labels = frame.labels(name)
    strange = sum(label is not None and label not in words for label in labels)
    if strange:
        raise DataError(
            f"{frame.path}, column {name!r}: {strange} of {len(frame)} values are none of the "
            f"{len(words)} that the experiment gives"
        )
    return labels
