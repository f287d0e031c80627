"""How new rows of a table become what its model takes, when no file of the training is there.

Whatever a row holds that the model has no input for is `unfit`: text or infinity among numbers, a
word that is none of a category's, a column that is not there. What becomes of it is said, and never
guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from privet.errors import DataError, nearest
from privet.tasks.columns import Frame, Labels, Numbers, Standardiser, reader_of, scale_of
from privet.tasks.table_layout import Layout, Rows

Unfit = Literal["refuse", "missing", "skip"]
"""Refuse the file; take such a value as one that is missing; or leave the row without an answer."""
Learned = Mapping[str, Mapping[str, Sequence[float]]]
"""Of each silo ("" where rows belong to none) and column: centre and spread of its records."""

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TableEncoding:
    """Columns, words and scales of a model's inputs."""

    layout: Layout
    scales: Mapping[str | None, Standardiser]
    """By silo."""

    @classmethod
    def with_learned(cls, layout: Layout, learned: Learned) -> TableEncoding:
        """The encoding of declared ranges and of scales that were learned from records."""
        declared = cls._declared(layout)
        found: dict[str | None, Standardiser] = {None: declared} if not learned else {}
        for silo, columns in learned.items():
            centre, spread = declared.centre.copy(), declared.spread.copy()
            limit = declared.limit.copy()
            for name, (middle, width) in columns.items():
                place = layout.numeric.index(name)
                centre[place], spread[place], limit[place] = middle, width, np.inf
            found[silo or None] = Standardiser(centre, spread, limit)
        return cls(layout, found)

    @property
    def learned(self) -> dict[str, dict[str, list[float]]]:
        """What of the scales came from records."""
        open_ = [
            (place, name)
            for place, name in enumerate(self.layout.numeric)
            if name not in self.layout.options.ranges
        ]
        return {
            silo or "": {name: [float(s.centre[i]), float(s.spread[i])] for i, name in open_}
            for silo, s in self.scales.items()
            if open_
        }

    @staticmethod
    def _declared(layout: Layout) -> Standardiser:
        nothing = np.empty((0, len(layout.numeric)))
        return scale_of(nothing, layout.numeric, layout.options.ranges)

    def inputs(
        self, frame: Frame, *, unfit: Unfit, silo: str | None = None
    ) -> tuple[Tensor, _Mask]:
        """Model inputs (k, width) of the rows that have an answer, and which of the n those are.

        `silo` scales all rows where each silo has scales of its own, unless the frame has the
        column that says whose each is. DataError for what `unfit` refuses.
        """
        layout = self.layout
        numbers = [self._numbers(frame, name, unfit) for name in layout.numeric]
        labels = [self._labels(frame, name, words, unfit) for name, words in self._words()]
        whose = self._whose(frame, silo)
        rows = Rows(
            np.column_stack([np.empty((len(frame), 0)), *(values for values, _ in numbers)]),
            np.column_stack([np.empty((len(frame), 0), object), *(words for words, _ in labels)]),
            np.zeros(len(frame), dtype=np.int64),
            whose,
        )
        skipped = [bad for _, bad in (*numbers, *labels)] if unfit == "skip" else []
        kept = ~np.logical_or.reduce([*skipped, self._gaps(frame, rows, unfit)])
        return self._encoded(rows.at(kept)), kept

    def _words(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        return self.layout.vocabularies.items()

    def _numbers(self, frame: Frame, name: str, unfit: Unfit) -> tuple[Numbers, _Mask]:
        if self._absent(frame, name, unfit):
            return np.full(len(frame), np.nan), np.zeros(len(frame), dtype=bool)
        values = frame.parsed(name)
        bad = np.isinf(values) | (np.isnan(values) & frame.rows[name].notna().to_numpy())
        _demand(frame, name, bad, unfit, "no number")
        return np.where(bad, np.nan, values), bad

    def _labels(
        self, frame: Frame, name: str, words: Sequence[str], unfit: Unfit
    ) -> tuple[Labels, _Mask]:
        if self._absent(frame, name, unfit):
            return np.full(len(frame), None, object), np.zeros(len(frame), dtype=bool)
        read, given = reader_of(words), frame.labels(name)
        found = np.array([None if each is None else read(each) for each in given], dtype=object)
        bad = np.array([each is not None for each in given], dtype=bool) & (found == None)  # noqa: E711
        _demand(frame, name, bad, unfit, f"none of the {len(words)} words that the model knows")
        return found, bad

    def _absent(self, frame: Frame, name: str, unfit: Unfit) -> bool:
        if name in frame.rows.columns:
            return False
        imputes = self.layout.imputes
        if unfit == "missing" and imputes:
            return True
        known = [str(column) for column in frame.rows.columns]
        out = "; --unfit missing takes its values as missing" if imputes else ""
        raise DataError(
            f"{frame.path} has no column {name!r}, which the model needs.{nearest(name, known)} It "
            f"has {', '.join(known[:20])}{out}"
        )

    def _gaps(self, frame: Frame, rows: Rows, unfit: Unfit) -> _Mask:
        """Rows with a missing value, where the model has no input for such a one."""
        options = self.layout.options
        if options.missing == "impute":
            return np.zeros(len(rows), dtype=bool)
        gaps = np.isnan(rows.numbers).any(axis=1)
        gaps |= (rows.labels == None).any(axis=1)  # noqa: E711 - `is` would not go element by element
        if unfit != "skip" and options.missing == "refuse" and gaps.any():
            raise DataError(
                f"{frame.path}: row {int(gaps.argmax()) + 1} lacks a value, and the model was "
                'trained with data.missing = "refuse"; unfit = "skip" gives it no answer'
            )
        return cast(_Mask, gaps)

    def _whose(self, frame: Frame, silo: str | None) -> Labels:
        """By which silo's scales each row is scaled."""
        column = self.layout.options.silo
        if set(self.scales) == {None} or not self.learned:
            return np.full(len(frame), None, object)
        if silo is None and column is not None and column in frame.rows.columns:
            whose = frame.labels(column)
        else:
            whose = np.full(len(frame), silo, object)
        strange = [each for each in dict.fromkeys(whose) if each not in self.scales]
        if strange:
            known = ", ".join(str(each) for each in self.scales if each)
            raise DataError(
                f"{frame.path}: each silo's numbers were scaled by its own records, and "
                f"silo = {strange[0]!r} is none of {known}; say whose the rows are with --silo"
            )
        return whose

    def _encoded(self, rows: Rows) -> Tensor:
        inputs = np.zeros((len(rows), self.layout.width), dtype=np.float32)
        scales = self.scales if self.learned else {None: self._declared(self.layout)}
        for name in dict.fromkeys(rows.silo):
            mask = rows.silo == name
            inputs[mask] = self.layout.inputs(rows.at(mask), scales[name])
        return torch.from_numpy(inputs)


def _demand(frame: Frame, name: str, bad: _Mask, unfit: Unfit, what: str) -> None:
    if unfit != "refuse" or not bad.any():
        return
    place = int(bad.argmax())
    raise DataError(
        f"{frame.path}, column {name!r}: {int(bad.sum())} of {len(frame)} values are {what}, such "
        f"as {str(frame.rows[name].iloc[place])[:40]!r} in row {place + 1}; --unfit missing takes "
        "them as missing, --unfit skip gives their rows no answer"
    )
