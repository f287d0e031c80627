"""What a silo answers: its trust boundary, its errors, and what leaves it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from torch import nn

from frozen_tasks import Head
from lazy_tasks import Sentences
from privet import Experiment
from privet.client.app import app
from privet.client.silo import open_silo
from privet.privacy.accounting import decode_event
from privet.privacy.mechanisms import SystemNoise
from privet.simulations.grid import assume_identity
from privet.vectors import FlatModel
from privet.wire import (
    ENROL,
    Enrolment,
    EnrolRequest,
    EvaluateReply,
    EvaluateRequest,
    TrainReply,
    TrainRequest,
)
from silo_holder import describing, holder
from silo_log import refused
from tree_tasks import KINDS, Tokens

HERE = "toy_tasks"
_jobs = itertools.count(1000)


def settings(**changes: Any) -> dict[str, str | int | float | bool]:
    config: dict[str, str | int | float | bool] = {
        "task": f"{HERE}:Tiny",
        "training.batch_size": 5,
        "rounds": 3,
        "privacy.noise_multiplier": 1.0,
    }
    return {**config, **{key.replace("__", "."): value for key, value in changes.items()}}


@pytest.fixture(autouse=True, scope="module")
def _holder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A data holder who allows all of these tests, so that they reach what they are about."""
    NODE.update(holder(tmp_path_factory.mktemp("holder"), plain=True))


NODE: dict[str, Any] = {}


def ask(content: RecordDict, kind: str, run_config: dict[str, Any]) -> Message:
    assume_identity(99)
    data = {key[5:]: value for key, value in run_config.items() if key.startswith("data.")}
    node = describing(NODE, str(run_config["task"]), **data) if data else dict(NODE)
    # A job of its own for each: a silo trains a round of one job a few times at most.
    context = Context(next(_jobs), 2, node, RecordDict(), run_config)
    return app(Message(content, 2, kind), context)


def train(run_config: dict[str, Any], **request: Any) -> Message:
    weights = request.pop("weights", FlatModel(nn.Linear(2, 2)).vector())
    content = TrainRequest(round=1, weights=weights, **request).to_records()
    return ask(content, "train", run_config)


def test_a_silo_enrols_with_the_noise_it_needs() -> None:
    config = settings()
    del config["privacy.noise_multiplier"]
    reply = ask(RecordDict(), ENROL, {**config, "privacy.epsilon": 3.0})
    enrolment = Enrolment.from_records(reply.content)
    assert enrolment.noise_multiplier is not None
    assert 0.5 < enrolment.noise_multiplier < 10


def test_a_silo_holds_its_own_base_against_what_every_message_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends a message need not have asked the silo to enrol."""
    for name, value in holder(tmp_path, plain=True).items():
        monkeypatch.setitem(NODE, name, value)
    job = settings(task="frozen_tasks:Head")
    flat = FlatModel(Head(model=None, data_dir=None).model())
    weights, own = flat.vector(), flat.base.digest
    for named in (None, "0" * 64, "x" * 10_000):
        for kind, request in {
            ENROL: EnrolRequest(named),
            "train": TrainRequest(1, weights, base=named),
            "evaluate": EvaluateRequest(1, weights, base=named),
        }.items():
            told = refused(ask(request.to_records(), kind, job))
            assert (told.stage, told.code, told.names) == ("plan", "base", ())
            assert len(told.logged) < 1_000
    assert not ask(EnrolRequest(own).to_records(), ENROL, job).has_error()
    update = TrainReply.from_records(train(job, weights=weights, base=own).content).update
    assert update is not None
    assert update.shape == weights.shape == (27,)
    told = refused(train(settings(), base=own))  # a model that trains whole has none
    assert told.code == "base"


@pytest.mark.parametrize("kind", [*KINDS, Sentences])
def test_a_silo_trains_and_measures_on_records_of_each_kind(
    kind: type[Tokens], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = 'loss = { release = "exact" }\naccuracy = { release = "exact" }'
    for name, value in holder(tmp_path, plain=True, metrics=metrics).items():
        monkeypatch.setitem(NODE, name, value)
    job = settings(task=f"{kind.__module__}:{kind.__name__}", evaluation__holdout=0.3)
    weights = FlatModel(kind().model()).vector()
    answer = TrainReply.from_records(train(job, weights=weights).content)
    assert answer.update is not None
    assert answer.update.any()
    assert decode_event(answer.event).count == 12
    asked = ask(EvaluateRequest(1, weights).to_records(), "evaluate", job)
    measured = EvaluateReply.from_records(asked.content)
    assert {*measured.metrics} == {"loss", "accuracy"}


def test_with_privacy_no_training_loss_leaves_the_silo() -> None:
    reply = train(settings())
    assert "loss" not in reply.content.metric_records["metrics"]
    answer = TrainReply.from_records(reply.content)
    assert answer.loss is None
    assert answer.event is not None
    event = decode_event(answer.event)
    assert event.count == 4
    assert event.event.sampling_probability == 0.25


def test_without_privacy_the_loss_is_sent_and_no_mechanism_is_claimed() -> None:
    config = settings()
    del config["privacy.noise_multiplier"]
    answer = TrainReply.from_records(train(config).content)
    assert answer.loss is not None
    assert answer.event is None


def test_a_server_can_ask_for_more_noise_but_not_for_less() -> None:
    shared = settings(privacy__calibrate="shared")
    for asked, used in ((5.0, 5.0), (0.01, 1.0)):
        answer = TrainReply.from_records(train(shared, noise_multiplier=asked).content)
        assert answer.event is not None
        assert decode_event(answer.event).event.event.noise_multiplier == used
    # An update that is no number, with the records used for nothing.
    told = refused(train(shared, noise_multiplier=1e308))
    assert (told.stage, told.code) == ("settings", "settings")
    told = refused(train(settings(), noise_multiplier=5.0))
    assert (told.stage, told.code) == ("settings", "settings")


def test_a_job_cannot_seed_the_noise_of_a_real_silo() -> None:
    experiment = Experiment.from_run_config(settings(seed=7))
    context = Context(99, 2, {}, RecordDict(), settings(seed=7, data__simulated=True))
    silo = open_silo(experiment, context)
    assert silo.seed is None
    assert isinstance(silo.noise(1), SystemNoise)
    replies = [TrainReply.from_records(train(settings(seed=7)).content) for _ in range(2)]
    assert not np.array_equal(replies[0].update, replies[1].update)


def test_simulated_silos_and_rounds_never_share_noise() -> None:
    experiment = Experiment.from_run_config(settings(federation__silos=4))
    draws = []
    for index in range(4):
        node = {"partition-id": index, "num-partitions": 4, "simulated": True}
        silo = open_silo(experiment, Context(98, 2, node, RecordDict(), {}))
        for round_ in range(1, 4):
            draws.append(silo.noise(round_).normal((2000,), 1.0).numpy())
            batches = silo.entropy(round_).generate_state(500)
            draws.append((batches / 2**31 - 1.0).repeat(4)[:2000])
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 0.25  # equal streams would give 1; chance gives 0.1


def test_an_error_of_a_library_does_not_quote_records_from_a_real_silo() -> None:
    reply = train(settings(data__secret="Jane Doe, 1961"))
    told = refused(reply)
    assert (told.stage, told.code, told.names) == ("data", "data", ())
    assert "Jane" in told.logged
    assert "Jane" not in (reply.error.reason or "")


def test_a_model_that_voids_the_guarantee_is_refused_by_the_silo() -> None:
    reply = ask(RecordDict(), ENROL, settings(task=f"{HERE}:WithBatchNorm"))
    told = refused(reply)
    assert (told.stage, told.code) == ("plan", "model")
    assert "BatchNorm" in told.logged
    assert "1" in told.logged  # the layer's name
    assert train(settings(task=f"{HERE}:WithBatchNorm")).has_error()


def test_weights_of_another_model_are_an_error_reply() -> None:
    told = refused(train(settings(task=f"{HERE}:Doubling")))
    assert (told.stage, told.code) == ("train", "code")


@pytest.mark.parametrize("content", [RecordDict(), TrainRequest(1, np.zeros(3, "f4"))])
def test_a_message_that_makes_no_sense_is_an_error_reply(content: Any) -> None:
    records = content if isinstance(content, RecordDict) else content.to_records()
    assert ask(records, "train", settings()).has_error()


def test_settings_that_cannot_be_read_are_an_error_reply() -> None:
    told = refused(train({"task": "digits", "rounds": -1}))
    assert (told.stage, told.code) == ("settings", "settings")
    assert "rounds = -1" in told.logged
