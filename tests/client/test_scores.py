"""Counts of scores by class: they leave a real silo with noise that is charged, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dp_accounting as dpa
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict

from privet.client.app import app
from privet.commands.cli import main
from privet.privacy.ledger import read_history
from privet.record.summary import read_summary
from privet.reports.run import write_report
from privet.simulations.grid import assume_identity
from privet.vectors import FlatModel
from privet.wire import EvaluateReply, EvaluateRequest
from privet.wire.answers import Unsendable, check_answer
from silo_holder import holder
from silo_log import refused

SETTINGS: dict[str, Any] = {
    "task": "toy_tasks:Tiny",
    "training.batch_size": 5,
    "training.steps": 4,
    "strategy.weighting": "uniform",
    "rounds": 3,
    "privacy.noise_multiplier": 1.0,
    "evaluation.holdout": 0.9,
}
WEIGHTS = FlatModel(torch.nn.Linear(2, 2)).vector()
NOISED = 'scores = { release = "noised", noise_multiplier = 4.0 }'
EXACT = 'scores = { release = "exact" }'


def ask(node: dict[str, Any], *, round_: int = 1, **changes: Any) -> Message:
    assume_identity(7)
    settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}}
    content = EvaluateRequest(round=round_, weights=WEIGHTS).to_records()
    return app(Message(content, 2, "evaluate"), Context(7, 2, node, RecordDict(), settings))


def reply(node: dict[str, Any], **changes: Any) -> EvaluateReply:
    return EvaluateReply.from_records(ask(node, **changes).content)


def test_counts_leave_with_noise_that_the_ledger_charges_once(tmp_path: Path) -> None:
    node = holder(tmp_path, metrics=NOISED)
    found = reply(node, evaluation__score_bins=10)
    assert found.released["scores"] == "noised"
    assert found.scores is not None
    assert (len(found.scores.counts), found.scores.noise) == (20, 4.0)
    assert any(count != round(count) for count in found.scores.counts)
    assert "scores" not in found.metrics
    charged = read_history(Path(node["ledger"])).spent("records", delta=1e-5)
    accountant = dpa.rdp.RdpAccountant()
    accountant.compose(dpa.GaussianDpEvent(4.0))
    assert 0 < charged <= accountant.get_epsilon(1e-5)


def test_exact_counts_are_those_of_the_records_held_out(tmp_path: Path) -> None:
    node = holder(tmp_path, metrics=EXACT)
    found = reply(node, evaluation__score_bins=10).scores
    assert found is not None
    counts = np.array(found.counts)
    assert (counts == counts.astype(int)).all()
    assert 10 < counts.sum() <= 20
    assert found.noise == 0.0


def test_counts_are_withheld_unless_the_policy_lets_them_out(tmp_path: Path) -> None:
    found = reply(holder(tmp_path), evaluation__score_bins=10)
    assert found.scores is None
    assert found.released["scores"] == "withheld"


def test_nobody_is_told_of_scores_who_does_not_ask(tmp_path: Path) -> None:
    found = reply(holder(tmp_path, metrics=NOISED))
    assert found.scores is None
    assert "scores" not in found.released


@pytest.mark.parametrize("bins", [3, 0, 102, -2])
def test_bins_have_an_edge_at_one_half(bins: int, tmp_path: Path) -> None:
    answer = ask(holder(tmp_path, metrics=NOISED), evaluation__score_bins=bins)
    assert refused(answer).stage == "settings"


@pytest.mark.parametrize(
    "counts", [[1.0] * 3, [1.0] * 202, [1.0, float("inf"), 0.0, 0.0], [1.0] * 5, "many"]
)
def test_a_server_takes_no_other_counts(counts: Any) -> None:
    content = EvaluateReply({}, {}).to_records()
    if isinstance(counts, str):
        content["scores"] = ArrayRecord()
    else:
        content["scores"] = MetricRecord({"counts": counts, "noise": 1.0})
    with pytest.raises((ValueError, KeyError, TypeError)):
        EvaluateReply.from_records(content)


def test_counts_need_the_grant_of_their_metric() -> None:
    content = RecordDict({"scores": MetricRecord({"counts": [1.0, 2.0], "noise": 1.0})})
    check_answer("evaluate", content, frozenset({"metrics.scores"}))
    with pytest.raises(Unsendable, match=r"scores\.counts"):
        check_answer("evaluate", content, frozenset({"metrics.accuracy", "training.plain"}))


TABLE = """\
task = "table"
rounds = 4
[data]
file = "people.csv"
target = "ill"
classes = ["no", "yes"]
ranges.age = [0, 100]
[federation]
silos = 3
[training]
batch_size = 64
steps = 8
lr = 1.0
[strategy]
weighting = "uniform"
[evaluation]
every = 4
holdout = 0.5
score_bins = 20
"""
POLICY = """\
version = 1
[data."*"]
requesters = ["*"]
tasks = ["*"]
[data."*".budget]
epsilon = inf
delta = 1e-5
[data."*".training]
plain = true
[data."*".metrics]
scores = { release = "noised", noise_multiplier = 5.0 }
"""


def test_a_run_says_auc_and_its_interval_from_noised_counts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRIVET_DATA", raising=False)
    rng = np.random.default_rng(0)
    age = rng.uniform(0, 100, 3000)
    ill = rng.random(3000) < 1 / (1 + np.exp((50 - age) / 10))
    lines = [f"{a:.1f},{'yes' if i else 'no'}" for a, i in zip(age, ill, strict=True)]
    Path("people.csv").write_text("\n".join(["age,ill", *lines]))
    Path("run.toml").write_text(TABLE)
    Path("policy.toml").write_text(POLICY)
    with pytest.raises(SystemExit) as end:
        main(["simulate", "run.toml", "--policy", "policy.toml"])
    assert not end.value.code
    summary = read_summary(Path("runs/run"))
    assert summary is not None
    assert summary.evaluation is not None
    scored = summary.evaluation.scored
    assert scored is not None
    assert scored.noise == pytest.approx(5 * np.sqrt(3))
    assert len(scored.silos) == 3
    value, low, high = scored.figures["auc"]
    assert low < value < high
    # Test records are others of the same kind.
    assert abs(value - summary.metrics["auc"]) < 0.05
    assert summary.evaluation.metrics == {}
    assert f"{value:.4f}, 95 %: {low:.4f} to {high:.4f}" in capsys.readouterr().out
    page = write_report(Path("runs/run")).read_text()
    assert "From counts of scores in 20 bins" in page
    with pytest.raises(SystemExit) as end:
        main(["audit", "runs/run"])
    told = capsys.readouterr().out
    assert "0 FAIL" in told or "FAIL" not in told, told
