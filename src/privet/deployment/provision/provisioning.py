"""From a project file to a kit for every party, again and again.

The operators' folder holds two secrets that are in no kit, `project.key` (who belongs to the
project) and `ca.key` (which server is the project's); the signed list and the certificates; and a
folder and an archive for each party. What is there is kept: keys are made once, files that their
owners edit are written once, and a run that finds nothing to do changes no byte.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from privet.deployment.parties import Parties, Party, load_parties
from privet.deployment.provision.authority import (
    AUTHORITY_KEY,
    Authority,
    Issued,
    Outcome,
    authority,
    new_server_certificate,
    pem,
    server_certificate,
)
from privet.deployment.provision.errors import ProvisionError
from privet.deployment.provision.project import (
    SERVER,
    PartyKeys,
    Project,
    own_public_keys,
    public_file,
)
from privet.deployment.provision.rendering import (
    CA_FILE,
    PARTIES_FILE,
    SERVER_CERTIFICATE,
    Content,
    archive,
    folder_made_whole,
    kit_files,
    kit_names,
    put,
)
from privet.deployment.provision.roll import PartyStanding, listing, margin, members, standings
from privet.files import locked
from privet.privacy.ledger.keys import SiloKey

PROJECT_KEY = "project.key"


@dataclass(frozen=True, kw_only=True)
class ProvisionedParty:
    """What became of one party."""

    name: str
    role: str
    outcome: Literal["made", "kept", "renewed", "revoked", "waiting"]
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    """What a run did."""

    project_key: str
    """The public half, which every kit names."""
    version: int
    """Of the list of parties."""
    rows: tuple[ProvisionedParty, ...]
    notes: tuple[str, ...]
    """What has to be done by hand now, a sentence each."""


def provision(
    project: Project,
    *,
    out: Path,
    own_keys: bool = False,
    revoke: Collection[str] = (),
    at: datetime | None = None,
) -> Provisioned:
    """Make or bring up to date the folder `out`.

    With `own_keys` no private key is made for a new silo or administrator. `revoke` names parties
    that may do nothing any more; so may those that the project file no longer has, for good.
    `at` (aware) is when this happens; unset: now.

    ProvisionError, PartiesError or LedgerError, each one line, for what stands in the way. All
    that can be known beforehand is checked before anything is written. A run that is cut short is
    made good by the next one; no kit is ever half there.
    """
    # X.509 knows whole seconds: the list and the certificate say the same.
    moment = (at or datetime.now(UTC)).replace(microsecond=0)
    job = _Job(project, out, moment, own_keys, tuple(revoke))
    job.look()
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(out):
            return job.run()
    except OSError as error:
        raise ProvisionError(f"{error.filename or out}: {error.strerror}") from None


@dataclass
class _Job:
    """One run: look at what is there, then write."""

    project: Project
    out: Path
    at: datetime
    own_keys: bool
    revoke: Sequence[str]
    key: SiloKey | None = None
    last: Parties | None = None
    found: tuple[PartyStanding, ...] = ()
    notes: list[str] = field(default_factory=list)

    def look(self) -> None:
        """What is there and what becomes of whom; raises for every mistake, writes nothing."""
        key_file, list_file = self.out / PROJECT_KEY, self.out / PARTIES_FILE
        self.key = SiloKey.load(key_file) if key_file.exists() else None
        self.last = None
        if list_file.exists():
            self.last = _last(list_file, self.key, self.project.name)
        own, revoke = self.own_keys, self.revoke
        self.found = standings(self.project, self.last, own_keys=own, revoke=revoke)
        # For its errors alone: keys that two parties share are found before anything is written.
        self._listed({}, server=None)
        for each in self._new():
            folder = self.out / each.name
            if folder.exists() and not (folder / f"{each.role}.toml").exists():
                raise ProvisionError(f"{folder} is in the way of a kit: move it elsewhere")

    def run(self) -> Provisioned:
        self.look()  # again, now that nobody else writes
        key = self.key or SiloKey.create(self.out / PROJECT_KEY)
        issuer, outcome = self._authority()
        # New kits appear at the end of this block, all that is in them written.
        with ExitStack() as kits:
            folders = self._begin_kits(kits)
            issued = self._server_certificate(issuer, folders.get(SERVER))
            made = {
                each.name: own_public_keys(self._home(each.name, folders), node=each.role == "silo")
                for each in self.found
                if each.fate == "ours"
            }
            parties = self._listed(made, server=_server(issued))
            shared = _shared(parties.signed(key), issuer, issued)
            self._fill(folders, shared, key.public)
        self._refresh(parties, shared)
        self._note(parties, outcome, issued)
        return Provisioned(
            project_key=key.public,
            version=parties.version,
            rows=tuple(self._rows(parties, issued)),
            notes=tuple(self.notes),
        )

    def _authority(self) -> tuple[Authority, Outcome]:
        days = self.project.days
        return authority(self.out, self.project.name, at=self.at, days=days, margin=margin(days))

    def _new(self) -> Iterator[PartyStanding]:
        return (each for each in self.found if each.fate in ("ours", "brought"))

    def _begin_kits(self, kits: ExitStack) -> dict[str, Path]:
        """An unfinished folder for everyone who has none yet, by name."""
        new = [each.name for each in self._new()]
        if not (self.out / SERVER_CERTIFICATE).exists():
            new.insert(0, SERVER)
        absent = [self.out / name for name in new if not (self.out / name).exists()]
        return {path.name: kits.enter_context(folder_made_whole(path)) for path in absent}

    def _home(self, name: str, folders: dict[str, Path]) -> Path:
        return folders.get(name, self.out / name)

    def _server_certificate(self, issuer: Authority, kit: Path | None) -> Issued:
        hosts, days = self.project.server.hosts, self.project.days
        held = server_certificate(
            self.out, issuer, hosts, at=self.at, days=days, margin=margin(days)
        )
        if held:
            return held
        if kit is None:
            raise ProvisionError(
                f"{self.out / SERVER} has no {SERVER_CERTIFICATE}: move that folder away"
            )
        return new_server_certificate(kit, issuer, hosts, at=self.at, days=days)

    def _listed(self, made: dict[str, PartyKeys], *, server: Party | None) -> Parties:
        """The next list: the last one when nothing changed, else one with the next version."""
        others = tuple(members(self.found, made, at=self.at, days=self.project.days))
        version = self.last.version if self.last else 0
        new = listing(self.project.name, version + 1, server, others)
        return self.last if self.last and self.last.members == new.members else new

    def _fill(self, folders: dict[str, Path], shared: dict[str, Content], public: str) -> None:
        found = {each.name: each for each in self.found}
        for name, folder in folders.items():
            role = found[name].role if name in found else "server"
            own_key = name in found and found[name].fate == "brought"
            files = kit_files(
                self.project, name=name, role=role, own_key=own_key, project_key=public
            )
            put(folder, files | _for(role, shared))

    def _refresh(self, parties: Parties, shared: dict[str, Content]) -> None:
        """Every kit that is here gets the list and the certificates; the operators' copies last."""
        for member in parties.members:
            folder = self.out / member.name
            if folder.is_dir() and not member.revoked:
                put(folder, _for(member.role, shared))
                archive(folder, kit_names(self.project.name, member.name))
        # Last: that these are here says that every kit has them, and a run that was cut short
        # begins again.
        put(self.out, shared)

    def _note(self, parties: Parties, authority: Outcome, issued: Issued) -> None:
        """What is left to people."""
        if any(self._new()) or issued.outcome == "made":
            self.notes.append(
                f"Give every new party its archive, {self.out}/NAME.zip, by a way that nobody else "
                "can read; then archive and folder may go from here."
            )
        if self.last is None:
            self.notes.append(
                f"{self.out / PROJECT_KEY} and {self.out / AUTHORITY_KEY} are the project: keep "
                "them off every server and silo, and a copy where no accident reaches both."
            )
        elif parties.version != self.last.version:
            self.notes.append(
                f"Bring {self.out / PARTIES_FILE} to the server, in the place of its own. That one "
                "file is enough: silos get it from there."
            )
        if issued.outcome == "renewed":
            file = self.out / SERVER_CERTIFICATE
            self.notes.append(f"Bring {file} to the server as well, and start it again.")
        if authority == "renewed" or (authority == "made" and self.last):
            self.notes.append(f"Bring {self.out / CA_FILE} to every party, in place of its own.")
        self.notes += self._elsewhere(parties)

    def _elsewhere(self, parties: Parties) -> Iterator[str]:
        """Kits that were made when the server was at another address."""
        url = self.project.server.url
        for member in parties.members:
            file = self.out / member.name / f"{member.role}.toml"
            named = _server_in(file)
            if named and named != url and not member.revoked:
                yield f"{file} names {named}, the project {url}: change it there by hand."

    def _rows(self, parties: Parties, issued: Issued) -> Iterator[ProvisionedParty]:
        hosts = ", ".join(self.project.server.hosts)
        until = f"until {issued.certificate.not_valid_after_utc:%Y-%m-%d}"
        yield ProvisionedParty(
            name=SERVER, role="server", outcome=issued.outcome, detail=f"{hosts}, {until}"
        )
        for each in self.found:
            member = parties.named(each.name)
            yield _waiting(each) if member is None else self._row(each, member)

    def _row(self, each: PartyStanding, member: Party) -> ProvisionedParty:
        until = member.fault(self.at) or f"until {member.expires:%Y-%m-%d}"
        if each.fate == "revoked":
            return ProvisionedParty(
                name=each.name, role=each.role, outcome="revoked", detail=_revoked(each)
            )
        if each.member is None:
            whose = f", own key: compare {member.identity}" if each.fate == "brought" else ""
            return ProvisionedParty(
                name=each.name, role=each.role, outcome="made", detail=until + whose
            )
        same = each.member.expires == member.expires
        here = "" if (self.out / each.name).is_dir() else ", its kit is not here"
        outcome: Literal["kept", "renewed"] = "kept" if same else "renewed"
        return ProvisionedParty(
            name=each.name, role=each.role, outcome=outcome, detail=until + here
        )


def _waiting(each: PartyStanding) -> ProvisionedParty:
    detail = f"not on the list yet: no {public_file(each.name)} (privet join init {each.name})"
    return ProvisionedParty(name=each.name, role=each.role, outcome="waiting", detail=detail)


def _revoked(each: PartyStanding) -> str:
    if each.entry is None:
        return "no longer in the project file"
    return "for good; to come back it needs another name"


def _last(file: Path, key: SiloKey | None, project: str) -> Parties:
    if key is None:
        raise ProvisionError(
            f"{file.parent / PROJECT_KEY} is missing, the key of {file}: bring it back"
        )
    last = load_parties(file, project_key=key.public)
    if last.project != project:
        raise ProvisionError(
            f"name = {project!r}, but {file} is of project {last.project!r}; "
            "a project has a folder of its own"
        )
    return last


def _server(issued: Issued) -> Party:
    until = issued.certificate.not_valid_after_utc
    return Party(name=SERVER, role="server", identity="", expires=until)


def _shared(content: bytes, issuer: Authority, issued: Issued) -> dict[str, Content]:
    return {
        CA_FILE: Content(data=pem(issuer.certificate)),
        SERVER_CERTIFICATE: Content(data=pem(issued.certificate)),
        PARTIES_FILE: Content(data=content),
    }


def _for(role: str, shared: dict[str, Content]) -> dict[str, Content]:
    """What of `shared` a party of this role gets."""
    return {
        name: file
        for name, file in shared.items()
        if name != SERVER_CERTIFICATE or role == "server"
    }


def _server_in(file: Path) -> str | None:
    try:
        named = tomllib.loads(file.read_text(encoding="utf-8")).get("server")
    except (OSError, ValueError):
        return None
    return named if isinstance(named, str) else None


def _alone(folder: Path) -> AbstractContextManager[int]:
    """Keep other runs out of `folder`."""
    try:
        return locked(folder, flags=os.O_DIRECTORY)
    except BlockingIOError:
        raise ProvisionError(f"another provision is at work in {folder}") from None
