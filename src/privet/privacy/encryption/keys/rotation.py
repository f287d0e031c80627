"""When the key is changed: a rule that server and silos work out alike, each for itself.

The server only proposes. A silo applies the rule to what it knows (the age of its key, the verified
offers, its own tags) and does not go on with a key that the rule retires.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from privet.privacy.encryption.keys.errors import KeysError

FIRST_EPOCH = 1


class Reason(StrEnum):
    """Why a new key is needed."""

    START = "the run has no key yet"
    TAGS = "the tags of a decrypted sum did not match"
    MEMBERS = "the silos that take part have changed"
    ROUNDS = "the key has served its rounds"


@dataclass(frozen=True, kw_only=True)
class KeyAge:
    """What may be known in public about the key in use."""

    epoch: int
    since: int
    """The first round that used it."""
    members: tuple[str, ...]
    """The silos that hold it."""


@dataclass(frozen=True)
class Rotation:
    """A new key is needed, for this epoch; of several reasons, the weightiest."""

    epoch: int
    reason: Reason


def rotation(
    age: KeyAge | None, *, round: int, present: Collection[str], tags_failed: bool, every: int
) -> Rotation | None:
    """Whether `round` needs a new key, and which epoch that is; None to keep the one in use.

    `present` are the silos that take part from here on. One that comes must not be given the key of
    rounds it was not in, and one that has left still holds the key; one that only misses a round
    can be counted as present, and the key stays. `every` is the most rounds that a key serves.
    Pure; KeysError for settings without a meaning and for a round before the key.
    """
    if every < 1:
        raise KeysError(f"a key serves 1 round or more, not {every}")
    if age is None:
        return Rotation(FIRST_EPOCH, Reason.START)
    if round < age.since:
        raise KeysError(f"round {round} is before round {age.since}, which first used the key")
    reason = _reason(age, round, frozenset(present), tags_failed, every)
    return None if reason is None else Rotation(age.epoch + 1, reason)


def _reason(
    age: KeyAge, round: int, present: frozenset[str], tags_failed: bool, every: int
) -> Reason | None:
    if tags_failed:
        return Reason.TAGS
    if present != frozenset(age.members):
        return Reason.MEMBERS
    return Reason.ROUNDS if round - age.since >= every else None
