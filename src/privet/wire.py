"""What travels between the server and a silo, as Flower records.

    train, down     "model":  weights and the strategy's own vectors     "task": round, lr, ...
    train, up       "update": local minus global weights, extra vectors  "metrics": weight, loss
                    "privacy": the mechanism that ran
    evaluate, down  "model":  weights                                    "task": round
    evaluate, up    "metrics": what the silo's policy lets out           "released": how each left
    query.enrol     a silo says its name, the noise multiplier it needs, and rounds it can afford

Both ends are here, so that they cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from typing import Any, TypeVar, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from privet.vectors import Vector

ENROL = "query.enrol"
REFUSED = "guard"
"""The stage at which a silo fails when its holder's rules do not allow what was asked."""

_Kind = TypeVar("_Kind", ArrayRecord, ConfigRecord, MetricRecord)

_WEIGHTS = "weights"
_UPDATE = "update"


@dataclass(frozen=True)
class TrainRequest:
    """The server's half of a round, the same for every silo that is asked."""

    round: int
    lr: float
    weights: Vector
    """Global model, shape (d,)."""
    extras: Mapping[str, Vector] = field(default_factory=dict)
    noise_multiplier: float | None = None
    """A floor under the silo's own noise multiplier (`calibrate = "shared"`)."""

    def to_records(self) -> RecordDict:
        task = ConfigRecord({"round": self.round, "lr": self.lr})
        if self.noise_multiplier is not None:
            task["noise-multiplier"] = self.noise_multiplier
        return RecordDict({"model": _arrays(_WEIGHTS, self.weights, self.extras), "task": task})

    @classmethod
    def from_records(cls, records: RecordDict) -> TrainRequest:
        task = _record(records, "task", ConfigRecord)
        weights, extras = _vectors(_WEIGHTS, _record(records, "model", ArrayRecord))
        floor = task.get("noise-multiplier")
        return cls(
            round=cast(int, task["round"]),
            lr=cast(float, task["lr"]),
            weights=weights,
            extras=extras,
            noise_multiplier=None if floor is None else cast(float, floor),
        )


@dataclass(frozen=True)
class TrainReply:
    """A silo's half of a round: everything that leaves it."""

    update: Vector
    """Local minus global weights, shape (d,)."""
    weight: float
    """Number of training records; 1 where the silo keeps it."""
    seconds: float
    event: Mapping[str, Any] | None = None
    """The encoded mechanism that really ran; None without differential privacy, and where it would
    tell a number of records that the silo keeps."""
    loss: float | None = None
    """Mean training loss; never sent with differential privacy, since no noise covers it."""
    extras: Mapping[str, Vector] = field(default_factory=dict)

    def to_records(self) -> RecordDict:
        metrics = MetricRecord({"num-examples": self.weight, "seconds": self.seconds})
        if self.loss is not None:
            metrics["loss"] = self.loss
        records = RecordDict(
            {"update": _arrays(_UPDATE, self.update, self.extras), "metrics": metrics}
        )
        if self.event is not None:
            records["privacy"] = ConfigRecord({"event": json.dumps(self.event)})
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> TrainReply:
        metrics = _record(records, "metrics", MetricRecord)
        update, extras = _vectors(_UPDATE, _record(records, "update", ArrayRecord))
        privacy = _record(records, "privacy", ConfigRecord) if "privacy" in records else None
        loss = metrics.get("loss")
        return cls(
            update=update,
            weight=cast(float, metrics["num-examples"]),
            seconds=cast(float, metrics["seconds"]),
            event=None if privacy is None else json.loads(cast(str, privacy["event"])),
            loss=None if loss is None else cast(float, loss),
            extras=extras,
        )


@dataclass(frozen=True)
class EvaluateRequest:
    """Asks a silo how good the global model is on records of its own."""

    round: int
    weights: Vector
    """Global model, shape (d,)."""

    def to_records(self) -> RecordDict:
        task = ConfigRecord({"round": self.round})
        return RecordDict({"model": _arrays(_WEIGHTS, self.weights, {}), "task": task})

    @classmethod
    def from_records(cls, records: RecordDict) -> EvaluateRequest:
        weights, _ = _vectors(_WEIGHTS, _record(records, "model", ArrayRecord))
        return cls(
            round=cast(int, _record(records, "task", ConfigRecord)["round"]), weights=weights
        )


@dataclass(frozen=True)
class EvaluateReply:
    """Everything that leaves a silo after an evaluation."""

    metrics: Mapping[str, float]
    released: Mapping[str, str]
    """For each metric that was asked for: "exact", "noised" or "withheld"."""
    weight: float | None = None
    """Number of records measured on; None where it is kept."""
    event: Mapping[str, Any] | None = None
    """The encoded mechanism of the noised metrics; None where it is kept, or without any."""

    def to_records(self) -> RecordDict:
        records = RecordDict(
            {
                "metrics": MetricRecord(dict(self.metrics)),
                "released": ConfigRecord(dict(self.released)),
            }
        )
        if self.weight is not None:
            records["size"] = MetricRecord({"num-examples": self.weight})
        if self.event is not None:
            records["privacy"] = ConfigRecord({"event": json.dumps(self.event)})
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> EvaluateReply:
        metrics = _record(records, "metrics", MetricRecord)
        released = _record(records, "released", ConfigRecord)
        size = _record(records, "size", MetricRecord) if "size" in records else None
        privacy = _record(records, "privacy", ConfigRecord) if "privacy" in records else None
        return cls(
            metrics={name: float(cast(float, value)) for name, value in metrics.items()},
            released={name: str(how) for name, how in released.items()},
            weight=None if size is None else float(cast(float, size["num-examples"])),
            event=None if privacy is None else json.loads(cast(str, privacy["event"])),
        )


@dataclass(frozen=True)
class Enrolment:
    """How a silo introduces itself before the first round."""

    silo: str
    index: int
    """Place of the silo in the federation; names its random streams in a simulation."""
    noise_multiplier: float | None = None
    """What the silo needs to reach the target epsilon over the whole run."""
    rounds: int | None = None
    """How many of the job's rounds fit the silo's budget; None where that is not told."""

    def to_records(self) -> RecordDict:
        record = ConfigRecord({"silo": self.silo, "index": self.index})
        if self.noise_multiplier is not None:
            record["noise-multiplier"] = self.noise_multiplier
        if self.rounds is not None:
            record["rounds"] = self.rounds
        return RecordDict({"enrolment": record})

    @classmethod
    def from_records(cls, records: RecordDict) -> Enrolment:
        record = _record(records, "enrolment", ConfigRecord)
        noise, rounds = record.get("noise-multiplier"), record.get("rounds")
        return cls(
            silo=cast(str, record["silo"]),
            index=cast(int, record["index"]),
            noise_multiplier=None if noise is None else cast(float, noise),
            rounds=None if rounds is None else cast(int, rounds),
        )


@dataclass(frozen=True)
class Failure:
    """Why a silo did not answer with an update; carried in the reason of a Flower error."""

    silo: str
    stage: str
    reason: str

    def __str__(self) -> str:
        return json.dumps({"silo": self.silo, "stage": self.stage, "reason": self.reason})

    @classmethod
    def parse(cls, text: str | None, *, silo: str) -> Failure:
        """From an error's reason; an error of Flower's own becomes stage "transport"."""
        try:
            stated = json.loads(text or "")
            return cls(silo=silo, stage=str(stated["stage"]), reason=str(stated["reason"]))
        except (ValueError, KeyError, TypeError):
            return cls(silo=silo, stage="transport", reason=text or "no reason given")


def payload_bytes(records: RecordDict) -> int:
    """Bytes of the arrays in `records`, as Flower stores them."""
    return sum(
        len(array.data)
        for record in records.values()
        if isinstance(record, ArrayRecord)
        for array in record.values()
    )


def _record(records: RecordDict, name: str, kind: type[_Kind]) -> _Kind:
    # Flower's own `records.array_records` copies all of them at every look.
    record = records[name]
    if not isinstance(record, kind):
        raise ValueError(f"'{name}' is a {type(record).__name__}, expected {kind.__name__}")
    return record


def _arrays(name: str, vector: Vector, extras: Mapping[str, Vector]) -> ArrayRecord:
    return ArrayRecord({key: _array(value) for key, value in {name: vector, **extras}.items()})


def _array(vector: Vector) -> Array:
    """As `Array(vector)` makes it, with one copy of the values instead of three."""
    shape = vector.shape
    data = b"".join((_float32_header(shape), np.ascontiguousarray(vector, dtype="<f4").data))
    return Array(dtype="float32", shape=shape, stype="numpy.ndarray", data=data)


def _vectors(name: str, record: ArrayRecord) -> tuple[Vector, dict[str, Vector]]:
    vectors = {key: _vector(array) for key, array in record.items()}
    return vectors.pop(name), vectors


def _vector(array: Array) -> Vector:
    header = _float32_header(tuple(array.shape))
    if array.data.startswith(header):
        # numpy spends more time on parsing its own header than on the values behind it.
        values = np.frombuffer(array.data, dtype=np.float32, offset=len(header))
    else:
        values = array.numpy()
    if values.shape != tuple(array.shape) or values.ndim != 1 or values.dtype != np.float32:
        raise ValueError(f"expected a float32 vector, got {values.dtype} of shape {values.shape}")
    return values


@lru_cache(maxsize=64)
def _float32_header(shape: tuple[int, ...]) -> bytes:
    """What `numpy.save` writes before float32 values of this shape."""
    buffer = BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()
