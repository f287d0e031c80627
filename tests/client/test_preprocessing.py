"""Inputs of a record that depend on others, and how many records are held out: no epsilon covers
the one, and nobody is told the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from torch import nn

from privet import Experiment, PrivetError
from privet.client.app import app
from privet.client.silo import open_silo
from privet.privacy.accounting import decode_event
from privet.simulations.grid import assume_identity
from privet.simulations.run import simulate
from privet.vectors import FlatModel
from privet.wire import ENROL, Enrolment, EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from silo_holder import describing, holder
from silo_log import refused

KNOWING = {"privacy.uncovered_preprocessing": True}
DECLARED = {"data.numeric": ["age"], "data.categorical": [], "data.classes": [0, 1]}
RANGES = {"data.ranges": {"age": [0, 100]}}


def experiment(**settings: Any) -> Experiment:
    base = {
        "rounds": 2,
        "data": {"file": "ward.csv", "target": "ill"},
        "federation.silos": 2,
        "training.batch_size": 8,
        "privacy.noise_multiplier": 5.0,
    }
    return Experiment.from_mapping({"task": "table"}).with_settings({**base, **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "".join(f"{20 + age},{age % 2}\n" for age in range(60))
    (tmp_path / "ward.csv").write_text("age,ill\n" + rows)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "is read from the records"),
        (DECLARED, r"\(age\) are scaled by the whole file's mean and standard deviation"),
        ({**RANGES, "data.numeric": ["age"]}, "is read from the records"),
    ],
)
def test_a_simulation_refuses_what_epsilon_does_not_cover(
    folder: Path, settings: dict[str, Any], said: str
) -> None:
    said += r".* Or allow it: privacy.uncovered_preprocessing = true"
    with pytest.raises(PrivetError, match=said):
        simulate(experiment(**settings), out=folder / "run", data_dir=folder)
    assert not (folder / "run").exists()
    simulate(experiment(**settings, **KNOWING), out=folder / "run", data_dir=folder)
    notes = json.loads((folder / "run" / "silos.json").read_text())["notes"]
    assert "epsilon does not cover" in " ".join(notes)


def test_constants_and_no_privacy_need_no_word(folder: Path) -> None:
    simulate(experiment(**DECLARED, **RANGES), out=folder / "constants", data_dir=folder)
    simulate(experiment(privacy=None), out=folder / "plain", data_dir=folder)


def ask(node: dict[str, Any], kind: str, settings: dict[str, Any], content: RecordDict) -> Message:
    assume_identity(7)
    job = experiment(**settings)
    schema = {key: value for key, value in job.data.items() if key != "file"}
    described = describing(node, "table", **job.data)
    config = job.model_copy(update={"data": schema}).to_run_config()
    context = Context(7, 2, described, RecordDict(), dict(config))
    return app(Message(content=content, dst_node_id=2, message_type=kind), context)


def training() -> RecordDict:
    weights = FlatModel(nn.Linear(2, 2)).vector()
    return TrainRequest(round=1, weights=weights).to_records()


def reason(reply: Message) -> str:
    return refused(reply).logged


@pytest.mark.parametrize(("kind", "content"), [(ENROL, RecordDict()), ("train", None)])
def test_a_silo_believes_its_own_task_and_its_own_policy(
    folder: Path, kind: str, content: RecordDict | None
) -> None:
    """It refuses a job that keeps quiet about it, and one that says so where nobody allowed it."""
    node = {**holder(folder), "data-dir": str(folder)}
    content = training() if content is None else content
    quiet = reason(ask(node, kind, DECLARED, content))
    assert "are scaled by the whole file's mean" in quiet
    said = reason(ask(node, kind, {**DECLARED, **KNOWING}, content))
    assert said.startswith("training.uncovered_preprocessing: asked for inputs that depend on")
    policy = Path(node["policy"])
    text = policy.read_text()
    policy.write_text(text.replace(".training]\n", ".training]\nuncovered_preprocessing = true\n"))
    assert policy.read_text() != text
    allowed = ask(node, kind, {**DECLARED, **KNOWING}, content)
    assert not allowed.has_error(), allowed.error


def test_nobody_is_told_how_many_records_are_held_out(folder: Path) -> None:
    """Silos with the same number of records say the same, however many of them train."""
    settings = {**DECLARED, **RANGES, "evaluation.holdout": 0.4, "strategy.weighting": "examples"}
    weights = FlatModel(nn.Linear(2, 2)).vector()
    told, training_records = [], set()
    for number in range(1, 5):
        (home := folder / str(number)).mkdir()
        exact = 'accuracy = { release = "exact" }'
        node = {**holder(home, metrics=exact, seed=bytes([number] * 32)), "data-dir": str(folder)}
        job = experiment(**settings)
        described = describing(node, "table", **job.data)
        schema = {key: value for key, value in job.data.items() if key != "file"}
        silo = open_silo(
            job.model_copy(update={"data": schema}), Context(number, 2, described, RecordDict(), {})
        )
        training_records.add(len(silo.examples))
        train = TrainRequest(round=1, weights=weights).to_records()
        look = EvaluateRequest(round=1, weights=weights).to_records()
        enrolled = Enrolment.from_records(ask(node, ENROL, settings, RecordDict()).content)
        trained = TrainReply.from_records(ask(node, "train", settings, train).content)
        measured = EvaluateReply.from_records(ask(node, "evaluate", settings, look).content)
        assert trained.event is not None
        rate = decode_event(trained.event)
        told.append((enrolled.rounds, trained.weight, measured.weight, str(rate)))
    assert len(training_records) > 1
    assert len(set(told)) == 1
    assert told[0][1:3] == (silo.n_records, silo.n_records)
