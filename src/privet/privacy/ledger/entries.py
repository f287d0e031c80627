"""An entry of the ledger, the hash that ties it to all before it, and the signed head.

A chain of hashes finds what was changed in the middle, not that its end was cut off. So each
transaction signs its last entry, in the database and in a small file beside it
(ledger.sqlite.head), which is replaced atomically after every commit. Cutting the end of the
database together with its signed head, or putting an older copy of it back, is then found by the
file that still knows better. (A crash between the two leaves the file one entry behind. Losing that
entry is harmless: the reservation had not been handed out, or the charge was not lowered yet.)

What this machine cannot find is an older copy of BOTH files put back together: an older state of
the ledger is a valid ledger. An export that is kept elsewhere finds it, because the ledger must
still hold the entry that the export ends with (`verify(..., exports=[...])`).

The file also keeps the digest of the database's pages as the last process that wrote left them, so
that damage to bytes that no entry uses is noticed as well.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from privet.files import create, locked, read_file, sync
from privet.privacy.ledger.errors import LedgerError
from privet.privacy.ledger.keys import SiloKey, signed_by

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
        # A prefix of its own for whatever is hashed or signed: none can be taken for another.
        content = {name: getattr(self, name) for name in COLUMNS if name != "hash"}
        return hashlib.sha256(b"privet ledger entry 1\n" + canonical(content)).hexdigest()


COLUMNS = tuple(field.name for field in fields(Entry))


def canonical(content: object) -> bytes:
    """The one JSON text of `content`: sorted keys, no spaces, ASCII."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def chained(draft: Draft, *, after: Entry | None, time: str, versions: str) -> Entry:
    """`draft` as the entry that follows `after`."""
    fields_ = {
        **vars(draft),
        "sequence": after.sequence + 1 if after else 1,
        "time": time,
        "versions": versions,
        "previous": after.hash if after else START,
    }
    return Entry(**fields_, hash=Entry(**fields_, hash="").digest())


@dataclass(frozen=True)
class Head:
    """The last entry of a transaction, signed."""

    sequence: int
    hash: str
    signature: str

    @classmethod
    def of(cls, entry: Entry, key: SiloKey) -> Head:
        """The head that ends with `entry`."""
        return cls(entry.sequence, entry.hash, key.sign(_message(entry.sequence, entry.hash)))

    def is_signed_by(self, public: str) -> bool:
        """Whether the silo with this public key signed the head."""
        return signed_by(public, _message(self.sequence, self.hash), self.signature)


LOCK_SECONDS = 60.0
"""How long a process waits for another one's transaction before it gives up."""


def beside(path: Path, suffix: str) -> Path:
    """The companion of a ledger file, such as ledger.sqlite.head."""
    return path.with_name(path.name + suffix)


def exclusive(path: Path, *, seconds: float = LOCK_SECONDS) -> AbstractContextManager[int]:
    """Keep every other process out of `path`; the lock ends with the process, however it ends.

    LedgerError when the lock cannot be had within `seconds`, or not at all.
    """
    try:
        return locked(path, seconds=seconds)
    except BlockingIOError:
        raise LedgerError(f"{path}: another process holds the ledger; try again") from None
    except OSError as error:
        raise LedgerError(f"{path}: the ledger cannot be locked ({error.strerror})") from None


@dataclass(frozen=True)
class HeadFile:
    """The file beside the ledger: its last entry, and the digest of its pages once closed well."""

    sequence: int
    hash: str
    image: str | None
    signature: str

    @classmethod
    def of(cls, entry: Entry, key: SiloKey, *, image: str | None = None) -> HeadFile:
        """The head file of a ledger that ends with `entry`."""
        signature = key.sign(_head_file_message(entry.sequence, entry.hash, image))
        return cls(entry.sequence, entry.hash, image, signature)

    def is_signed_by(self, public: str) -> bool:
        """Whether the silo with this public key wrote the head file."""
        message = _head_file_message(self.sequence, self.hash, self.image)
        return signed_by(public, message, self.signature)


def head_path(ledger: Path) -> Path:
    """The file beside `ledger` that names its last entry."""
    return beside(ledger, ".head")


def read_head_file(ledger: Path) -> HeadFile:
    """The head file of `ledger`; LedgerError when it is missing or is not what was written."""
    path = head_path(ledger)
    try:
        head_file, as_written = _parsed(read_file(path))
    except FileNotFoundError:
        raise LedgerError(
            f"{path} is missing: without it a ledger that lost its end looks whole; "
            "put back the file that belongs to the ledger"
        ) from None
    except OSError as error:
        raise LedgerError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, RecursionError):
        raise LedgerError(f"{path} is damaged: it is no signed head") from None
    # Another text of the same content is damage as well: every byte of the file counts.
    if not as_written:
        raise LedgerError(f"{path} is damaged: it is not what was written")
    return head_file


def parse_head(text: str) -> HeadFile:
    """The content of a head file that came from elsewhere; ValueError for anything else. Whether
    the silo signed it is for the caller to find out."""
    try:
        head, as_written = _parsed(text.encode())
    except (ValueError, TypeError, RecursionError):
        raise ValueError("no head of a ledger") from None
    if not as_written:
        raise ValueError("no head of a ledger")
    return head


# Read in every transaction; a simulation's is the same until its ledger is closed.
@lru_cache(maxsize=4)
def _parsed(content: bytes) -> tuple[HeadFile, bool]:
    """The content of a head file, and whether the file holds just that."""
    head_file = HeadFile(**json.loads(content))
    return head_file, content == _text(head_file) and isinstance(head_file.sequence, int)


def prepare_head_file(ledger: Path, head_file: HeadFile) -> Path:
    """Write `head_file` durably under another name: a full disk is found before the commit."""
    prepared = beside(ledger, ".head.new")
    prepared.unlink(missing_ok=True)  # a process that died may have left it
    create(prepared, _text(head_file))
    return prepared


def install_head_file(ledger: Path, prepared: Path) -> None:
    """Put a prepared head file in place of the old one, atomically and durably."""
    prepared.replace(head_path(ledger))
    sync(ledger.parent)


def _text(head_file: HeadFile) -> bytes:
    return canonical(asdict(head_file)) + b"\n"


def _message(sequence: int, hash_: str) -> bytes:
    return b"privet ledger head 1\n" + canonical([sequence, hash_])


def _head_file_message(sequence: int, hash_: str, image: str | None) -> bytes:
    # "beacon" is in every signature so far, hence for good.
    return b"privet ledger beacon 1\n" + canonical([sequence, hash_, image])


Clock = Callable[[], datetime]
"""Gives the present time, with a time zone."""


def utc_now() -> datetime:
    """The system's clock."""
    return datetime.now(UTC)


def written(clock: Clock) -> str:
    """The present time as entries write it."""
    now = clock()
    if now.tzinfo is None:
        raise LedgerError("the ledger's clock must tell the time zone")
    return now.astimezone(UTC).isoformat(timespec="microseconds")


# Each version is read from a file of its package.
@lru_cache(maxsize=1)
def versions() -> str:
    """The software that writes the entries."""
    found = {}
    for package in ("privet", "dp-accounting", "opacus", "torch"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return canonical({**found, "python": platform.python_version()}).decode()
