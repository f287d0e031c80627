"""The files in which a real silo keeps its own parts of models: one for each job.

No torch here: the process that holds a silo's connection has none, and it is the one that removes
what is over.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from privet.errors import DataError
from privet.files import demand_file, write_whole
from privet.vectors import Vector

_TENSOR = "own-part"


@dataclass(frozen=True, eq=False)
class OwnPart:
    """What a silo has of its own after a round of a job."""

    numbers: Vector
    """Shape (k,)."""
    unsent: str
    """The digest of what does not travel of the model, which the numbers belong to."""
    dataset: str
    until: float
    """When the job's order ends, in seconds since 1970; 0: nobody has said."""

    def write(self, path: Path) -> None:
        """Put it in the place of the file, durably, and readable by its owner alone."""
        facts = {
            "dataset": self.dataset,
            "until": repr(self.until),
            "unsent": self.unsent,
            "sha256": hashlib.sha256(self.numbers.tobytes()).hexdigest(),
        }
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = save({_TENSOR: np.ascontiguousarray(self.numbers)}, facts)
        write_whole(path, content, mode=0o600, durable=True)

    @classmethod
    def read(cls, path: Path) -> OwnPart:
        """DataError for a file that holds anything else than was written."""
        try:
            with safe_open(demand_file(path), framework="np") as file:
                numbers, facts = file.get_tensor(_TENSOR), dict(file.metadata() or {})
            found = cls(numbers, facts["unsent"], facts["dataset"], float(facts["until"]))
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise DataError(f"{path} is damaged: {error}") from None
        digest = hashlib.sha256(numbers.tobytes()).hexdigest()
        if numbers.dtype != np.float32 or facts.get("sha256") != digest:
            raise DataError(f"{path} is damaged: it holds other numbers than it says")
        return found


def forget_ended(folder: Path, keeps: Callable[[str], bool], *, now: float | None = None) -> None:
    """Remove the parts of jobs whose orders have ended, but for data sets whose holder `keeps`."""
    now = time.time() if now is None else now
    for path in sorted(folder.glob("*.safetensors")):
        try:
            part = OwnPart.read(path)
        except DataError:
            continue  # an operator may want to look at it
        if 0 < part.until < now and not keeps(part.dataset):
            path.unlink(missing_ok=True)
