"""A real silo's device: its holder's choice, where its model trains and is measured."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

import paper_device as paper
from privet import Experiment, PrivetError
from privet.client.app import app
from privet.client.silo import open_silo
from privet.deployment.parties import SiloKit
from privet.deployment.silo.orders import OrderedJob, node_config
from privet.deployment.silo.worker import ComputeOn, Worker
from privet.privacy.accounting import decode_event
from privet.simulations.grid import assume_identity
from privet.tasks import load_task
from privet.vectors import FlatModel
from privet.wire import ENROL, EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from silo_holder import holder
from silo_log import refused

paper.register()  # before anything trains


@pytest.fixture(autouse=True)
def _nothing_ran_yet() -> None:
    paper.calls.clear()


WEIGHTS = FlatModel(load_task("digits", model="mlp").model()).vector()
METRICS = """
accuracy = { release = "exact" }
loss = { release = "exact" }
"""
_jobs = itertools.count(50_000)


@pytest.fixture
def node(tmp_path: Path) -> dict[str, Any]:
    return holder(tmp_path, plain=True, metrics=METRICS)


def ask(node: dict[str, Any], kind: str, content: RecordDict, **settings: Any) -> Message:
    job = {"task": "digits", "model": "mlp", "rounds": 2, "training.steps": 1, **settings}
    assume_identity(99)
    context = Context(next(_jobs), 2, dict(node), RecordDict(), job)
    return app(Message(content, 2, kind), context)


def train(node: dict[str, Any], **settings: Any) -> TrainReply:
    content = TrainRequest(round=1, weights=WEIGHTS).to_records()
    reply = ask(node, "train", content, **settings)
    assert not reply.has_error(), reply.error.reason
    return TrainReply.from_records(reply.content)


def test_a_silo_trains_where_its_holder_says(node: dict[str, Any]) -> None:
    whole = {"training.batch_size": 100_000}
    here = train(node, **whole).update
    assert not paper.calls
    there = train({**node, "device": "paper"}, **whole).update
    assert len(paper.calls) > 30
    assert here is not None
    assert there is not None
    # The order of the records is the system's, and so is the order in which they are added up.
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-6)
    assert np.abs(there).max() > 1e-3


def test_with_privacy_too(node: dict[str, Any]) -> None:
    answer = train({**node, "device": "paper"}, **{"privacy.noise_multiplier": 1.0})
    assert answer.event is not None
    assert answer.update is not None
    assert decode_event(answer.event).event.event.noise_multiplier == 1.0
    # One step of noise: lr * noise_multiplier * clip / batch_size.
    experiment = Experiment.from_run_config({"task": "digits", "privacy.noise_multiplier": 1.0})
    assert experiment.privacy is not None
    scale = experiment.training.lr * experiment.privacy.clip / experiment.training.batch_size
    assert 0.8 < answer.update.std() / scale < 1.2


def test_a_silo_measures_there(node: dict[str, Any]) -> None:
    content = EvaluateRequest(round=1, weights=WEIGHTS).to_records()
    found = []
    for device in ("cpu", "paper"):
        asked = ask({**node, "device": device}, "evaluate", content, **{"evaluation.holdout": 0.3})
        found.append(EvaluateReply.from_records(asked.content).metrics)
    assert found[0] == found[1]
    assert set(found[0]) == {"accuracy", "loss"}
    assert paper.calls


def test_no_job_chooses_the_device(node: dict[str, Any]) -> None:
    for key in ("device", "precision", "training.device"):
        told = refused(ask(node, ENROL, RecordDict(), **{key: "paper"}))
        assert told.stage == "settings"
    job = {"task": "digits", "data.device": "paper", "data.precision": "bf16"}
    silo = open_silo(
        Experiment.from_run_config({"task": "digits"}),
        Context(next(_jobs), 2, dict(node), RecordDict(), job),
    )
    assert (silo.device.name, silo.device.precision) == ("cpu", "float32")


def test_a_device_that_is_gone_is_no_answer_about_records(node: dict[str, Any]) -> None:
    told = refused(ask({**node, "device": "cuda:7"}, ENROL, RecordDict()))
    assert "device = 'cuda:7' is not here: there is cpu" in told.logged
    assert "cuda" not in str(told.code)


KIT = """
project = "stroke"
project_key = "{key}"
name = "north"
server = "https://localhost:8443"
{more}
"""


def kit(folder: Path, more: str) -> SiloKit:
    (folder / "silo.toml").write_text(KIT.format(key="ab" * 32, more=more))
    return SiloKit.from_folder(folder)


def test_silo_toml_names_the_device(tmp_path: Path) -> None:
    for more, expected in {
        "": ("cpu", "float32"),
        'device = "auto"\nprecision = "bf16"': ("auto", "bf16"),
        'device = "cuda:1"': ("cuda:1", "float32"),
    }.items():
        own = kit(tmp_path, more)
        run_config = Experiment.from_run_config({"task": "digits"}).to_run_config()
        job = OrderedJob("ab", "ana", 1, "cd", own_time(), "", run_config)
        told = node_config(own, job, roster=tmp_path / "roster.toml")
        assert (told["device"], told["precision"]) == expected


def own_time() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('device = "GPU 1"', "'GPU 1' is no device: auto, cpu, cuda, cuda:N or mps"),
        ("device = 1", "device"),
        ('precision = "fp16"', "'float32' or 'bf16'"),
        ('devise = "cuda"', "device"),
    ],
)
def test_what_silo_toml_says_wrongly_is_told(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(PrivetError) as refusal:
        kit(tmp_path, more)
    assert said in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_worker_says_what_it_computes_on_before_the_silo_is_online() -> None:
    worker = Worker()
    try:
        assert worker.choose(ComputeOn("cpu", "bf16")) == "cpu, bf16"
        with pytest.raises(PrivetError, match="device = 'cuda:9' is not here: there is cpu"):
            worker.choose(ComputeOn("cuda:9", "float32"))
    finally:
        worker.stop()
