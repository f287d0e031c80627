"""Records that belong to nobody, on coordinates that no other record moves: for the audit.

A model gets a block of coordinates beside its parameters. Some carry a canary record, whose
gradient is one on its own coordinate, far longer than the clip norm, and zero elsewhere. Canaries
are sampled, clipped, summed, covered by noise and stepped on as records of the silo are, in the
same calls; the law of what is left on the block is known exactly. Records have no gradient
on the block and canaries none on the model, so neither changes the other, and what is seen of the
block depends on no record at all. The block is never sent with an update.

What was observed is kept in files, one for each silo, a line for each round: a JSON object with
silo, round, plan, `inserted` ("0110...", a digit for each coordinate), steps, and in base64
`sampled`, the bits (steps, m) eight to a byte, and `gradients`, as many little-endian float32
numbers. A last line that was cut off by the end of its process is not read.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privet.devices import exact_place
from privet.errors import DataError, PrivetError
from privet.files import demand_file, read_file
from privet.privacy.mechanisms.gradients import Gradients, Sums
from privet.privacy.mechanisms.plan import DpSgd

CANARY_NORM = 1000.0
"""A canary's gradient in clip norms: one that is not clipped, or not by itself, stands out."""


@dataclass(frozen=True)
class Canaries:
    """Which coordinates of a silo's block carry a record; shape (m,), the same in every round."""

    inserted: NDArray[np.bool_]

    def __len__(self) -> int:
        """How many coordinates."""
        return len(self.inserted)

    @cached_property
    def coordinates(self) -> NDArray[np.int64]:
        """Of each canary record its coordinate."""
        return np.flatnonzero(self.inserted)


@dataclass
class CanaryTrace:
    """What a training made of a block: of every step its canaries and its private gradient."""

    width: int
    coordinates: list[NDArray[np.int64]] = field(default_factory=list)
    """Where canaries were sampled."""
    private: list[Tensor] = field(default_factory=list)

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """Where a canary took part, shape (steps, m)."""
        taken = np.zeros((len(self.coordinates), self.width), dtype=np.bool_)
        for step, coordinates in enumerate(self.coordinates):
            taken[step, coordinates] = True
        return taken

    @property
    def gradients(self) -> NDArray[np.float32]:
        """What the optimizer stepped on, shape (steps, m)."""
        return np.asarray(torch.stack(self.private).numpy())


class CanaryBlock:
    """The block of one training: its parameter, and its trace."""

    def __init__(self, canaries: Canaries, device: torch.device | None = None) -> None:
        """`device`: the model's; unset, the CPU."""
        self.parameter = nn.Parameter(torch.zeros(len(canaries), device=device))
        self.trace = CanaryTrace(len(canaries))
        self._canaries = canaries
        self._sampled = canaries.coordinates[:0]

    def apart(
        self, batches: Iterable[NDArray[np.int64]], n_records: int
    ) -> Iterator[NDArray[np.int64]]:
        """The records of each batch; the canaries in it, from `n_records` on, join its step."""
        for batch in batches:
            records, canaries = split(batch, n_records)
            self._sampled = self._canaries.coordinates[canaries]
            yield records

    def gradients(self, *, clip: float) -> list[Gradients]:
        """Those of the step's canaries; none when none was sampled."""
        if len(self._sampled) == 0:
            return []
        place = exact_place(self.parameter.device)
        lengths = torch.full((len(self._sampled),), CANARY_NORM * clip, dtype=torch.float64)
        sampled = torch.from_numpy(self._sampled).to(place)
        return [_CanaryGradients(self.parameter, sampled, lengths.to(place))]

    def look(self) -> None:
        """Keep what the optimizer is about to step on."""
        assert self.parameter.grad is not None
        self.trace.coordinates.append(self._sampled)
        # A copy: the gradient is a view of the whole step's vector, which it would keep alive.
        self.trace.private.append(self.parameter.grad.to("cpu", copy=True))


def split(batch: NDArray[np.int64], n_records: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A sorted batch's records, and its canaries numbered from 0."""
    at = int(np.searchsorted(batch, n_records))
    return batch[:at], batch[at:] - n_records


@dataclass
class _CanaryGradients:
    """The gradients of n canaries: on one coordinate each, and as long as `lengths` says."""

    parameter: nn.Parameter
    coordinates: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def squared_norms(self) -> Tensor:
        return self.lengths.square()

    def drop(self, examples: Tensor) -> None:
        self.lengths[examples] = 0.0

    def add_weighted(self, weights: Tensor, into: Sums) -> None:
        into[self.parameter].index_add_(0, self.coordinates, weights * self.lengths)


Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CanaryObservation:
    """What was observed of one silo's round: noisy gradients on coordinates whose law is known."""

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


def add_observation(file: Path, sighting: CanaryObservation) -> None:
    """Append to `file`, which has one writer; folders are made as needed."""
    line = {
        "silo": sighting.silo,
        "round": sighting.round,
        "plan": asdict(sighting.plan),
        "inserted": "".join("01"[bit] for bit in sighting.inserted.astype(int)),
        "steps": len(sighting.gradients),
        "sampled": base64_of(np.packbits(sighting.sampled)),
        "gradients": base64_of(sighting.gradients.astype("<f4")),
    }
    append_line(file, line)


def read_observations(folder: Path) -> list[CanaryObservation]:
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


def append_line(file: Path, line: dict[str, Any]) -> None:
    """Append a JSON object to `file`, which has one writer; folders are made as needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with demand_file(file).open("a+b") as out:
        _drop_torn_line(out)
        out.write(json.dumps(line).encode() + b"\n")


def _drop_torn_line(file: BinaryIO) -> None:
    """Move to the end of `file`, behind a whole line: a crash may have torn the last one."""
    if (size := file.seek(0, os.SEEK_END)) == 0:
        return
    file.seek(size - 1)
    if file.read() != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _read(file: Path) -> Iterator[CanaryObservation]:
    whole_lines = read_file(file).split(b"\n")[:-1]
    for number, line in enumerate(whole_lines, start=1):
        try:
            yield _sighting(json.loads(line))
        except (ValueError, TypeError, LookupError, ArithmeticError, PrivetError) as error:
            raise DataError(f"{file}, line {number}: not what was seen of a canary") from error


def _sighting(line: dict[str, Any]) -> CanaryObservation:
    inserted = np.array([int(digit, base=2) for digit in line["inserted"]], dtype=np.bool_)
    numbers = np.frombuffer(base64.b64decode(line["gradients"], validate=True), dtype="<f4")
    bits = np.frombuffer(base64.b64decode(line["sampled"], validate=True), dtype=np.uint8)
    shape = line["steps"], len(inserted)
    return CanaryObservation(
        str(line["silo"]),
        int(line["round"]),
        DpSgd(**line["plan"]),
        inserted,
        np.unpackbits(bits)[: numbers.size].astype(np.bool_).reshape(shape),
        numbers.astype(np.float32).reshape(shape),
    )


def base64_of(array: NDArray[Any]) -> str:
    """The bytes of an array as text."""
    return base64.b64encode(array.tobytes()).decode()
