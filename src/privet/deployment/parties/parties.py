"""Who belongs to a project, signed by its operators.

The list is what everyone's trust rests on: the server takes orders and nodes only from those who
are on it, silos take each other's keys from it, and neither can add to it, because only the
project key signs it and that key is on no machine of theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, get_args

from privet.deployment.parties.errors import PartiesError
from privet.deployment.parties.node_keys import node_key_fault
from privet.privacy.encryption.keys.roster import LARGEST_NUMBER, Member, Roster, name_like
from privet.privacy.ledger.keys import SiloKey

_P = 2**255 - 19
_Y8 = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
# Points of order 1, 2, 4 and 8, in every encoding: anyone can sign for such a "key", and the zeros
# of a template are one of them.
_SMALL_ORDER = {0, 1, _Y8, _P - _Y8, _P - 1, _P, _P + 1}


def identity_fault(text: str) -> str | None:
    """What is wrong with `text` as a public key, or None; the text itself is not repeated.

    Someone may have pasted the private half.
    """
    if not re.fullmatch("[0-9a-f]{64}", text):
        return "is not a public key (64 hexadecimal digits, small letters)"
    if int.from_bytes(bytes.fromhex(text), "little") % 2**255 in _SMALL_ORDER:
        return "is no key: anyone could sign for it"
    return None


Role = Literal["server", "silo", "admin"]

# So many fit into the megabyte that readers of a list take.
MOST_MEMBERS = 2000

_TITLE = b"privet parties 1\n"


@dataclass(frozen=True, kw_only=True)
class Party:
    """A member of a project. PartiesError for a name, a role or a key that cannot be one."""

    name: str
    """Up to 64 letters, digits, '.', '_' and '-'; it begins with a letter or a digit."""
    role: Role
    identity: str
    """Ed25519 public key, 64 hexadecimal digits; "" for the server, known by its certificate."""
    node_key: str = ""
    """Of a silo: the P-384 public key that Flower knows its node by, in one line of OpenSSH."""
    expires: datetime
    """From this moment on it may do nothing; aware."""
    revoked: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and name_like(self.name)):
            raise PartiesError(
                f"{str(self.name)[:64]!r} is no name: up to 64 letters, digits, '.', '_' and '-', "
                "beginning with a letter or a digit"
            )
        if self.role not in get_args(Role):
            raise PartiesError(f"{self.name!r}: its role is one of {', '.join(get_args(Role))}")
        if self.expires.tzinfo is None:
            raise PartiesError(f"{self}: 'expires' has no time zone")
        for key, fault in self._key_faults():
            raise PartiesError(f"{self}: its {key} {fault}")

    def _key_faults(self) -> Iterable[tuple[str, str]]:
        for key, value, due, judge in (
            ("identity", self.identity, self.role != "server", identity_fault),
            ("node_key", self.node_key, self.role == "silo", node_key_fault),
        ):
            fault = judge(value) if due else "must be empty" if value else None
            if fault:
                yield key, fault

    def __str__(self) -> str:
        return f"{self.role} {self.name!r}"

    def fault(self, at: datetime) -> str | None:
        """Why it may do nothing at this moment (aware), or None: it may."""
        if self.revoked:
            return f"{self} is revoked"
        if at >= self.expires:
            return f"{self} expired on {self.expires.astimezone(UTC):%Y-%m-%d}"
        return None


@dataclass(frozen=True)
class Parties:
    """The members of a project, in the order of the list.

    PartiesError for a project without a proper name, a version below 1, and for names (in any
    case), identities or node keys that two members share.
    """

    project: str
    version: int
    """Rises with every change; a list is never followed by one with a lower version."""
    members: tuple[Party, ...]

    def __post_init__(self) -> None:
        if not name_like(self.project):
            raise PartiesError(f"project = {self.project[:64]!r} is no name")
        if not 1 <= self.version <= LARGEST_NUMBER:
            raise PartiesError(f"version = {self.version} is outside 1 to {LARGEST_NUMBER}")
        if len(self.members) > MOST_MEMBERS:
            raise PartiesError(
                f"a project has up to {MOST_MEMBERS} parties, not {len(self.members)}"
            )
        if sum(member.role == "server" for member in self.members) > 1:
            raise PartiesError("a project has one server, not two")
        # In any case, as a kit is a folder, and some file systems know one case only.
        _refuse_repeats("name", self.members, [member.name.casefold() for member in self.members])
        _refuse_repeats("identity", self.members, [member.identity for member in self.members])
        _refuse_repeats("node_key", self.members, [member.node_key for member in self.members])

    @cached_property
    def _by_name(self) -> dict[str, Party]:
        return {member.name: member for member in self.members}

    def named(self, name: str) -> Party | None:
        """The party of this name, revoked and expired ones too; None when nobody has it."""
        return self._by_name.get(name)

    def silos(self) -> tuple[Party, ...]:
        """The silos that are not revoked."""
        return tuple(each for each in self.members if each.role == "silo" and not each.revoked)

    def roster(self) -> Roster:
        """The silos that are not revoked, for encryption; RosterError for fewer than two."""
        return Roster(tuple(Member(silo.name, silo.identity) for silo in self.silos()))

    def signed(self, key: SiloKey) -> bytes:
        """The content of the file: the same bytes for the same list and key."""
        table = {
            "project": self.project,
            "version": self.version,
            "members": [_row(member) for member in self.members],
        }
        whole = {"signed": table, "signature": key.sign(signing_text(table))}
        return (json.dumps(whole, indent=1) + "\n").encode()


def signing_text(table: object) -> bytes:
    """What the signature is over; ValueError or RecursionError for what is no such table."""
    text = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return _TITLE + text.encode()


def _row(member: Party) -> dict[str, Any]:
    return {**asdict(member), "expires": timestamp(member.expires)}


def timestamp(moment: datetime) -> str:
    """The one way to write a moment, in UTC."""
    return moment.astimezone(UTC).isoformat()


def _refuse_repeats(what: str, members: Sequence[Party], values: Sequence[str]) -> None:
    seen: dict[str, Party] = {}
    for member, value in zip(members, values, strict=True):
        # The server has no identity and no node key, an administrator no node key.
        if value and value in seen:
            raise PartiesError(f"{seen[value]} and {member} have the same {what}")
        seen[value] = member
