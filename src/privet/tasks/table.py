"""Any CSV or Parquet file as a task: name the column to predict, and say who holds which rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from privet.errors import DataError, ExperimentError
from privet.metrics import Metric
from privet.tasks.columns import Frame, Standardiser, in_order, read_frame, scale_of
from privet.tasks.encoding import TableEncoding
from privet.tasks.objectives import Objective, Picture
from privet.tasks.table_layout import Layout, Rows, TableOptions
from privet.tasks.task import (
    Classification,
    Examples,
    drawn_by_content,
    linear,
    mlp,
    named_model,
)

if TYPE_CHECKING:
    import pandas as pd

_HIDDEN = 32
_MOST_SHOWN = 6
_LONGEST = 40
# For their names: how wide they are is known with the layout only.
_MODELS = {
    "linear": lambda: linear(1, 2),
    "mlp": lambda: mlp(1, 2, hidden=_HIDDEN),
}
_OF_FILES = ("file", "files", "test_file", "test_fraction", "person", "exclude")
"""Options of where records are, and whose: new rows are somewhere else."""
_OWN_STATISTICS = (
    "Columns without a public range ({names}) are scaled by {whose} mean and standard deviation; "
    "epsilon does not cover their influence on the model. data.ranges removes it."
)
_OWN_LAYOUT = (
    "Which columns are numbers and which values a category and the target have is read from the "
    "records; epsilon does not cover it. data.numeric, data.categorical, data.categories and "
    "data.classes say it beforehand."
)


class Table(Classification):
    """Predict one column of a table from the others: a class, a number, or a time.

    Options (`[data]` in the experiment file) are those of `TableOptions`. What happens to values:

    - Numbers with a public range in `ranges` are scaled to [-1, 1] and clipped there; others by
      the mean and deviation of their own silo's training rows, never of pooled silos (a table
      without silos counts as one silo): `uncovered`, so [privacy] wants a range for every one.
    - A column in `ranges` is one of numbers, one in `categories` of words, whatever files hold.
    - Texts become one column a value. The values come from `categories`, or else are read from
      all files, test file included.
    - Missing values (empty, "?", NA, NaN, null): `missing = "impute"` puts 0, the middle, with
      a column that says so, and makes "missing" a category of its own; "drop" leaves the row out;
      "refuse" is an error. A row without target is left out by "drop" and an error otherwise.
    - Infinite numbers, text among numbers and values outside `categories` are errors, and so is
      whatever could be meant in two ways (see `privet.tasks.doubtful`), unless options say which.

    Test rows: `test_file`, or about `test_fraction` of the rows, each by its own content.
    Inputs (n, width) float32. Models: linear (default), mlp.

    On real silos `HeldTable` takes its place: the holder's description decides there.

    Raises ExperimentError for settings, DataError (file, column, row count) for what files hold.
    """

    held = False
    """Whether a data holder describes it."""

    def __init__(
        self, *, model: str | None = None, data_dir: Path | None = None, **options: object
    ) -> None:
        self._model = model or "linear"
        named_model("table", self._model, _MODELS)
        self._options = TableOptions.of(options)
        self._data_dir = data_dir
        if self._options.person and not self.held:
            raise ExperimentError("data.person: only the description of a holder's table has it")

    def model(self) -> nn.Module:
        width, outputs = self._layout.width, self._objective.width
        if self._model == "linear":
            return linear(width, outputs)
        return mlp(width, outputs, hidden=_HIDDEN)

    @property
    def _objective(self) -> Objective:
        return self._layout.objective

    @property
    def declared_metrics(self) -> tuple[Metric, ...]:
        """Of classes accuracy first, of numbers the error that the loss is about."""
        return self._objective.declared_metrics

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A mean over the batch of terms that each depend on one example."""
        return self._objective.loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """As `declared_metrics` says."""
        return self._objective.metrics(outputs, targets)

    def constant(self, targets: Tensor) -> Tensor:
        """The outputs (n, ...) of a model that says the same of everybody, as `targets` are."""
        return self._objective.constant(targets)

    def pictures(self, outputs: Tensor, targets: Tensor) -> list[Picture]:
        """Counts to draw."""
        return self._objective.pictures(outputs, targets)

    def answers(self, outputs: Tensor) -> dict[str, npt.NDArray[np.generic]]:
        """What the outputs say, by column, (n,)."""
        return dict(self._objective.answers(outputs))

    def train_data(self) -> Examples:
        return self._halves[0]

    def test_data(self) -> Examples | None:
        return self._halves[1]

    @property
    def described(self) -> tuple[str, ...]:
        """A line for each column: how it is used, and the values that it has or may have."""
        frames = [*self._train_frames, *self._test_frames]
        layout, target = self._layout, self._options.target
        used = [*layout.numeric, *layout.vocabularies, target]
        known = {**layout.vocabularies, **({target: layout.classes} if layout.classes else {})}
        width = max(len(_shown(name)) for name in used)
        return tuple(
            f"{_shown(name):<{width}}  "
            + (_words(known[name]) if name in known else _span(frames, name))
            + _gaps(frames, name)
            + (", the target" if name == target else "")
            for name in used
        )

    @property
    def uncovered(self) -> tuple[str, ...]:
        found = () if Layout.declared(self._options) else (_OWN_LAYOUT,)
        names = [name for name in self._layout.numeric if name not in self._options.ranges]
        if not names:
            return found
        silos = self._options.silo or self._options.files
        whose = "each silo's own" if silos else "the whole file's"
        return (*found, _OWN_STATISTICS.format(names=", ".join(names), whose=whose))

    @cached_property
    def _layout(self) -> Layout:
        declared = Layout.declared(self._options)
        return declared or Layout.found(self._options, [*self._train_frames, *self._test_frames])

    @cached_property
    def _train_frames(self) -> list[Frame]:
        if not (self._options.file or self._options.files):
            raise DataError("data.file or data.files is needed: the experiment names no records")
        paths = [self._path(self._options.file)] if self._options.file else self._many()
        return [read_frame(path, self._options.text_format) for path in paths]

    @cached_property
    def _test_frames(self) -> list[Frame]:
        name = self._options.test_file
        return [read_frame(self._path(name), self._options.text_format)] if name else []

    def _many(self) -> list[Path]:
        """The files of `files`, sorted by name; each stem is a silo's name."""
        files = self._options.files or []
        home = self._data_dir or Path.cwd()
        paths = sorted(home.glob(files)) if isinstance(files, str) else map(self._path, files)
        found = list(paths)
        stems = [path.stem for path in found]
        if not found:
            raise DataError(f"data.files = {files!r}: nothing in {home.absolute()} fits")
        if len(set(stems)) < len(stems):
            raise DataError(f"data.files = {files!r}: two files have the same name before the dot")
        return found

    def _path(self, name: str) -> Path:
        path = ((self._data_dir or Path.cwd()) / Path(name).expanduser()).absolute()
        if not path.is_file():
            raise DataError(
                f"{name} not found: there is no file {path}; paths in the experiment's data are "
                "relative to the data folder (--data-dir or PRIVET_DATA)"
            )
        return path

    @property
    def declared(self) -> bool:
        """Whether the options alone decide columns and words."""
        return self._options.declared

    @property
    def recipe(self) -> dict[str, object]:
        """Options that make the same model, and the same inputs of new rows, without any file."""
        layout = self._layout
        given = self._options.model_dump(exclude_unset=True, exclude={*_OF_FILES})
        return {
            **given,
            "numeric": list(layout.numeric),
            "categorical": list(layout.vocabularies),
            "categories": {name: list(words) for name, words in layout.vocabularies.items()},
            **({"classes": list(layout.classes)} if layout.classes else {}),
        }

    @property
    def layout(self) -> Layout:
        """Columns in use and the values that they can have."""
        return self._layout

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the model's outputs stand for, in their order."""
        return self._layout.classes

    @property
    def encoding(self) -> TableEncoding:
        """How rows become inputs; scales that hang on records are those of the training rows."""
        declared = all(name in self._options.ranges for name in self._layout.numeric)
        if declared:
            return TableEncoding.with_learned(self._layout, {})
        return TableEncoding(self._layout, self._parts[2])

    def test_frame(self) -> pd.DataFrame | None:
        """The test rows as files have them, (n, columns in use); None without any."""
        rows = self._divided()[1]
        return self._layout.frame_of(rows, self._options.silo) if len(rows) else None

    def _divided(self) -> tuple[Rows, Rows]:
        """To train and to test."""
        train = Rows.joined([self._read(frame) for frame in self._train_frames])
        if self._options.test_file:
            read = [self._layout.read(frame, silo=None) for frame in self._test_frames]
            return train, Rows.joined(read)
        return _split(train, self._options.test_fraction)

    @property
    def _halves(self) -> tuple[Examples, Examples | None]:
        return self._parts[:2]

    @cached_property
    def _parts(self) -> tuple[Examples, Examples | None, dict[str | None, Standardiser]]:
        train, test = self._divided()
        names = in_order({name for name in train.silo if name is not None})
        scales = {
            name: scale_of(
                train.numbers[train.silo == name], self._layout.numeric, self._options.ranges
            )
            for name in set(train.silo)
        }
        encoded = [self._encoded(rows, scales, names) for rows in (train, test)]
        return encoded[0], encoded[1] if len(test) else None, scales

    def _read(self, frame: Frame) -> Rows:
        return self._layout.read(frame, silo=frame.path.stem if self._options.files else None)

    def _encoded(
        self, rows: Rows, scales: Mapping[str | None, Standardiser], names: tuple[str, ...]
    ) -> Examples:
        """`rows` as examples, each scaled as its own silo is."""
        inputs = np.zeros((len(rows), self._layout.width), dtype=np.float32)
        for name in dict.fromkeys(rows.silo):
            mask = rows.silo == name
            inputs[mask] = self._layout.inputs(rows.at(mask), self._scale(name, scales))
        examples = Examples(torch.from_numpy(inputs), torch.from_numpy(rows.targets))
        if None in rows.silo:
            return examples
        silo = np.array([names.index(name) for name in rows.silo], dtype=np.int64)
        return replace(examples, silo=silo, silo_names=names)

    def _scale(self, silo: str | None, scales: Mapping[str | None, Standardiser]) -> Standardiser:
        """How rows of `silo` are scaled; rows of `test_file` need not belong to one."""
        if silo in scales:
            return scales[silo]
        if silo is not None:
            raise DataError(f"data.test_file: silo {silo!r} has no rows to train on")
        layout, ranges = self._layout, self._options.ranges
        without = [name for name in layout.numeric if name not in ranges]
        if without:
            raise DataError(
                "data.test_file: its rows belong to no silo, so they cannot be scaled as one is; "
                f"give data.ranges for {', '.join(without)}"
            )
        return scale_of(np.empty((0, len(layout.numeric))), layout.numeric, ranges)


def _words(words: Sequence[str]) -> str:
    shown = ", ".join(map(_shown, words[:_MOST_SHOWN]))
    more = len(words) - _MOST_SHOWN
    return f"{len(words)} words: {shown}" + (f" and {more} more" if more > 0 else "")


def _shown(word: str) -> str:
    """A text of a file for a terminal: of one line, and not too long."""
    plain = "".join(each if each.isprintable() else " " for each in word)
    return " ".join(plain.split())[:_LONGEST]


def _span(frames: Sequence[Frame], name: str) -> str:
    values = np.concatenate([frame.numbers(name) for frame in frames])
    if np.isnan(values).all():
        return "number, without a value"
    return f"number, {np.nanmin(values):g} to {np.nanmax(values):g}"


def _gaps(frames: Sequence[Frame], name: str) -> str:
    missing = sum(int(frame.rows[name].isna().sum()) for frame in frames)
    return f", {missing} of {sum(map(len, frames))} missing" if missing else ""


def _split(rows: Rows, fraction: float) -> tuple[Rows, Rows]:
    """Keep about `fraction` of the rows for testing, each by a coin of its own content."""
    contents = [_content(rows, place) for place in range(len(rows))]
    test = drawn_by_content(contents, fraction)
    return rows.at(~test), rows.at(test)


def _content(rows: Rows, place: int) -> bytes:
    texts = repr((*rows.labels[place], rows.silo[place])).encode()
    return bytes(rows.numbers[place].tobytes() + rows.targets[place].tobytes() + texts)
