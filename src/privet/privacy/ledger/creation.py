"""A new ledger file, and whether a file is a ledger of ours."""

from __future__ import annotations

import os
import sqlite3
import uuid
from pathlib import Path

from privet.privacy.ledger import database
from privet.privacy.ledger.clock import versions
from privet.privacy.ledger.entries import Draft, canonical, sealed
from privet.privacy.ledger.errors import LedgerError, distrust
from privet.privacy.ledger.files import beside, sync_folder
from privet.privacy.ledger.heads import (
    Beacon,
    Head,
    beacon_path,
    install_beacon,
    prepare_beacon,
    read_beacon,
)
from privet.privacy.ledger.keys import SiloKey


def demand_free(path: Path) -> None:
    if path.exists():
        raise LedgerError(f"{path} exists already: a ledger is never overwritten")
    # A .head of the first entry alone is what a creation leaves behind that did not come through.
    if beacon_path(path).exists() and read_beacon(path).sequence > 1:
        raise LedgerError(
            f"{path} is gone but {beacon_path(path).name} says that it had entries: restore it"
        )


def write_new(path: Path, key: SiloKey, time: str) -> None:
    """A ledger with its first entry, complete before it gets its name."""
    unfinished = beside(path, ".new")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = database.connect(unfinished)
    try:
        beacon = _first_transaction(connection, key, time)
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    install_beacon(path, prepare_beacon(path, beacon))
    unfinished.rename(path)
    sync_folder(path.parent)


def _first_transaction(connection: sqlite3.Connection, key: SiloKey, time: str) -> Beacon:
    meta = {
        "ledger": uuid.uuid4().hex,
        "public_key": key.public,
        "schema": str(database.SCHEMA_VERSION),
    }
    detail = canonical({"created": meta}).decode()
    first = sealed(
        Draft(kind="note", who="operator", detail=detail),
        after=None,
        time=time,
        versions=versions(),
    )
    connection.execute("BEGIN IMMEDIATE")
    database.create_tables(connection)
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    database.insert(connection, first, Head.of(first, key))
    connection.execute("COMMIT")
    return Beacon.of(first, key)


def check_file(connection: sqlite3.Connection, path: Path, key: SiloKey) -> None:
    """Refuse what is no ledger, a newer one, another silo's, or one that cannot be written."""
    found = database.schema_version(connection)
    if found > database.SCHEMA_VERSION:
        raise LedgerError(
            f"{path} is a ledger of version {found}; this privet writes version "
            f"{database.SCHEMA_VERSION}: update privet"
        )
    if found < 1 or not database.has_our_tables(connection):
        raise distrust(path, "its tables are not those of a ledger")
    if database.read_meta(connection).get("public_key") != key.public:
        raise LedgerError(f"{path} belongs to another silo: it was made with another key")
    # SQLite opens a read-only file all the same, and BEGIN IMMEDIATE then only reads.
    if not os.access(path, os.W_OK):
        raise LedgerError(f"{path}: the file is read-only: what is spent cannot be recorded")
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise LedgerError(f"{path}: its file system cannot hold a ledger (no write-ahead log)")
