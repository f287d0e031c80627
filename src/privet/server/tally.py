"""What the replies of one round amount to."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, Message, RecordDict

from privet.privacy.accounting import decode_event
from privet.record.history import Events, Fields, PooledScores, RecordedFailure, SiloEvaluation
from privet.server.scored import NoisedScores
from privet.wire import REFUSED, UNUSABLE, EvaluateReply, Failure, TrainReply, payload_bytes

DROPOUT_STAGE = "dropout"

Add = Callable[[str, TrainReply], None]
"""Counts a silo's update in; raises for one that cannot be."""

# How much of a peer's own names the history takes in.
_LONGEST_FIELD, _MOST_FIELDS, _OTHER = 100, 100, "other"


@dataclass
class Tally:
    """One round as it goes: updates are added up as they come, what else there is is kept here."""

    encrypted: float | None
    """Seconds that encryption has taken before the round; None without."""
    begun: float = field(default_factory=time.perf_counter)
    participants: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    events: Events = field(default_factory=dict)
    arrived: Fields = field(default_factory=dict)
    up: int = 0
    down: int = 0
    training: float | None = None
    """Seconds, as in `RoundSeconds`."""
    aggregation: float = 0.0
    skipped: str | None = None
    measured: Measurements | None = None

    @property
    def problems(self) -> list[str]:
        """Why no update could be used, where silos were asked and none came through."""
        if self.participants or self.training is None:
            return []
        failed = [each for each in self.failures if each.stage != DROPOUT_STAGE]
        return [f"nobody trained: {each.silo}: {each.reason}" for each in failed[:1]]

    def take(self, reply: Message, silo: str, add: Add) -> None:
        """Count in one silo's reply; whatever a peer sends, the round goes on."""
        if reply.has_error():
            failure = Failure.parse(reply.error.reason, silo=silo)
            self.failures.append(failure)
            # A simulated dropout stands for a reply that never came.
            if failure.stage != DROPOUT_STAGE:
                self.arrived[silo] = {"error": 1}
            return
        try:
            # Before it is read: an audit wants to know what came, usable or not.
            self.arrived[silo] = fields_of(reply.content)
            update = TrainReply.from_records(reply.content)
            # Charged even if the update is unusable.
            self.events[silo] = _checked(update.event)
            add(silo, update)
        except Exception as error:
            self.failures.append(Failure(silo, UNUSABLE, f"unusable reply: {error}"))
            return
        self.up += payload_bytes(reply.content)
        self.participants.append(silo)

    @property
    def refused(self) -> dict[str, str]:
        """By silo whose holder's rules did not allow the round: the reason."""
        return {each.silo: each.reason for each in self.failures if each.stage == REFUSED}

    @property
    def dropped(self) -> list[str]:
        """The silos that a simulation lets drop out."""
        return [each.silo for each in self.failures if each.stage == DROPOUT_STAGE]

    @property
    def failed(self) -> list[RecordedFailure]:
        """Whatever else went wrong."""
        return _recorded(e for e in self.failures if e.stage not in (DROPOUT_STAGE, REFUSED))


@dataclass
class Measurements:
    """What silos say of the global model on records of their own."""

    replies: dict[str, EvaluateReply] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    arrived: Fields = field(default_factory=dict)

    @property
    def events(self) -> Events:
        """What was charged for metrics with noise."""
        noised = {s: r for s, r in self.replies.items() if "noised" in r.released.values()}
        return {silo: _checked(reply.event) for silo, reply in noised.items()}

    def take(self, reply: Message, silo: str) -> None:
        """Count in one silo's reply."""
        if reply.has_error():
            self.failures.append(Failure.parse(reply.error.reason, silo=silo))
            self.arrived[silo] = {"error": 1}
            return
        try:
            self.arrived[silo] = fields_of(reply.content)
            measured = EvaluateReply.from_records(reply.content)
            _checked(measured.event)
            self.replies[silo] = measured
        except Exception as error:
            self.failures.append(Failure(silo, "evaluate", f"unusable reply: {error}"))

    def record(self) -> SiloEvaluation:
        """The mean over the silos for each metric, what each silo says, and how it let it out."""
        names = sorted({name for reply in self.replies.values() for name in reply.metrics})
        return SiloEvaluation(
            metrics={name: self._mean(name) for name in names},
            per_silo={silo: dict(reply.metrics) for silo, reply in self.replies.items()},
            released={silo: dict(reply.released) for silo, reply in self.replies.items()},
            events=self.events,
            failures=_recorded(self.failures),
            arrived=self.arrived,
            scored=self._scored(),
        )

    def _scored(self) -> PooledScores | None:
        """The sum over the silos that let counts out, of those in as many bins as the first."""
        told = {silo: reply.scores for silo, reply in self.replies.items() if reply.scores}
        size = next((len(each.counts) for each in told.values()), 0)
        told = {silo: each for silo, each in told.items() if len(each.counts) == size}
        if not told:
            return None
        sums = [math.fsum(cell) for cell in zip(*(e.counts for e in told.values()), strict=True)]
        noise = math.sqrt(math.fsum(each.noise**2 for each in told.values()))
        found = NoisedScores(sums[size // 2 :], sums[: size // 2], noise)
        return PooledScores(
            silos=list(told),
            of_class=list(found.of_class),
            of_others=list(found.of_others),
            noise=noise,
            figures={n: [f.value, f.low, f.high] for n, f in found.figures().items()},
        )

    def _mean(self, name: str) -> float:
        """By numbers of records where every silo tells its own; else each silo counts the same."""
        told = [reply for reply in self.replies.values() if name in reply.metrics]
        weights = [reply.weight or 0.0 for reply in told]
        if not all(weights):
            weights = [1.0] * len(told)
        return math.fsum(w * r.metrics[name] for w, r in zip(weights, told, strict=True)) / sum(
            weights
        )


def fields_of(records: RecordDict) -> dict[str, int]:
    """How many values each field of a reply holds; no more than 100 fields are told apart.

    A field is a record's name and a key in it. Of arrays, which may be models, numbers are counted;
    of lists, entries.
    """
    found: Counter[str] = Counter()
    for name, count in _values(records):
        fits = len(name) <= _LONGEST_FIELD and name.isprintable()
        known = name in found or len(found) < _MOST_FIELDS
        found[name if fits and known else _OTHER] += count
    return dict(found)


def _values(records: RecordDict) -> Iterator[tuple[str, int]]:
    for record_name, record in records.items():
        for key, value in record.items():
            if isinstance(value, Array):
                count = math.prod(value.shape)
                if count < 0:
                    raise ValueError(f"{record_name}.{key} has no shape")
            else:
                count = len(value) if isinstance(value, list) else 1
            yield f"{record_name}.{key}", count


def _checked(event: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if event is None:
        return None
    decode_event(event)
    return dict(event)


def _recorded(failures: Iterable[Failure]) -> list[RecordedFailure]:
    return [RecordedFailure(silo=f.silo, stage=f.stage, reason=f.reason) for f in failures]
