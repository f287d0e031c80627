"""Which columns a table gives a model, and the values that each can have.

The settings of a table task, checked before any file is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from privet.errors import DataError, ExperimentError, nearest
from privet.tasks.columns import (
    MISSING,
    MOST_CATEGORIES,
    Frame,
    Labels,
    Numbers,
    Standardiser,
    filled,
    in_order,
    kinds,
    label_text,
    one_hot,
)
from privet.tasks.doubtful import check_last, check_range, check_same_coding, check_words
from privet.tasks.options import said_of
from privet.tasks.text_tables import TextFormat, known_encoding

if TYPE_CHECKING:
    import pandas as pd

    from privet.tasks.objectives import Number, Objective


Kind = Literal["classes", "squared", "absolute", "poisson", "ordinal", "survival"]
_NUMBERS = ("squared", "absolute", "poisson")
TRUE, TRUTHS = ("1", "True"), ("0", "1", "False", "True")
"""How a column says that an event came."""


class TableOptions(BaseModel):
    """The `[data]` table of an experiment with `task = "table"`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    """The column to predict."""
    file: str | None = None
    """One file with everybody's rows. Paths are relative to the data folder."""
    files: list[str] | str | None = None
    """Instead of `file`: one file for each silo, as a list or a pattern such as "wards/*.csv"."""
    silo: str | None = None
    """A column of `file` that says whose each row is."""
    test_file: str | None = None
    """Rows to test on; without it about `test_fraction` of the rows are kept for testing."""
    test_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Share of the rows to test on, each by a coin of its own content."""
    numeric: list[str] | None = None
    """Columns to use as numbers. With `numeric` or `categorical` no other column is used."""
    categorical: list[str] | None = None
    """Columns to use as words."""
    person: str | None = None
    """At a silo: the column that says whose each row is. One row a person is used, so that epsilon
    is a person's."""
    exclude: list[str] = []
    """Columns that no model gets, where the others are used by what they hold."""
    encoding: str = "utf-8"
    """Of text files, as Python calls it: utf-8, latin-1, cp1252."""
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Of text files; unset: the one of comma, semicolon, tab and bar that the header has most."""
    decimal: Literal[".", ","] = "."
    """What stands before the decimals of numbers."""
    thousands: Literal[",", ".", " ", "'"] | None = None
    """What groups the digits of numbers, if anything does."""
    missing_marks: list[str] = []
    """Texts that stand for no value, besides nothing at all, "?", NA, N/A, NaN, nan, NULL, null."""
    missing: Literal["impute", "drop", "refuse"] = "impute"
    """What becomes of a missing value: an input of its own, "drop" of its row, or an error."""
    ranges: dict[str, tuple[float, float]] = {}
    """Public [lowest, highest] value of numeric columns."""
    categories: dict[str, list[str | int | float | bool]] = {}
    """Every value that a categorical column can have."""
    classes: list[str | int | float | bool] | None = None
    """Every value that the target can have; of an ordinal target in their order."""
    objective: Kind = "classes"
    """What is predicted: one of classes, a number (squared, absolute or Poisson loss) in the range
    that `ranges` gives the target, a class in an order, or when an event comes."""
    unit: str = ""
    """Of a number to predict, for figures."""
    event: str | None = None
    """Of survival: the column that says whether the event came at the time in `target`, 1 or 0."""
    intervals: list[float] | None = None
    """Of survival: the ends of the intervals in which events are told apart, in rising order."""

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> TableOptions:
        """Validate `raw`; raises ExperimentError in one line that names the key."""
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            raise ExperimentError(said_of(error, cls, task="table")) from None

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        # Without files there is still a model, if the options say all that decides it.
        if (self.file is not None and self.files) or not (self.file or self.files or self.declared):
            raise ValueError("exactly one of data.file and data.files is needed")
        if self.files and self.silo:
            raise ValueError("data.silo and data.files exclude each other: each file is a silo")
        if self.test_file and "test_fraction" in self.model_fields_set:
            raise ValueError("data.test_file and data.test_fraction exclude each other")
        for name in (self.target, self.silo, self.person, self.event):
            if name in (self.numeric or []) + (self.categorical or []):
                raise ValueError(
                    f"column {name!r} cannot be a feature and the target, silo or person"
                )
        if self.exclude and (self.numeric is not None or self.categorical is not None):
            raise ValueError(
                "data.exclude and a list of columns exclude each other: others are not used anyway"
            )
        if self.thousands == self.decimal:
            raise ValueError(f"data.decimal and data.thousands are both {self.decimal!r}")
        known_encoding(self.encoding)
        both = set(self.numeric or []) & set(self.categorical or [])
        if both:
            raise ValueError(f"column {min(both)!r} is in data.numeric and in data.categorical")
        if both := self.ranges.keys() & self.categories.keys():
            raise ValueError(f"column {min(both)!r} is in data.ranges and in data.categories")
        return self

    @model_validator(mode="after")
    def _fits_the_objective(self) -> Self:
        of, said = self.objective, f"data.objective = {self.objective!r}"
        number, survival = of in _NUMBERS, of == "survival"
        if number and self.target not in self.ranges:
            raise ValueError(
                f"{said}: data.ranges.{self.target} = [lowest, highest] is needed, by which the "
                "target is scaled"
            )
        if of == "poisson" and self.ranges[self.target][0] < 0:
            raise ValueError(f"{said}: data.ranges.{self.target} is below 0; counts are not")
        if survival and not (self.event and self.intervals):
            raise ValueError(f"{said}: data.event and data.intervals are needed")
        for key, fits in (("unit", number), ("event", survival), ("intervals", survival)):
            if getattr(self, key) and not fits:
                raise ValueError(f"data.{key} is not for data.objective = {of!r}")
        if self.classes is not None and (number or survival):
            raise ValueError(f"data.classes is not for data.objective = {of!r}")
        ends = self.intervals or []
        if ends and not all(0 < a < b for a, b in pairwise([*ends, math.inf])):
            raise ValueError(f"data.intervals = {ends}: rising ends above 0")
        if self.event and self.event in (self.target, self.silo):
            raise ValueError(f"column {self.event!r} cannot be the event and something else")
        return self

    @model_validator(mode="after")
    def _sensible_values(self) -> Self:
        for name, (low, high) in self.ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"data.ranges.{name} = [{low}, {high}]: lowest, then highest")
        for name, words in {**self.categories, "classes": self.classes or [0, 1]}.items():
            if len({label_text(word) for word in words}) < (2 if name == "classes" else 1):
                raise ValueError(f"data {name!r} lists too few values")
        return self

    @property
    def declared(self) -> bool:
        """Whether the options say everything that decides the model, so that no file need be."""
        columns = self.numeric is not None or self.categorical is not None
        words = all(name in self.categories for name in self.categorical or [])
        return columns and words and (self.classes is not None or not self.has_classes)

    @property
    def has_classes(self) -> bool:
        """Whether the target is one of some classes."""
        return self.objective in ("classes", "ordinal")

    @property
    def text_format(self) -> TextFormat:
        """How text files are written."""
        return TextFormat(
            encoding=known_encoding(self.encoding),
            separator=self.separator,
            decimal=self.decimal,
            thousands=self.thousands,
            missing_marks=tuple(self.missing_marks),
        )

    def vocabulary(self, column: str) -> tuple[str, ...] | None:
        """The public values of a categorical column, if they are given."""
        words = self.categories.get(column)
        return None if words is None else tuple(dict.fromkeys(map(label_text, words)))

    def class_names(self) -> tuple[str, ...] | None:
        """The public values of the target, if they are given."""
        return None if self.classes is None else tuple(dict.fromkeys(map(label_text, self.classes)))


@dataclass(frozen=True)
class Rows:
    """n rows as read: `numbers` (n, k) with NaN, `labels` (n, c), `targets` (n,), `silo` (n,)."""

    numbers: Numbers
    labels: Labels
    targets: npt.NDArray[Any]
    """Places of classes or intervals as int64, numbers as they are scaled as float32."""
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
        numbers = len(self.numeric) * (2 if self.imputes else 1)
        return numbers + sum(len(self.words(name)) for name in self.vocabularies)

    @property
    def objective(self) -> Objective:
        """What the outputs of a model are."""
        # Late: a silo's service reads descriptions, and leaves torch to its worker.
        from privet.tasks.objectives import Classes, Number, Ordinal, Survival

        options, kind = self.options, self.options.objective
        if kind == "survival":
            return Survival(tuple(options.intervals or ()))
        if kind in ("squared", "absolute", "poisson"):
            return Number(kind, *options.ranges[options.target], options.unit)
        return Ordinal(self.classes) if kind == "ordinal" else Classes(self.classes)

    def _targets(self, frame: Frame) -> npt.NDArray[Any]:
        from privet.tasks.objectives import Number, Survival

        objective, target = self.objective, self.options.target
        if isinstance(objective, Number):
            return self._numbers(frame, objective)
        if isinstance(objective, Survival):
            times = frame.numbers(target)
            if (times < 0).any():
                raise DataError(f"{frame.path}, column {target!r}: a time is below 0")
            came = _known(frame, str(self.options.event), TRUTHS)
            return objective.targets(times, np.isin(came, TRUE))
        place = {name: i for i, name in enumerate(self.classes)}
        labels = _known(frame, target, self.classes)
        return np.array([place[label] for label in labels], dtype=np.int64)

    def _numbers(self, frame: Frame, objective: Number) -> npt.NDArray[np.float32]:
        values = frame.numbers(self.options.target)
        if objective.kind == "poisson" and (values < 0).any():
            raise DataError(f"{frame.path}, column {self.options.target!r}: a count is below 0")
        check_range(frame.path, self.options.target, values, (objective.low, objective.high))
        return objective.scaled(values).astype(np.float32)

    @property
    def imputes(self) -> bool:
        """Whether a missing value has an input of its own."""
        return self.options.missing == "impute"

    @classmethod
    def declared(cls, options: TableOptions) -> Layout | None:
        """The layout if the options say everything, so that no file need be read; else None."""
        if not options.declared:
            return None
        words = {name: options.vocabulary(name) or () for name in options.categorical or []}
        return cls(tuple(options.numeric or ()), words, options.class_names() or (), options)

    @classmethod
    def found(cls, options: TableOptions, frames: Sequence[Frame]) -> Layout:
        """The layout with what the options leave open taken from all `frames`.

        Raises DataError for a column that is not there or not usable and a target of one class.
        """
        numeric, categorical = _features(options, frames)
        words = {
            name: options.vocabulary(name) or _words_found(frames, name, options)
            for name in categorical
        }
        named = options.class_names() if options.has_classes else ()
        classes = _classes(frames, options) if named is None else named
        if not numeric and not categorical:
            raise DataError(
                f"{frames[0].path}: no column is left to predict {options.target!r} from"
            )
        return cls(tuple(numeric), words, classes, options)

    def read(self, frame: Frame, *, silo: str | None) -> Rows:
        """The rows of one file under the policy for missing values; all of `silo` or its column's.

        Raises DataError for unknown columns and for values that do not fit.
        """
        options = self.options
        used = [*self.numeric, *self.vocabularies]
        frame.require([*used, *_always(options)])
        frame = _complete(frame, used, options)
        labels = [_known(frame, name, words) for name, words in self.vocabularies.items()]
        # Empty columns in front: a table may have no numbers, or no categories.
        return Rows(
            np.column_stack([np.empty((len(frame), 0)), *map(frame.numbers, self.numeric)]),
            np.column_stack([np.empty((len(frame), 0), dtype=object), *labels]),
            self._targets(frame),
            frame.labels(options.silo) if options.silo else np.full(len(frame), silo, dtype=object),
        )

    def frame_of(self, rows: Rows, silo: str | None) -> pd.DataFrame:
        """`rows` with the columns that they came from, the target and that of the silo too."""
        import pandas as pd

        numbers = dict(zip(self.numeric, rows.numbers.T, strict=True))
        words = dict(zip(self.vocabularies, rows.labels.T, strict=True))
        targets = self._written(rows.targets)
        whose = {silo: rows.silo} if silo else {}
        return pd.DataFrame({**numbers, **words, self.options.target: targets, **whose})

    def _written(self, targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        from privet.tasks.objectives import Number

        if isinstance(objective := self.objective, Number):
            return objective.meant(targets.astype(float))
        # Of survival the interval, and whether it ended with an event.
        return targets if self.options.event else np.array(self.classes, dtype=object)[targets]

    def inputs(self, rows: Rows, scale: Standardiser) -> Numbers:
        """Model inputs (n, width): scaled numbers, their indicators, then a column per value."""
        blocks = [filled(scale(rows.numbers), indicators=self.imputes)]
        for i, name in enumerate(self.vocabularies):
            # `is` would not go element by element.
            labels = np.where(rows.labels[:, i] == None, MISSING, rows.labels[:, i])  # noqa: E711
            blocks.append(one_hot(labels, self.words(name)))
        return np.column_stack(blocks)

    def words(self, name: str) -> tuple[str, ...]:
        """What has an input of its own in a categorical column; the last may be for gaps."""
        words = self.vocabularies[name]
        return (*words, MISSING) if self.imputes else words


def _features(options: TableOptions, frames: Sequence[Frame]) -> tuple[list[str], list[str]]:
    """Numeric and categorical column names: as listed, or every column by its kind."""
    if options.numeric is not None or options.categorical is not None:
        names = (list(options.numeric or []), list(options.categorical or []))
    else:
        names = _kinds(options, frames, _not_excluded(options, frames))
    for frame in frames:
        frame.require([*names[0], *names[1], *_always(options)])
    return names


def _always(options: TableOptions) -> list[str]:
    return [name for name in (options.target, options.event, options.silo) if name]


def _kinds(
    options: TableOptions, frames: Sequence[Frame], names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Which are numeric and which categorical: as `ranges` and `categories` say, or `kinds`."""
    said = {*options.ranges, *options.categories}
    numeric, categorical = kinds(frames, [name for name in names if name not in said])
    for name, limits in options.ranges.items():
        for frame in frames if name in names else ():
            check_range(frame.path, name, frame.numbers(name), limits)
    numbers, words = {*numeric, *options.ranges}, {*categorical, *options.categories}
    return [name for name in names if name in numbers], [name for name in names if name in words]


def _not_excluded(options: TableOptions, frames: Sequence[Frame]) -> list[str]:
    """Every column of any file to train on, but for those that the options take out."""
    training = frames[:-1] if options.test_file else frames
    places = {name: frame for frame in reversed(training) for name in frame.rows.columns}
    for name in (*options.exclude, *options.ranges, *options.categories):
        if name not in places:
            frames[0].require([name])
    found = [name for frame in training for name in frame.rows.columns]
    unused = {options.target, options.event, options.silo, *options.exclude}
    rest = [name for name in dict.fromkeys(found) if name not in unused]
    for frame in frames:
        frame.require([options.target])
        if lacks := [name for name in rest if name not in frame.rows.columns]:
            raise DataError(
                f"{frame.path} has no column {lacks[0]!r}, which {places[lacks[0]].path.name} has."
                f"{nearest(lacks[0], frame.rows.columns)} Rename one, or data.exclude = {lacks}"
            )
    return rest


def _values(frames: Sequence[Frame], name: str) -> set[str]:
    return {label for frame in frames for label in frame.labels(name) if label is not None}


def _words_found(frames: Sequence[Frame], name: str, options: TableOptions) -> tuple[str, ...]:
    """The values of a categorical column, if they can be meant in one way only."""
    words = _values(frames, name)
    _check_words(frames, name, words, said=f"data.categories.{name}")
    out = f"data.categories.{name}, or data.exclude = [{name!r}]"
    check_same_coding(name, _by_place(frames, name, options.silo), out=out)
    return in_order(words)


def _check_words(frames: Sequence[Frame], name: str, words: set[str], *, said: str) -> None:
    check_words(frames[0].path, name, words, said=said)
    for frame in frames:
        check_last(frame.path, name, frame.labels(name).tolist(), said=said)


def _by_place(frames: Sequence[Frame], name: str, silo: str | None) -> dict[str, set[str]]:
    """The values of a column in each file, or in each silo where a column says whose a row is."""
    found: dict[str, set[str]] = {}
    for frame in frames:
        labels = frame.labels(name)
        places = frame.labels(silo) if silo else [frame.path.name] * len(labels)
        for place, label in zip(places, labels, strict=True):
            if label is not None and place is not None:
                found.setdefault(place, set()).add(label)
    return found


def _classes(frames: Sequence[Frame], options: TableOptions) -> tuple[str, ...]:
    target = options.target
    words = _values(frames, target)
    _check_words(frames, target, words, said="data.classes")
    classes = in_order(words)
    rows = sum(len(frame) for frame in frames)
    where = f"{frames[0].path}, target {target!r}"
    if len(classes) < 2:
        raise DataError(f"{where}: {rows} rows of {len(classes)} class(es); at least 2 are needed")
    if len(classes) > MOST_CATEGORIES:
        raise DataError(
            f"{where}: {len(classes)} different values in {rows} rows; "
            f"a class is one of at most {MOST_CATEGORIES}; data.objective = 'squared' (with "
            f"data.ranges.{target}) predicts a number"
        )
    check_same_coding(target, _by_place(frames, target, options.silo), out="data.classes")
    return classes


def _complete(frame: Frame, used: Sequence[str], options: TableOptions) -> Frame:
    """`frame` without the rows that lack a value which may not be missing."""
    needed = _always(options)
    if options.missing == "drop":
        kept = frame.rows.dropna(subset=[*used, options.target])
        if kept.empty:
            raise DataError(f"{frame.path}: every one of {len(frame)} rows lacks a value")
        frame = Frame(frame.path, kept, frame.how)
    if options.missing == "refuse":
        needed += used
    for name in needed:
        missing = int(frame.rows[name].isna().sum())
        if missing:
            raise DataError(
                f"{frame.path}, column {name!r}: {missing} of {len(frame)} values are missing "
                f"(data.missing = {options.missing!r}); data.missing = 'drop' leaves such rows out"
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
