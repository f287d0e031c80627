"""A task of your own: will a patient stay in hospital for more than a week?

Copy this file and change three things: the model, what is read from the file, the measures.
"""

import csv
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privet import Examples
from privet.errors import DataError, ExperimentError

HOSPITALS = ("east", "north", "south")
# What a column may hold, known without looking at the data: statistics of patients would leak.
RANGES = {"age": (18, 95), "emergency": (0, 1), "creatinine": (0.4, 6), "earlier_stays": (0, 8)}


class HospitalStay:
    """Five methods make a task; options of the experiment's [data] table are keywords here."""

    def __init__(
        self, *, model: str | None = None, data_dir: Path | None = None, file: str = "stays.csv"
    ) -> None:
        if model not in (None, "network"):
            raise ExperimentError(f"model = {model!r}: this task has only 'network'")
        # Your data would be in the data folder (--data-dir); the sample lies beside this file.
        folder = data_dir if data_dir and (data_dir / file).exists() else Path(__file__).parent
        self._path = folder / file

    def model(self) -> nn.Module:
        """LayerNorm and not BatchNorm, so that each patient's gradient is their own."""
        return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 2))

    def train_data(self) -> Examples:
        examples = self._read()
        return examples.take([i for i in range(len(examples)) if i % 5])

    def test_data(self) -> Examples:
        return self._read().take(slice(0, None, 5))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        right, long = outputs.argmax(dim=1) == targets, targets == 1
        return {
            "accuracy": right.float().mean().item(),
            "long_stays_found": (right & long).sum().item() / max(1, int(long.sum())),
        }

    def _read(self) -> Examples:
        if not self._path.exists():
            raise DataError(f"{self._path} not found: make it with make_data.py")
        with self._path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        inputs = [[_scaled(row, column) for column in RANGES] for row in rows]
        return Examples(
            inputs=torch.tensor(inputs),
            targets=torch.tensor([int(row["long_stay"]) for row in rows]),
            silo=np.array([HOSPITALS.index(row["hospital"]) for row in rows]),
            silo_names=HOSPITALS,
        )


def _scaled(row: dict[str, str], column: str) -> float:
    low, high = RANGES[column]
    return 2 * (float(row[column]) - low) / (high - low) - 1
