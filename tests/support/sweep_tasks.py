"""Tasks for tests of sweeps: task = "sweep_tasks:Counting"."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

from torch import Tensor

from privet import Examples
from privet.tasks.digits import Digits


class Counting(Digits):
    """Writes a line into the file `log` whenever its training data are read."""

    def __init__(self, *, model: str | None, data_dir: Path | None, log: str) -> None:
        super().__init__(model=model, data_dir=data_dir)
        self._log = Path(log)

    def train_data(self) -> Examples:
        with self._log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return super().train_data()


class Deadly(Digits):
    """With `deadly`, a worker process that trains on it dies."""

    def __init__(self, *, model: str | None, data_dir: Path | None, deadly: bool = False) -> None:
        super().__init__(model=model, data_dir=data_dir)
        self._deadly = deadly

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._deadly and multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().loss(outputs, targets)
