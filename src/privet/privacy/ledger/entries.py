"""One line of the ledger, and the hash that ties it to all lines before it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Literal

Kind = Literal["reserve", "commit", "release", "note"]
KINDS: tuple[Kind, ...] = ("reserve", "commit", "release", "note")

START = "0" * 64
"""What the first entry has in place of a previous hash."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What an entry is about, before it has a place in the chain.

    `event` and `detail` are JSON texts; `reservation` is the entry that a commit or release ends.
    """

    kind: Kind
    who: str
    dataset: str | None = None
    job: str | None = None
    round: int | None = None
    reservation: int | None = None
    event: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Entry:
    """An entry as it lies in the file.

    `time` is UTC in ISO 8601 with microseconds; `hash` is the SHA-256 of all other fields, of which
    `previous` is the hash of the entry before.
    """

    sequence: int
    time: str
    kind: Kind
    dataset: str | None
    job: str | None
    round: int | None
    who: str
    reservation: int | None
    event: str | None
    detail: str | None
    versions: str
    previous: str
    hash: str

    @property
    def month(self) -> str:
        """Year and month, as 2025-01."""
        return self.time[:7]

    def values(self) -> tuple[object, ...]:
        """The fields in the order of COLUMNS."""
        return tuple(getattr(self, name) for name in COLUMNS)

    def digest(self) -> str:
        """The hash that this content must have."""
        content = {name: getattr(self, name) for name in COLUMNS if name != "hash"}
        return hashlib.sha256(b"privet ledger entry 1\n" + canonical(content)).hexdigest()


COLUMNS = tuple(field.name for field in fields(Entry))


def canonical(content: object) -> bytes:
    """The one JSON text of `content`: sorted keys, no spaces, ASCII."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sealed(draft: Draft, *, after: Entry | None, time: str, versions: str) -> Entry:
    """`draft` as the entry that follows `after`."""
    fields_ = {
        **vars(draft),
        "sequence": after.sequence + 1 if after else 1,
        "time": time,
        "versions": versions,
        "previous": after.hash if after else START,
    }
    return Entry(**fields_, hash=Entry(**fields_, hash="").digest())
