"""Who may take part: the names of the silos and their identity keys, agreed outside the system.

The operators fix the roster by hand before the first run, and each silo keeps its own copy. It is
what the trust rests on: the server relays every message, and could put itself in the middle if it
could also say which key belongs to whom. All messages carry the roster's digest, so that two silos
with different rosters refuse each other.

As TOML (JSON of the same shape works too):

    version = 1

    [[silos]]
    name = "hospital-a"
    identity = "5f0c..."        # its Ed25519 public key, 64 hexadecimal digits

Every message is bound to a session: the run, the epoch of its key, and the roster. A silo signs its
messages with its identity key (Ed25519, RFC 8032). Guarantee: what `read_signed` returns was
written by the silo that it names, for this session and under this title. It does not say when, or
how often: a message can be repeated within its session.

A message is a title, then fields that each say how long they are. The title ends a line and is
different for every kind of message, so no message (and no signature) can be taken for one of
another kind. Lengths have four bytes and numbers eight, so that content has exactly one encoding:
what is not byte for byte what `pack` writes is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import tomli_w

from privet.errors import nearest
from privet.privacy.encryption.errors import KeysError, MessageError, RosterError
from privet.privacy.ledger.keys import SiloKey, signed_by

Field = bytes | str | int

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What may stand for a silo or a run."""
LARGEST_NUMBER = 2**63 - 1

_LENGTH = 4
_NUMBER = 8


def pack(title: str, *values: Field) -> bytes:
    """The message; texts are UTF-8, numbers are 0 to LARGEST_NUMBER."""
    return b"".join([title.encode() + b"\n", *(_framed(value) for value in values)])


def name_like(text: str) -> bool:
    """Whether `text` can be the name of a silo or a run."""
    return re.fullmatch(NAME, text) is not None


def check_numbers(**named: int) -> None:
    """KeysError for a number that a message cannot carry."""
    for name, value in named.items():
        # To Python True == 1 == 1.0: a second name for what is possible once.
        if type(value) is not int or not 0 <= value <= LARGEST_NUMBER:
            raise KeysError(f"{name} = {value} is outside 0 to {LARGEST_NUMBER}")


class Fields:
    """Reads what `pack` wrote, one field after the other; MessageError for anything else.

    The last `without` bytes are not read: they are somebody else's.
    """

    def __init__(self, message: bytes, title: str, *, without: int = 0) -> None:
        start = title.encode() + b"\n"
        self._what = title.removeprefix("privet ").rstrip(" 0123456789")
        if not isinstance(message, bytes) or not message.startswith(start):
            raise self.fault("it is something else")
        self._message = message
        self._at = len(start)
        self._end = len(message) - without

    def fault(self, problem: str) -> MessageError:
        """The error that names this kind of message."""
        return MessageError(f"{self._what} refused: {problem}")

    def blob(self, *, size: int | None = None) -> bytes:
        """Bytes; of exactly `size` if that is given."""
        length = int.from_bytes(self._take(_LENGTH), "big")
        if size is not None and length != size:
            raise self.fault(f"a field has {length} bytes instead of {size}")
        return self._take(length)

    def number(self) -> int:
        """A number of 0 to LARGEST_NUMBER."""
        value = int.from_bytes(self.blob(size=_NUMBER), "big")
        if value > LARGEST_NUMBER:
            raise self.fault("a number is too large")
        return value

    def name(self) -> str:
        """The name of a silo or a run."""
        text = self.blob().decode("latin-1")  # never fails; `name_like` decides
        if not name_like(text):
            raise self.fault("a name has characters that names do not have")
        return text

    def names(self) -> tuple[str, ...]:
        """A counted list of names."""
        # However large the number, a message that is too short ends this at its end.
        return tuple(self.name() for _ in range(self.number()))

    def end(self) -> None:
        """Insist that everything was read."""
        if self._at != self._end:
            raise self.fault("something follows its end")

    def _take(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        if self._at > self._end:
            raise self.fault("it ends too early")
        return self._message[start : self._at]


def counted(names: tuple[str, ...]) -> tuple[Field, ...]:
    """The fields that `Fields.names` reads."""
    return (len(names), *names)


def _framed(value: Field) -> bytes:
    if isinstance(value, int):
        raw = value.to_bytes(_NUMBER, "big")
    else:
        raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(_LENGTH, "big") + raw


MOST_SILOS = 1000
LARGEST_FILE = 1_000_000
"""Bytes."""

_P = 2**255 - 19
_Y8 = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
# Points of order 1, 2, 4 and 8, in every encoding: anyone can sign for such a "key", and the zeros
# of a template are one of them.
_SMALL_ORDER = {0, 1, _Y8, _P - _Y8, _P - 1, _P, _P + 1}


@dataclass(frozen=True)
class Member:
    """A silo on the roster; `identity` is its Ed25519 public key, 64 hexadecimal digits."""

    name: str
    identity: str


@dataclass(frozen=True)
class Roster:
    """The silos in the order of the file. RosterError when a name or a key is unfit or repeated."""

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.members) <= MOST_SILOS:
            raise RosterError(f"a roster lists 2 to {MOST_SILOS} silos, not {len(self.members)}")
        for place, member in enumerate(self.members, start=1):
            _check(member, place)
        # Regardless of case: people, and some file systems, take both for one name.
        _refuse_repeats("name", [member.name.casefold() for member in self.members])
        _refuse_repeats("identity", [member.identity for member in self.members])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(member.name for member in self.members)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of `canonical`, 32 bytes: equal for silos that trust the same roster."""
        return hashlib.sha256(self.canonical()).digest()

    def canonical(self) -> bytes:
        """The one way to write this roster, whatever its file looks like."""
        identities = tuple(member.identity for member in self.members)
        return pack("privet roster 1", *counted(self.names), *identities)

    def to_toml(self) -> str:
        """As a file that `load_roster` reads."""
        return tomli_w.dumps({"version": 1, "silos": [asdict(each) for each in self.members]})

    def identity(self, name: str) -> str:
        """The public key of silo `name`; RosterError when it is not listed."""
        return self.members[self.place(name) - 1].identity

    def place(self, name: str) -> int:
        """The place of silo `name`, counted from 1; RosterError when it is not listed."""
        try:
            return self.names.index(name) + 1
        except ValueError:
            raise RosterError(f"the roster lists no silo {name!r}") from None

    def ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        """`names` in the order of the roster; RosterError for a repeated or an unlisted one."""
        places = sorted(self.place(name) for name in names)
        chosen = tuple(self.names[place - 1] for place in places)
        if len(set(chosen)) < len(chosen):
            raise RosterError("a silo is named twice")
        return chosen


def load_roster(path: Path) -> Roster:
    """The roster in a .toml or .json file; RosterError with one line for everything amiss in it."""
    raw = _read(path)
    try:
        return _roster(raw)
    except RosterError as error:
        raise RosterError(f"{path}: {error}") from None


def elect(roster: Roster, present: Iterable[str]) -> str:
    """The silo that makes the key: the first on the roster among those present.

    Every silo finds it for itself, from the same offers; no message of the server decides it.
    RosterError when nobody is present, or somebody who is not listed.
    """
    names = roster.ordered(present)
    if not names:
        raise RosterError("no silo is present: there is nobody to make a key")
    return names[0]


def _check(member: Member, place: int) -> None:
    if not name_like(member.name):
        raise RosterError(
            f"silo {place}: its name may have up to 64 letters, digits, '.', '_' and '-', "
            "and begins with a letter or a digit"
        )
    # The value is not shown: someone may have pasted the private key.
    if not re.fullmatch("[0-9a-f]{64}", member.identity):
        raise RosterError(
            f"silo {member.name!r}: its identity is not a public key (64 hexadecimal digits, "
            "small letters)"
        )
    if int.from_bytes(bytes.fromhex(member.identity), "little") % 2**255 in _SMALL_ORDER:
        raise RosterError(f"silo {member.name!r}: its identity is no key: anyone could sign for it")


def _refuse_repeats(what: str, values: list[str]) -> None:
    seen: dict[str, int] = {}
    for place, value in enumerate(values, start=1):
        if value in seen:
            raise RosterError(f"silos {seen[value]} and {place} have the same {what}")
        seen[value] = place


def _roster(raw: object) -> Roster:
    table = _table(raw, "the roster", ("version", "silos"))
    # `type`, since true == 1.
    if type(table["version"]) is not int or table["version"] != 1:
        raise RosterError("version must be 1")
    if not isinstance(table["silos"], list):
        raise RosterError("silos must be a list of tables")
    return Roster(tuple(_member(each, place) for place, each in enumerate(table["silos"], 1)))


def _member(raw: object, place: int) -> Member:
    table = _table(raw, f"silo {place}", ("name", "identity"))
    for key, value in table.items():
        if not isinstance(value, str):
            raise RosterError(f"silo {place}: {key} must be a text")
    return Member(**table)


def _table(raw: object, where: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise RosterError(f"{where} must be a table")
    for key in raw:
        if key not in keys:
            raise RosterError(f"{where}: unknown key {key[:64]!r}.{nearest(key[:64], keys)}")
    for key in keys:
        if key not in raw:
            raise RosterError(f"{where}: '{key}' is missing")
    return raw


def _read(path: Path) -> object:
    if path.suffix not in (".toml", ".json"):
        raise RosterError(f"{path}: a roster is a .toml or a .json file")
    try:
        with path.open("rb") as file:
            # One byte more says that there is more; all of it need not be read.
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise RosterError(f"{path}: the roster cannot be read ({error.strerror})") from None
    if len(content) > LARGEST_FILE:
        raise RosterError(f"{path} has more than {LARGEST_FILE} bytes: that is no roster")
    kind = path.suffix.removeprefix(".").upper()
    try:
        text = content.decode()
        return tomllib.loads(text) if kind == "TOML" else json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise RosterError(f"{path} is not {kind}") from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key is repeated")
    return table


@dataclass(frozen=True, kw_only=True)
class Session:
    """One epoch of one run, between the silos of one roster; all of it may be published.

    A message of another session is refused as a replay. The run's name should be new for each run,
    but secrecy does not hang on it (the server may be the one who chose it): what a key is wrapped
    to is a fresh key of each silo.
    """

    run: str
    epoch: int
    roster: Roster

    def __post_init__(self) -> None:
        check_numbers(epoch=self.epoch)
        if not name_like(self.run):
            raise KeysError(
                f"run {self.run[:64]!r}: its name may have up to 64 letters, digits, '.', '_', '-'"
            )

    @property
    def facts(self) -> tuple[Field, Field, Field]:
        """The fields with which a message says where it belongs."""
        return self.run, self.epoch, self.roster.digest

    def check(self, fields: Fields) -> None:
        """Read `facts` and insist that they are these; MessageError says which one is not."""
        run, epoch, roster = fields.name(), fields.number(), fields.blob(size=32)
        if run != self.run:
            raise fields.fault(f"it is from run {run!r}, not {self.run!r}")
        if epoch != self.epoch:
            raise fields.fault(f"it is from epoch {epoch}, not {self.epoch}")
        if roster != self.roster.digest:
            raise fields.fault("its maker has another roster")

    def check_identity(self, name: str, identity: SiloKey) -> None:
        """RosterError unless the roster lists `identity` as the key of silo `name`."""
        if self.roster.identity(name) != identity.public:
            raise RosterError(f"the roster lists another identity key for silo {name!r}")


SIGNATURE = 64
"""Bytes."""


def write_signed(
    title: str, *values: Field, session: Session, name: str, identity: SiloKey
) -> bytes:
    """The message of silo `name`; RosterError when `identity` is not its key."""
    session.check_identity(name, identity)
    body = pack(title, *session.facts, name, *values)
    return body + bytes.fromhex(identity.sign(body))


def read_signed(message: bytes, title: str, *, session: Session, most: int) -> tuple[str, Fields]:
    """Who signed, and the fields they signed, of a message of at most `most` bytes.

    MessageError for any other session, signer or content. The caller reads the fields to their end.
    """
    fields = Fields(message, title, without=SIGNATURE)
    if len(message) > most:
        raise fields.fault(f"it has more than {most} bytes")
    # Session and name come first: they say whose signature it must be. All else waits for it.
    session.check(fields)
    name = fields.name()
    if not _signed(_identity(session, name, fields), message):
        raise fields.fault(f"the signature is not that of silo {name!r}")
    return name, fields


# Everybody reads everybody's messages, at several steps of a round.
@lru_cache(maxsize=1024)
def _signed(identity: str, message: bytes) -> bool:
    return signed_by(identity, message[:-SIGNATURE], message[-SIGNATURE:].hex())


def _identity(session: Session, name: str, fields: Fields) -> str:
    try:
        return session.roster.identity(name)
    except RosterError as error:
        raise fields.fault(str(error)) from None
