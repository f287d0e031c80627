"""The rounds of a run, as `history.jsonl` has them: a line each, the one form of a round.

{"schema": 2, "round": 3, "loss": 0.31, ...}, with every key in every line. A line without "schema"
is of version 1, which left out what it had nothing to say of.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, cast

from pydantic import Field, NonNegativeInt

from privet.errors import DataError
from privet.files import read_file
from privet.metrics import ACCURACY, LOSS, Metric
from privet.privacy.ledger.entries import canonical
from privet.record.schema import SCHEMA, Recorded, clean, parsed

HISTORY = "history.jsonl"
KEYS_STAGE = "keys"
"""Where a silo fails when it is given a key, and in the steps of masks."""
DECRYPT_STAGE = "decrypt"
"""Where a silo fails when it cannot open the model that it is sent."""

Figures = dict[str, float]
Events = dict[str, dict[str, Any] | None]
"""By silo: the mechanism that ran; None where the silo keeps its account to itself."""
Fields = dict[str, dict[str, NonNegativeInt]]
"""By silo: how many values arrived in each field of its messages."""


class RecordedMetric(Recorded):
    """What a task says of one of its figures."""

    name: str
    higher_is_better: bool
    unit: str

    @classmethod
    def of(cls, metric: Metric) -> Self:
        """As it is written down."""
        return cls(name=metric.name, higher_is_better=metric.higher_is_better, unit=metric.unit)

    @cached_property
    def metric(self) -> Metric:
        """The reverse."""
        return Metric(self.name, higher_is_better=self.higher_is_better, unit=self.unit)


class RecordedFailure(Recorded):
    """Why something that was asked of a silo did not happen."""

    silo: str
    stage: str
    reason: str


class EpsilonSpent(Recorded):
    """Epsilon up to and including a round."""

    max: float | None
    """None unless every silo's is known."""
    per_silo: dict[str, float | None]
    """None where the silo keeps its account."""


class PooledScores(Recorded):
    """Counts of records by bin of a probability, added up over silos, and what follows from them.

    Bins are equal, from 0 to 1. Each count has Gaussian noise of the deviation `noise`, and may be
    below zero."""

    silos: list[str]
    of_class: list[float]
    of_others: list[float]
    noise: float
    figures: dict[str, list[float]]
    """By name: the value, and the ends of its 95 % interval, which includes the noise."""


class SiloEvaluation(Recorded):
    """One evaluation of the model on records that the silos keep out of training."""

    metrics: Figures
    """Means over the silos that let the metric out."""
    per_silo: dict[str, Figures]
    released: dict[str, dict[str, str]]
    """By silo and metric: "exact", "noised" or "withheld"."""
    events: Events
    """What the noise of metrics cost."""
    failures: list[RecordedFailure]
    arrived: Fields | None
    scored: PooledScores | None = None
    """Of `evaluation.score_bins`; null where no silo let counts out."""


class TransferredBytes(Recorded):
    """Of models to the silos, and of their updates."""

    down: NonNegativeInt
    up: NonNegativeInt


class RoundSeconds(Recorded):
    """Wall time at the server, None for what did not happen. Parts overlap."""

    total: float | None
    training: float | None
    """From the first request to the last reply."""
    aggregation: float | None
    """Reading and adding replies, and the step to the next model."""
    evaluation: float | None
    """On the server's test records; with encryption, opening the model for it is a part."""
    encryption: float | None
    """Handing out keys and mask shares, with the wait for silos; checking and adding ciphertexts;
    taking masks out; opening the model where the host may. A silo's own encrypting and decrypting
    is in `training`. None without encryption."""


class RoundRecord(Recorded):
    """What the server writes down of one round; round 0 is the untrained model."""

    round: NonNegativeInt
    loss: float | None
    accuracy: float | None
    metrics: Figures
    per_silo: dict[str, Figures] | None
    """Metrics on each natural silo's part of the test records."""
    participants: list[str]
    """The silos whose update was counted in."""
    failures: list[RecordedFailure]
    refused: dict[str, str]
    """By silo whose holder's rules or budget did not allow the round: the reason."""
    dropped: list[str]
    arrived: Fields | None
    """None: written by a version that did not count what arrived."""
    evaluation: SiloEvaluation | None
    events: Events | None
    """None when the run keeps no account of training."""
    bytes: TransferredBytes
    seconds: RoundSeconds
    epsilon: EpsilonSpent | None
    affordable: dict[str, NonNegativeInt] | None
    """Before the first round, by silo that tells: the rounds that its budget has room for."""
    skipped: str | None
    """Why the strategy left the model as it was, if it did."""
    references: dict[str, str] = Field(default_factory=dict)
    """By silo that failed or refused: beside what its own log says more."""
    problems: list[str] = Field(default_factory=list)
    """Why nobody trained, and which figures are no finite numbers; such are null or left out."""
    headline: RecordedMetric | None = None
    """The first figure that the task declares; null where it declares none."""

    @classmethod
    def mended(cls, content: object) -> Self:
        """ValueError for a round without its number, too."""
        found = super().mended(content)
        if not isinstance(content, Mapping) or content.get("round") != found.round:
            raise ValueError("it has no number")
        return found

    def line(self) -> str:
        """The line of the history, without its end."""
        return json.dumps({"schema": SCHEMA, **self.model_dump()})

    @cached_property
    def silos(self) -> set[str]:
        """Every silo that the line names as one that used its records."""
        measured = self.evaluation.events if self.evaluation else {}
        return {*self.participants, *(self.events or {}), *measured}

    @cached_property
    def updated(self) -> frozenset[str]:
        """The silos whose update reached the server in this round.

        One that fails later, when masks are taken out, has sent its update all the same.
        """
        failed = {failure.silo for failure in self.failures if failure.stage != KEYS_STAGE}
        gone = failed.union(self.dropped, self.refused)
        return frozenset(self.participants) - gone

    @property
    def metric(self) -> Metric:
        """The headline; of a task that declares nothing accuracy if it was measured, else loss."""
        if self.headline is not None:
            return self.headline.metric
        own = self.evaluation.metrics if self.evaluation else {}
        without = self.accuracy is None and "accuracy" not in own
        return LOSS if without and (self.loss is not None or "loss" in own) else ACCURACY

    @property
    def figures(self) -> Figures:
        """Everything that was measured on test records, by name."""
        return all_figures(self.accuracy, self.loss, self.metrics)

    def of_silos(self, name: str) -> Figures:
        """A figure on each natural silo's test records."""
        found = (self.per_silo or {}).items()
        return {silo: scores[name] for silo, scores in found if name in scores}

    @cached_property
    def silo_epsilon(self) -> Figures:
        """Epsilon of the silos that tell their account."""
        told = self.epsilon.per_silo if self.epsilon else {}
        return {silo: epsilon for silo, epsilon in told.items() if epsilon is not None}

    @cached_property
    def kept(self) -> frozenset[str]:
        """The silos that keep their account: their epsilon is not in the history."""
        told = self.epsilon.per_silo if self.epsilon else {}
        return frozenset(told) - self.silo_epsilon.keys()

    def without_epsilon_of(self, silos: frozenset[str]) -> Self:
        """The round without these silos' accounts."""
        if self.epsilon is None:
            return self
        told = {s: value for s, value in self.epsilon.per_silo.items() if s not in silos}
        spent = EpsilonSpent.model_construct(max=self.epsilon.max, per_silo=told)
        return cast(Self, self.model_construct(**{**dict(self), "epsilon": spent}))

    def describe(self) -> str:
        """Loss, headline (or the task's first metrics), epsilon, who is missing, and problems."""
        parts = [*self._measured(), *self._of_own_records()]
        if self.epsilon and self.epsilon.max is not None:
            parts.append(f"epsilon {self.epsilon.max:.3f}")
        if self.refused:
            parts.append(f"{len(self.refused)} refused")
        missing = len(self.failures) + len(self.dropped)
        if missing:
            parts.append(f"{missing} silo{'s' if missing > 1 else ''} missing")
        return "  ".join([*parts, *self.problems])

    def _measured(self) -> Iterator[str]:
        metric = self.metric
        if self.loss is not None:
            yield f"loss {self.loss:.4f}"
        if metric != LOSS and (value := self.figures.get(metric.name)) is not None:
            yield f"{metric.label} {metric.text(value)}"
        elif self.headline is None:
            yield from (f"{name} {value:.4g}" for name, value in [*self.metrics.items()][:2])

    def _of_own_records(self) -> Iterator[str]:
        own = self.evaluation.metrics if self.evaluation else {}
        if (value := own.get(self.metric.name)) is not None:
            yield f"on silos' records {self.metric.text(value)}"


def all_figures(accuracy: float | None, loss: float | None, metrics: Figures) -> Figures:
    """By name, but for those that are not known."""
    both = {"accuracy": accuracy, "loss": loss}
    others = {name: value for name, value in metrics.items() if name not in both}
    return {name: value for name, value in both.items() if value is not None} | others


def headline_of(rounds: Sequence[RoundRecord]) -> Metric:
    """What a run's figures are known by; accuracy where nothing was measured."""
    told = next((entry.headline for entry in reversed(rounds) if entry.headline), None)
    found = {entry.metric for entry in rounds if entry.figures or entry.evaluation}
    # A round whose accuracy was no finite number has a loss alone.
    return told.metric if told else LOSS if found == {LOSS} else ACCURACY


Watch = Callable[[RoundRecord], None]
"""Called with every round of a run, those before a resume among them."""


def look_away(entry: RoundRecord) -> None:
    """Watch nothing."""


def event_text(event: object) -> str | None:
    """An event in the one spelling that the ledger uses; None where the silo keeps it."""
    try:
        return None if event is None else canonical(event).decode()
    except ValueError:  # NaN, which no ledger holds
        return clean(event)


def read_rounds(folder: Path, *, finished: bool) -> tuple[RoundRecord, ...]:
    """The rounds of a run, from round 0 on, without leniency.

    DataError, with the line, for what the server would not write. A last line without its end is
    left out where the run is not `finished`: it was interrupted there.
    """
    *lines, torn = _bytes(folder / HISTORY).split(b"\n")  # nothing, after a whole line
    if finished and (torn or not lines):
        raise DataError(f"{HISTORY}: its last line has no end, and the run is said to be finished")
    return whole_rounds(lines)


def whole_rounds(lines: list[bytes]) -> tuple[RoundRecord, ...]:
    """Every one of `lines` as a round, the first as round 0; DataError as above."""
    version, found = 1, []
    for expected, text in enumerate(lines):
        try:
            line = parsed(text.decode())
            if not isinstance(line, dict):
                raise DataError("it is no JSON object")
            before, version = version, _version(line)
            # No version writes an older line behind a newer one.
            if version < before:
                raise DataError(f"schema {version} behind {before}")
            entry = RoundRecord.strictly(line if version == SCHEMA else _upgraded(line))
            if entry.round != expected:
                raise DataError(f"round {entry.round}, not {expected}")
        except (ValueError, DataError) as error:
            raise DataError(f"{HISTORY}, line {expected + 1}: {error}") from None
        found.append(entry)
    return tuple(found)


def _version(line: dict[str, Any]) -> int:
    """Of a line, and takes it off."""
    if "schema" not in line:
        return 1
    if (version := line.pop("schema")) != SCHEMA or not isinstance(version, int):
        raise DataError(f"schema {version!r}; this version of privet reads 1 and {SCHEMA}")
    return SCHEMA


def _upgraded(line: dict[str, Any]) -> dict[str, Any]:
    """A line of version 1, with the keys that it could leave out."""
    told = {"arrived": None, "affordable": None, "skipped": None, **line}
    if isinstance(seconds := line.get("seconds"), dict):
        told["seconds"] = dict.fromkeys(RoundSeconds.model_fields) | seconds
    if isinstance(evaluation := line.get("evaluation"), dict):
        told["evaluation"] = {"arrived": None} | evaluation
    return told


def mended_rounds(folder: Path) -> tuple[RoundRecord, ...]:
    """The rounds as far as they can be read, in order.

    Of a round that was run twice (after a resume) the later line counts. DataError for a line that
    is no round, but for one without its end: only that can be torn.
    """
    path = folder / HISTORY
    lines = _bytes(path).decode(errors="replace").split("\n") if path.exists() else []
    found: dict[int, RoundRecord] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = RoundRecord.mended(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise DataError(f"{path}, line {number}, is not a round: {error}") from error
        found[entry.round] = entry
    return tuple(found[number] for number in sorted(found))


def _bytes(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror})") from None


class HistoryTail:
    """The whole lines of a history that grows, for many who follow it; safe between threads.

    What a look costs follows from what was added since the last one, not from what is there: it
    reads the last line that it knows, which says whether the history was gone back on, and what
    comes behind.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._starts, self._last, self._stamp, self._restarts = [0], b"", (0, 0), 0
        self.bytes_read = 0
        """Since the beginning, all looks together."""

    def __len__(self) -> int:
        """How many lines there are now."""
        with self._lock:
            self._look()
            return len(self._starts) - 1

    def lines(self, start: int) -> list[bytes]:
        """From number `start` on, as they were written, without their ends."""
        with self._lock:
            self._look()
            return self._between(self._starts[start:])

    def news(self, start: int, *, restarts: int) -> tuple[list[bytes], int]:
        """The same, and how often the history was gone back on; all lines if not `restarts`."""
        with self._lock:
            self._look()
            known = start if restarts == self._restarts else 0
            return self._between(self._starts[known:]), self._restarts

    def _between(self, starts: list[int]) -> list[bytes]:
        if len(starts) < 2:
            return []
        content = self._read(starts[0], starts[-1])
        if len(content) < starts[-1] - starts[0]:  # cut off since the look
            return []
        return [content[a - starts[0] : b - starts[0] - 1] for a, b in pairwise(starts)]

    def _look(self) -> None:
        try:
            facts = self._path.stat()
        except OSError:
            # Not there yet, or no more.
            return
        if self._stamp == (stamp := (facts.st_mtime_ns, facts.st_size)):
            return
        known = self._starts[-1] - len(self._last)
        content = self._read(known, facts.st_size)
        if not content.startswith(self._last):  # begun again from an earlier checkpoint
            self._starts, self._last, self._restarts = [0], b"", self._restarts + 1
            content = self._read(0, facts.st_size)
        for line in content[len(self._last) :].split(b"\n")[:-1]:  # behind the last end: torn
            self._last = line + b"\n"
            self._starts.append(self._starts[-1] + len(self._last))
        self._stamp = stamp

    def _read(self, start: int, end: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(start)
            content = file.read(max(0, end - start))
        self.bytes_read += len(content)
        return content
