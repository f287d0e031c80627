"""What was seen of a mechanism: its noisy gradients on coordinates whose law is known.

What was seen of a run's canaries, as files: one for each silo, a line for each round.

A line is a JSON object: silo, round, plan, `inserted` ("0110...", a digit for each coordinate),
steps, and in base64 `sampled`, the bits (steps, m) eight to a byte, and `gradients`, as many
little-endian float32 numbers. A last line that was cut off by the end of its process is not read.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from privet.errors import DataError, PrivetError
from privet.privacy.mechanisms.plan import DpSgd

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sighting:
    """One silo's round on its canary coordinates (see `privacy.mechanisms.canaries`)."""

    silo: str
    round: int
    plan: DpSgd
    """The mechanism as claimed."""
    inserted: Mask
    """Which coordinates a canary record moves, shape (m,)."""
    sampled: Mask
    """Where a canary was in a step's batch, shape (steps, m)."""
    gradients: NDArray[np.float32]
    """What the optimizer stepped on, shape (steps, m)."""

    @cached_property
    def sums(self) -> Floats:
        """The noisy sums in units of the clip norm, shape (steps, m).

        As claimed: independent; normal with mean 0 and standard deviation `plan.noise_multiplier`;
        where a record is inserted, plus 1 with probability `plan.sampling_rate`.
        """
        return self.gradients.astype(np.float64) * (self.plan.batch_size / self.plan.clip)


CANARIES = "canaries"
"""The folder of a run."""


def add_sighting(file: Path, sighting: Sighting) -> None:
    """Append to `file`, which has one writer; folders are made as needed."""
    line = {
        "silo": sighting.silo,
        "round": sighting.round,
        "plan": asdict(sighting.plan),
        "inserted": "".join("01"[bit] for bit in sighting.inserted.astype(int)),
        "steps": len(sighting.gradients),
        "sampled": _base64(np.packbits(sighting.sampled)),
        "gradients": _base64(sighting.gradients.astype("<f4")),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as out:
        _drop_torn_line(out)
        out.write(json.dumps(line).encode() + b"\n")


def read_sightings(folder: Path) -> list[Sighting]:
    """Those of every file in `folder`, each silo's round once; none when there is no folder.

    A round that was run again after an interruption counts as it was seen last. Raises DataError,
    with file and line, for what `add_sighting` did not write.
    """
    found = {
        (each.silo, each.round): each
        for file in sorted(folder.glob("*.jsonl"))
        for each in _read(file)
    }
    return list(found.values())


def _drop_torn_line(file: BinaryIO) -> None:
    """Leave `file` at its end, behind a whole line."""
    if (size := file.seek(0, os.SEEK_END)) == 0:
        return
    file.seek(size - 1)
    if file.read() != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _read(file: Path) -> Iterator[Sighting]:
    whole_lines = file.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(whole_lines, start=1):
        try:
            yield _sighting(json.loads(line))
        except (ValueError, TypeError, LookupError, ArithmeticError, PrivetError) as error:
            raise DataError(f"{file}, line {number}: not what was seen of a canary") from error


def _sighting(line: dict[str, Any]) -> Sighting:
    inserted = np.array([int(digit, base=2) for digit in line["inserted"]], dtype=np.bool_)
    numbers = np.frombuffer(base64.b64decode(line["gradients"], validate=True), dtype="<f4")
    bits = np.frombuffer(base64.b64decode(line["sampled"], validate=True), dtype=np.uint8)
    shape = line["steps"], len(inserted)
    return Sighting(
        str(line["silo"]),
        int(line["round"]),
        DpSgd(**line["plan"]),
        inserted,
        np.unpackbits(bits)[: numbers.size].astype(np.bool_).reshape(shape),
        numbers.astype(np.float32).reshape(shape),
    )


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()
