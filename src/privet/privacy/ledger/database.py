"""The SQLite file: its tables, the triggers that refuse edits, how one is made, and its errors."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from privet.files import demand_file, sync
from privet.privacy.ledger.entries import (
    COLUMNS,
    Draft,
    Entry,
    Head,
    HeadFile,
    beside,
    canonical,
    chained,
    head_path,
    install_head_file,
    prepare_head_file,
    read_head_file,
    versions,
)
from privet.privacy.ledger.errors import LedgerError, distrust
from privet.privacy.ledger.keys import SiloKey

SCHEMA_VERSION = 1

TABLES = ("entries", "heads", "meta")

_ENTRIES = """CREATE TABLE entries (
  sequence INTEGER PRIMARY KEY,
  time TEXT NOT NULL,
  kind TEXT NOT NULL,
  dataset TEXT,
  job TEXT,
  round INTEGER,
  who TEXT NOT NULL,
  reservation INTEGER,
  event TEXT,
  detail TEXT,
  versions TEXT NOT NULL,
  previous TEXT NOT NULL,
  hash TEXT NOT NULL
) STRICT"""

_HEADS = """CREATE TABLE heads (
  sequence INTEGER PRIMARY KEY,
  hash TEXT NOT NULL,
  signature TEXT NOT NULL
) STRICT"""

_META = "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID"


def _append_only(table: str) -> Iterator[str]:
    for verb in ("UPDATE", "DELETE"):
        yield (
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        )


def _next_only(table: str, expected: str) -> str:
    # INSERT OR REPLACE would delete a row without asking the trigger on DELETE.
    return (
        f"CREATE TRIGGER {table}_in_order BEFORE INSERT ON {table} WHEN NEW.sequence IS NOT "
        f"{expected} BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    )


STATEMENTS = (
    _ENTRIES,
    _HEADS,
    _META,
    *(statement for table in TABLES for statement in _append_only(table)),
    _next_only("entries", "(SELECT coalesce(max(sequence), 0) + 1 FROM entries)"),
    _next_only("heads", "(SELECT max(sequence) FROM entries)"),
)


def create_tables(connection: sqlite3.Connection) -> None:
    """Write the empty tables of this schema version; call inside a transaction."""
    for statement in STATEMENTS:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def connect(path: Path, *, durable: bool = True) -> sqlite3.Connection:
    """A connection that may write; it never makes a file.

    WAL with synchronous=FULL: a transaction is on disk (fsync) when its COMMIT returns. Not
    `durable`: it is with the operating system, which a killed process survives, a power cut not.
    """
    connection = sqlite3.connect(
        # By URI, since only so a missing file is refused; quoted, since a path may hold ? and #.
        f"file:{quote(str(demand_file(path).absolute()))}?mode=rw",
        uri=True,
        isolation_level=None,  # else sqlite3 begins transactions by itself, and late
        # SignedLog has its threads take turns.
        check_same_thread=False,
        timeout=30.0,
    )
    try:
        synchronous = f"synchronous = {'FULL' if durable else 'OFF'}"
        # No function may be called by a trigger or view that somebody planted in the file.
        for pragma in (synchronous, "trusted_schema = OFF", "cell_size_check = ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA fullfsync = ON")  # macOS; elsewhere it changes nothing
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, also on a medium that cannot be written to."""
    uri = f"file:{quote(str(demand_file(path).absolute()))}?mode=ro"
    if not os.access(path.parent, os.W_OK) and not beside(path, "-wal").exists():
        uri += "&immutable=1"  # SQLite cannot make the -shm file that WAL needs here
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def schema_version(connection: sqlite3.Connection) -> int:
    """The version in the file's header."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def has_our_tables(connection: sqlite3.Connection) -> bool:
    """Whether the file holds exactly the tables and triggers that `create_tables` writes."""
    rows = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return sorted(str(row[0]) for row in rows) == sorted(STATEMENTS)


def read_meta(connection: sqlite3.Connection) -> dict[str, str]:
    """What the file says about itself: ledger, public_key, schema."""
    return dict(connection.execute("SELECT key, value FROM meta"))


def read_entries(connection: sqlite3.Connection, *, after: int = 0) -> Iterator[Entry]:
    """The entries behind sequence `after`, in order."""
    query = f"SELECT {', '.join(COLUMNS)} FROM entries WHERE sequence > ? ORDER BY sequence"  # noqa: S608
    for row in connection.execute(query, (after,)):
        yield Entry(*row)


def read_heads(connection: sqlite3.Connection) -> Iterator[Head]:
    """All signed heads, in order."""
    for row in connection.execute("SELECT sequence, hash, signature FROM heads ORDER BY sequence"):
        yield Head(*row)


def last_head(connection: sqlite3.Connection) -> Head | None:
    """The head that was signed last."""
    query = "SELECT sequence, hash, signature FROM heads ORDER BY sequence DESC LIMIT 1"
    row = connection.execute(query).fetchone()
    return Head(*row) if row else None


def last_entry(connection: sqlite3.Connection) -> Entry | None:
    """The entry with the highest sequence."""
    row = connection.execute("SELECT max(sequence) FROM entries").fetchone()
    return next(read_entries(connection, after=row[0] - 1), None) if row and row[0] else None


def hash_at(connection: sqlite3.Connection, sequence: int) -> str | None:
    """The hash that the entry at `sequence` says it has."""
    row = connection.execute("SELECT hash FROM entries WHERE sequence = ?", (sequence,)).fetchone()
    return row[0] if row else None


def insert(connection: sqlite3.Connection, entry: Entry, head: Head) -> None:
    """Append an entry and the head that signs it; call inside a transaction."""
    marks = ", ".join("?" * len(COLUMNS))
    connection.execute(
        f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({marks})",  # noqa: S608
        entry.values(),
    )
    # Behind the entry, which the trigger on heads looks for.
    connection.execute(
        "INSERT INTO heads VALUES (?, ?, ?)", (head.sequence, head.hash, head.signature)
    )


def image_of(connection: sqlite3.Connection) -> str:
    """SHA-256 of all pages, used or not, as this connection sees them (WAL included)."""
    return hashlib.sha256(connection.serialize()).hexdigest()


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Say in one line what SQLite or the file system could not do with the ledger at `path`."""
    try:
        yield
    except sqlite3.Error as error:
        raise LedgerError(f"{path}: {_meaning(str(error))}") from error
    except UnicodeDecodeError:
        raise LedgerError(f"{path}: {_MEANINGS['malformed']}") from None
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}; nothing may be read on it") from error


_MEANINGS = {
    "disk is full": "the disk is full: nothing was recorded, so no record may be read",
    "readonly": "the file is read-only: what is spent cannot be recorded, so no record may be read",
    "unable to open": "the file cannot be opened: check the path and who may write to its folder",
    "locked": "another program holds the file; end it, or try again",
    "not a database": "this is no ledger, or its first page is damaged",
    "malformed": "the file is damaged; restore ledger and .head from one backup, then verify",
    "disk I/O": "the disk cannot be read or written: nothing may be read on this ledger",
    "append-only": "the ledger is append-only",
}


def _meaning(message: str) -> str:
    for part, meaning in _MEANINGS.items():
        if part in message:
            return meaning
    return f"the file cannot be used ({message})"


def demand_free(path: Path) -> None:
    if path.exists():
        raise LedgerError(f"{path} exists already: a ledger is never overwritten")
    # A .head of the first entry alone is what a creation leaves behind that did not come through.
    if head_path(path).exists() and read_head_file(path).sequence > 1:
        raise LedgerError(
            f"{path} is gone but {head_path(path).name} says that it had entries: restore it"
        )


def write_new(path: Path, key: SiloKey, time: str) -> None:
    """A ledger with its first entry, complete before it gets its name."""
    unfinished = beside(path, ".new")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = connect(unfinished)
    try:
        head_file = _first_transaction(connection, key, time)
        # Not before: a log would lie beside the file under the name that it is about to lose.
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    install_head_file(path, prepare_head_file(path, head_file))
    unfinished.rename(path)
    sync(path.parent)


def _first_transaction(connection: sqlite3.Connection, key: SiloKey, time: str) -> HeadFile:
    meta = {
        "ledger": uuid.uuid4().hex,
        "public_key": key.public,
        "schema": str(SCHEMA_VERSION),
    }
    detail = canonical({"created": meta}).decode()
    first = chained(
        Draft(kind="note", who="operator", detail=detail),
        after=None,
        time=time,
        versions=versions(),
    )
    connection.execute("BEGIN IMMEDIATE")
    create_tables(connection)
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    insert(connection, first, Head.of(first, key))
    connection.execute("COMMIT")
    return HeadFile.of(first, key)


def check_file(connection: sqlite3.Connection, path: Path, key: SiloKey) -> None:
    """Refuse what is no ledger, a newer one, another silo's, or one that cannot be written."""
    # The version first: a newer ledger may have other tables and is not damaged.
    found = schema_version(connection)
    if found > SCHEMA_VERSION:
        raise LedgerError(
            f"{path} is a ledger of version {found}; this privet writes version "
            f"{SCHEMA_VERSION}: update privet"
        )
    if found < 1 or not has_our_tables(connection):
        raise distrust(path, "its tables are not those of a ledger")
    if read_meta(connection).get("public_key") != key.public:
        raise LedgerError(f"{path} belongs to another silo: it was made with another key")
    # SQLite opens a read-only file all the same, and BEGIN IMMEDIATE then only reads.
    if not os.access(path, os.W_OK):
        raise LedgerError(f"{path}: the file is read-only: what is spent cannot be recorded")
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise LedgerError(f"{path}: its file system cannot hold a ledger (no write-ahead log)")
