"""The list of parties on disk, which operators may replace while a server or a silo runs."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from privet.deployment.parties.errors import PartiesError
from privet.deployment.parties.parties import Parties
from privet.deployment.parties.reading import LARGEST_FILE, read_from, read_parties
from privet.files import write_whole

_log = logging.getLogger("privet.deployment.parties")

_Stamp = tuple[int, int, int]


class PartiesFile:
    """A `parties.json` that may change; safe to share between threads.

    The newest good list counts. A file that is absent, that the project's key did not sign, or
    whose version is lower (or the same with other members) is passed over with a warning. What
    was seen before the process started is not known: a rollback in between goes unnoticed.
    """

    def __init__(self, path: Path, *, project_key: str) -> None:
        """Read the list; PartiesError when there is no good one to begin with."""
        self.path = path
        self._project_key = project_key
        self._lock = threading.Lock()
        try:
            self._content, stamp = _read(path)
        except OSError as error:
            raise PartiesError(f"{path}: the list cannot be read ({error.strerror})") from None
        self._stamp: _Stamp | None = stamp
        self._parties = read_from(path, self._content, project_key=project_key)

    def current(self) -> Parties:
        """The newest good list; the file is read again only when it changed."""
        with self._lock:
            self._refresh()
            return self._parties

    def content(self) -> bytes:
        """The signed bytes of `current`, to hand on; whoever gets them can check them."""
        with self._lock:
            self._refresh()
            return self._content

    def replace(self, content: bytes) -> Parties:
        """Take a list that someone else brought, and keep it on disk.

        PartiesError, and no change, when it is not signed by the project's key or not newer than
        the present one (the very same list is fine), or cannot be written.
        """
        with self._lock:
            self._refresh()
            parties = read_parties(content, project_key=self._project_key)
            if parties != self._parties:
                _refuse_older(parties, self._parties)
                # On disk before it is in force: after a restart the silo knows no less than it
                # acted by.
                self._write(content)
                self._content, self._parties = content, parties
            return self._parties

    def _write(self, content: bytes) -> None:
        try:
            write_whole(self.path, content, mode=0o644, durable=True)
            self._stamp = _stamp(self.path.stat())
        except OSError as error:
            raise PartiesError(
                f"{self.path}: the list cannot be written ({error.strerror})"
            ) from None

    def _refresh(self) -> None:
        try:
            stamp = _stamp(self.path.stat())
        except OSError as error:
            return self._keep(None, error.strerror)
        return None if stamp == self._stamp else self._read_again()

    def _read_again(self) -> None:
        stamp = None
        try:
            content, stamp = _read(self.path)
            parties = read_parties(content, project_key=self._project_key)
            _refuse_older(parties, self._parties)
        except (OSError, PartiesError) as error:
            return self._keep(stamp, error)
        self._content, self._stamp, self._parties = content, stamp, parties
        return None

    def _keep(self, stamp: _Stamp | None, reason: object) -> None:
        """Warn once for each change of the file."""
        if stamp != self._stamp:
            version = self._parties.version
            _log.warning("%s: %s; version %d stays in force", self.path, reason, version)
        self._stamp = stamp


def _refuse_older(new: Parties, old: Parties) -> None:
    # An older list is signed as well, and those who were revoked since may act by it.
    if new.project != old.project:
        raise PartiesError(f"the list is of project {new.project!r}, not of {old.project!r}")
    if new.version < old.version:
        raise PartiesError(f"the list has version {new.version}, older than {old.version}")
    if new.version == old.version and new != old:
        raise PartiesError(f"the list has version {new.version} too, with other members")


def _read(path: Path) -> tuple[bytes, _Stamp]:
    with path.open("rb") as file:
        # One byte too many says that it is too large. The stamp is that of the open file, which may
        # have been replaced under its name meanwhile.
        return file.read(LARGEST_FILE + 1), _stamp(os.fstat(file.fileno()))


def _stamp(facts: os.stat_result) -> _Stamp:
    return facts.st_mtime_ns, facts.st_size, facts.st_ino
