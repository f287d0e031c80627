"""What travels when the server may see sums only: sealed models, keys and masks.

sealed    beside or in place of a model, and of an update      keys    query.offer, make, take
masks     query.advert, share, consent, reveal, and letters beside a train message
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from flwr.app import ConfigRecord, RecordDict

from privet.wire.records import named, optional_bytes, record_of

OFFER, MAKE, TAKE, KEEP = (f"query.{verb}" for verb in ("offer", "make", "take", "keep"))
ADVERT, SHARE, CONSENT, REVEAL = (
    f"query.{verb}" for verb in ("advert", "share", "consent", "reveal")
)
MASKS = "masks"
"""The record of masked rounds: a MaskRequest or MaskAnswer, also beside a TrainRequest."""


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
            now=optional_bytes(record.get("now")),
            before=optional_bytes(record.get("before")),
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
        record = record_of(records, "keys", ConfigRecord)
        carried = record_of(records, "sealed", ConfigRecord) if "sealed" in records else None
        return cls(
            run=cast(str, record["run"]),
            epoch=cast(int, record["epoch"]),
            since=cast(int, record["since"]),
            offers=tuple(cast(list[bytes], record["offers"])),
            wrapped=optional_bytes(record.get("wrapped")),
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
        record = record_of(records, "keys", ConfigRecord)
        wraps = named("for:", record)
        parts = {name: optional_bytes(record.get(name)) for name in ("offer", "now", "before")}
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
