"""Who is on the next list of parties: the project file against the list of last time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from privet.deployment.parties import Parties, PartiesError, Party, Role
from privet.deployment.provision.errors import ProvisionError
from privet.deployment.provision.project import SERVER, Entry, PartyKeys, Project
from privet.errors import nearest

Fate = Literal["listed", "brought", "ours", "waiting", "revoked"]

_LEAST_LEFT = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class PartyStanding:
    """One silo or administrator, and what becomes of it.

    listed   it is on the list already, and stays with the keys it has there
    brought  it is new and made its keys itself
    ours     it is new, and its keys are made for it
    waiting  it is new and is to make its keys itself, which are not here yet
    revoked  it was on the list, and may do nothing any more
    """

    name: str
    role: Role
    fate: Fate
    entry: Entry | None = None
    """What the project file says; None: it is no longer there."""
    member: Party | None = None
    public_keys: PartyKeys | None = None


def margin(days: int) -> timedelta:
    """What lasts `days` is renewed when less than this is left of it."""
    return min(_LEAST_LEFT, timedelta(days=days) / 3)


def standings(
    project: Project, last: Parties | None, *, own_keys: bool, revoke: Collection[str]
) -> tuple[PartyStanding, ...]:
    """What becomes of every silo and administrator, those of last time first.

    ProvisionError when a name to revoke is not on the list, when a party comes back with another
    role or another key, and when two have the same key.
    """
    old = last.members if last else ()
    _check_revoked(revoke, old)
    entries = {name: (role, entry) for name, role, entry in project.entries()}
    known = [_again(project, member, entries, revoke) for member in old if member.role != "server"]
    listed = {member.name for member in old}
    new = [
        _newcomer(project, name, role, entry, own_keys)
        for name, (role, entry) in entries.items()
        if name not in listed
    ]
    return (*known, *new)


def members(
    found: Collection[PartyStanding], made: Mapping[str, PartyKeys], *, at: datetime, days: int
) -> Iterator[Party]:
    """The silos and administrators of the next list; `made` are new parties' keys, by name."""
    lasting = at + timedelta(days=days)
    for each in found:
        if each.member is not None:
            soon = each.member.expires - at < margin(days)
            prolonged = lasting if soon else each.member.expires
            yield _listed(each.member, each, prolonged)
        elif public_keys := each.public_keys or made.get(each.name):
            yield _new(each, public_keys, lasting)


def _listed(member: Party, each: PartyStanding, expires: datetime) -> Party:
    if each.fate == "revoked":
        # It stays on the list: a name that was dropped could be given to somebody else, and places
        # in the list would change.
        return replace(member, revoked=True)
    asked = each.entry.expires if each.entry else None
    return replace(member, expires=asked or expires)


def _new(each: PartyStanding, public_keys: PartyKeys, expires: datetime) -> Party:
    asked = each.entry.expires if each.entry else None
    return Party(
        name=each.name,
        role=each.role,
        identity=public_keys.identity,
        node_key=public_keys.node_key,
        expires=asked or expires,
    )


def listing(project: str, version: int, server: Party | None, others: Collection[Party]) -> Parties:
    """The list itself; ProvisionError when two parties have the same key."""
    try:
        return Parties(project, version, (*([server] if server else ()), *others))
    except PartiesError as error:
        raise ProvisionError(str(error)) from None


def _check_revoked(revoke: Collection[str], old: Collection[Party]) -> None:
    names = [member.name for member in old if member.role != "server"]
    for name in revoke:
        if name == SERVER:
            raise ProvisionError("--revoke server: only silos and administrators can be revoked")
        if name not in names:
            hint = nearest(name, names)
            raise ProvisionError(f"--revoke {name}: no such party is on the list.{hint}")


def _again(
    project: Project,
    member: Party,
    entries: Mapping[str, tuple[Role, Entry]],
    revoke: Collection[str],
) -> PartyStanding:
    role, entry = entries.get(member.name, (member.role, None))
    if role != member.role:
        raise ProvisionError(f"{member} cannot come back as {role}; give it another name")
    gone = member.revoked or entry is None or member.name in revoke
    if entry is not None and not gone:
        _check_same(project.brought(member.name, entry), member)
    return PartyStanding(
        name=member.name,
        role=role,
        fate="revoked" if gone else "listed",
        entry=entry,
        member=member,
    )


def _check_same(brought: PartyKeys | None, member: Party) -> None:
    if brought not in (None, PartyKeys(identity=member.identity, node_key=member.node_key)):
        raise ProvisionError(
            f"{member} has another key on the list; whoever lost a key needs another name: "
            f"--revoke {member.name}, and add the new one"
        )


def _newcomer(
    project: Project, name: str, role: Role, entry: Entry, own_keys: bool
) -> PartyStanding:
    public_keys = project.brought(name, entry)
    fate: Fate = "brought" if public_keys else "waiting" if own_keys or entry.own_key else "ours"
    return PartyStanding(name=name, role=role, fate=fate, entry=entry, public_keys=public_keys)
