"""Flower's records, the vectors and bytes inside them, and what travels encrypted.

When the server may see sums only, encrypted models, keys and masks travel:

sealed    which model a message is about; a sealed update    keys    query.offer, make, take, keep
masks     query.advert, share, consent, reveal, confirm, and shares beside a train message
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from typing import TypeVar, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from privet.vectors import Vector

_BLOB = "bytes"
_Kind = TypeVar("_Kind", ArrayRecord, ConfigRecord, MetricRecord)


def payload_bytes(records: RecordDict) -> int:
    """Bytes of the arrays and of the sealed vectors in `records`, as Flower stores them."""
    total = 0
    for record in records.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            total += sum(len(value) for value in record.values() if isinstance(value, bytes))
    return total


def record_of(records: RecordDict, name: str, kind: type[_Kind]) -> _Kind:
    # Flower's own `records.array_records` copies all of them at every look.
    record = records[name]
    if not isinstance(record, kind):
        raise ValueError(f"'{name}' is a {type(record).__name__}, expected {kind.__name__}")
    return record


def arrays(name: str, vector: Vector, extras: Mapping[str, Vector]) -> ArrayRecord:
    return ArrayRecord({key: _array(value) for key, value in {name: vector, **extras}.items()})


def vectors(name: str, record: ArrayRecord) -> tuple[Vector, dict[str, Vector]]:
    vectors = {key: _vector(array) for key, array in record.items()}
    return vectors.pop(name), vectors


def blob(content: bytes) -> Array:
    """Bytes as an array: Flower sends it in pieces, and the bytes of a ConfigRecord whole."""
    return Array(dtype="uint8", shape=(len(content),), stype=_BLOB, data=content)


def blobs(record: ArrayRecord) -> dict[str, bytes]:
    for name, array in record.items():
        if array.stype != _BLOB:
            raise ValueError(f"'{name}' is a {array.stype!r}, expected {_BLOB!r}")
    return {name: bytes(array.data) for name, array in record.items()}


def named(prefix: str, record: ConfigRecord) -> dict[str, bytes]:
    return {
        name.removeprefix(prefix): cast(bytes, value)
        for name, value in record.items()
        if name.startswith(prefix)
    }


def optional_bytes(value: object) -> bytes | None:
    if value is not None and not isinstance(value, bytes):
        raise ValueError(f"a sealed model is bytes, not {type(value).__name__}")
    return value


def _array(vector: Vector) -> Array:
    """As `Array(vector)` makes it, with one copy of the values instead of three."""
    shape = vector.shape
    data = b"".join((_float32_header(shape), np.ascontiguousarray(vector, dtype="<f4").data))
    return Array(dtype="float32", shape=shape, stype="numpy.ndarray", data=data)


def _vector(array: Array) -> Vector:
    header = _float32_header(tuple(array.shape))
    if bytes(array.data[: len(header)]) == header:
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


OFFER, MAKE, TAKE, KEEP = (f"query.{verb}" for verb in ("offer", "make", "take", "keep"))
ADVERT, SHARE, CONSENT, REVEAL, CONFIRM = (
    f"query.{verb}" for verb in ("advert", "share", "consent", "reveal", "confirm")
)
MASKS = "masks"
"""The record of encrypted rounds: a MaskRequest or MaskAnswer, also beside a TrainRequest."""
SEALED = "sealed"
"""The record of what is stated about a sealed vector; the vector itself is in one of its own."""
MODEL, UPDATE, SUM = "sealed-model", "sealed-update", "sealed-sum"


@dataclass(frozen=True)
class Sealed:
    """Which global model a message is about, where the server does not see it."""

    epoch: int
    """Which key: see privet.privacy.encryption.keys.Session."""
    confirmed_in: int = 0
    """The epoch of the confirmations."""
    confirmations: tuple[bytes, ...] = ()
    """Signed by silos that opened the sum; none while the model is the public first one."""
    sizes: tuple[int, ...] = ()
    """Of the tensors of a public model."""
    model: bytes | None = None
    """The model, for who does not keep it; only holders of the epoch's key can open it."""

    def put(self, records: RecordDict) -> None:
        records[SEALED] = ConfigRecord(
            {
                "epoch": self.epoch,
                "confirmed-in": self.confirmed_in,
                "confirmations": list(self.confirmations),
                "sizes": list(self.sizes),
            }
        )
        _put_model(records, self.model)

    @classmethod
    def of(cls, records: RecordDict) -> Sealed | None:
        """What `put` put there; None where it did not."""
        if SEALED not in records:
            return None
        record = record_of(records, SEALED, ConfigRecord)
        return cls(
            epoch=cast(int, record["epoch"]),
            confirmed_in=cast(int, record["confirmed-in"]),
            confirmations=tuple(cast(list[bytes], record["confirmations"])),
            sizes=tuple(cast(list[int], record["sizes"])),
            model=_model(records),
        )


@dataclass(frozen=True)
class SealedUpdate:
    """A silo's update, encrypted, and what the silo states about it."""

    upload: bytes
    statement: bytes
    """Signed with the silo's identity key."""

    def put(self, records: RecordDict) -> None:
        records[SEALED] = ConfigRecord({"statement": self.statement})
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
        return cls(upload, statement)


@dataclass(frozen=True)
class SumToOpen:
    """The encrypted sum of a round, for those whose updates are in it."""

    total: bytes
    carry: bool = False
    """Whether the silo is asked for the model that it makes, sealed for the others."""

    def put(self, records: RecordDict) -> None:
        records[SUM] = ArrayRecord({"total": blob(self.total)})
        records[SEALED] = ConfigRecord({"carry": self.carry})

    @classmethod
    def of(cls, records: RecordDict) -> SumToOpen:
        """What `put` put there."""
        total = blobs(record_of(records, SUM, ArrayRecord))["total"]
        return cls(total, cast(bool, record_of(records, SEALED, ConfigRecord)["carry"]))


@dataclass(frozen=True)
class KeyRequest:
    """One step of bringing an epoch's key to all silos; what the server relays for the others."""

    epoch: int
    since: int
    """The first round that uses the key."""
    offers: tuple[bytes, ...] = ()
    wrapped: bytes | None = None
    carried: Sealed | None = None
    """The model: under the key before, to be sealed under the new one; to be kept, at the end."""

    def to_records(self) -> RecordDict:
        record = ConfigRecord({"epoch": self.epoch, "since": self.since})
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
    model: bytes | None = None
    """The model, sealed under the new key."""

    def to_records(self) -> RecordDict:
        # A prefix, so that no silo's name can be taken for another field.
        record = ConfigRecord({f"for:{name}": wrap for name, wrap in self.wraps.items()})
        if self.offer is not None:
            record["offer"] = self.offer
        records = RecordDict({"keys": record})
        _put_model(records, self.model)
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> KeyAnswer:
        record = record_of(records, "keys", ConfigRecord)
        offer = optional_bytes(record.get("offer"))
        return cls(offer, named("for:", record), _model(records))


@dataclass(frozen=True)
class MaskRequest:
    """One step of an encrypted round; what the server relays for the others."""

    epoch: int
    round: int
    messages: tuple[bytes, ...] = ()
    """Adverts, or consents."""
    encrypted_shares: Mapping[str, bytes] = field(default_factory=dict)
    """From each other silo to this one."""
    survivors: tuple[str, ...] = ()
    noise_multiplier: float | None = None
    """With an advert: what all are asked for, as in a TrainRequest."""

    def record(self) -> ConfigRecord:
        record = ConfigRecord(
            {
                "epoch": self.epoch,
                "round": self.round,
                "messages": list(self.messages),
                "survivors": list(self.survivors),
            }
        )
        if self.noise_multiplier is not None:
            record["noise-multiplier"] = self.noise_multiplier
        return ConfigRecord(
            # A prefix, as in KeyAnswer.
            {**record, **{f"from:{n}": text for n, text in self.encrypted_shares.items()}}
        )

    @classmethod
    def from_records(cls, records: RecordDict) -> MaskRequest:
        record = record_of(records, MASKS, ConfigRecord)
        noise = record.get("noise-multiplier")
        return cls(
            epoch=cast(int, record["epoch"]),
            round=cast(int, record["round"]),
            messages=tuple(cast(list[bytes], record["messages"])),
            survivors=tuple(cast(list[str], record["survivors"])),
            encrypted_shares=named("from:", record),
            noise_multiplier=None if noise is None else cast(float, noise),
        )


@dataclass(frozen=True)
class MaskAnswer:
    """What a silo answers a MaskRequest: a message for everyone, or encrypted shares.

    After a sum was opened, the model that it makes may come along, sealed.
    """

    message: bytes | None = None
    encrypted_shares: Mapping[str, bytes] = field(default_factory=dict)
    model: bytes | None = None

    def to_records(self) -> RecordDict:
        record = ConfigRecord({f"for:{name}": text for name, text in self.encrypted_shares.items()})
        if self.message is not None:
            record["message"] = self.message
        records = RecordDict({MASKS: record})
        _put_model(records, self.model)
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> MaskAnswer:
        record = record_of(records, MASKS, ConfigRecord)
        message = optional_bytes(record.get("message"))
        return cls(message, named("for:", record), _model(records))


def _put_model(records: RecordDict, model: bytes | None) -> None:
    if model is not None:
        records[MODEL] = ArrayRecord({"model": blob(model)})


def _model(records: RecordDict) -> bytes | None:
    return blobs(record_of(records, MODEL, ArrayRecord))["model"] if MODEL in records else None
