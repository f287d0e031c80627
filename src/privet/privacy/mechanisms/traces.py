"""What a training with canaries leaves of its steps, at coordinates of the model itself.

Canary coordinates lie beside a model; these lie in it, some in every tensor. What is kept of a
round is what the optimizer stepped on, with its noise, the weights it stepped from and the update
that was sent: the epsilon that is charged covers all of it. What is kept of a dry run, a training
or an evaluation on made-up examples, is of nobody. Files are as those of canaries: a line a trace,
arrays in base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from privet.errors import DataError, PrivetError
from privet.files import read_file
from privet.privacy.mechanisms.canaries import append_line, base64_of
from privet.privacy.mechanisms.plan import DpSgd
from privet.randomness import numpy_generator, stream

_Kind = TypeVar("_Kind")

Use = Literal["training", "noise", "clipping", "steps"]
"""A round's own training, or a dry run for what its name says."""

STEPS = "steps"
"""The folder, beside the files of canaries."""

_WHOLE = 100_000
"""A model of so many weights is kept whole in a dry run."""
_OWN = 64
"""Coordinates of a round's own training, about as many in each tensor, and 4 at least."""


@dataclass(frozen=True)
class StepTrace:
    """The steps of one silo's training, at k coordinates of what the model trains."""

    silo: str
    round: int
    use: Use
    plan: DpSgd
    """The mechanism as claimed."""
    gradients: NDArray[np.float32]
    """What the optimizer stepped on, shape (steps, k); (0, k) where it was not watched."""
    weights: NDArray[np.float32]
    """What it stepped from, shape (steps, k); (0, k) where they stay or it was not watched."""
    start: NDArray[np.float32]
    """The weights that the training began with, shape (k,); none of a dry run whose stay."""
    end: NDArray[np.float32]
    """The weights as the update that was sent leaves them, shape (k,), or none."""
    batches: tuple[tuple[int, ...], ...]
    """Of a dry run, the examples in each step."""
    counts: tuple[int, ...]
    """How many records were in each step; none of a real silo, which keeps its numbers."""
    records: int | None = None
    """Of how many they were drawn."""


@lru_cache(maxsize=8)
def own_places(sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """Coordinates at which a round's training is kept, sorted; the same for all silos and rounds.

    `sizes` are those of the tensors that are trained; coordinates count through all of them.
    """
    return _places(sizes, max(4, _OWN // max(1, len(sizes))))


def dry_places(sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """Coordinates at which a dry run is kept: all, or of a large model some of each tensor."""
    if sum(sizes) <= _WHOLE:
        return np.arange(sum(sizes))
    return _places(sizes, max(4, _WHOLE // (2 * len(sizes))))


def _places(sizes: Sequence[int], each: int) -> NDArray[np.int64]:
    starts = np.cumsum([0, *sizes])
    rng = numpy_generator(stream(0, "coordinates", *sizes))
    chosen = [
        start + rng.choice(size, size=min(size, each), replace=False)
        for start, size in zip(starts[:-1], sizes, strict=True)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def add_trace(file: Path, trace: StepTrace) -> None:
    """Append to `file`, which has one writer."""
    arrays = {name: getattr(trace, name) for name in _ARRAYS}
    line = {
        "silo": trace.silo,
        "round": trace.round,
        "use": trace.use,
        "plan": asdict(trace.plan),
        "coordinates": trace.gradients.shape[1],
        **{name: base64_of(array.astype("<f4")) for name, array in arrays.items()},
        "batches": trace.batches,
        "counts": trace.counts,
        "records": trace.records,
    }
    append_line(file, line)


_ARRAYS = ("gradients", "weights", "start", "end")


EVALUATIONS = "evaluations"
"""The folder of dry evaluations, beside that of steps."""


@dataclass(frozen=True)
class EvaluationTrace:
    """Shares of made-up values that were released with noise, each by itself."""

    silo: str
    round: int
    noise_multiplier: float
    """As claimed."""
    yes: int
    """Made-up values that are one; and those that are zero."""
    no: int
    released: tuple[float, ...]


def add_evaluation(file: Path, trace: EvaluationTrace) -> None:
    """Append to `file`, which has one writer."""
    append_line(file, asdict(trace))


def read_evaluations(folder: Path) -> list[EvaluationTrace]:
    """As `read_traces`, of what `add_evaluation` wrote."""
    found = {
        (each.silo, each.round): each
        for file in sorted(folder.glob("*.jsonl"))
        for each in _read(file, _evaluation)
    }
    return list(found.values())


def _evaluation(line: dict[str, Any]) -> EvaluationTrace:
    return EvaluationTrace(
        str(line["silo"]),
        int(line["round"]),
        float(line["noise_multiplier"]),
        int(line["yes"]),
        int(line["no"]),
        tuple(map(float, line["released"])),
    )


def read_traces(folder: Path) -> list[StepTrace]:
    """Those of every file in `folder`, of a round that ran again the last; none without a folder.

    Raises DataError, with file and line, for what `add_trace` did not write.
    """
    found = {
        (each.silo, each.round, each.use): each
        for file in sorted(folder.glob("*.jsonl"))
        for each in _read(file, _trace)
    }
    return list(found.values())


def _read(file: Path, parse: Callable[[dict[str, Any]], _Kind]) -> Iterator[_Kind]:
    for number, line in enumerate(read_file(file).split(b"\n")[:-1], start=1):
        try:
            yield parse(json.loads(line))
        except (ValueError, TypeError, LookupError, ArithmeticError, PrivetError) as error:
            raise DataError(f"{file}, line {number}: not the steps of a training") from error


def _trace(line: dict[str, Any]) -> StepTrace:
    arrays = {
        name: np.frombuffer(base64.b64decode(line[name], validate=True), dtype="<f4")
        for name in _ARRAYS
    }
    shape = -1, int(line["coordinates"])
    return StepTrace(
        str(line["silo"]),
        int(line["round"]),
        line["use"],
        DpSgd(**line["plan"]),
        arrays["gradients"].reshape(shape),
        arrays["weights"].reshape(shape),
        arrays["start"],
        arrays["end"],
        tuple(tuple(map(int, batch)) for batch in line["batches"]),
        tuple(map(int, line["counts"])),
        None if line["records"] is None else int(line["records"]),
    )
