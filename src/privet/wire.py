"""What travels between the server and a silo, as Flower records.

    train, down     "model":  weights and the strategy's own vectors     "task": round, lr, ...
    train, up       "update": local minus global weights, extra vectors  "metrics": weight, loss
                    "privacy": the mechanism that ran
    evaluate, down  "model":  weights                                    "task": round
    evaluate, up    "metrics": what the silo's policy lets out           "released": how each left
    query.enrol     a silo says its name, the noise multiplier it needs, and rounds it can afford

With encryption, "sealed" takes the place of "model" and "update": bytes that only silos can open.
The keys for that travel as `query.offer` (a silo's fresh public key), `query.make` (the elected
silo gets all offers and answers with the key, wrapped for each other silo) and `query.take`.
Masked rounds have `query.advert` and `query.share` before training, `query.consent` and
`query.reveal` after it.

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
OFFER, MAKE, TAKE, KEEP = (f"query.{verb}" for verb in ("offer", "make", "take", "keep"))
ADVERT, SHARE, CONSENT, REVEAL = (
    f"query.{verb}" for verb in ("advert", "share", "consent", "reveal")
)
MASKS = "masks"
"""The record of masked rounds: a MaskRequest or MaskAnswer, also beside a TrainRequest."""
REFUSED = "guard"
"""The stage at which a silo fails when its holder's rules do not allow what was asked."""

_Kind = TypeVar("_Kind", ArrayRecord, ConfigRecord, MetricRecord)

_WEIGHTS = "weights"
_UPDATE = "update"


@dataclass(frozen=True)
class Sealed:
    """The global model as only key holders can open it, and how they seal what they answer."""

    run: str
    epoch: int
    """Which key: see privet.privacy.encryption.keys.Session."""
    weight_unit: float = 1.0
    """Silos count as many times this as they have records; at most 1."""
    now: bytes | None = None
    """An encrypted sum whose mean is the model; None while the model is public, in round 1."""
    before: bytes | None = None
    """The model before that, for rules that need it."""

    def record(self) -> ConfigRecord:
        record = ConfigRecord(
            {"run": self.run, "epoch": self.epoch, "weight-unit": self.weight_unit}
        )
        for name, value in (("now", self.now), ("before", self.before)):
            if value is not None:
                record[name] = value
        return record

    @classmethod
    def of(cls, record: ConfigRecord) -> Sealed:
        return cls(
            run=cast(str, record["run"]),
            epoch=cast(int, record["epoch"]),
            weight_unit=float(cast(float, record["weight-unit"])),
            now=_bytes(record.get("now")),
            before=_bytes(record.get("before")),
        )


@dataclass(frozen=True)
class TrainRequest:
    """The server's half of a round, the same for every silo that is asked."""

    round: int
    lr: float
    weights: Vector | None
    """Global model, shape (d,); None when it comes sealed."""
    extras: Mapping[str, Vector] = field(default_factory=dict)
    noise_multiplier: float | None = None
    """A floor under the silo's own noise multiplier (`calibrate = "shared"`)."""
    sealed: Sealed | None = None
    """With encryption: how the answer is sealed, and the model from the second round on."""

    def to_records(self) -> RecordDict:
        task = ConfigRecord({"round": self.round, "lr": self.lr})
        if self.noise_multiplier is not None:
            task["noise-multiplier"] = self.noise_multiplier
        records = RecordDict({"task": task})
        _put_model(records, self.weights, self.extras, self.sealed)
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> TrainRequest:
        task = _record(records, "task", ConfigRecord)
        weights, extras, sealed = _get_model(records)
        floor = task.get("noise-multiplier")
        return cls(
            round=cast(int, task["round"]),
            lr=cast(float, task["lr"]),
            weights=weights,
            extras=extras,
            noise_multiplier=None if floor is None else cast(float, floor),
            sealed=sealed,
        )


@dataclass(frozen=True)
class SealedUpdate:
    """A silo's proposal for the next global model, encrypted, and what the silo states about it."""

    upload: bytes
    statement: bytes
    """Signed with the silo's identity key."""
    clipped: int = 0
    """Values that were too large for the encoding and were cut off."""

    def record(self) -> ConfigRecord:
        return ConfigRecord(
            {"upload": self.upload, "statement": self.statement, "clipped": self.clipped}
        )

    @classmethod
    def of(cls, record: ConfigRecord) -> SealedUpdate:
        upload, statement = record["upload"], record["statement"]
        if not (isinstance(upload, bytes) and isinstance(statement, bytes)):
            raise ValueError("'sealed' holds no bytes")
        return cls(upload, statement, cast(int, record["clipped"]))


@dataclass(frozen=True)
class TrainReply:
    """A silo's half of a round: everything that leaves it."""

    update: Vector | None
    """Local minus global weights, shape (d,); None when it is sealed."""
    weight: float
    """Number of training records; 1 where the silo keeps it, and where it is sealed."""
    seconds: float
    event: Mapping[str, Any] | None = None
    """The encoded mechanism that really ran; None without differential privacy, and where it would
    tell a number of records that the silo keeps."""
    loss: float | None = None
    """Mean training loss; never sent with differential privacy, since no noise covers it."""
    extras: Mapping[str, Vector] = field(default_factory=dict)
    sealed: SealedUpdate | None = None

    def to_records(self) -> RecordDict:
        metrics = MetricRecord({"num-examples": self.weight, "seconds": self.seconds})
        if self.loss is not None:
            metrics["loss"] = self.loss
        records = RecordDict({"metrics": metrics})
        if self.update is not None:
            records["update"] = _arrays(_UPDATE, self.update, self.extras)
        if self.sealed is not None:
            records["sealed"] = self.sealed.record()
        if self.event is not None:
            records["privacy"] = ConfigRecord({"event": json.dumps(self.event)})
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> TrainReply:
        metrics = _record(records, "metrics", MetricRecord)
        update: Vector | None = None
        extras: dict[str, Vector] = {}
        sealed: SealedUpdate | None = None
        if "sealed" in records:
            sealed = SealedUpdate.of(_record(records, "sealed", ConfigRecord))
        else:
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
            sealed=sealed,
        )


@dataclass(frozen=True)
class EvaluateRequest:
    """Asks a silo how good the global model is on records of its own."""

    round: int
    weights: Vector | None
    """Global model, shape (d,); None when it comes sealed."""
    sealed: Sealed | None = None

    def to_records(self) -> RecordDict:
        records = RecordDict({"task": ConfigRecord({"round": self.round})})
        _put_model(records, self.weights, {}, self.sealed)
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> EvaluateRequest:
        round_ = cast(int, _record(records, "task", ConfigRecord)["round"])
        weights, _, sealed = _get_model(records)
        return cls(round_, weights, sealed)


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
    records: int | None = None
    """With encryption and weights by records: how many it has, so that weights get a unit."""

    def to_records(self) -> RecordDict:
        record = ConfigRecord({"silo": self.silo, "index": self.index})
        if self.noise_multiplier is not None:
            record["noise-multiplier"] = self.noise_multiplier
        for key, value in (("rounds", self.rounds), ("records", self.records)):
            if value is not None:
                record[key] = value
        return RecordDict({"enrolment": record})

    @classmethod
    def from_records(cls, records: RecordDict) -> Enrolment:
        record = _record(records, "enrolment", ConfigRecord)
        noise, rounds = record.get("noise-multiplier"), record.get("rounds")
        count = record.get("records")
        return cls(
            silo=cast(str, record["silo"]),
            index=cast(int, record["index"]),
            noise_multiplier=None if noise is None else cast(float, noise),
            rounds=None if rounds is None else cast(int, rounds),
            records=None if count is None else cast(int, count),
        )


@dataclass(frozen=True)
class KeyRequest:
    """One step of bringing an epoch's key to all silos; what the server relays for the others."""

    run: str
    epoch: int
    since: int
    """The first round that uses the key."""
    offers: tuple[bytes, ...] = ()
    wrapped: bytes | None = None
    carried: Sealed | None = None
    """The model under the key before, to be sealed under the new one."""

    def to_records(self) -> RecordDict:
        record = ConfigRecord({"run": self.run, "epoch": self.epoch, "since": self.since})
        record["offers"] = list(self.offers)
        if self.wrapped is not None:
            record["wrapped"] = self.wrapped
        records = RecordDict({"keys": record})
        if self.carried is not None:
            records["sealed"] = self.carried.record()
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> KeyRequest:
        record = _record(records, "keys", ConfigRecord)
        carried = _record(records, "sealed", ConfigRecord) if "sealed" in records else None
        return cls(
            run=cast(str, record["run"]),
            epoch=cast(int, record["epoch"]),
            since=cast(int, record["since"]),
            offers=tuple(cast(list[bytes], record["offers"])),
            wrapped=_bytes(record.get("wrapped")),
            carried=None if carried is None else Sealed.of(carried),
        )


@dataclass(frozen=True)
class KeyAnswer:
    """What a silo says to a KeyRequest."""

    offer: bytes | None = None
    wraps: Mapping[str, bytes] = field(default_factory=dict)
    """The new key for each other silo, by name; unreadable to everyone else."""
    now: bytes | None = None
    before: bytes | None = None

    def record(self) -> ConfigRecord:
        record = ConfigRecord({f"for:{name}": wrap for name, wrap in self.wraps.items()})
        for name, value in (("offer", self.offer), ("now", self.now), ("before", self.before)):
            if value is not None:
                record[name] = value
        return record

    @classmethod
    def from_records(cls, records: RecordDict) -> KeyAnswer:
        record = _record(records, "keys", ConfigRecord)
        wraps = _named("for:", record)
        parts = {name: _bytes(record.get(name)) for name in ("offer", "now", "before")}
        return cls(wraps=wraps, **parts)


@dataclass(frozen=True)
class MaskRequest:
    """One step of a masked round; what the server relays for the others."""

    run: str
    epoch: int
    round: int
    threshold: int
    count: int
    bits: int
    colluding: int
    messages: tuple[bytes, ...] = ()
    """Adverts, or consents."""
    letters: Mapping[str, bytes] = field(default_factory=dict)
    """From each other silo to this one."""
    survivors: tuple[str, ...] = ()

    def record(self) -> ConfigRecord:
        record = ConfigRecord(
            {
                "run": self.run,
                "epoch": self.epoch,
                "round": self.round,
                "threshold": self.threshold,
                "count": self.count,
                "bits": self.bits,
                "colluding": self.colluding,
                "messages": list(self.messages),
                "survivors": list(self.survivors),
            }
        )
        return ConfigRecord({**record, **{f"from:{n}": text for n, text in self.letters.items()}})

    @classmethod
    def from_records(cls, records: RecordDict) -> MaskRequest:
        record = _record(records, MASKS, ConfigRecord)
        numbers = ("epoch", "round", "threshold", "count", "bits", "colluding")
        return cls(
            run=cast(str, record["run"]),
            **{name: cast(int, record[name]) for name in numbers},
            messages=tuple(cast(list[bytes], record["messages"])),
            survivors=tuple(cast(list[str], record["survivors"])),
            letters=_named("from:", record),
        )


@dataclass(frozen=True)
class MaskAnswer:
    """What a silo says to a MaskRequest: a message for everyone, or letters to the others."""

    message: bytes | None = None
    letters: Mapping[str, bytes] = field(default_factory=dict)

    def record(self) -> ConfigRecord:
        record = ConfigRecord({f"for:{name}": text for name, text in self.letters.items()})
        if self.message is not None:
            record["message"] = self.message
        return record

    @classmethod
    def from_records(cls, records: RecordDict) -> MaskAnswer:
        record = _record(records, MASKS, ConfigRecord)
        return cls(_bytes(record.get("message")), _named("for:", record))


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
    """Bytes of the arrays and of the sealed vectors in `records`, as Flower stores them."""
    total = 0
    for record in records.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            total += sum(len(value) for value in record.values() if isinstance(value, bytes))
    return total


def _put_model(
    records: RecordDict, weights: Vector | None, extras: Mapping[str, Vector], sealed: Sealed | None
) -> None:
    if weights is not None:
        records["model"] = _arrays(_WEIGHTS, weights, extras)
    if sealed is not None:
        records["sealed"] = sealed.record()


def _get_model(
    records: RecordDict,
) -> tuple[Vector | None, dict[str, Vector], Sealed | None]:
    sealed = Sealed.of(_record(records, "sealed", ConfigRecord)) if "sealed" in records else None
    if sealed is not None and sealed.now is not None and "model" not in records:
        return None, {}, sealed
    return *_vectors(_WEIGHTS, _record(records, "model", ArrayRecord)), sealed


def _named(prefix: str, record: ConfigRecord) -> dict[str, bytes]:
    return {
        name.removeprefix(prefix): cast(bytes, value)
        for name, value in record.items()
        if name.startswith(prefix)
    }


def _bytes(value: object) -> bytes | None:
    if value is not None and not isinstance(value, bytes):
        raise ValueError(f"a sealed model is bytes, not {type(value).__name__}")
    return value


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
