"""The signed list of parties, and Flower's nodes kept in step with it."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from privet.deployment.parties import Parties, PartiesError, PartiesFile
from privet.deployment.server.flower import Link
from privet.files import write_whole
from privet.server.cohort import NodeIdentity

_SEEN = "parties.seen.json"
log = logging.getLogger("privet.server")


class Membership:
    """Who belongs to the project at this moment; a node for every silo, none for the revoked."""

    def __init__(self, file: PartiesFile, link: Link, *, folder: Path) -> None:
        self._file, self._link, self.folder = file, link, folder
        self._lock = threading.Lock()
        self._version = 0
        self._seen = folder / _SEEN
        self._demand_newest()
        self.nodes: dict[str, int] = {}
        """By silo."""

    def current(self) -> Parties:
        """The list as the file now has it; nodes follow before this returns."""
        parties = self._file.current()
        with self._lock:
            if parties.version != self._version:
                self._follow(parties)
                # Not by an older one after a restart: whoever was revoked since would act again.
                write_whole(self._seen, self._file.content(), durable=True)
                # After the nodes: if they cannot follow, the next look tries again.
                self._version = parties.version
        return parties

    def _demand_newest(self) -> None:
        """PartiesError for a list that is older than one that the server has acted by."""
        try:
            seen = json.loads(self._seen.read_bytes())["signed"]["version"]
        except (OSError, ValueError, TypeError, KeyError):
            return
        version = self._file.current().version
        if type(seen) is int and seen > version:
            raise PartiesError(
                f"{self._file.path}: the list has version {version}, and this server has acted by "
                f"version {seen}, which is kept as {self._seen}; put the newer one in its place"
            )

    def content(self) -> bytes:
        """The signed list itself."""
        return self._file.content()

    def roster(self) -> Path:
        """The silos' identity keys as encryption reads them, in a file."""
        parties = self.current()
        path = self.folder / f"roster-{parties.version}.toml"
        write_whole(path, parties.roster().to_toml().encode())
        return path

    def identify(self, node: int) -> NodeIdentity:
        """Who is at `node`, by the list and not by what the silo says."""
        members = self.current().members
        # A place never changes hands: who is revoked stays on the list, and new parties come last.
        for index, member in enumerate(members):
            if self.nodes.get(member.name) == node:
                return NodeIdentity(index, member.name)
        return NodeIdentity(len(members), f"node {node}")

    def _follow(self, parties: Parties) -> None:
        standing = {silo.name: silo for silo in parties.silos()}
        for member in parties.members:
            if member.role == "silo" and member.name not in standing:
                node = self._link.node(member.node_key)
                if node is not None:
                    self._link.expel(node)
                    log.info("silo %s is revoked and expelled", member.name)
        # Replaced and not changed: the gate reads it without the lock.
        self.nodes = {
            name: self._link.admit(silo.node_key, name=name) for name, silo in standing.items()
        }
        log.info("parties, version %d: silos %s", parties.version, ", ".join(standing) or "none")
