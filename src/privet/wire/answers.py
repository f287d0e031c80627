"""Everything that may leave a silo: the closed schema of its answers, and the check at its door.

A value that has no `AnswerField` here cannot be sent, and one whose grant is missing cannot either.
The audit's list of what left and the table of the threat model are read from here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from flwr.app import Array, MessageType, RecordDict

from privet.wire.records import (
    ADVERT,
    CONFIRM,
    CONSENT,
    KEEP,
    MAKE,
    MASKS,
    MODEL,
    OFFER,
    REVEAL,
    SEALED,
    SHARE,
    TAKE,
    UPDATE,
)
from privet.wire.rounds import ENROL

Protection = Literal["noised", "encrypted", "exact", "none needed"]

PRIVACY, PLAIN, ENCRYPTION = "privacy", "training.plain", "encryption"
"""Grants of a training: its update has noise that is charged; has none, which the policy allows; or
leaves encrypted alone."""
RECORDS_PUBLIC = "sending.records_public"
METRIC = "metrics."
"""What the grant of a metric begins with."""

SCORES = "scores"
"""A metric that is no number: how many records fall into each bin of a probability, by class."""
KNOWN_METRICS = frozenset({"loss", "accuracy", SCORES})
"""Names that a silo may say even of a metric that it withholds; others are a task's own words."""


@dataclass(frozen=True)
class AnswerField:
    """One value of an answer, or all whose names begin alike."""

    kind: str
    """The message type that it answers."""
    place: str
    """Its record and its name, with a point between; a star at the end stands for a name."""
    holds: type
    grants: tuple[str, ...]
    """One of them must be given; none is needed where the value says nothing of records."""
    protection: Protection
    """"none needed" is of values that do not depend on the silo's records."""
    says: str

    def covers(self, place: str) -> bool:
        """Whether it is the field of `place`."""
        if not self.place.endswith("*"):
            return place == self.place
        return place.startswith(self.place[:-1]) and len(place) >= len(self.place)


def _free(kind: str, place: str, holds: type, says: str) -> AnswerField:
    return AnswerField(kind, place, holds, (), "none needed", says)


_TRAIN, _EVALUATE = MessageType.TRAIN, MessageType.EVALUATE
_SIZE = (RECORDS_PUBLIC,)
_KEY_STEPS = (OFFER, MAKE, TAKE, KEEP)
_MASK_STEPS = (ADVERT, SHARE, CONSENT, REVEAL, CONFIRM)

ANSWERS: tuple[AnswerField, ...] = (
    _free(ENROL, "enrolment.silo", str, "the silo's name, by its own files"),
    _free(ENROL, "enrolment.index", int, "its place in the federation"),
    AnswerField(
        ENROL, "enrolment.noise-multiplier", float, _SIZE, "exact", "the noise that it needs"
    ),
    AnswerField(ENROL, "enrolment.rounds", int, _SIZE, "exact", "the rounds that fit its budget"),
    AnswerField(_TRAIN, "update.*", Array, (PRIVACY,), "noised", "the update, under [privacy]"),
    AnswerField(_TRAIN, "update.*", Array, (PLAIN,), "exact", "the update, without [privacy]"),
    AnswerField(
        _TRAIN, f"{UPDATE}.upload", Array, (ENCRYPTION,), "encrypted", "the update, encrypted"
    ),
    _free(_TRAIN, f"{SEALED}.statement", bytes, "a signature on the encrypted update"),
    AnswerField(_TRAIN, "metrics.num-examples", float, _SIZE, "exact", "its number of records"),
    AnswerField(_TRAIN, "metrics.loss", float, (PLAIN,), "exact", "the mean training loss"),
    AnswerField(
        _TRAIN,
        "privacy.event",
        str,
        _SIZE,
        "exact",
        "the mechanism that ran, whose sampling rate tells the number of records",
    ),
    AnswerField(_EVALUATE, "metrics.*", float, (METRIC,), "exact", "a metric"),
    AnswerField(
        _EVALUATE,
        f"{SCORES}.counts",
        list,
        (METRIC + SCORES,),
        "exact",
        "counts of scores by class, where the policy says so with noise",
    ),
    AnswerField(
        _EVALUATE, f"{SCORES}.noise", float, (METRIC + SCORES,), "none needed", "their noise"
    ),
    _free(_EVALUATE, "released.*", str, "how a metric left: exactly, noised or withheld"),
    AnswerField(_EVALUATE, "size.num-examples", float, _SIZE, "exact", "its number of records"),
    AnswerField(_EVALUATE, "privacy.event", str, _SIZE, "none needed", "the noise of its metrics"),
    *(_free(step, "keys.offer", bytes, "a fresh public key") for step in _KEY_STEPS),
    *(_free(step, "keys.for:*", bytes, "a key, wrapped for another silo") for step in _KEY_STEPS),
    *(
        AnswerField(
            step,
            f"{MODEL}.model",
            Array,
            (ENCRYPTION,),
            "encrypted",
            "the global model, encrypted for other silos",
        )
        for step in (*_KEY_STEPS, *_MASK_STEPS)
    ),
    *(
        _free(
            s,
            f"{MASKS}.message",
            bytes,
            "a signed message to the others; in an advert with the "
            "number of records where silos count by it, which needs `sending.records_public`",
        )
        for s in _MASK_STEPS
    ),
    *(
        _free(s, f"{MASKS}.for:*", bytes, "a share of a mask's seed, for another silo")
        for s in _MASK_STEPS
    ),
)
"""The schema, in the order in which people are shown it."""

_LONGEST_NAME = 200
_RELEASED = frozenset({"exact", "noised", "withheld"})


class Unsendable(Exception):  # noqa: N818 - of the answer, not of the silo
    """An answer holds what the schema does not let out; it names the place and no value."""


def fields_at(kind: str, place: str) -> tuple[AnswerField, ...]:
    """The fields of the schema that a value at `place` of an answer can be."""
    return tuple(field for field in ANSWERS if field.kind == kind and field.covers(place))


def check_answer(kind: str, content: RecordDict, grants: frozenset[str]) -> None:
    """Raise Unsendable unless every value in `content` may leave under `grants`."""
    for place, value in _values(content):
        fields = [each for each in fields_at(kind, place) if _is(value, each.holds)]
        if not any(_granted(field, place, grants) for field in fields):
            raise Unsendable(f"{kind}: {place} may not leave")
        record, _, name = place.partition(".")
        fits = 0 < len(name) <= _LONGEST_NAME and name.isprintable()
        if not fits or (record == "released" and value not in _RELEASED):
            raise Unsendable(f"{kind}: a name or a word in {record} may not leave")


def _granted(field: AnswerField, place: str, grants: frozenset[str]) -> bool:
    name = place.partition(".")[2]
    if field.grants == (METRIC,):
        return METRIC + name in grants
    if field.place == "released.*":
        return name in KNOWN_METRICS or METRIC + name in grants
    return not field.grants or not grants.isdisjoint(field.grants)


def _is(value: object, kind: type) -> bool:
    # To Python True is an int, and a number that is none could say something.
    if kind is float:
        return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
    if kind is list:
        return isinstance(value, list) and all(_is(each, float) for each in value)
    return type(value) is kind


def _values(content: RecordDict) -> Iterator[tuple[str, object]]:
    for name, record in content.items():
        for key, value in record.items():
            yield f"{name}.{key}", value
