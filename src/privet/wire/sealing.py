"""What travels when the server may see sums only: sealed models, keys and masks.

sealed    beside or in place of a model, and of an update      keys    query.offer, make, take
masks     query.advert, share, consent, reveal, and letters beside a train message
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from privet.wire.records import blob, blobs, named, optional_bytes, record_of

OFFER, MAKE, TAKE, KEEP = (f"query.{verb}" for verb in ("offer", "make", "take", "keep"))
ADVERT, SHARE, CONSENT, REVEAL = (
    f"query.{verb}" for verb in ("advert", "share", "consent", "reveal")
)
MASKS = "masks"
"""The record of masked rounds: a MaskRequest or MaskAnswer, also beside a TrainRequest."""
SEALED = "sealed"
"""The record of what is told about a sealed vector; the vector itself is in one of its own."""
MODELS, UPDATE = "sealed-models", "sealed-update"


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

    def put(self, records: RecordDict) -> None:
        records[SEALED] = ConfigRecord(
            {"run": self.run, "epoch": self.epoch, "weight-unit": self.weight_unit}
        )
        _put_models(records, self.now, self.before)

    @classmethod
    def of(cls, records: RecordDict) -> Sealed | None:
        """What `put` put there; None where it did not."""
        if SEALED not in records:
            return None
        record = record_of(records, SEALED, ConfigRecord)
        return cls(
            run=cast(str, record["run"]),
            epoch=cast(int, record["epoch"]),
            weight_unit=float(cast(float, record["weight-unit"])),
            **_models(records),
        )


@dataclass(frozen=True)
class SealedUpdate:
    """A silo's proposal for the next global model, encrypted, and what the silo states about it."""

    upload: bytes
    statement: bytes
    """Signed with the silo's identity key."""
    clipped: int = 0
    """Values that were too large for the encoding and were cut off."""

    def put(self, records: RecordDict) -> None:
        records[SEALED] = ConfigRecord({"statement": self.statement, "clipped": self.clipped})
        records[UPDATE] = ArrayRecord({"upload": blob(self.upload)})

    @classmethod
    def of(cls, records: RecordDict) -> SealedUpdate | None:
        """What `put` put there; None where it did not."""
        if SEALED not in records:
            return None
        record = record_of(records, SEALED, ConfigRecord)
        statement = record["statement"]
        if not isinstance(statement, bytes):
            raise ValueError("the statement about an upload is no bytes")
        upload = blobs(record_of(records, UPDATE, ArrayRecord))["upload"]
        return cls(upload, statement, cast(int, record["clipped"]))


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
            self.carried.put(records)
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> KeyRequest:
        record = record_of(records, "keys", ConfigRecord)
        return cls(
            run=cast(str, record["run"]),
            epoch=cast(int, record["epoch"]),
            since=cast(int, record["since"]),
            offers=tuple(cast(list[bytes], record["offers"])),
            wrapped=optional_bytes(record.get("wrapped")),
            carried=Sealed.of(records),
        )


@dataclass(frozen=True)
class KeyAnswer:
    """What a silo says to a KeyRequest."""

    offer: bytes | None = None
    wraps: Mapping[str, bytes] = field(default_factory=dict)
    """The new key for each other silo, by name; unreadable to everyone else."""
    now: bytes | None = None
    before: bytes | None = None

    def to_records(self) -> RecordDict:
        record = ConfigRecord({f"for:{name}": wrap for name, wrap in self.wraps.items()})
        if self.offer is not None:
            record["offer"] = self.offer
        records = RecordDict({"keys": record})
        _put_models(records, self.now, self.before)
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> KeyAnswer:
        record = record_of(records, "keys", ConfigRecord)
        offer = optional_bytes(record.get("offer"))
        return cls(offer, named("for:", record), **_models(records))


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
        record = record_of(records, MASKS, ConfigRecord)
        numbers = ("epoch", "round", "threshold", "count", "bits", "colluding")
        return cls(
            run=cast(str, record["run"]),
            **{name: cast(int, record[name]) for name in numbers},
            messages=tuple(cast(list[bytes], record["messages"])),
            survivors=tuple(cast(list[str], record["survivors"])),
            letters=named("from:", record),
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
        record = record_of(records, MASKS, ConfigRecord)
        return cls(optional_bytes(record.get("message")), named("for:", record))


def _put_models(records: RecordDict, now: bytes | None, before: bytes | None) -> None:
    here = {"now": now, "before": before}
    if now is not None or before is not None:
        records[MODELS] = ArrayRecord({k: blob(v) for k, v in here.items() if v is not None})


def _models(records: RecordDict) -> dict[str, bytes | None]:
    found = blobs(record_of(records, MODELS, ArrayRecord)) if MODELS in records else {}
    return {name: found.get(name) for name in ("now", "before")}
