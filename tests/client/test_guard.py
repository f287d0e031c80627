"""Nothing touches a real silo's records but what its holder allows and its ledger has charged."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from torch import nn

from privet import Experiment
from privet.client.app import app
from privet.client.guard import code_hash
from privet.client.silo import open_silo
from privet.privacy.accounting import decode_event, dp_sgd_event, epsilon
from privet.privacy.ledger import Ledger, SiloKey, verify
from privet.privacy.mechanisms.per_example import PrivateOptimizer
from privet.simulations.grid import assume_identity
from privet.vectors import FlatModel
from privet.wire import ENROL, Enrolment, EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from silo_holder import holder
from silo_log import refused

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
    requests = {
        "train": TrainRequest(round=round_, weights=weights),
        "evaluate": EvaluateRequest(round=round_, weights=weights),
    }
    content = requests[kind].to_records() if kind in requests else RecordDict()
    config = {**SETTINGS, **{key.replace("__", "."): value for key, value in more.items()}}
    config = {key: value for key, value in config.items() if value is not None}
    return app(Message(content, 2, kind), Context(run_id, 2, node, RecordDict(), config))


def refusal(reply: Message, *names: str) -> str:
    """What the holder's log says of a refusal, of which the requester is told `names` at most."""
    told = refused(reply)
    assert told.stage == "guard"
    assert not names or told.names == names
    return told.logged


def kinds(node: dict[str, Any]) -> list[str]:
    """Kinds of the entries after the one that begins a ledger."""
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        return [entry.kind for entry in ledger.entries()[1:]]


def spent(node: dict[str, Any]) -> float:
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        return ledger.spent("records", delta=1e-5)


@pytest.mark.parametrize("kind", ["train", "evaluate", ENROL])
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
    assert "the limit is epsilon 9" in refusal(reply, "budget.epsilon")
    assert refused(reply).code == "budget"
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
        PrivateOptimizer.step = lambda *_: os._exit(9)  # type: ignore[assignment]
        answer("train", node)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        assert [entry.kind for entry in ledger.entries()[1:]] == ["note", "reserve"]
        worst = dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.25, steps=4)
        assert ledger.events("records") == [worst]


def test_a_failure_in_training_stays_charged(tmp_path: Path) -> None:
    node = holder(tmp_path)
    assemble = TrainRequest(round=1, weights=np.zeros(3, np.float32)).to_records()
    assume_identity(7)
    reply = app(Message(assemble, 2, "train"), Context(7, 2, node, RecordDict(), SETTINGS))
    assert reply.has_error()
    assert kinds(node) == ["note", "reserve", "note"]  # the last counts the failure
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


def test_code_that_is_not_approved_is_not_even_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package whose import would do something, and whose parts all count."""
    package = tmp_path / "curious"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'was here')!r}, 'w')\n")
    (package / "task.py").write_text("from toy_tasks import Tiny\nclass Mine(Tiny): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    node = holder(tmp_path)
    policy = Path(node["policy"])
    approved = code_hash("curious.task:Mine")
    text = policy.read_text()
    policy.write_text(text.replace('code = ["*"]', f'code = ["{"0" * 64}"]'))
    for kind in ("train", "evaluate", ENROL):
        assert str(approved) in refusal(answer(kind, node, task="curious.task:Mine"))
    assert not (tmp_path / "was here").exists()
    policy.write_text(text.replace('code = ["*"]', f'code = ["{approved}"]'))
    (package / "other.py").write_text("pass\n")
    assert code_hash("curious.task:Mine") != approved
    refusal(answer("train", node, task="curious.task:Mine"))
    (package / "other.py").unlink()
    assert not answer("train", node, task="curious.task:Mine").has_error()
    assert (tmp_path / "was here").exists()


def test_who_may_not_ask_does_not_get_the_records_loaded(tmp_path: Path) -> None:
    node = holder(tmp_path, requesters='["bob"]')
    for kind in ("train", "evaluate", ENROL):
        # With a secret, this task fails as soon as its records are read.
        assert "requesters" in refusal(answer(kind, node, data__secret="Jane Doe"))


def test_enrolment_tells_how_many_rounds_the_budget_has_room_for(tmp_path: Path) -> None:
    node = holder(tmp_path, epsilon=9.0)
    enrolment = Enrolment.from_records(answer(ENROL, node, rounds=30).content)
    assert enrolment.rounds is not None
    done = 0
    while not answer("train", node, round_=done + 1, rounds=30).has_error():
        done += 1
    assert enrolment.rounds == done < 30
    assert kinds(node).count("reserve") == done


def test_a_refusal_projects_the_coming_round_and_the_whole_job(tmp_path: Path) -> None:
    node = holder(tmp_path, epsilon=4.0)
    reason = refusal(answer("train", node, rounds=3))
    assert "rounds 1 to 3" in refusal(answer("train", node, rounds=3, round_=0))
    round_ = dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.25, steps=4)
    one, all_of_it = (epsilon([round_] * n, delta=1e-5) for n in (1, 3))
    assert f"this round would make it {one:.4g}" in reason
    assert f"(all 3 that remain: {all_of_it:.4g})" in reason
    assert "spent so far is 0" in reason


def test_noise_is_raised_so_that_the_remaining_rounds_fit_what_remains(tmp_path: Path) -> None:
    node = holder(tmp_path, epsilon=6.0)
    asked = {"rounds": 4, "privacy__on_budget": "calibrate"}
    assert Enrolment.from_records(answer(ENROL, node, **asked).content).rounds == 4
    noise = []
    for round_ in (1, 2, 3, 4):
        reply = TrainReply.from_records(answer("train", node, round_=round_, **asked).content)
        noise.append(decode_event(reply.event).event.event.noise_multiplier)
    assert noise[0] > 1.0
    assert len(set(noise)) == 1  # what fits once goes on fitting
    assert 0.98 * 6.0 < spent(node) <= 6.0
    assert "rounds 1 to 4" in refusal(answer("train", node, round_=5, **asked))
    # Another job fits what little is left, with a noise that leaves nothing to learn.
    other = TrainReply.from_records(answer("train", node, run_id=8, **asked).content)
    assert decode_event(other.event).event.event.noise_multiplier > 5 * noise[0]
    assert spent(node) <= 6.0


def test_without_being_asked_no_noise_is_raised(tmp_path: Path) -> None:
    node = holder(tmp_path, epsilon=6.0)
    replies = [answer("train", node, round_=round_, rounds=8) for round_ in range(1, 9)]
    assert not replies[0].has_error()
    assert "the limit is epsilon 6" in refusal(replies[-1])


HIDDEN = {"training__steps": 4, "strategy__weighting": "uniform"}


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ({"training__steps": None}, "training.steps"),
        ({"strategy__weighting": "examples"}, 'strategy.weighting = "uniform"'),
        ({"privacy__noise_multiplier": None, "privacy__epsilon": 3.0}, "not epsilon"),
        ({"privacy__calibrate": "shared"}, 'privacy.calibrate = "per-silo"'),
    ],
)
def test_a_size_that_is_kept_is_not_told_by_the_settings(
    tmp_path: Path, job: dict[str, Any], reason: str
) -> None:
    node = holder(tmp_path, public=False)
    for kind in ("train", ENROL):
        said = refusal(answer(kind, node, **{**HIDDEN, **job}), "sending.records_public")
        assert "sending.records_public" in said
        assert reason in said


def test_a_size_that_is_kept_is_in_nothing_that_leaves(tmp_path: Path) -> None:
    """Two silos that differ in size alone say the same, byte for byte but for noise and time."""
    said = []
    for name, task in (("whole", "toy_tasks:Tiny"), ("fewer", "toy_tasks:Fewer")):
        (tmp_path / name).mkdir()
        node = holder(tmp_path / name, public=False, epsilon=20.0)
        job = {**HIDDEN, "task": task, "rounds": 30}
        enrolled = answer(ENROL, node, **job)
        reply = TrainReply.from_records(answer("train", node, **job).content)
        assert (reply.weight, reply.event, reply.loss) == (None, None, None)
        round_ = 2
        while not (last := answer("train", node, round_=round_, **job)).has_error():
            round_ += 1
        said.append((Enrolment.from_records(enrolled.content), refusal(last), refused(last)))
        assert spent(node) > 15
    assert said[0] == said[1]
    assert (said[0][0].rounds, said[0][0].noise_multiplier) == (None, None)
    assert not any(
        digit in said[0][1].replace("epsilon 20 at delta 1e-05", "") for digit in "123456789"
    )


def test_metrics_are_withheld_unless_the_policy_lets_them_out(tmp_path: Path) -> None:
    node = holder(tmp_path)
    asked = {"evaluation__holdout": 0.3}
    reply = EvaluateReply.from_records(answer("evaluate", node, **asked).content)
    assert reply.metrics == {}
    assert reply.released == {"accuracy": "withheld", "loss": "withheld"}
    assert kinds(node) == ["note"]  # the data set's name; nothing was spent


def test_exact_metrics_leave_a_note(tmp_path: Path) -> None:
    node = holder(tmp_path, metrics='loss = { release = "exact" }')
    reply = EvaluateReply.from_records(answer("evaluate", node, evaluation__holdout=0.3).content)
    assert set(reply.metrics) == {"loss"}
    assert kinds(node) == ["note", "note"]
    assert spent(node) == 0


def test_noised_accuracy_is_charged_and_refused_without_budget(tmp_path: Path) -> None:
    noised = 'accuracy = { release = "noised", noise_multiplier = 2.0 }'
    node = holder(tmp_path, metrics=noised, epsilon=4.0)
    asked = {"evaluation__holdout": 0.3, "rounds": 20}
    replies = []
    while not (reply := answer("evaluate", node, round_=len(replies) + 1, **asked)).has_error():
        replies.append(EvaluateReply.from_records(reply.content))
        assert len(replies) < 20
    assert "the limit is epsilon 4" in refusal(reply)
    events = [decode_event(reply.event) for reply in replies]
    assert epsilon(events, delta=1e-5) == pytest.approx(spent(node))
    assert spent(node) <= 4.0
    assert all(0 <= reply.metrics["accuracy"] <= 1 for reply in replies)
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        uses = {entry.detail for entry in ledger.entries() if entry.kind == "reserve"}
    assert uses == {'{"encrypted":false,"use":"evaluation"}'}


def test_a_metric_without_bound_is_bounded_before_the_noise(tmp_path: Path) -> None:
    noised = 'accuracy = { release = "noised", noise_multiplier = 0.1 }'
    node = holder(tmp_path, metrics=noised, epsilon=500.0)
    job = {"task": "toy_tasks:Boundless", "evaluation__holdout": 0.9}
    reply = EvaluateReply.from_records(answer("evaluate", node, **job).content)
    assert 0 <= reply.metrics["accuracy"] <= 1


def test_noise_on_counts_is_refused_where_rows_depend_on_each_other(tmp_path: Path) -> None:
    noised = 'accuracy = { release = "noised", noise_multiplier = 0.1 }'
    node = holder(tmp_path, metrics=noised, epsilon=500.0)
    job = {"task": "toy_tasks:Aligned", "evaluation__holdout": 0.9}
    reply = answer("evaluate", node, **job)
    assert "depends on the others" in refused(reply).logged


def test_evaluation_uses_only_records_that_training_does_not(tmp_path: Path) -> None:
    from privet.client.silo import load_local_data
    from privet.experiment import Experiment

    experiment = Experiment.from_mapping({"task": "digits", "evaluation": {"holdout": 0.25}})
    place = load_local_data(experiment, data_dir=None, run_id=1, divided=False)
    trained, held_out = place.silos[0], place.held_out[0]
    assert len(trained) + len(held_out) == 1437
    assert abs(len(held_out) / 1437 - 0.25) < 0.05
    rows = {row.tobytes() for row in trained.inputs.numpy()}
    assert not any(row.tobytes() in rows for row in held_out.inputs.numpy())
    whole = load_local_data(
        experiment.with_settings({"evaluation": None}), data_dir=None, run_id=1, divided=False
    )
    assert place.fingerprint(0) == whole.fingerprint(0)


def test_one_record_more_moves_no_other_between_training_and_evaluation() -> None:
    from privet.client.silo import load_local_data
    from privet.experiment import Experiment

    places = [
        load_local_data(
            Experiment.from_mapping({"task": task, "evaluation": {"holdout": 0.5}, "seed": 3}),
            data_dir=None,
            run_id=1,
            divided=False,
        )
        for task in ("digits", "toy_tasks:DigitsButOne")
    ]
    whole, fewer = (
        [{row.tobytes() for row in part.inputs.numpy()} for part in (p.silos[0], p.held_out[0])]
        for p in places
    )
    assert fewer[0] <= whole[0]
    assert fewer[1] <= whole[1]


def test_a_real_silo_says_no_more_than_its_wire_format(tmp_path: Path) -> None:
    """Every value that leaves, by name: nothing joins them without this test being changed."""
    node = holder(tmp_path, metrics='"*" = { release = "exact" }')
    left = {
        kind: {
            f"{name}.{key}"
            for name, record in answer(kind, node, evaluation__holdout=0.3).content.items()
            for key in record
        }
        for kind in (ENROL, "train", "evaluate")
    }
    assert left == {
        ENROL: {
            "enrolment.silo", "enrolment.index", "enrolment.noise-multiplier", "enrolment.rounds",
        },
        "train": {
            "update.update", "metrics.num-examples", "privacy.event",
        },
        "evaluate": {
            "metrics.accuracy", "metrics.loss", "released.accuracy", "released.loss",
            "size.num-examples",
        },
    }  # fmt: skip


def test_no_job_decides_which_records_a_silo_holds_out(tmp_path: Path) -> None:
    """Else whoever asks with one seed after the other learns from the counts who is among them."""
    node = holder(tmp_path)

    def held_out(seed: int, **changes: Any) -> list[list[float]]:
        settings = {"task": "digits", "seed": seed, "evaluation": {"holdout": 0.5}}
        context = Context(seed, 2, {**node, **changes}, RecordDict(), {})
        silo = open_silo(Experiment.from_mapping(settings), context)
        return silo.held_out().inputs.flatten(1)[:, 20:44].tolist()

    assert held_out(1) == held_out(2)
    simulated = {"simulated": True, "num-partitions": 10, "partition-id": 0}
    assert held_out(1, **simulated) != held_out(2, **simulated)


def test_a_job_that_nobody_approved_trains_in_a_simulation_only(tmp_path: Path) -> None:
    node = holder(tmp_path)
    policy = Path(node["policy"])
    policy.write_text(
        policy.read_text().replace('code = ["*"]', 'code = ["*"]\napproval = "each-job"')
    )
    assert "nobody has approved it here" in refusal(answer("train", node))
    assert kinds(node) == ["note", "note"]  # the data set's name, and the refusal
    (tmp_path / "simulated").mkdir()
    simulated = {**holder(tmp_path / "simulated"), "policy": str(policy), "simulated": True}
    simulated |= {"partition-id": 0, "num-partitions": 1}
    alone = {"federation__silos": 1, "federation__min_silos": 1}
    assert not answer("train", simulated, **alone).has_error()
