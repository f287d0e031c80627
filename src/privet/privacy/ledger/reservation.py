"""A reservation: the worst case of a round, charged before a record is read.

It alone opens the records, so what it knows about being touched is true: `release` can take back
only what no record was opened for. After a crash nobody holds the object, and nothing can release
it any more.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Literal, NoReturn, Protocol, TypeVar

from privet.privacy.dp_events import DpEvent
from privet.privacy.ledger.costs import event_of
from privet.privacy.ledger.entries import Entry
from privet.privacy.ledger.errors import LedgerError, LedgerRefusal

T = TypeVar("T")


class Closing(Protocol):
    """Writes the entry that ends a reservation."""

    def __call__(
        self, reserve: Entry, kind: Literal["commit", "release"], event: DpEvent | None
    ) -> Entry: ...


class _State(Enum):
    untouched = "untouched"
    touched = "touched"
    ending = "being closed"
    ended = "closed"


class Reservation:
    """What `Ledger.reserve` returns; it is on disk already.

    As a context manager: leaving the block releases the reservation when no record was opened, and
    else leaves what was not committed spent for ever.
    """

    def __init__(self, reserve: Entry, close: Closing) -> None:
        self._entry = reserve
        self._close = close
        self._state = _State.untouched
        self._mutex = threading.RLock()
        self._process = os.getpid()

    @property
    def sequence(self) -> int:
        """The number of its entry."""
        return self._entry.sequence

    @property
    def dataset(self) -> str:
        """The data set that is charged."""
        return self._entry.dataset or ""

    @property
    def event(self) -> DpEvent:
        """The worst case that is charged until a commit lowers it."""
        return event_of(self._entry.event or "")

    @property
    def touched(self) -> bool:
        """Whether records were opened, or may have been."""
        return self._state is not _State.untouched

    def records(self, open: Callable[[], T]) -> T:
        """What `open()` returns: the records. From here on the reservation cannot be released.

        LedgerRefusal once the reservation was committed or released, or when that was tried.
        """
        with self._mutex:
            self._demand("its records cannot be opened", _State.untouched, _State.touched)
            # Before the call: an `open` that fails half way may have read something.
            self._state = _State.touched
        return open()

    def commit(self, event: DpEvent) -> None:
        """Lower the charge to `event`, what really ran; durable when this returns.

        LedgerRefusal, and the reservation stands in full, when `event` is not provably within it
        (`costs.covers`). LedgerError when it cannot be written; the commit may then be tried again.
        """
        with self._mutex:
            states = (_State.untouched, _State.touched, _State.ending)
            self._demand("it cannot be committed", *states)
            before = self._state
            # When the write fails nobody knows whether it reached the disk: no record after it.
            self._state = _State.ending
            try:
                self._close(self._entry, "commit", event)
            except LedgerRefusal:
                self._state = before
                raise
            self._state = _State.ended

    def release(self) -> None:
        """Take the reservation back; only while no record was opened, else LedgerRefusal."""
        with self._mutex:
            self._demand("it cannot be released: records were opened", _State.untouched)
            # First, so that no record can be opened however the write ends.
            self._state = _State.ended
            self._close(self._entry, "release", None)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._mutex:
            if self._process != os.getpid() or self._state is _State.ended:
                return
            if self._state is not _State.untouched:
                self._state = _State.ended
                return
            try:
                self.release()
            except LedgerError:
                # It stays spent; the error that led here, if any, matters more.
                if error is None:
                    raise

    def _demand(self, what: str, *states: _State) -> None:
        if self._process != os.getpid():
            raise LedgerRefusal(f"{self}: {what} in another process than the one that reserved")
        if self._state not in states:
            raise LedgerRefusal(f"{self}: {what} (it is {self._state.value})")

    def __repr__(self) -> str:
        return f"reservation {self.sequence} of data set {self.dataset!r}"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Reservation is neither copied nor pickled: it would be spent twice")
