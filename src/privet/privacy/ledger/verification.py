"""Does a ledger say what was written, all of it, and nothing else?

Found: any edit, insertion, deletion or reordering of entries, heads and metadata; an end that was
cut off (by the .head beside it); entries that break the rules of reserve, commit and release; a
damaged page; and, in a ledger that was closed well, every changed byte, used or not.

Not found here: an older copy of the ledger and its .head put back together (give exports that are
kept elsewhere), and a ledger rewritten by somebody who holds the silo's key.

An export is a signed copy of the entries, as JSON. It holds events, names of data sets, jobs and
requesters, times and software versions. It holds no record, no number of records and no digest of
records that could be checked without the silo's key.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from privet.errors import PrivetError
from privet.files import read_file, write_whole
from privet.privacy.ledger import database
from privet.privacy.ledger.entries import (
    Entry,
    Head,
    HeadFile,
    beside,
    canonical,
    head_path,
    read_head_file,
)
from privet.privacy.ledger.errors import LedgerError
from privet.privacy.ledger.history import History
from privet.privacy.ledger.keys import signed_by
from privet.privacy.ledger.ledger import EXPORT_PREFIX, Ledger


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `sequence` is the entry, or None for the file as a whole."""

    sequence: int | None
    problem: str

    def __str__(self) -> str:
        return self.problem if self.sequence is None else f"entry {self.sequence}: {self.problem}"


def chain_findings(
    entries: Iterable[Entry], heads: Iterable[Head], public: str
) -> Iterator[Finding]:
    """What is wrong with a chain of entries and its signed heads, and how the two fit together."""
    history = History()
    for entry in entries:
        for problem in history.problems(entry):
            yield Finding(entry.sequence, problem)
        history.add(entry)
    yield from _head_findings(history, list(heads), public)


def _head_findings(history: History, heads: Sequence[Head], public: str) -> Iterator[Finding]:
    hashes = {entry.sequence: entry.hash for entry in history.entries}
    for head in heads:
        if not head.is_signed_by(public):
            yield Finding(head.sequence, "its signature is not that of the silo")
        if hashes.get(head.sequence) != head.hash:
            yield Finding(head.sequence, "the entry that was signed is changed or missing")
    signed = {head.sequence for head in heads}
    for sequence in hashes:
        if sequence not in signed:
            yield Finding(sequence, "it was never signed")


FORMAT = "privet ledger export 1"


@dataclass(frozen=True)
class Bundle:
    """An export as read from its file; nothing about it is verified."""

    public_key: str
    entries: tuple[Entry, ...]
    heads: tuple[Head, ...]
    signature: str

    def content(self) -> dict[str, object]:
        """What is signed."""
        return {
            "format": FORMAT,
            "public_key": self.public_key,
            "entries": [asdict(entry) for entry in self.entries],
            "heads": [asdict(head) for head in self.heads],
        }


def export(ledger: Ledger, path: Path) -> Path:
    """Write all entries of `ledger` to `path`, with the silo's signature; replaces it atomically.

    Raises LedgerError when the ledger cannot be believed or the file cannot be written.
    """
    entries, heads = ledger.chain()
    bundle = Bundle(ledger.public_key, tuple(entries), tuple(heads), signature="")
    content = bundle.content()
    document = {**content, "signature": ledger.sign_export(canonical(content))}
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    try:
        write_whole(path, text.encode(), mode=0o600, durable=True)
    except OSError as error:
        raise LedgerError(f"{path}: the export cannot be written ({error.strerror})") from None
    return path


def read_bundle(path: Path) -> Bundle:
    """The bundle in a file; LedgerError when it is none."""
    try:
        document = json.loads(read_file(path))
        if document.pop("format") != FORMAT:
            raise ValueError
        return _bundle(**document)
    except OSError as error:
        raise LedgerError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise LedgerError(f"{path} is not an export of a ledger, or is damaged") from None


def verify_bundle(path: Path, public_key: str | None = None) -> list[Finding]:
    """Everything that is wrong with an export; empty when all is well.

    `public_key` is the silo's; without it the key that the bundle names is believed.
    """
    try:
        bundle = read_bundle(path)
    except LedgerError as error:
        return [Finding(None, str(error))]
    return list(_findings(bundle, public_key or bundle.public_key))


def _findings(bundle: Bundle, public: str) -> Iterator[Finding]:
    message = EXPORT_PREFIX + canonical(bundle.content())
    if bundle.public_key != public or not signed_by(public, message, bundle.signature):
        yield Finding(None, "the export is not signed by the silo, or was changed since")
    yield from chain_findings(bundle.entries, bundle.heads, public)


def _bundle(
    *,
    public_key: str,
    entries: list[dict[str, Any]],
    heads: list[dict[str, Any]],
    signature: str,
) -> Bundle:
    if not (isinstance(public_key, str) and isinstance(signature, str)):
        raise TypeError
    return Bundle(
        public_key,
        tuple(Entry(**entry) for entry in entries),
        tuple(Head(**head) for head in heads),
        signature,
    )


_MOST = 100
# What reading damaged pages, text and JSON can raise.
_DAMAGE = (
    sqlite3.Error,
    PrivetError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)


def verify(
    path: Path, public_key: str | None = None, *, exports: Sequence[Path] = ()
) -> list[Finding]:
    """Everything that is wrong with the ledger at `path`; empty when all is well. Writes nothing.

    `public_key` is the silo's (64 hexadecimal digits). Without it the key that the file itself
    names is believed, and a ledger that somebody else made anew passes. `exports` are earlier
    bundles of this ledger: it must still hold what they hold. The first 100 findings are given.
    LedgerError only when there is no file.
    """
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path}")
    findings: list[Finding] = []
    try:
        # Before the database: whatever is appended meanwhile can only make that longer.
        newest = _head_file(path, findings)
        with closing(database.connect_to_read(path)) as connection:
            connection.execute("BEGIN")
            for finding in _all(connection, path, public_key, newest, exports):
                findings.append(finding)
                if len(findings) >= _MOST:
                    break
    except _DAMAGE as error:
        findings.append(Finding(None, f"the file is damaged ({error})"))
    return findings


def read_history(path: Path) -> History:
    """The entries of a ledger, to look at: read-only and without a key.

    The chain of hashes and the rules are checked, signatures are not: LedgerError at the first
    problem.
    """
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path}")
    try:
        return _replayed(path)
    except _DAMAGE as error:
        if isinstance(error, LedgerError):
            raise
        raise LedgerError(f"{path}: the file is damaged ({error})") from None


def _replayed(path: Path) -> History:
    with database.sqlite_errors(path), closing(database.connect_to_read(path)) as connection:
        _demand_readable(connection, path)
        history = History()
        connection.execute("BEGIN")
        for entry in database.read_entries(connection):
            problem = next(history.problems(entry), None)
            if problem:
                raise LedgerError(f"{path}: entry {entry.sequence}: {problem}")
            history.add(entry)
    return history


def _demand_readable(connection: sqlite3.Connection, path: Path) -> None:
    found = database.schema_version(connection)
    if found > database.SCHEMA_VERSION:
        raise LedgerError(f"{path} is a ledger of version {found}: update privet")
    if not database.has_our_tables(connection):
        raise LedgerError(f"{path}: its tables are not those of a ledger")


def _head_file(path: Path, findings: list[Finding]) -> HeadFile | None:
    try:
        return read_head_file(path)
    except LedgerError as error:
        findings.append(Finding(None, str(error)))
        return None


def _all(
    connection: sqlite3.Connection,
    path: Path,
    public_key: str | None,
    newest: HeadFile | None,
    exports: Sequence[Path],
) -> Iterator[Finding]:
    yield from _file_findings(connection, path)
    found = database.schema_version(connection)
    if found != database.SCHEMA_VERSION:
        yield Finding(None, f"it is of version {found}; this privet reads 1 (update privet?)")
        return
    if not database.has_our_tables(connection):
        yield Finding(None, "its tables and triggers are not those of a ledger")
    entries = list(database.read_entries(connection))
    public = _public_key(entries)
    yield from _identity_findings(connection, entries, public, public_key)
    yield from chain_findings(entries, database.read_heads(connection), public_key or public)
    if newest:
        yield from _head_file_findings(connection, path, newest, entries, public_key or public)
    for export in exports:
        yield from _export_findings(export, entries, public_key or public)


def _file_findings(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    rows = connection.execute("PRAGMA integrity_check(10)").fetchall()
    if rows != [("ok",)]:
        yield Finding(None, f"the file is damaged: {rows[0][0]}")
    wal = beside(path, "-wal")
    # What the log holds may be of pages that the file does not have yet.
    if not (wal.exists() and wal.stat().st_size):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        if path.stat().st_size != pages * size:
            raise ValueError("its length is not that of its pages")


def _public_key(entries: Sequence[Entry]) -> str:
    """The key that the first entry names; no key at all when it names none."""
    return str(_created(entries).get("public_key", ""))


def _created(entries: Sequence[Entry]) -> dict[str, str]:
    try:
        created = json.loads(entries[0].detail or "")["created"]
    except (IndexError, KeyError, ValueError, TypeError, RecursionError):
        return {}
    return created if isinstance(created, dict) else {}


def _identity_findings(
    connection: sqlite3.Connection, entries: Sequence[Entry], public: str, expected: str | None
) -> Iterator[Finding]:
    if not entries:
        yield Finding(None, "it has no entries, and a ledger begins with one")
    elif database.read_meta(connection) != _created(entries):
        yield Finding(1, "what the file says about itself is not what its first entry says")
    if expected is not None and public != expected:
        yield Finding(1, "the ledger was made with another key")


def _head_file_findings(
    connection: sqlite3.Connection,
    path: Path,
    newest: HeadFile,
    entries: Sequence[Entry],
    public: str,
) -> Iterator[Finding]:
    name = head_path(path).name
    if not newest.is_signed_by(public):
        yield Finding(None, f"{name} is not signed by the silo")
    hashes = {entry.sequence: entry.hash for entry in entries}
    if newest.sequence not in hashes:
        yield Finding(
            None,
            f"it has {len(entries)} entries and {name} knows entry {newest.sequence}: its end was "
            "cut off or an older copy was put back",
        )
    elif hashes[newest.sequence] != newest.hash:
        yield Finding(newest.sequence, f"it is not the entry that {name} knows")
    closed_well = newest.image is not None and newest.sequence == max(hashes, default=0)
    if closed_well and database.image_of(connection) != newest.image:
        yield Finding(None, "bytes of the file have changed since it was closed")


def _export_findings(path: Path, entries: Sequence[Entry], public: str) -> Iterator[Finding]:
    for finding in verify_bundle(path, public):
        yield Finding(finding.sequence, f"{path}: {finding.problem}")
        # One is enough: what cannot be believed says nothing about the ledger.
        return
    held = {entry.hash for entry in entries}
    for entry in read_bundle(path).entries:
        if entry.hash not in held:
            yield Finding(
                entry.sequence, f"{path} has an entry that the ledger has lost or changed"
            )
            return
