"""What travels in every run: enrolment, rounds of training, and evaluations."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from privet.vectors import Vector
from privet.wire.records import Sealed, SealedUpdate, arrays, record_of, vectors

ENROL = "query.enrol"

# What a peer can have the server keep and show.
_LONGEST_NAME, _MOST_METRICS = 200, 1000
# Weighted sums over silos stay finite, and counts exact in float64.
_LARGEST_METRIC, _MOST_RECORDS = 1e100, 2**53
_HOW_RELEASED = frozenset({"exact", "noised", "withheld"})

_WEIGHTS = "weights"
_UPDATE = "update"


@dataclass(frozen=True)
class TrainRequest:
    """The server's side of a round, the same for every silo that is asked."""

    round: int
    weights: Vector | None
    """Global model, shape (d,); None with encryption, where the round was agreed on before."""
    extras: Mapping[str, Vector] = field(default_factory=dict)
    noise_multiplier: float | None = None
    """A floor under the silo's own noise multiplier (`calibrate = "shared"`)."""
    base: str | None = None
    """The digest of the base of the server's model; None of a model without one."""

    def to_records(self) -> RecordDict:
        task = ConfigRecord({"round": self.round, **_named_base(self.base)})
        if self.noise_multiplier is not None:
            task["noise-multiplier"] = self.noise_multiplier
        records = RecordDict({"task": task})
        put_model(records, self.weights, self.extras)
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> TrainRequest:
        task = record_of(records, "task", ConfigRecord)
        weights, extras = model_of(records)
        floor = task.get("noise-multiplier")
        return cls(
            round=cast(int, task["round"]),
            weights=weights,
            extras=extras,
            noise_multiplier=None if floor is None else cast(float, floor),
            base=_base_in(task),
        )


@dataclass(frozen=True)
class TrainReply:
    """A silo's side of a round: everything that leaves it."""

    update: Vector | None
    """Local minus global weights, shape (d,); None when it is sealed."""
    weight: float | None = None
    """Number of training records; None where the silo keeps it, and where it is sealed."""
    event: Mapping[str, Any] | None = None
    """The encoded mechanism that really ran; None without differential privacy, and where it would
    reveal a number of records that the silo keeps secret."""
    loss: float | None = None
    """Mean training loss; sent only where the update itself is in the clear and without noise."""
    extras: Mapping[str, Vector] = field(default_factory=dict)
    sealed: SealedUpdate | None = None

    def to_records(self) -> RecordDict:
        metrics = {"num-examples": self.weight, "loss": self.loss}
        told = MetricRecord({name: value for name, value in metrics.items() if value is not None})
        records = RecordDict({"metrics": told} if told else {})
        if self.update is not None:
            records["update"] = arrays(_UPDATE, self.update, self.extras)
        if self.sealed is not None:
            self.sealed.put(records)
        if self.event is not None:
            records["privacy"] = ConfigRecord({"event": json.dumps(self.event)})
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> TrainReply:
        metrics = record_of(records, "metrics", MetricRecord) if "metrics" in records else {}
        update: Vector | None = None
        extras: dict[str, Vector] = {}
        sealed = SealedUpdate.of(records)
        if sealed is None:
            update, extras = vectors(_UPDATE, record_of(records, "update", ArrayRecord))
        privacy = record_of(records, "privacy", ConfigRecord) if "privacy" in records else None
        loss, weight = metrics.get("loss"), metrics.get("num-examples")
        return cls(
            update=update,
            weight=None if weight is None else cast(float, weight),
            event=None if privacy is None else json.loads(cast(str, privacy["event"])),
            loss=None if loss is None else cast(float, loss),
            extras=extras,
            sealed=sealed,
        )


@dataclass(frozen=True)
class EvaluateRequest:
    """Asks a silo how good the global model is on records of its own."""

    round: int
    weights: Vector | None
    """Global model, shape (d,); None when it comes sealed."""
    sealed: Sealed | None = None
    base: str | None = None
    """As in a TrainRequest."""

    def to_records(self) -> RecordDict:
        task = ConfigRecord({"round": self.round, **_named_base(self.base)})
        records = RecordDict({"task": task})
        put_model(records, self.weights, {})
        if self.sealed is not None:
            self.sealed.put(records)
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> EvaluateRequest:
        task = record_of(records, "task", ConfigRecord)
        round_, weights = cast(int, task["round"]), model_of(records)[0]
        return cls(round_, weights, Sealed.of(records), _base_in(task))


@dataclass(frozen=True)
class ScoreReply:
    """Counts (2 bins,): records that are not of the second class, by bin of its probability, then
    those that are; and the standard deviation of the noise on each."""

    counts: tuple[float, ...]
    noise: float

    @classmethod
    def of(cls, record: MetricRecord) -> ScoreReply:
        """ValueError for what a silo does not send."""
        counts, noise = record["counts"], float(cast(float, record["noise"]))
        _check(isinstance(counts, list) and 4 <= len(counts) <= 200, "no counts of scores")
        found = tuple(float(each) for each in cast("list[float]", counts))
        _check(len(found) % 2 == 0, "no counts by class")
        _check(all(abs(each) <= _LARGEST_METRIC for each in (*found, noise)), "no number")
        return cls(found, abs(noise))


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
    scores: ScoreReply | None = None
    """Of the metric "scores", where it may leave."""

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
        if self.scores is not None:
            counts, noise = [*self.scores.counts], self.scores.noise
            records["scores"] = MetricRecord({"counts": counts, "noise": noise})
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> EvaluateReply:
        metrics = record_of(records, "metrics", MetricRecord)
        released = record_of(records, "released", ConfigRecord)
        size = record_of(records, "size", MetricRecord) if "size" in records else None
        privacy = record_of(records, "privacy", ConfigRecord) if "privacy" in records else None
        weight = None if size is None else float(cast(float, size["num-examples"]))
        _check_names([*metrics, *released])
        _check(weight is None or 0 < weight <= _MOST_RECORDS, "no number of records")
        _check(_HOW_RELEASED.issuperset(released.values()), "no way to release a metric")
        values = {name: float(cast(float, value)) for name, value in metrics.items()}
        # False for NaN as well.
        _check(all(abs(each) <= _LARGEST_METRIC for each in values.values()), "no number")
        return cls(
            metrics=values,
            released={name: str(how) for name, how in released.items()},
            weight=weight,
            event=None if privacy is None else json.loads(cast(str, privacy["event"])),
            scores=ScoreReply.of(record_of(records, "scores", MetricRecord))
            if "scores" in records
            else None,
        )


@dataclass(frozen=True)
class EnrolRequest:
    """Asks a silo whether it takes part."""

    base: str | None = None
    """As in a TrainRequest."""

    def to_records(self) -> RecordDict:
        if self.base is None:
            return RecordDict()
        return RecordDict({"task": ConfigRecord({"base": self.base})})

    @classmethod
    def from_records(cls, records: RecordDict) -> EnrolRequest:
        if "task" not in records:
            return cls()
        return cls(_base_in(record_of(records, "task", ConfigRecord)))


@dataclass(frozen=True)
class Enrolment:
    """How a silo introduces itself before the first round."""

    silo: str
    index: int
    """Place of the silo in the federation; names its random streams in a simulation."""
    noise_multiplier: float | None = None
    """What the silo needs to reach the target epsilon over the whole run."""
    rounds: int | None = None
    """How many of the job's rounds fit the silo's budget; None where that is not revealed."""

    def to_records(self) -> RecordDict:
        record = ConfigRecord({"silo": self.silo, "index": self.index})
        if self.noise_multiplier is not None:
            record["noise-multiplier"] = self.noise_multiplier
        if self.rounds is not None:
            record["rounds"] = self.rounds
        return RecordDict({"enrolment": record})

    @classmethod
    def from_records(cls, records: RecordDict) -> Enrolment:
        record = record_of(records, "enrolment", ConfigRecord)
        noise, rounds = record.get("noise-multiplier"), record.get("rounds")
        _check_names([record["silo"]])
        _check(_is_count(record["index"]), "no index")
        _check(noise is None or _is_noise(noise), "no noise multiplier")
        _check(rounds is None or _is_count(rounds), "no number of rounds")
        return cls(
            silo=cast(str, record["silo"]),
            index=cast(int, record["index"]),
            noise_multiplier=None if noise is None else cast(float, noise),
            rounds=None if rounds is None else cast(int, rounds),
        )


def _named_base(digest: str | None) -> dict[str, str]:
    return {} if digest is None else {"base": digest}


def _base_in(task: ConfigRecord) -> str | None:
    digest = task.get("base")
    _check(digest is None or isinstance(digest, str), "no digest of a base")
    return cast("str | None", digest)


def _check(holds: bool, fault: str) -> None:
    if not holds:
        raise ValueError(fault)


def _check_names(names: Iterable[object]) -> None:
    """Names that silos give, which are shown to people."""
    for number, name in enumerate(names):
        fits = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable()
        # Twice: metrics and how each was released come in one list.
        _check(fits and number < 2 * _MOST_METRICS, "no name, or one too many")


def _is_count(value: object) -> bool:
    # To Python, bool is an int.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_RECORDS


def _is_noise(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def put_model(records: RecordDict, weights: Vector | None, extras: Mapping[str, Vector]) -> None:
    """Put a model in the clear there, unless there is none."""
    if weights is not None:
        records["model"] = arrays(_WEIGHTS, weights, extras)


def model_of(records: RecordDict) -> tuple[Vector | None, dict[str, Vector]]:
    """What `put_model` put there."""
    if "model" not in records:
        return None, {}
    return vectors(_WEIGHTS, record_of(records, "model", ArrayRecord))
