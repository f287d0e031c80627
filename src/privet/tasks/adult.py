"""Census income (UCI Adult), encoded with the value lists and bounds of its documentation."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from privet.errors import DataError, ExperimentError, nearest
from privet.metrics import Metric
from privet.tasks.columns import finite, one_hot
from privet.tasks.files import data_file, read_bytes
from privet.tasks.objectives import Classes, Picture
from privet.tasks.task import Classification, Examples, linear, mlp, named_model

_EDUCATION = (
    "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th 7th-8th 12th "
    "Masters 1st-4th 10th Doctorate 5th-6th Preschool"
)
_SOURCE = "UCI Adult"
_COLUMNS = 15
# Column: public bounds. Weights and gains span decades, so they are scaled by log(1 + x).
_RANGES = {0: (17, 90), 2: (1e4, 1.5e6), 4: (1, 16), 10: (0, 1e5), 11: (0, 5e3), 12: (1, 99)}
_LOGARITHMIC = (2, 10, 11)
# Values as adult.names spells them; "?" is a value like any other.
_VOCABULARIES = {
    1: "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay "
    "Never-worked ?",
    3: _EDUCATION,
    5: "Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent "
    "Married-AF-spouse",
    6: "Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty "
    "Handlers-cleaners Machine-op-inspct Adm-clerical Farming-fishing Transport-moving "
    "Priv-house-serv Protective-serv Armed-Forces ?",
    7: "Wife Own-child Husband Not-in-family Other-relative Unmarried",
    8: "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black",
    9: "Female Male",
    13: "United-States Cambodia England Puerto-Rico Canada Germany Outlying-US(Guam-USVI-etc) "
    "India Japan Greece South China Cuba Iran Honduras Philippines Italy Poland Jamaica Vietnam "
    "Mexico Portugal Ireland France Dominican-Republic Laos Ecuador Taiwan Haiti Columbia Hungary "
    "Guatemala Nicaragua Scotland Thailand Yugoslavia El-Salvador Trinadad&Tobago Peru Hong "
    "Holand-Netherlands ?",
}
_INCOMES = ("<=50K", ">50K")
_OBJECTIVE = Classes(_INCOMES)
_INPUTS = len(_RANGES) + sum(len(words.split()) for words in _VOCABULARIES.values())
_MODELS = {
    "linear": lambda: linear(_INPUTS, 2),
    "mlp": lambda: mlp(_INPUTS, 2, hidden=32),
}


class Adult(Classification):
    """Does a person earn more than 50,000 dollars? 32,561 answers to train on, 16,281 to test.

    Inputs (n, 108) float32: six numbers scaled by public bounds to [-1, 1] and clipped there, then
    one column for each documented value of eight categories, unknown ("?") included. Nothing is
    taken from the records. `silo = "education"` makes the 16 levels of education natural silos.
    Files `adult/adult.data` and `adult/adult.test` in the data folder. Models: linear (default),
    mlp.

    Raises ExperimentError for another silo, DataError for a missing or damaged file.
    """

    _held = False

    def __init__(
        self,
        *,
        model: str | None = None,
        data_dir: Path | None = None,
        silo: str | None = None,
    ) -> None:
        if silo not in (None, "education"):
            raise ExperimentError(
                f"data.silo = {silo!r}: adult has education, or none."
                f"{nearest(str(silo), ['education'])}"
            )
        self._build = named_model("adult", model or "linear", _MODELS)
        self._data_dir = data_dir
        self._by_education = silo is not None

    @property
    def declared_metrics(self) -> tuple[Metric, ...]:
        return _OBJECTIVE.declared_metrics

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return _OBJECTIVE.metrics(outputs, targets)

    def constant(self, targets: Tensor) -> Tensor:
        """The outputs of a model that says the same of everybody."""
        return _OBJECTIVE.constant(targets)

    def pictures(self, outputs: Tensor, targets: Tensor) -> list[Picture]:
        """Counts to draw."""
        return _OBJECTIVE.pictures(outputs, targets)

    @property
    def class_names(self) -> tuple[str, ...]:
        return _INCOMES

    def model(self) -> nn.Module:
        return self._build()

    def train_data(self) -> Examples:
        return self._train

    def test_data(self) -> Examples:
        return self._test

    @cached_property
    def _train(self) -> Examples:
        return self._read("adult.data")

    @cached_property
    def _test(self) -> Examples:
        return self._read("adult.test")

    def _read(self, name: str) -> Examples:
        path = data_file(self._data_dir, "adult", name, source=_SOURCE, held=self._held)
        try:
            return self._encoded(np.array(self._records(path), dtype=object))
        except (ValueError, KeyError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not a file of {_SOURCE}: {error}") from error

    def _records(self, path: Path) -> list[list[str]]:
        records = _lines(read_bytes(path).decode("ascii"))
        if any(len(record) != _COLUMNS for record in records) or not records:
            raise ValueError(f"a record does not have {_COLUMNS} values")
        return records

    def _encoded(self, cells: npt.NDArray[np.object_]) -> Examples:
        numbers = [_scaled(cells[:, column].astype(float), column) for column in _RANGES]
        kinds = [one_hot(cells[:, i], words.split()) for i, words in _VOCABULARIES.items()]
        inputs = np.column_stack([*numbers, *kinds]).astype(np.float32)
        # By way of one_hot, which refuses a word that is not among those.
        targets = one_hot(cells[:, -1], _INCOMES).argmax(axis=1)
        examples = Examples(torch.from_numpy(inputs), torch.from_numpy(targets))
        if not self._by_education:
            return examples
        levels = tuple(_EDUCATION.split())
        silo = one_hot(cells[:, 3], levels).argmax(axis=1)
        return Examples(examples.inputs, examples.targets, silo, levels)


class HeldAdult(Adult):
    """`Adult` of a real silo: a record that the documentation does not cover is left out."""

    _held = True

    def _records(self, path: Path) -> list[list[str]]:
        return [*filter(_covered, _lines(read_bytes(path).decode("ascii", errors="replace")))]


def _lines(text: str) -> list[list[str]]:
    """The texts of each record; no comments, no blank lines, no final full stop."""
    return [
        # Every line of adult.test, unlike adult.data, ends with a full stop.
        [cell.strip() for cell in line.rstrip(".").split(",")]
        for line in text.splitlines()
        if line.strip() and not line.startswith("|")
    ]


def _covered(record: list[str]) -> bool:
    """Whether a record is what `adult.names` says that one is."""
    if len(record) != _COLUMNS or record[-1] not in _INCOMES:
        return False
    numbers = [finite(record[column]) for column in _RANGES]
    words = all(record[column] in known.split() for column, known in _VOCABULARIES.items())
    return words and all(value is not None and value >= 0 for value in numbers)


def _scaled(values: npt.NDArray[np.float64], column: int) -> npt.NDArray[np.float64]:
    low, high = _RANGES[column]
    if column in _LOGARITHMIC:
        values, low, high = np.log1p(values), np.log1p(low), np.log1p(high)
    return np.clip(2 * (values - low) / (high - low) - 1, -1, 1)
