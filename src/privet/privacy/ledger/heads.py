"""Signed heads: how far the ledger reaches, in the words of the silo's key.

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

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from privet.privacy.ledger.entries import Entry, canonical
from privet.privacy.ledger.errors import LedgerError
from privet.privacy.ledger.files import beside, sync_folder, write_durably
from privet.privacy.ledger.keys import SiloKey, signed_by


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
        """Whether the silo with this public key vouches for the head."""
        return signed_by(public, _message(self.sequence, self.hash), self.signature)


@dataclass(frozen=True)
class Beacon:
    """What the file beside the ledger says: its last entry, and its pages if it was closed well."""

    sequence: int
    hash: str
    image: str | None
    signature: str

    @classmethod
    def of(cls, entry: Entry, key: SiloKey, *, image: str | None = None) -> Beacon:
        """The beacon of a ledger that ends with `entry`."""
        signature = key.sign(_beacon_message(entry.sequence, entry.hash, image))
        return cls(entry.sequence, entry.hash, image, signature)

    def is_signed_by(self, public: str) -> bool:
        """Whether the silo with this public key wrote the beacon."""
        message = _beacon_message(self.sequence, self.hash, self.image)
        return signed_by(public, message, self.signature)


def beacon_path(ledger: Path) -> Path:
    """The file beside `ledger` that knows its last entry."""
    return beside(ledger, ".head")


def read_beacon(ledger: Path) -> Beacon:
    """The beacon of `ledger`; LedgerError when it is missing or is not what was written."""
    path = beacon_path(ledger)
    try:
        beacon, as_written = _parsed(path.read_bytes())
    except FileNotFoundError:
        raise LedgerError(
            f"{path} is missing: without it a ledger that lost its end looks whole; "
            "put back the file that belongs to the ledger"
        ) from None
    except OSError as error:
        raise LedgerError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, RecursionError):
        raise LedgerError(f"{path} is damaged: it is no signed head") from None
    if not as_written:
        raise LedgerError(f"{path} is damaged: it is not what was written")
    return beacon


@lru_cache(maxsize=4)
def _parsed(content: bytes) -> tuple[Beacon, bool]:
    """The beacon in a file, and whether the file holds just that."""
    beacon = Beacon(**json.loads(content))
    return beacon, content == _text(beacon) and isinstance(beacon.sequence, int)


def prepare_beacon(ledger: Path, beacon: Beacon) -> Path:
    """Write `beacon` durably under another name: a full disk is found before the commit."""
    prepared = beside(ledger, ".head.new")
    write_durably(prepared, _text(beacon))
    return prepared


def install_beacon(ledger: Path, prepared: Path) -> None:
    """Put a prepared beacon in place of the old one, atomically and durably."""
    prepared.replace(beacon_path(ledger))
    sync_folder(ledger.parent)


def _text(beacon: Beacon) -> bytes:
    return canonical(asdict(beacon)) + b"\n"


def _message(sequence: int, hash_: str) -> bytes:
    return b"privet ledger head 1\n" + canonical([sequence, hash_])


def _beacon_message(sequence: int, hash_: str, image: str | None) -> bytes:
    return b"privet ledger beacon 1\n" + canonical([sequence, hash_, image])
