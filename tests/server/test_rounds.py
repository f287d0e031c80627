"""The round loop against silos that misbehave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file

from privet.experiment import Experiment
from privet.privacy.accounting import dp_sgd_event, encode_event
from privet.record.history import look_away
from privet.server.app import Hosting, server_app
from privet.server.cohort import IdentifyNode, NodeIdentity
from privet.server.tally import Measurements
from privet.simulations.grid import SERVER_NODE, InProcessGrid, Sequential, contexts
from privet.wire import Enrolment, EvaluateReply, TrainReply, TrainRequest
from rounds_written import history

EVENT = encode_event(dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.1, steps=3))


def silo_that(misbehaves: Any) -> ClientApp:
    """Silo 0 misbehaves, the others move every weight by 1."""
    app = ClientApp()

    @app.query("enrol")
    def enrol(message: Message, context: Context) -> Message:
        index = int(context.node_config["partition-id"])
        return Message(Enrolment(f"silo-{index}", index).to_records(), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        weights = TrainRequest.from_records(message.content).weights
        reply = TrainReply(np.ones_like(weights), 1.0, event=EVENT)
        if context.node_config["partition-id"] == 0:
            return Message(misbehaves(reply), reply_to=message)
        return Message(reply.to_records(), reply_to=message)

    return app


class Latecomers(InProcessGrid):
    """Silo 2's node comes online after enrolment, and is looked for at each round's beginning."""

    looked = 0

    def get_node_ids(self) -> list[int]:
        self.looked += 1
        everybody = list(super().get_node_ids())
        return everybody if self.looked > 2 else everybody[:2]


def run(
    app: ClientApp,
    out: Path,
    grid_class: type[InProcessGrid] = InProcessGrid,
    identify: IdentifyNode | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    config = {
        "task": "digits",
        "rounds": 2,
        "federation.silos": 3,
        "privacy.noise_multiplier": 1.0,
        **settings,
    }
    silos = contexts(3, run_id=5, run_config={}, node_config={})
    grid = grid_class(Sequential(app, silos), silos=3, run_id=5)
    server = server_app(Hosting(folder=out, watch=look_away, identify=identify))
    server(grid=grid, context=Context(5, SERVER_NODE, {}, RecordDict(), config))
    return history(out)


def wrong_length(reply: TrainReply) -> RecordDict:
    return TrainReply(reply.update[:-1], 1.0, event=EVENT).to_records()


def not_a_number(reply: TrainReply) -> RecordDict:
    return TrainReply(reply.update * np.nan, 1.0, event=EVENT).to_records()


def negative_weight(reply: TrainReply) -> RecordDict:
    return TrainReply(reply.update, -1.0, event=EVENT).to_records()


def nothing(reply: TrainReply) -> RecordDict:
    return RecordDict()


def with_event(text: str) -> Any:
    def misbehave(reply: TrainReply) -> RecordDict:
        records = reply.to_records()
        records["privacy"] = ConfigRecord({"event": text})
        return records

    return misbehave


@pytest.mark.parametrize(
    "misbehaves",
    [
        wrong_length,
        not_a_number,
        negative_weight,
        nothing,
        with_event("{"),
        with_event('{"version": 99}'),
        with_event("[" * 100_000),
        with_event(json.dumps({**EVENT, "surprise": 1})),
    ],
)
def test_an_unusable_reply_is_a_failure_and_the_round_goes_on(
    tmp_path: Path, misbehaves: Any
) -> None:
    history = run(silo_that(misbehaves), tmp_path / "run")
    for entry in history[1:]:
        assert entry["participants"] == ["silo-1", "silo-2"]
        assert [failure["silo"] for failure in entry["failures"]] == ["silo-0"]
        assert entry["failures"][0]["stage"] == "update"
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    values = {float(value) for tensor in tensors.values() for value in tensor.ravel()}
    assert values == {2.0}  # from zero, by one in each of two rounds


def test_an_unusable_update_is_charged_all_the_same(tmp_path: Path) -> None:
    history = run(silo_that(wrong_length), tmp_path / "run")
    spent = history[-1]["epsilon"]["per_silo"]
    assert spent["silo-0"] == spent["silo-1"] > 0


def test_a_rule_that_cannot_combine_what_arrived_keeps_the_model(tmp_path: Path) -> None:
    settings = {"strategy.name": "krum", "strategy.byzantine": 0}
    history = run(silo_that(nothing), tmp_path / "run", **settings)
    for entry in history[1:]:
        assert "krum needs 3 updates, 2 arrived" in entry["skipped"]
        assert entry["loss"] == history[0]["loss"]


@pytest.mark.parametrize("how", ["raises", "nonsense"])
def test_a_silo_that_cannot_enrol_is_left_out_and_named(tmp_path: Path, how: str) -> None:
    whole = silo_that(TrainReply.to_records)
    app = ClientApp()

    @app.query("enrol")
    def enrol(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] != 1:
            return whole(message, context)
        if how == "raises":
            raise RuntimeError("no disk")
        return Message(RecordDict({"enrolment": ConfigRecord({"silo": "x"})}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return whole(message, context)

    history = run(app, tmp_path / "run")
    assert len(history[0]["failures"]) == 1
    assert history[0]["failures"][0]["silo"] == "node 3"
    for entry in history[1:]:
        assert entry["participants"] == ["silo-0", "silo-2"]
        assert entry["failures"] == []


def test_a_silo_that_comes_later_joins_in_the_next_round(tmp_path: Path) -> None:
    honest = silo_that(lambda reply: reply.to_records())
    entries = run(honest, tmp_path, grid_class=Latecomers, rounds=3)
    joined = [sorted(entry["participants"]) for entry in entries[1:]]
    assert joined == [["silo-0", "silo-1"], *2 * [["silo-0", "silo-1", "silo-2"]]]


def test_a_silo_is_whom_the_host_knows_at_its_node_whatever_it_says(tmp_path: Path) -> None:
    names = {2: NodeIdentity(0, "north"), 3: NodeIdentity(1, "south"), 4: NodeIdentity(2, "west")}
    honest = silo_that(lambda reply: reply.to_records())
    entries = run(honest, tmp_path, identify=names.__getitem__)
    assert entries[-1]["participants"] == ["north", "south", "west"]
    assert set(entries[-1]["events"]) == {"north", "south", "west"}


def test_a_cosine_falls_from_the_first_rounds_rate_to_nearly_zero() -> None:
    settings = {"task": "digits", "rounds": 8, "training": {"lr": 0.4, "schedule": "cosine"}}
    rates = [Experiment.from_mapping(settings).learning_rate(round_) for round_ in range(1, 9)]
    assert rates[0] == 0.4
    assert rates[4] == pytest.approx(0.2)
    assert rates[7] == pytest.approx(0.2 * (1 + np.cos(np.pi * 7 / 8)))
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("weights", "mean"), [((30.0, 10.0), 0.85), ((30.0, None), 0.8), ((None, None), 0.8)]
)
def test_a_silo_that_keeps_its_size_makes_all_count_the_same(
    weights: tuple[float | None, ...], mean: float
) -> None:
    measured = Measurements()
    for silo, weight, value in zip("ab", weights, (0.9, 0.7), strict=True):
        measured.replies[silo] = EvaluateReply({"accuracy": value}, {"accuracy": "exact"}, weight)
    assert measured.record().metrics["accuracy"] == pytest.approx(mean)
