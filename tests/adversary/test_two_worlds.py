"""Two silos that differ in their records alone say the same, whatever a server sends them.

A server may send any message, in any order, with anything in it, and anything may go wrong in the
silo. Its answers, value by value, are those of a silo with other records under the same public
facts, but for values that the schema marks as noised, whose size is the job's.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from flwr.app import Array, Context, Message, RecordDict
from torch import nn

from privet.client import app as client
from privet.client import silo
from privet.errors import DataError, ModelError, PrivacyError
from privet.experiment import Experiment
from privet.privacy.ledger import read_history
from privet.simulations.grid import assume_identity
from privet.vectors import FlatModel
from privet.wire import (
    ENROL,
    ErrorReply,
    EvaluateRequest,
    KeyRequest,
    MaskRequest,
    Sealed,
    TrainRequest,
    put_model,
)
from privet.wire.answers import fields_at
from silo_holder import describing, holder

STAYS: dict[str, Any] = {
    "task": "table",
    "file": "stays.csv",
    "target": "outcome",
    "numeric": ["age"],
    "categorical": ["ward"],
    "classes": ["home", "died"],
    "ranges": {"age": [0, 110]},
    "categories": {"ward": ["north", "south"]},
}
JOB = {"dataset": "records", **{k: v for k, v in STAYS.items() if k not in ("task", "file")}}
WIDTH = 2 + 3
WEIGHTS = FlatModel(nn.Linear(WIDTH, 2)).vector()
CANARY = "Jane Doe"
ROWS = [
    f"{20 + i},{'north' if i % 2 else 'south'},{'home' if i % 3 else 'died'}" for i in range(60)
]
WORLDS = {
    "whole": ROWS,
    "one less": [*ROWS[:30], *ROWS[31:]],
    "one odd": [*ROWS[:30], f"{CANARY},{CANARY},{CANARY}", *ROWS[31:]],
    "others": ["107,north,died", f"{CANARY},HIV,died", *(f"{i % 9},,home" for i in range(21))],
}
STEPS = ["offer", "make", "take", "keep", "advert", "share", "consent", "reveal", "confirm", "why"]
_jobs = itertools.count(900_000)

CHANGES: list[dict[str, Any]] = [
    {},
    {"training": {"steps": 2, "batch_size": 64}},
    {"training": {"steps": 1, "batch_size": 1}},
    {"training": {"steps": 1, "batch_size": 30}},
    {"training": {"steps": 1, "batch_size": 60}},
    {"training": {"batch_size": 8}},
    {"privacy": {"epsilon": 3.0}},
    {"privacy": {"noise_multiplier": 5.0, "calibrate": "shared"}},
    {"privacy": None},
    {"strategy": {"name": "fedavg"}},
    {"strategy": {"name": "scaffold", "weighting": "uniform"}},
    {"evaluation": {"holdout": 0.3}},
    {"evaluation": {"holdout": 0.02}},
    {"evaluation": {"holdout": 0.98}},
    {"encryption": {"scheme": "bfv"}},
    {"data": {**JOB, "classes": ["home", "away"]}},
    {"data": {**JOB, "categories": {"ward": ["north", "south", "HIV"]}}},
    {"data": {**JOB, "target": "age", "numeric": ["outcome"]}},
    {"data": {**JOB, "ranges": {"age": [0, math.nextafter(110.0, 0.0)]}}},
    {"data": {**JOB, "file": "/etc/passwd"}},
    {"data": {}},
    {"task": "digits", "data": {}},
    {"task": "adult", "data": {}},
    {"task": "heart-disease", "data": {}},
    {"task": "toy_tasks:Tiny", "data": {}},
    {"rounds": 1},
]


def experiment(change: dict[str, Any]) -> dict[str, Any]:
    """The run config of a job; what cannot be is left as text that a silo cannot read."""
    whole = {
        "task": "table",
        "rounds": 3,
        "data": JOB,
        "training": {"steps": 2, "batch_size": 8},
        "strategy": {"name": "fedavg", "weighting": "uniform"},
        "privacy": {"noise_multiplier": 5.0},
        **change,
    }
    if whole["privacy"] is None:
        del whole["privacy"]
    return dict(Experiment.from_mapping(whole).to_run_config())


def fail(kind: type[Exception]) -> Callable[..., Any]:
    def raising(*_: object, **__: object) -> Any:
        # The text is the records': what a task or a library may put into an error.
        raise kind(f"{CANARY}: {Path('stays.csv')} has HIV in row 31")

    return raising


FAULTS = [
    (place, kind)
    for place in ("open_silo", "plan_round", "loss_of", "_model", "train", "measure", "watched")
    for kind in (ValueError, DataError, ModelError, PrivacyError, MemoryError)
]


@dataclass
class Asked:
    """A message, and what goes wrong while it is answered."""

    kind: str
    content: Callable[[], RecordDict]
    fault: tuple[str, type[Exception]] | None


@dataclass
class Server:
    """Draws what a server sends: the same for every silo, from the seed."""

    chance: random.Random
    jobs: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def sequence(self) -> Iterator[tuple[int, dict[str, Any], Asked]]:
        chosen = self.chance.choice
        self.jobs = [(next(_jobs), chosen(CHANGES)) for _ in range(2)]
        for _ in range(self.chance.randint(1, 4)):
            yield *chosen(self.jobs), self.message()

    def message(self) -> Asked:
        chosen = self.chance.choice
        kind = chosen([ENROL, ENROL, "train", "train", "train", "evaluate", "evaluate", "other"])
        if kind == "other":
            kind = "query." + chosen(STEPS)
        weights = chosen([WEIGHTS] * 6 + [WEIGHTS * 1e30, WEIGHTS * np.nan, WEIGHTS[:-1], None])
        round_ = chosen([0, 1, 1, 1, 2, 3, 4, 10**9, -1])
        floor = chosen([None, None, None, 5.0, 0.0, -1.0, math.inf])

        def content() -> RecordDict:
            if kind == "train":
                return TrainRequest(round_, weights, noise_multiplier=floor).to_records()
            if kind == "evaluate":
                return EvaluateRequest(round_, weights).to_records()
            records = KeyRequest(1, 1).to_records()
            records["masks"] = MaskRequest(1, round_).record()
            put_model(records, weights, {})
            Sealed(1, sizes=(len(WEIGHTS),)).put(records)
            return records

        fault = chosen(FAULTS) if self.chance.random() < 0.2 else None
        return Asked(kind, content, fault)


class Silo:
    """A real silo's ClientApp over some rows."""

    def __init__(self, folder: Path, rows: list[str], *, most_failures: int) -> None:
        folder.mkdir(parents=True)
        data = folder / f"{CANARY} and others"
        data.mkdir()
        (data / "stays.csv").write_text("\n".join(["age,ward,outcome", *rows]) + "\n")
        noised = 'accuracy = { release = "noised", noise_multiplier = 30.0 }'
        rules = {"public": False, "epsilon": 1e6, "metrics": noised}
        made = holder(folder, most_failures=most_failures, **rules)
        self.node = {**describing(made, **STAYS), "data-dir": str(data), "name": "north"}

    def answer(self, job: int, change: dict[str, Any], asked: Asked) -> Any:
        assume_identity(99)
        context = Context(job, 2, dict(self.node), RecordDict(), experiment(change))
        message = Message(asked.content(), 2, asked.kind)
        with ExitStack() as stack:
            if asked.fault is not None:
                place, kind = asked.fault
                stack.enter_context(patch.object(client, place, fail(kind)))
            try:
                reply = client.app(message, context)
            except ValueError as error:  # a kind that no handler has: Flower says so itself
                return str(error)
        assert CANARY not in str(reply)
        return said(reply)

    @property
    def failures(self) -> int:
        return read_history(Path(self.node["ledger"])).failures("records", "alice")


def said(reply: Message) -> Any:
    """An answer, value by value; of what is noised its shape."""
    if reply.has_error():
        told = ErrorReply.parse(reply.error.reason or "")
        assert told.text is None
        return reply.error.code, told.stage, told.code, told.names
    kind = reply.metadata.message_type
    found = {}
    for name, record in reply.content.items():
        for key, value in record.items():
            place = f"{name}.{key}"
            # Under this policy a metric leaves with noise or not at all.
            noised = any(f.protection == "noised" for f in fields_at(kind, place))
            noised |= place == "metrics.accuracy"
            shape = (value.dtype, tuple(value.shape)) if isinstance(value, Array) else type(value)
            found[place] = shape if noised else value
    return found


@contextmanager
def silos(folder: Path, *, most_failures: int = 100_000) -> Iterator[dict[str, Silo]]:
    yield {
        name: Silo(folder / str(number), rows, most_failures=most_failures)
        for number, (name, rows) in enumerate(WORLDS.items())
    }


def play(worlds: dict[str, Silo], seed: int) -> list[Any]:
    transcript = []
    for job, change, asked in Server(random.Random(seed)).sequence():
        answers = {name: each.answer(job, change, asked) for name, each in worlds.items()}
        expected = answers["whole"]
        for name, answer in answers.items():
            assert answer == expected, (seed, name, change, asked.kind, asked.fault)
        transcript.append(expected)
    return transcript


@pytest.mark.parametrize("seed", range(40))
def test_records_change_no_answer(seed: int, tmp_path: Path) -> None:
    with silos(tmp_path) as worlds:
        play(worlds, seed)
        assert len({each.failures for each in worlds.values()}) == 1


def test_nor_after_too_many_failures(tmp_path: Path) -> None:
    with silos(tmp_path, most_failures=5) as worlds:
        said = [answer for seed in range(30) for answer in play(worlds, seed)]
    assert {answer[2] for answer in said[-20:] if isinstance(answer, tuple)} == {"refused"}


def _once(check: Callable[..., None]) -> Callable[..., None]:
    """A verdict that looks at made-up examples alone, kept for each model."""
    found: dict[str, Exception | None] = {}

    def kept(module: nn.Module, *more: Any, **options: Any) -> None:
        if (name := str(module)) not in found:
            found[name] = None
            try:
                check(module, *more, **options)
            except Exception as error:
                found[name] = error
        if error := found[name]:
            raise error

    return kept


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model is looked at once."""
    monkeypatch.setattr(silo, "check_training", _once(silo.check_training))
    monkeypatch.setattr(silo, "check_evaluation", _once(silo.check_evaluation))


@pytest.mark.usefixtures("quick")
def test_the_messages_reach_every_kind_of_answer(tmp_path: Path) -> None:
    """Or equal answers would say little."""
    with silos(tmp_path) as worlds:
        few = {name: worlds[name] for name in ("whole",)}
        said = [answer for seed in range(400) for answer in play(few, seed)]
    codes = {answer[2] for answer in said if isinstance(answer, tuple)}
    assert codes >= {"policy", "schema", "settings", "data", "code", "model", "privacy", "terms"}
    places = {place for answer in said if isinstance(answer, dict) for place in answer}
    assert places >= {"enrolment.silo", "update.update", "metrics.accuracy", "released.accuracy"}


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("part", range(10))
def test_records_change_no_answer_in_any_of_5000_sequences(part: int, tmp_path: Path) -> None:
    others = itertools.cycle([name for name in WORLDS if name != "whole"])
    for start in range(1000 + 500 * part, 1500 + 500 * part, 50):
        with silos(tmp_path / str(start)) as worlds:
            pair = {name: worlds[name] for name in ("whole", next(others))}
            for seed in range(start, start + 50):
                play(pair, seed)
