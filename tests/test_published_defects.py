"""Defects read in the code of other frameworks, as tests that this path does not have them.

Each names the mechanism, not the product: what went wrong elsewhere goes wrong easily.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from torch import nn

from privet import Experiment
from privet.client.app import app
from privet.privacy.accounting import decode_event, dp_sgd_event, epsilon
from privet.privacy.ledger import Ledger, SiloKey
from privet.simulations.grid import assume_identity
from privet.simulations.run import simulate
from privet.vectors import FlatModel
from privet.wire import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from rounds_written import history
from silo_holder import holder

CONFIG: dict[str, Any] = {
    "task": "toy_tasks:Tiny",
    "training.batch_size": 5,
    "rounds": 9,
    "privacy.noise_multiplier": 1.0,
    "evaluation.holdout": 0.3,
}


def ask(node: dict[str, Any], kind: str, round_: int, **more: Any) -> Message:
    assume_identity(7)
    weights = FlatModel(nn.Linear(2, 2)).vector()
    request = (
        TrainRequest(round=round_, weights=weights)
        if kind == "train"
        else EvaluateRequest(round=round_, weights=weights)
    )
    config = {**CONFIG, **{key.replace("__", "."): value for key, value in more.items()}}
    return app(Message(request.to_records(), 2, kind), Context(7, 2, node, RecordDict(), config))


def test_no_metric_of_private_records_leaves_without_noise_or_leave(tmp_path: Path) -> None:
    """Elsewhere: loss, accuracy and counts leave a client exact beside its private update."""
    node = holder(tmp_path, public=False)
    hidden = {"training__steps": 4, "strategy__weighting": "uniform"}
    trained = ask(node, "train", 1, **hidden).content
    assert {f"{n}.{key}" for n, record in trained.items() for key in record} == {"update.update"}
    assert EvaluateReply.from_records(ask(node, "evaluate", 1, **hidden).content).metrics == {}


def test_a_silo_that_starts_anew_in_any_round_trains_privately(tmp_path: Path) -> None:
    """Elsewhere: noise is set up in round 0 only, so a restarted client trains in the clear."""
    node = holder(tmp_path)
    reply = TrainReply.from_records(ask(node, "train", 6).content)
    assert reply.event is not None
    assert decode_event(reply.event).event.event.noise_multiplier == 1.0
    assert reply.loss is None


def test_epsilon_follows_what_ran_and_not_what_was_planned(tmp_path: Path) -> None:
    """Elsewhere: one figure, computed before the first round from counts that clients report."""
    settings = Experiment.from_mapping(
        {
            "task": "digits",
            "rounds": 5,
            "seed": 3,
            "federation": {"silos": 4, "participation": 0.5},
            "privacy": {"epsilon": 3.0},
        }
    )
    summary = simulate(settings, out=tmp_path / "run")
    entries = history(tmp_path / "run")
    took_part = {
        f"silo-{i}": sum(f"silo-{i}" in e["participants"] for e in entries) for i in range(4)
    }
    assert len(set(took_part.values())) > 1
    by_rounds = sorted(took_part, key=lambda silo: took_part[silo])
    spent = [summary["epsilon"]["per_silo"][silo] for silo in by_rounds]
    assert spent == pytest.approx(sorted(spent), rel=1e-3)
    assert 1.1 * spent[0] < spent[-1] < 3.0


def test_a_batch_in_which_no_record_was_drawn_gets_its_noise_and_its_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere: empty batches are skipped, so what is released tells who was drawn."""
    import privet.privacy.mechanisms.plan as plan

    def nobody(n: int, *, rate: float, steps: int, rng: Any) -> Any:
        return (np.zeros(0, np.int64) for _ in range(steps))

    monkeypatch.setattr(plan, "poisson_batches", nobody)
    node = holder(tmp_path)
    reply = TrainReply.from_records(ask(node, "train", 1, evaluation=None).content)
    assert reply.event is not None
    charged = decode_event(reply.event)
    assert charged == dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.25, steps=4)
    assert np.abs(reply.update).min() > 0


def test_every_round_adds_to_one_account_that_is_asked(tmp_path: Path) -> None:
    """Elsewhere: an engine of its own for each plan, whose epsilon nobody ever asks for."""
    node = holder(tmp_path)
    events = []
    for round_ in (1, 2, 3):
        reply = TrainReply.from_records(ask(node, "train", round_).content)
        assert reply.event is not None
        events.append(decode_event(reply.event))
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        spent = ledger.spent("records", delta=1e-5)
    assert spent == pytest.approx(epsilon(events, delta=1e-5))
    assert spent > 1.5 * epsilon(events[:1], delta=1e-5)
