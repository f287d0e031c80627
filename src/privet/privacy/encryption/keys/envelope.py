"""Letters between the holders of a run key, which the server carries and cannot read.

For what only key holders use: the side information of a download, the shares of an unmasking, the
final model. Not for updates that the server adds: it could not add what it cannot see through (see
`uploads` for what protects those).

Guarantees of `open_`: the letter was sealed by some holder of the same run key, for exactly this
label, and the server neither read nor changed it. Not guaranteed: WHICH holder. The key is shared,
so a holder can seal in another's name; where that matters, the letter itself must be signed. A
letter can be delivered again under its own label; a label that is used once rules that out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from privet.privacy.encryption.keys.aead import decrypt, derive, encrypt
from privet.privacy.encryption.keys.errors import KeysError
from privet.privacy.encryption.keys.fields import Fields, check_numbers, name_like, pack
from privet.privacy.encryption.keys.runkey import RunKey

_TITLE = "privet letter 1"


class Direction(StrEnum):
    """Which way a letter goes."""

    UP = "up"
    """With a silo's reply."""
    DOWN = "down"
    """With what the server hands out."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What a letter is bound to besides its run key; both ends must state the same."""

    round: int
    sender: str
    """The silo that sealed it; a member of the run key."""
    direction: Direction
    subject: str = "letter"
    """Keeps several letters of one silo and round apart; written like a name."""

    def __post_init__(self) -> None:
        check_numbers(round=self.round)
        if not name_like(self.subject):
            raise KeysError("the subject of a letter must be written like a name")


def seal(plaintext: bytes, *, key: RunKey, label: Label) -> bytes:
    """`plaintext` for the other holders of `key`; KeysError if the sender is no member."""
    facts = _facts(key, label)
    return pack(_TITLE) + encrypt(plaintext, key=derive(key.transport, info=facts), bound=facts)


def open_(message: bytes, *, key: RunKey, label: Label) -> bytes:
    """What `seal` was given. MessageError for another key or label, or any change."""
    fields = Fields(message, _TITLE)
    facts = _facts(key, label)
    box = message[len(pack(_TITLE)) :]
    return decrypt(box, key=derive(key.transport, info=facts), bound=facts, fields=fields)


def _facts(key: RunKey, label: Label) -> bytes:
    if label.sender not in key.members:
        raise KeysError(f"silo {label.sender[:64]!r} is not a member of the run key")
    where = label.round, label.sender, str(label.direction), label.subject
    return pack("privet letter facts 1", *key.session.facts, *where)
