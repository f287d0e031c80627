"""Whatever one silo sends, the rounds go on with the others, and what is written down is sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from privet.privacy.accounting import dp_sgd_event, encode_event
from privet.record.history import look_away
from privet.server.app import Hosting, server_app
from privet.simulations.grid import SERVER_NODE, InProcessGrid, Sequential, contexts
from privet.wire import Enrolment, ErrorReply, EvaluateReply, Failure, TrainReply, TrainRequest
from rounds_written import history as written

Make = Callable[[Message], Message]
ENROL, TRAIN, EVALUATE = "query.enrol", "train", "evaluate"
EVENT = encode_event(dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.1, steps=3))


def honest(message: Message, index: int) -> Message:
    kind = message.metadata.message_type
    if kind == ENROL:
        records = Enrolment(f"silo-{index}", index, noise_multiplier=1.0).to_records()
    elif kind == TRAIN:
        weights = TrainRequest.from_records(message.content).weights
        assert weights is not None
        records = TrainReply(np.ones_like(weights), 1.0, event=EVENT).to_records()
    else:
        records = EvaluateReply({"accuracy": 0.5}, {"accuracy": "exact"}, weight=10.0).to_records()
    return Message(records, reply_to=message)


def history(out: Path, stage: str, made: list[Make]) -> list[dict[str, Any]]:
    """Of a run in which the first silos each send something else at one stage.

    It has all its rounds, with the last two silos in each of them.
    """
    app, silos = ClientApp(), len(made) + 2

    def answer(message: Message, context: Context) -> Message:
        index = int(context.node_config["partition-id"])
        if index < len(made) and message.metadata.message_type == stage:
            return made[index](message)
        return honest(message, index)

    app.query("enrol")(answer)
    app.train()(answer)
    app.evaluate()(answer)
    settings = {
        "task": "digits",
        "rounds": 2,
        "federation.silos": silos,
        "privacy.noise_multiplier": 1.0,
        "privacy.calibrate": "shared",
        "evaluation.every": 1,
    }
    everybody = contexts(silos, run_id=5, run_config={}, node_config={})
    grid = InProcessGrid(Sequential(app, everybody), silos=silos, run_id=5)
    server = server_app(Hosting(folder=out, watch=look_away))
    server(grid=grid, context=Context(5, SERVER_NODE, {}, RecordDict(), settings))
    entries = written(out)
    assert [entry["round"] for entry in entries] == [0, 1, 2]
    for entry in entries[1:]:
        assert {f"silo-{silos - 2}", f"silo-{silos - 1}"} <= set(entry["participants"])
        assert entry["evaluation"]["metrics"] == {"accuracy": 0.5}
    json.dumps(entries, ensure_ascii=False).encode()
    json.dumps([entry["evaluation"] for entry in entries], allow_nan=False)
    return entries


def error(text: str) -> Make:
    return lambda message: Message(Error(code=0, reason=text), reply_to=message)


def says(records: RecordDict) -> Make:
    return lambda message: Message(records, reply_to=message)


def stated(reason: str, stage: str = "train") -> str:
    told = {"stage": stage, "code": "code", "names": [], "reference": "", "text": reason}
    return json.dumps(told)


REASONS = [
    stated("half a pair: \ud800"),
    stated("2026-01-01T00:00:00Z finished\n\r\x1b[2J\u2028\x85"),
    stated("x" * 3_000_000),
    stated("r", stage="a\nb" * 99_999),
    "not JSON\n\x00" * 99_999,
    "[" * 99_999,
    json.dumps({"stage": [1], "reason": {"a": 1}}),
    json.dumps({"stage": "train", "code": "x\n" * 99_999, "names": [], "reference": ""}),
]


@pytest.mark.parametrize("stage", [ENROL, TRAIN, EVALUATE])
def test_a_reason_is_one_short_line_whatever_a_silo_says(tmp_path: Path, stage: str) -> None:
    entries = history(tmp_path / "run", stage, [error(text) for text in REASONS])
    first = entries[0 if stage == ENROL else 1]
    failures = first["evaluation"]["failures"] if stage == EVALUATE else first["failures"]
    assert len(failures) == len(REASONS)
    for failure in failures:
        for each in (failure["reason"], failure["stage"]):
            assert each.isprintable()
            assert len(each) <= 2000


ENROLMENTS: list[dict[str, Any]] = [
    {"silo": "silo-0", "index": 0, "noise-multiplier": float("inf")},
    {"silo": "silo-0", "index": 0, "noise-multiplier": float("nan")},
    {"silo": "silo-0", "index": 0, "noise-multiplier": -1.0},
    {"silo": "silo-0", "index": 0, "noise-multiplier": "1.0"},
    {"silo": "silo-0", "index": 0, "rounds": b"\x00"},
    {"silo": "silo-0", "index": 0, "rounds": -5},
    {"silo": "silo-0", "index": 0, "rounds": float("nan")},
    {"silo": "silo-0", "index": "0"},
    {"silo": [1, 2], "index": 0},
    {"silo": b"silo-0", "index": 0},
    {"silo": "a\nb", "index": 0},
    {"silo": "x" * 9999, "index": 0},
]


def test_an_enrolment_that_is_none_leaves_a_silo_out(tmp_path: Path) -> None:
    made = [says(RecordDict({"enrolment": ConfigRecord(each)})) for each in ENROLMENTS]
    entries = history(tmp_path / "run", ENROL, made)
    assert [each["stage"] for each in entries[0]["failures"]] == ["enrol"] * len(made)
    assert len(entries[1]["participants"]) == 2


def measured(metrics: dict[str, Any], **more: Any) -> RecordDict:
    records = RecordDict(
        {
            "metrics": MetricRecord(metrics),
            "released": ConfigRecord(more.pop("released", {"accuracy": "exact"})),
        }
    )
    if more:
        records["size"] = MetricRecord({"num-examples": more["weight"]})
    return records


MEASUREMENTS = [
    measured({"accuracy": float("nan")}),
    measured({"accuracy": float("inf")}),
    measured({"accuracy": -float("inf")}),
    measured({"accuracy": [0.1, 0.2]}),
    measured({"a\nb": 0.1}),
    measured({"\x1b[2J": 0.1}),
    measured({"x" * 5000: 0.1}),
    measured({f"m{n}": 0.1 for n in range(3000)}),
    measured({"accuracy": 0.5}, weight=float("nan")),
    measured({"accuracy": 0.5}, weight=float("inf")),
    measured({"accuracy": 0.5}, weight=-20.0),
    measured({"accuracy": 0.5}, released={"accuracy": "yes\n"}),
    measured({"accuracy": 0.5}, released={"\n": "exact"}),
    measured({"accuracy": 0.5}, released={"accuracy": b"\x00"}),
    RecordDict(),
]


def test_a_measurement_that_is_none_is_not_counted(tmp_path: Path) -> None:
    entries = history(tmp_path / "run", EVALUATE, [says(each) for each in MEASUREMENTS])
    failures = entries[1]["evaluation"]["failures"]
    assert [failure["stage"] for failure in failures] == [EVALUATE] * len(MEASUREMENTS)


def trained(event: object = EVENT, **more: Any) -> Make:
    def make(message: Message) -> Message:
        reply = honest(message, 0)
        reply.content["privacy"] = ConfigRecord({"event": json.dumps(event)})
        for key, value in more.items():
            reply.content["metrics"][key.replace("_", "-")] = value
        return reply

    return make


REPLIES = [
    trained(num_examples=float("nan")),
    trained(num_examples=float("inf")),
    trained(num_examples=[1.0]),
    trained(num_examples=0.0),
    trained(loss=[1.0, 2.0]),
    trained(seconds=float("nan")),
    trained(encode_event(dp_sgd_event(noise_multiplier=1e-9, sampling_rate=0.5, steps=3))),
    trained(encode_event(dp_sgd_event(noise_multiplier=1e300, sampling_rate=0.5, steps=3))),
    trained(encode_event(dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.5, steps=10**9))),
    # No accountant reaches the run's delta with so many steps.
    trained(encode_event(dp_sgd_event(noise_multiplier=1.0, sampling_rate=1e-12, steps=10**12))),
    trained({**EVENT, "times": 10**400}),
    trained({"version": 1, "type": "poisson", "sampling_rate": 0.1, "event": {"type": "no-op"}}),
    says(RecordDict({"metrics": MetricRecord({"num-examples": 1.0, "seconds": 0.0})})),
]


def test_an_odd_reply_to_a_round_harms_nobody_else(tmp_path: Path) -> None:
    history(tmp_path / "run", TRAIN, REPLIES)


def test_a_simulated_silos_words_are_told_as_they_were() -> None:
    said = ErrorReply("guard", "budget", text='the budget "ü" is spent: 5.00 > 4.00')
    assert Failure.parse(str(said), silo="b").reason == said.text
