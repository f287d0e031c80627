"""Nothing touches a real silo's records but what its holder allows and its ledger has charged."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from torch import nn

from privet.client.app import app
from privet.client.guard import code_hash
from privet.privacy.accounting import decode_event, dp_sgd_event
from privet.privacy.ledger import Ledger, SiloKey, verify
from privet.simulations.grid import assume_identity
from privet.vectors import FlatModel
from privet.wire import ENROL, TrainReply, TrainRequest
from silo_holder import holder

SETTINGS: dict[str, Any] = {
    "task": "toy_tasks:Tiny",
    "training.batch_size": 5,
    "rounds": 3,
    "privacy.noise_multiplier": 1.0,
}


def answer(
    kind: str, node: dict[str, Any], *, round_: int = 1, run_id: int = 7, **more: Any
) -> Any:
    assume_identity(run_id)
    weights = FlatModel(nn.Linear(2, 2)).vector()
    request = TrainRequest(round=round_, lr=0.1, weights=weights).to_records()
    content = request if kind == "train" else RecordDict()
    config = {**SETTINGS, **{key.replace("__", "."): value for key, value in more.items()}}
    config = {key: value for key, value in config.items() if value is not None}
    return app(Message(content, 2, kind), Context(run_id, 2, node, RecordDict(), config))


def refusal(reply: Message) -> str:
    assert reply.has_error()
    stated = json.loads(reply.error.reason or "")
    assert stated["stage"] == "guard"
    return str(stated["reason"])


def kinds(node: dict[str, Any]) -> list[str]:
    """Kinds of the entries after the one that begins a ledger."""
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        return [entry.kind for entry in ledger.entries()[1:]]


def spent(node: dict[str, Any]) -> float:
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        return ledger.spent("records", delta=1e-5)


@pytest.mark.parametrize("kind", ["train", ENROL])
def test_without_a_policy_nothing_runs(kind: str, tmp_path: Path) -> None:
    assert "privet policy init" in refusal(answer(kind, {}))
    for name in ("policy", "ledger", "key", "dataset"):
        node = holder(tmp_path / name) if (tmp_path / name).mkdir() is None else {}
        del node[name]
        assert f"no {name} in its node configuration" in refusal(answer(kind, node))


def test_a_round_is_reserved_and_then_committed_as_it_ran(tmp_path: Path) -> None:
    node = holder(tmp_path)
    assert not answer(ENROL, node).has_error()
    replies = [answer("train", node, round_=round_) for round_ in (1, 2)]
    events = [decode_event(TrainReply.from_records(reply.content).event) for reply in replies]
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        assert [entry.kind for entry in ledger.entries()[1:]] == [
            "note", "reserve", "commit", "reserve", "commit",
        ]  # fmt: skip
        assert ledger.events("records") == events
        assert {entry.who for entry in ledger.entries() if entry.kind != "note"} == {"alice"}
    assert verify(Path(node["ledger"])) == []


def test_the_budget_holds_over_jobs_and_names_limit_and_projection(tmp_path: Path) -> None:
    node = holder(tmp_path, epsilon=9.0)
    rounds = 0
    while not (reply := answer("train", node, round_=1, run_id=100 + rounds)).has_error():
        rounds += 1
        assert rounds < 20
    assert rounds >= 1
    reason = refusal(reply)
    assert "9" in reason
    assert spent(node) <= 9.0
    before = kinds(node)
    refusal(answer("train", node, round_=2, run_id=500))
    refusal(answer("train", node, round_=2, run_id=500))
    assert kinds(node) == [*before, "note"]  # one for the job, however often it asks
    # Less is still allowed: the rest of the budget is not lost.
    assert not answer("train", node, privacy__noise_multiplier=30.0).has_error()


@pytest.mark.parametrize(
    ("rules", "job", "reason"),
    [
        ({"noise": 2.0}, {}, "smallest_noise_multiplier"),
        ({}, {"privacy__noise_multiplier": None}, "plain"),
        ({"public": False}, {}, "records_public"),
    ],
)
@pytest.mark.parametrize("kind", ["train", ENROL])
def test_what_the_policy_forbids_is_refused_and_charges_nothing(
    tmp_path: Path, rules: dict[str, Any], job: dict[str, Any], reason: str, kind: str
) -> None:
    node = holder(tmp_path, **rules)
    assert reason in refusal(answer(kind, node, **job))
    assert set(kinds(node)) == {"note"}
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        assert ledger.events("records") == []
        assert reason in str(ledger.entries()[-1].detail)


def test_a_silo_that_dies_in_training_has_spent_the_whole_round(tmp_path: Path) -> None:
    node = holder(tmp_path)
    child = os.fork()
    if child == 0:
        nn.functional.cross_entropy = lambda *_: os._exit(9)  # type: ignore[assignment]
        answer("train", node)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        assert [entry.kind for entry in ledger.entries()[1:]] == ["note", "reserve"]
        worst = dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.25, steps=4)
        assert ledger.events("records") == [worst]


def test_a_failure_in_training_stays_charged(tmp_path: Path) -> None:
    node = holder(tmp_path)
    assemble = TrainRequest(round=1, lr=0.1, weights=np.zeros(3, np.float32)).to_records()
    assume_identity(7)
    reply = app(Message(assemble, 2, "train"), Context(7, 2, node, RecordDict(), SETTINGS))
    assert reply.has_error()
    assert kinds(node) == ["note", "reserve"]
    assert spent(node) > 0


def test_other_records_under_the_same_name_are_refused(tmp_path: Path) -> None:
    node = holder(tmp_path)
    assert not answer("train", node).has_error()
    reply = answer("train", node, task="toy_tasks:OneClassEach")
    assert not reply.has_error()  # the same records
    assert "has changed" in refusal(answer("train", node, task="toy_tasks:Fewer", run_id=8))


def test_a_task_of_ones_own_runs_only_by_the_hash_of_its_code(tmp_path: Path) -> None:
    node = holder(tmp_path)
    policy = Path(node["policy"])
    approved = code_hash("toy_tasks:Tiny")
    assert approved is not None
    policy.write_text(policy.read_text().replace('code = ["*"]', f'code = ["{approved}"]'))
    assert not answer("train", node).has_error()
    other = approved[:-1] + ("0" if approved[-1] != "0" else "1")
    policy.write_text(policy.read_text().replace(approved, other))
    assert approved in refusal(answer("train", node))


def test_training_without_privacy_has_spent_everything(tmp_path: Path) -> None:
    node = holder(tmp_path, plain=True)
    assert not answer("train", node, privacy__noise_multiplier=None).has_error()
    assert kinds(node) == ["note", "reserve", "commit"]
    assert spent(node) == math.inf
    # The holder sets a limit: what was given away before still counts.
    policy = Path(node["policy"])
    text = policy.read_text().replace("epsilon = inf", "epsilon = 100.0")
    policy.write_text(text.replace("plain = true", "plain = false"))
    assert "spent so far is inf" in refusal(answer("train", node))


def test_code_of_built_in_tasks_needs_no_hash() -> None:
    assert code_hash("digits") is None
    assert code_hash("no_such_module:Class") is None
