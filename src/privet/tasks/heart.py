"""Heart disease in four hospitals, cleaned as FLamby's Fed-Heart-Disease is.

The rule (du Terrail et al. 2022, "FLamby", Appendix; `fed_heart_disease` in its code): leave out
slope, ca and thal, drop patients with a missing value, any stage of disease counts as disease, one
column for each chest pain and ECG kind but the first. FLamby's split, 66/34 in each hospital with
seed 43, stratified by disease where both outcomes have more than two patients, and its scaling by
each hospital's own statistics are there for those who compare: one patient more or less moves
others in both, so they are not the default.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from privet.errors import DataError, ExperimentError, nearest
from privet.tasks.columns import finite
from privet.tasks.files import data_file, read_bytes
from privet.tasks.task import (
    Classification,
    Examples,
    drawn_by_content,
    linear,
    mlp,
    named_model,
)

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")

_SOURCE = "UCI Heart Disease"
_COLUMNS = 14
_NUMBERS = [0, 1, 3, 4, 5, 7, 8, 9]
# Medical bounds, known without looking at a patient: age, sex, resting blood pressure (mm Hg),
# cholesterol (mg/dl; 0 is written for unknown), fasting sugar, heart rate, angina, ST depression.
_RANGES = [(20, 90), (0, 1), (60, 220), (0, 600), (0, 1), (50, 220), (0, 1), (-4, 8)]
_KINDS = {2: (2, 3, 4), 6: (1, 2)}  # chest pain beyond kind 1, resting ECG beyond kind 0
_SPLIT_SEED, _TRAIN_FRACTION = 43, 0.66
_MODELS = {"linear": lambda: linear(13, 2), "mlp": lambda: mlp(13, 2, hidden=16)}
_PER_SILO_NOTE = (
    "Features are scaled by each hospital's own mean and standard deviation, which stay there; "
    'epsilon does not cover their influence on the model. scaling = "public-ranges" has none.'
)
_SPLIT_NOTE = (
    "Patients are divided into training and testing by their places, as FLamby does: one patient "
    'more or less moves others, which epsilon does not cover. split = "own-content" moves none.'
)
_CHOICES = {"scaling": ("public-ranges", "per-silo"), "split": ("own-content", "flamby")}

Table = npt.NDArray[np.float64]


class HeartDisease(Classification):
    """Is there heart disease? 303, 261, 46 and 130 patients of Cleveland, Hungary, Switzerland, VA.

    Inputs (n, 13) float32, targets 0 (none) or 1. Train and test data name the hospital of each
    patient. `split`: "own-content", about 66 % to train on, each patient by a coin of their own
    record; or "flamby" (199, 172, 30 and 85 patients to train on). `scaling`: "public-ranges"
    (medical bounds to [-1, 1], values beyond them clipped) or "per-silo" (mean 0 and deviation 1
    over each hospital's own training patients); never statistics of pooled patients. Files
    `heart-disease/processed.<hospital>.data` in the data folder. Models: linear (default, logistic
    regression), mlp.

    Raises ExperimentError for another split or scaling, DataError for a missing or damaged file.
    """

    _held = False

    def __init__(
        self,
        *,
        model: str | None = None,
        data_dir: Path | None = None,
        scaling: str = "public-ranges",
        split: str = "own-content",
    ) -> None:
        for name, value in (("scaling", scaling), ("split", split)):
            if value not in _CHOICES[name]:
                raise ExperimentError(
                    f"data.{name} = {value!r}: it is {' or '.join(_CHOICES[name])}."
                    f"{nearest(str(value), _CHOICES[name])}"
                )
        self._build = named_model("heart-disease", model or "linear", _MODELS)
        self._data_dir = data_dir
        self._scaling, self._split = scaling, split

    @property
    def uncovered(self) -> tuple[str, ...]:
        notes = {_PER_SILO_NOTE: self._scaling == "per-silo", _SPLIT_NOTE: self._split == "flamby"}
        return tuple(note for note, applies in notes.items() if applies)

    def model(self) -> nn.Module:
        return self._build()

    def train_data(self) -> Examples:
        return self._halves[0]

    def test_data(self) -> Examples:
        return self._halves[1]

    @cached_property
    def _halves(self) -> tuple[Examples, Examples]:
        hospitals = [self._hospital(name) for name in HOSPITALS]
        return _joined([train for train, _ in hospitals]), _joined([test for _, test in hospitals])

    def _hospital(self, name: str) -> tuple[tuple[Table, Table], tuple[Table, Table]]:
        """((train inputs, train targets), (test inputs, test targets)) of one hospital."""
        file = f"processed.{name}.data"
        rows = self._rows(
            data_file(self._data_dir, "heart-disease", file, source=_SOURCE, held=self._held)
        )
        targets = (rows[:, -1] > 0).astype(np.float64)
        train, test = _flamby(targets) if self._split == "flamby" else _by_content(rows)
        inputs = _features(rows)
        scaled = _in_ranges(inputs) if self._scaling == "public-ranges" else _own(inputs, train)
        return (scaled[train], targets[train]), (scaled[test], targets[test])

    def _rows(self, path: Path) -> Table:
        """The rows without a missing value in the ten columns that are kept, disease stage last."""
        try:
            lines = _cells(path.read_text())
            if any(len(line) != _COLUMNS for line in lines):
                raise ValueError(f"a line does not have {_COLUMNS} values")
            return _table([_kept(line) for line in lines if "?" not in _kept(line)])
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not a file of {_SOURCE}: {error}") from error


class HeldHeartDisease(HeartDisease):
    """`HeartDisease` of a real silo: a patient whose values are no numbers is left out."""

    _held = True

    def _rows(self, path: Path) -> Table:
        lines = _cells(read_bytes(path).decode("utf-8", errors="replace"))
        kept = [_kept(line) for line in lines if len(line) == _COLUMNS]
        return _table([line for line in kept if all(finite(cell) is not None for cell in line)])


def _cells(text: str) -> list[list[str]]:
    return [line.split(",") for line in text.splitlines() if line.strip()]


def _kept(line: list[str]) -> list[str]:
    """The ten columns that are kept, and the stage of disease last."""
    return line[:10] + line[13:]


def _table(rows: list[list[str]]) -> Table:
    return np.array(rows, dtype=np.float64).reshape(-1, 11)


def _features(rows: Table) -> Table:
    """Eight numbers, then one column for each kind but the first: (n, 13)."""
    kinds = [rows[:, column] == kind for column, all_of in _KINDS.items() for kind in all_of]
    features: Table = np.column_stack([rows[:, _NUMBERS], *kinds])
    return features


def _by_content(rows: Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sorted train and test indices of one hospital, each patient by a coin of their own."""
    train = drawn_by_content([row.tobytes() for row in rows], _TRAIN_FRACTION)
    return np.flatnonzero(train), np.flatnonzero(~train)


def _flamby(targets: Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sorted train and test indices of one hospital, FLamby's."""
    from sklearn.model_selection import train_test_split

    counts = np.unique(targets, return_counts=True)[1]
    train, test = train_test_split(
        np.arange(len(targets)),
        test_size=1.0 - _TRAIN_FRACTION,
        train_size=_TRAIN_FRACTION,
        random_state=_SPLIT_SEED,
        stratify=targets if len(counts) > 1 and counts.min() > 2 else None,
    )
    return np.sort(train), np.sort(test)


def _own(inputs: Table, train: npt.NDArray[np.int64]) -> Table:
    """Scaled by mean and deviation of the training rows; a column constant there is left at 0.

    FLamby divides a constant column by 1e-9 instead, and a test patient who differs gets 1e9.
    """
    deviation = inputs[train].std(axis=0, ddof=1)
    centred = inputs - inputs[train].mean(axis=0)
    scaled: Table = np.divide(centred, deviation, out=np.zeros_like(inputs), where=deviation > 0)
    return scaled


def _in_ranges(inputs: Table) -> Table:
    low, high = np.array(_RANGES, dtype=np.float64).T
    numbers = 2 * (inputs[:, : len(low)] - low) / (high - low) - 1
    return np.column_stack([numbers.clip(-1, 1), inputs[:, len(low) :]])


def _joined(parts: list[tuple[Table, Table]]) -> Examples:
    inputs = np.concatenate([inputs for inputs, _ in parts]).astype(np.float32)
    targets = np.concatenate([targets for _, targets in parts]).astype(np.int64)
    silo = np.repeat(np.arange(len(parts)), [len(targets) for _, targets in parts])
    return Examples(torch.from_numpy(inputs), torch.from_numpy(targets), silo, HOSPITALS)
