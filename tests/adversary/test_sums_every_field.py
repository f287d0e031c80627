"""Every field of every message of an encrypted round, changed by a server, or by one silo.

Fields and values are those of an honest run, so a new field joins by itself. Whatever is changed:
what silos open and go on with is the mean of what they have trained, from one model, of one list of
silos for each round; no silo uploads twice, consents twice, or goes on with a key that failed.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from privet.wire import CONFIRM, CONSENT, KEEP, REVEAL, SHARE, TAKE
from privet.wire.records import blob
from sums_under_attack import Score, job, kind_of, name_of, run

SHORT = job(rounds=2, encryption__rotate_every=1)
"""Two rounds and two keys; one silo misses the first sum, so the model is carried to it."""
JOBS = {
    "masked": SHORT,
    "unmasked": SHORT.with_settings({"encryption.pairwise_masks": False}),
    "ckks": SHORT.with_settings({"encryption.scheme": "ckks"}),
    "noised": SHORT.with_settings({"privacy": {"epsilon": 50.0, "calibrate": "shared"}}),
}
"""Of the last one, fields that the first has not."""
PARTS = {"masked": 100, "unmasked": 30, "ckks": 30, "noised": 2}
"""That are all looked at when there is time."""
SAMPLES = {"masked": 100, "unmasked": 200, "ckks": 200, "noised": 20}
"""One of so many changes is looked at in every run of the suite."""

Values = dict[str, Any]
"""Of the fields of one message, by record and key."""


@dataclass
class Mail:
    """Messages of a run in order: numbered by kind and silo, with what each field was."""

    reply: bool = False
    seen: dict[tuple[str, str, int], Values] = field(default_factory=dict)

    def number(self, kind: str, silo: str) -> int:
        return sum(key[:2] == (kind, silo) for key in self.seen)

    def note(self, message: Message) -> tuple[str, str, int]:
        kind, silo = kind_of(message), name_of(message, reply=self.reply)
        place = kind, silo, self.number(kind, silo)
        self.seen[place] = dict(fields(message.content))
        return place


def fields(content: RecordDict) -> Iterator[tuple[str, Any]]:
    for name, record in content.items():
        for key, value in record.items():
            yield f"{name}.{key}", value


def absent(messages: list[Message]) -> list[list[Message]]:
    """Silo d is not asked to train in the first round."""
    first = {"kind": MessageType.TRAIN, "round": "1", "silo": "d"}
    return [[each for each in messages if about(each) != first]]


def about(message: Message) -> dict[str, str]:
    """As the transport has it, whatever is inside."""
    round_ = str(message.metadata.group_id)
    return {"kind": kind_of(message), "round": round_, "silo": name_of(message)}


@lru_cache(maxsize=2 * len(JOBS))
def honest(scheme: str, *, reply: bool) -> Mail:
    mail = Mail(reply)
    with TemporaryDirectory() as out:
        note = {"up" if reply else "down": lambda message: mail.note(message) and None}
        score = run(Path(out), deliver=absent, experiment=JOBS[scheme], **note)  # type: ignore[arg-type]
    assert score.wrong(threshold=least_sum(scheme)) == []
    assert [each["skipped"] for each in score.entries] == [None, None, None]
    assert not score.refused
    return mail


def other_values(value: Any) -> dict[str, Any]:
    """The same type, another value."""
    if isinstance(value, bool):
        return {"not": not value}
    if isinstance(value, int):
        return {"more": value + 1, "less": value - 1, "huge": 2**62}
    if isinstance(value, float):
        return {"doubled": 2 * value, "nan": float("nan")}
    if isinstance(value, bytes):
        middle = len(value) // 2
        flipped = value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]
        # A bit alone can be lost in the noise of an encryption; headers would hide the rest.
        start = middle // 4
        rest = bytes(byte ^ 0xFF if place % 5 == 0 else byte for place, byte in enumerate(value))
        stirred = value[:start] + rest[start:]
        return {"flipped": flipped, "stirred": stirred, "cut": value[:-1], "empty": b""}
    if isinstance(value, str):
        return {"other": value + "x"}
    if isinstance(value, list):
        if not value:
            return {}
        more = {"fewer": value[:-1], "first": value[:1], "twice": [*value, value[0]]}
        element = next(iter(other_values(value[0]).values()))
        return {**more, "turned": value[::-1], "altered": [element, *value[1:]], "none": []}
    assert isinstance(value, Array)
    return _other_arrays(value)


def _other_arrays(value: Array) -> dict[str, Any]:
    if value.stype == "bytes":
        return {how: blob(each) for how, each in other_values(bytes(value.data)).items()}
    vector = value.numpy()
    changed = {"more": vector + 1, "nan": np.full_like(vector, np.nan), "cut": vector[:-1]}
    return {how: Array(each) for how, each in changed.items()}


def other_types(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"as a number": int(value), "as text": str(value)}
    if isinstance(value, int):
        return {
            "as text": str(value),
            "as float": float(value),
            "as bool": True,
            "as list": [value],
        }
    if isinstance(value, Array):
        raw = bytes(value.data) if value.stype == "bytes" else value.numpy().tobytes()
        kind = Array(np.frombuffer(raw, np.uint8)) if value.stype == "bytes" else blob(raw)
        return {"as another array": kind}
    if isinstance(value, list):
        return {"as text": str(value), "of numbers": [1, 2]}
    return {"as number": 3, "as list": [value]}


@dataclass(frozen=True)
class Change:
    """What is done to one field of one message, of one silo or of all."""

    kind: str
    silo: str
    number: int
    """Of the message, among those of its kind to this silo."""
    field: str
    how: str
    all: bool = False
    """The same lie to all silos, instead of to one."""

    def __str__(self) -> str:
        told = "all" if self.all else self.silo
        return f"{self.kind.removeprefix('query.')}-{self.number}-{told}-{self.field}-{self.how}"

    def about(self, place: tuple[str, str, int]) -> bool:
        kind, silo, number = place
        return (kind, number) == (self.kind, self.number) and (self.all or silo == self.silo)


SEQUENCES = ("repeated", "late", "early again")
FROM_OTHERS = ("another's", "swapped", "another round's")


def changes(mail: Mail) -> list[Change]:
    """All of them: at the last message of each kind that has the field, or the one of a silo."""
    places: dict[tuple[str, str], tuple[str, int]] = {}
    for (kind, silo, number), values in mail.seen.items():
        for name in values:
            name = "masks.from:*" if name.startswith("masks.from:") else name
            name = f"{name.partition(':')[0]}:*" if ".for:" in name else name
            best = places.get((kind, name), ("", -1))
            # Not to silo a alone, which is the one that makes keys.
            if (number, silo == "b") >= (best[1], best[0] == "b"):
                places[kind, name] = silo, number
    found = []
    for (kind, name), (silo, number) in places.items():
        value = pick(mail.seen[kind, silo, number], name)[1]
        hows = [*other_values(value), *other_types(value), "missing", "record missing"]
        for how, everyone in itertools.product(hows, (False, True)):
            found.append(Change(kind, silo, number, name, how, everyone))
        found += [Change(kind, silo, number, name, how) for how in FROM_OTHERS]
    return found


def sequences(mail: Mail) -> list[Change]:
    kinds = {kind: (silo, number) for kind, silo, number in mail.seen if silo == "b"}
    return [
        Change(kind, silo, number, "", how)
        for kind, (silo, number) in kinds.items()
        for how in SEQUENCES
    ]


def walked(scheme: str, *, reply: bool) -> list[Change]:
    mail = honest(scheme, reply=reply)
    if scheme != "noised":
        return [*changes(mail), *sequences(mail)]
    others = {(each.kind, each.field) for each in changes(honest("masked", reply=reply))}
    return [each for each in changes(mail) if (each.kind, each.field) not in others]


def pick(values: Values, name: str) -> tuple[str, Any]:
    start, star, _ = name.partition("*")
    for key, value in values.items():
        if key == name or (star and key.startswith(start)):
            return key, value
    return "", None


def put(content: RecordDict, name: str, value: Any) -> None:
    record, _, key = name.partition(".")
    if value is None:
        if record in content and key in content[record]:
            del content[record][key]
        return
    if record not in content:
        content[record] = ArrayRecord() if isinstance(value, Array) else ConfigRecord()
    try:
        content[record][key] = value
    except TypeError:  # a kind of value that this record cannot have
        content[record] = ConfigRecord({key: "another kind of record"})


class Changing:
    """Applies a change to the traffic of a run, in one direction."""

    def __init__(self, change: Change, *, reply: bool) -> None:
        self.change, self.mail, self.reply = change, Mail(reply), reply
        self._late: list[Message] = []
        self._said: dict[str, RecordDict] = {}
        """The last answer of each kind."""

    def __call__(self, message: Message) -> None:
        place = self.mail.note(message)
        if self.change.field and self.change.about(place):
            self._change(message.content, self.mail.seen[place], place)

    def _change(self, content: RecordDict, values: Values, place: tuple[str, str, int]) -> None:
        how, (name, value) = self.change.how, pick(values, self.change.field)
        if how == "record missing":
            content.pop(self.change.field.partition(".")[0], None)
        elif how == "missing":
            put(content, name, None)
        elif how == "another round's":
            kind, silo, number = place
            old = pick(self.mail.seen.get((kind, silo, number - 1), {}), self.change.field)[1]
            if old is not None:
                put(content, name, old)
        elif name:
            made = {**other_values(value), **other_types(value)}
            if how in made:
                put(content, name, made[how])

    def deliver(self, messages: list[Message]) -> list[list[Message]]:
        """For changes of whole messages: again, late, or once more after the next one."""
        (messages,) = absent(messages)
        if not self.reply:
            self._mix(messages)
        late, self._late = self._late, []
        found = [each for each in messages if self._is(each)] if not self.change.field else []
        if self.change.how == "repeated" and found:
            return [messages, found]
        if self.change.how == "late" and found:
            self._late = found
            messages = [each for each in messages if each not in found]
        if self.change.how == "early again" and found:
            self._late = found
        return [messages, late] if late else [messages]

    def arrive(self, replies: list[Message]) -> list[Message]:
        """For answers of one silo: its last one of the kind once more, or one in place of the next.

        Nothing else is possible: a message has one answer, and it is its receiver's.
        """
        if self.change.field:
            self._mix([each for each in replies if each.has_content()])
            return replies
        said = [each for each in replies if self._is_of_silo(each)]
        for reply in said:
            late, self._late = self._late, []
            now, kind = self._is(reply), kind_of(reply)
            old = self._said.get(kind) if now and self.change.how == "repeated" else None
            self._said[kind] = copy.deepcopy(reply.content)
            if now and self.change.how != "repeated":
                self._late = [copy.deepcopy(reply)]
            if late:
                reply.content = late[0].content
            elif old is not None:
                reply.content = old
            elif now and self.change.how == "late":
                return [each for each in replies if each is not reply]
        return replies

    def _is_of_silo(self, reply: Message) -> bool:
        return reply.has_content() and name_of(reply, reply=True) == self.change.silo

    def _is(self, message: Message) -> bool:
        kind, silo = kind_of(message), name_of(message, reply=self.reply)
        return self.change.about((kind, silo, self.mail.number(kind, silo) - 1))

    def _mix(self, messages: list[Message]) -> None:
        """Another silo's value for this one; when swapped, this one's for the other as well."""
        mine = [each for each in messages if self._is(each)]
        if self.change.how not in {"another's", "swapped"} or not mine:
            return
        own, name = mine[0].content, self.change.field
        for other in (each.content for each in messages if each not in mine):
            (a, first), (b, second) = (pick(dict(fields(each)), name) for each in (own, other))
            if a and b:
                put(own, a, second)
                if self.change.how == "swapped":
                    put(other, b, first)
                return


def least_sum(scheme: str) -> int:
    settings = JOBS[scheme].encryption
    assert settings is not None
    return settings.least_sum


def attacked(out: Path, scheme: str, change: Change, *, reply: bool) -> Score:
    changing = Changing(change, reply=reply)
    hooks: dict[str, Any] = {"up" if reply else "down": changing, "deliver": changing.deliver}
    if reply:
        hooks = {"up": changing, "arrive": changing.arrive, "deliver": absent}
    return run(out, experiment=JOBS[scheme], **hooks)


def part_of(found: list[Change], part: slice) -> list[Change]:
    """Some of each kind, in an order that does not change."""
    return random.Random(17).sample(found, len(found))[part]


def wrong_after(
    found: list[Change], out: Path, scheme: str, *, reply: bool
) -> dict[str, list[str]]:
    """By change what went wrong; a promise that breaks is said with all that it breaks for."""
    wrong = {}
    for place, change in enumerate(found):
        score = attacked(out / str(place), scheme, change, reply=reply)
        again = [each for each in set(score.spoilt) if score.spoilt.count(each) > 1]
        found_wrong = score.wrong(threshold=least_sum(scheme))
        wrong[str(change)] = [*found_wrong, *(f"{each} asked again" for each in again)]
    return {change: each for change, each in wrong.items() if each}


def walks() -> Iterator[Any]:
    """By scheme: a sample, and the whole walk in parts."""
    for scheme, parts in PARTS.items():
        yield pytest.param(scheme, slice(0, None, SAMPLES[scheme]), id=f"{scheme}-sample")
        for each in range(parts):
            part = slice(each, None, parts)
            yield pytest.param(scheme, part, id=f"{scheme}-{each}", marks=pytest.mark.slow)


some = pytest.mark.parametrize(("scheme", "part"), [*walks()])


@some
def test_whatever_a_server_changes_only_right_sums_are_gone_on_with(
    tmp_path: Path, scheme: str, part: slice
) -> None:
    found = part_of(walked(scheme, reply=False), part)
    assert wrong_after(found, tmp_path, scheme, reply=False) == {}


@some
def test_whatever_one_silo_says_the_others_are_not_misled(
    tmp_path: Path, scheme: str, part: slice
) -> None:
    """The round is void or goes on without it, and nobody trains twice in it."""
    found = part_of([each for each in walked(scheme, reply=True) if not each.all], part)
    assert wrong_after(found, tmp_path, scheme, reply=True) == {}


@pytest.mark.parametrize("scheme", JOBS)
def test_the_walk_meets_every_kind_of_message(scheme: str) -> None:
    """Else it would be silent about one that it does not meet."""
    from privet.client.app import _STEPS

    asked = {f"query.{step.__name__}" for step in _STEPS} | {"query.advert", CONFIRM}
    asked |= {MessageType.TRAIN, MessageType.EVALUATE}
    # Answers that say only that it was done have no field.
    answered = asked - {TAKE, KEEP}
    if scheme in {"unmasked", "ckks"}:
        asked -= {CONSENT, REVEAL}
        answered -= {CONSENT, REVEAL, SHARE}
    assert {each.kind for each in changes(honest(scheme, reply=False))} >= asked
    assert {each.kind for each in changes(honest(scheme, reply=True))} >= answered


def test_the_walk_meets_the_fields_that_only_noise_has() -> None:
    fields_met = {each.field for each in walked("noised", reply=False)}
    assert fields_met == {"masks.noise-multiplier", "task.noise-multiplier"}
    fields_met = {each.field for each in walked("noised", reply=True)}
    assert fields_met == {"enrolment.noise-multiplier", "privacy.event"}
