"""A signed history on disk: appended to by one transaction at a time, believed only when checked.

One SQLite file (WAL, synchronous=FULL). Every transaction takes BEGIN IMMEDIATE, reads what others
have appended, checks, appends one entry and its signed head, and commits. A lock file keeps the
order of processes, so that the signed head beside the database only ever moves forward.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from privet.privacy.ledger import database
from privet.privacy.ledger.database import check_file
from privet.privacy.ledger.entries import (
    Clock,
    Draft,
    Entry,
    Head,
    HeadFile,
    beside,
    chained,
    exclusive,
    head_path,
    install_head_file,
    prepare_head_file,
    read_head_file,
    versions,
    written,
)
from privet.privacy.ledger.errors import LedgerError, distrust
from privet.privacy.ledger.history import CLOCK_TOLERANCE, History, moment
from privet.privacy.ledger.keys import SiloKey


class SignedLog:
    """The open file behind a Ledger; threads take turns, a forked process must open it anew."""

    def __init__(self, path: Path, key: SiloKey, clock: Clock, *, durable: bool) -> None:
        self.path = path
        self._key = key
        self._clock = clock
        self._durable = durable
        self._verified: tuple[Head | None, HeadFile | None] = (None, None)
        self._history = History()
        self._mutex = threading.RLock()
        self._process = os.getpid()
        self._closed = False
        with database.sqlite_errors(path), exclusive(beside(path, ".lock")):
            # Under the lock, so that the file that is checked is the one that was opened.
            self._file = _identity(path)
            self._connection = database.connect(path, durable=durable)
            try:
                check_file(self._connection, path, key)
                self._check_end()
            except BaseException:
                self._connection.close()
                raise

    def append(
        self, draft: Callable[[History, str], Draft | None], *, any_time: bool = False
    ) -> Entry | None:
        """Append what `draft` makes of the history and the present time; durable on return.

        `draft` runs inside the transaction: what it checks holds when the entry is written. It may
        raise, or return None, and nothing is written.
        """
        with self._writing():
            self._catch_up()
            time = self._time(any_time=any_time)
            content = draft(self._history, time)
            if content is None:
                return None
            entry = chained(content, after=self._history.last, time=time, versions=versions())
            self._write(entry)
            self._history.add(entry)
        return entry

    @contextmanager
    def reading(self) -> Iterator[History]:
        """The history up to date; other processes may go on writing meanwhile."""
        with self._mutex, database.sqlite_errors(self.path):
            self._demand_usable()
            # What is known is compared with, and what is new is read from, one state of the file.
            self._connection.execute("BEGIN")
            try:
                self._catch_up()
            finally:
                self._connection.execute("ROLLBACK")
            yield self._history

    def heads(self, *, until: int) -> list[Head]:
        """The signed heads up to entry `until`."""
        with self._mutex, database.sqlite_errors(self.path):
            return [h for h in database.read_heads(self._connection) if h.sequence <= until]

    def time(self) -> str:
        """The present time as an entry would have it."""
        return written(self._clock)

    def close(self) -> None:
        """Put everything into the one file and sign how its pages look; may be called twice."""
        with self._mutex:
            # A forked child must not touch its parent's SQLite connection, not even to close it.
            if self._closed or self._process != os.getpid():
                return
            self._closed = True
            try:
                # Only convenience: what was promised was durable before.
                with suppress(LedgerError, OSError, sqlite3.Error):
                    self._sign_pages()
            finally:
                self._connection.close()

    def _write(self, entry: Entry) -> None:
        problem = next(self._history.problems(entry), None)
        if problem:
            raise LedgerError(f"{self.path}: entry {entry.sequence} is not written: {problem}")
        head, head_file = Head.of(entry, self._key), self._verified[1]
        database.insert(self._connection, entry, head)
        if self._durable:  # else .head knows an earlier entry until the ledger is closed
            head_file = HeadFile.of(entry, self._key)
            # Written before the COMMIT, when a full disk can still undo all, but in place after it:
            # a head file ahead of the database would look like a ledger that lost its end.
            prepared = prepare_head_file(self.path, head_file)
            self._connection.execute("COMMIT")
            install_head_file(self.path, prepared)
        else:
            self._connection.execute("COMMIT")
        self._verified = (head, head_file)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A write transaction that nobody else can be in; undone unless it was committed inside."""
        with self._mutex, database.sqlite_errors(self.path):
            self._demand_usable()
            # SQLite's own lock ends with the COMMIT, before the head file is in place.
            with exclusive(beside(self.path, ".lock")):
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    self._check_end()
                    yield
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")

    def _catch_up(self) -> None:
        """Replay what was appended since; what is kept here is believed only as a prefix of it."""
        known = self._history.last
        if known and database.hash_at(self._connection, known.sequence) != known.hash:
            raise distrust(self.path, "entries that were there are gone or changed")
        for entry in database.read_entries(self._connection, after=known.sequence if known else 0):
            problem = next(self._history.problems(entry), None)
            if problem:
                raise distrust(self.path, f"entry {entry.sequence}: {problem}")
            self._history.add(entry)

    def _check_end(self) -> None:
        """The last entry is signed by our key, and is not before the one that .head names."""
        entry, head = database.last_entry(self._connection), database.last_head(self._connection)
        known = entry == self._history.last  # whose hash was right
        if entry is None or head is None or not (known or entry.hash == entry.digest()):
            raise distrust(self.path, "its last entry is damaged or missing")
        if (head.sequence, head.hash) != (entry.sequence, entry.hash):
            raise distrust(self.path, "its last entry is not the one that was signed")
        known_head, known_file = self._verified  # signed here or checked before: equal is enough
        if head != known_head and not head.is_signed_by(self._key.public):
            raise distrust(self.path, "its last signature is not that of this silo")
        head_file = read_head_file(self.path)
        if head_file != known_file and not head_file.is_signed_by(self._key.public):
            raise distrust(head_path(self.path), "it is not signed by this silo")
        if database.hash_at(self._connection, head_file.sequence) != head_file.hash:
            problem = (
                f"it ends with entry {entry.sequence}, and {head_path(self.path).name} knows "
                f"entry {head_file.sequence}: its end was cut off or an older copy was put back"
            )
            raise distrust(self.path, problem)
        self._verified = (head, head_file)

    def _time(self, *, any_time: bool) -> str:
        time, last = written(self._clock), self._history.last
        if last and not any_time and moment(time) < moment(last.time) - CLOCK_TOLERANCE:
            raise LedgerError(
                f"{self.path}: the clock says {time}, the last entry is of {last.time}: set the "
                "clock right, or vouch for it: privet ledger note --clock-set-back"
            )
        return time

    def _demand_usable(self) -> None:
        if self._closed:
            raise LedgerError(f"{self.path}: the ledger is closed")
        if self._process != os.getpid():
            raise LedgerError(f"{self.path}: opened before a fork; open the ledger in each process")
        self._demand_same_file()

    def _demand_same_file(self) -> None:
        if _identity(self.path) != self._file:
            raise distrust(self.path, "another file was put in its place")

    def _sign_pages(self) -> None:
        # Not the usual minute: nobody should wait to end for what is only convenience.
        with exclusive(beside(self.path, ".lock"), seconds=5.0):
            self._demand_same_file()
            self._check_end()
            entry, head_file = database.last_entry(self._connection), read_head_file(self.path)
            if entry is None or (head_file.image and head_file.sequence == entry.sequence):
                return
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            image = database.image_of(self._connection)
            head_file = HeadFile.of(entry, self._key, image=image)
            install_head_file(self.path, prepare_head_file(self.path, head_file))


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise LedgerError(f"{path}: the ledger cannot be found ({error.strerror})") from None
    return status.st_dev, status.st_ino
