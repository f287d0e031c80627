"""A simulation keeps the ledger that real silos keep, and asks the same policy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from privet import Execution, Experiment
from privet.commands.cli import main
from privet.privacy.ledger import History, read_history, verify
from privet.record.folder import RunFolder
from privet.record.history import RoundRecord
from privet.simulations.run import simulate
from rounds_written import history

POLICY = """
version = 1
[data."*"]
requesters = ["*"]
tasks = ["*"]
code = ["*"]
[data."*".budget]
epsilon = {epsilon}
delta = 1e-5
[data."*".sending]
records_public = {public}
[data."*".metrics]
accuracy = {accuracy}
"""
EXACT = '{ release = "exact" }'
NOISED = '{ release = "noised", noise_multiplier = 20.0 }'


def experiment(**settings: Any) -> Experiment:
    base: dict[str, Any] = {
        "task": "digits",
        "rounds": 4,
        "seed": 5,
        "federation.silos": 3,
        "training.lr": 0.5,
        "privacy.noise_multiplier": 1.0,
    }
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    return Experiment.from_mapping({"task": "digits"}).with_settings({**base, **changes})


@pytest.fixture
def policy(tmp_path: Path) -> Any:
    def write(epsilon: float = 1e6, *, public: bool = True, accuracy: str = EXACT) -> Path:
        text = POLICY.format(epsilon=epsilon, public=str(public).lower(), accuracy=accuracy)
        path = tmp_path / "holder.toml"
        path.write_text(text)
        return path

    return write


def privet(*arguments: str) -> int:
    """The command in this process; its exit code."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def ledger(folder: Path) -> History:
    assert verify(folder / "ledger.sqlite") == []
    return read_history(folder / "ledger.sqlite")


def charged(folder: Path) -> dict[str, Counter[str]]:
    """The events of each silo, as its ledger has them."""
    history = ledger(folder)
    return {
        silo: Counter(charge.event or "" for charge in history.charged(silo))
        for silo in history.datasets
    }


def reported(folder: Path) -> dict[str, Counter[str]]:
    """The events of each silo, as the server wrote them down."""
    found: dict[str, Counter[str]] = {}
    for entry in history(folder):
        for events in (entry["events"] or {}, (entry["evaluation"] or {}).get("events", {})):
            for silo, event in events.items():
                text = json.dumps(event, sort_keys=True, separators=(",", ":"))
                found.setdefault(silo, Counter())[text] += 1
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_the_ledger_holds_what_the_history_reports(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "run"
    settings = experiment(federation__partition="linear", federation__participation=0.7)
    summary = simulate(settings, out=folder, execution=Execution(workers=workers))
    assert charged(folder) == reported(folder)
    history = ledger(folder)
    for silo, epsilon in summary["epsilon"]["per_silo"].items():
        assert history.spent(silo, delta=1e-5) == pytest.approx(epsilon, rel=1e-3)
    assert not any(charge.open for charge in history.charges.values())


class Stop(Exception):
    pass


def test_a_resumed_run_is_charged_once(tmp_path: Path) -> None:
    """The third round is run again, with the same noise: nothing new leaves."""

    def stop_in_round_three(entry: RoundRecord) -> None:
        if entry.round == 3:
            (tmp_path / "run" / "checkpoint.safetensors").write_bytes(before)
            raise Stop

    def keep(entry: RoundRecord) -> None:
        nonlocal before
        if entry.round == 2:
            before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
        stop_in_round_three(entry)

    before = b""
    with pytest.raises(Stop):
        simulate(experiment(), out=tmp_path / "run", watch=keep)
    assert sum(sum(events.values()) for events in charged(tmp_path / "run").values()) == 9
    simulate(experiment(), out=tmp_path / "run", resume=True)
    assert charged(tmp_path / "run") == reported(tmp_path / "run")


def test_a_killed_run_leaves_a_ledger_that_goes_on_to_the_same_model(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (tmp_path / "experiment.toml").write_text(experiment(rounds=30).to_toml())
    command = ["simulate", str(tmp_path / "experiment.toml"), "--out", str(folder), "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "privet", *command])
    while len(RunFolder(folder).rounds()) < 4:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert verify(folder / "ledger.sqlite") == []
    assert privet(*command, "--resume") == 0
    spent, told = charged(folder), reported(folder)
    assert {silo: sum(events.values()) for silo, events in spent.items()} == dict.fromkeys(told, 30)
    assert spent == told
    simulate(experiment(rounds=30), out=tmp_path / "whole")
    models = [(path / "model.safetensors").read_bytes() for path in (folder, tmp_path / "whole")]
    assert models[0] == models[1]


def test_silos_with_equal_records_have_accounts_of_their_own(tmp_path: Path) -> None:
    settings = Experiment.from_mapping(
        {
            "task": "toy_tasks:Tiny",
            "rounds": 2,
            "training": {"batch_size": 5},
            "federation": {"silos": 10},
            "privacy": {"noise_multiplier": 1.0},
        }
    )
    summary = simulate(settings, out=tmp_path / "run")
    assert summary["client_updates"] == 20
    assert len(ledger(tmp_path / "run").datasets) == 10


def test_training_without_privacy_stands_in_the_ledger_too(tmp_path: Path) -> None:
    simulate(experiment(privacy=None, rounds=2), out=tmp_path / "run")
    history = ledger(tmp_path / "run")
    assert history.spent("silo-1", delta=1e-5) == float("inf")
    assert len(list(history.charged("silo-1"))) == 2


def test_a_run_ends_early_when_budgets_do(tmp_path: Path, policy: Any) -> None:
    folder = tmp_path / "run"
    summary = simulate(experiment(rounds=30), out=folder, policy=policy(6.0))
    entries = history(folder)
    last = entries[-1]["round"]
    assert 1 < last < 30
    assert summary["stopped"]["round"] == last
    assert "0 of 3 silos would go on, federation.min_silos = 1" in summary["stopped"]["reason"]
    assert "the limit is epsilon 6" in summary["stopped"]["reason"]
    assert set(entries[-1]["refused"]) == {"silo-0", "silo-1", "silo-2"}
    assert entries[-1]["failures"] == []
    assert set(entries[0]["affordable"].values()) == {last - 1}
    assert 4.0 < summary["epsilon"]["max"] <= 6.0
    assert (folder / "model.safetensors").exists()
    assert (folder / "policy.toml").read_text() == (tmp_path / "holder.toml").read_text()
    notes = [
        e for e in ledger(folder).entries if e.kind == "note" and "refused" in (e.detail or "")
    ]
    assert len(notes) == 3


def test_the_others_go_on_without_a_silo_that_refuses(tmp_path: Path) -> None:
    holder = tmp_path / "holder.toml"
    everything = POLICY.format(epsilon=1e6, public="true", accuracy=EXACT)
    strict = everything.replace('"*"', "silo-1", 1).replace('data."*"', "data.silo-1")
    strict = strict.replace("version = 1", "").replace("epsilon = 1000000.0", "epsilon = 6.0")
    holder.write_text(everything + strict)
    summary = simulate(experiment(rounds=12), out=tmp_path / "run", policy=holder)
    assert summary["stopped"] is None
    entries = history(tmp_path / "run")
    assert entries[-1]["participants"] == ["silo-0", "silo-2"]
    assert set(entries[-1]["refused"]) == {"silo-1"}
    assert summary["epsilon"]["per_silo"]["silo-1"] <= 6.0 < summary["epsilon"]["max"]
    again = simulate(
        experiment(rounds=12, federation__min_silos=3), out=tmp_path / "again", policy=holder
    )
    assert "2 of 3 silos would go on" in again["stopped"]["reason"]


def test_every_silo_stands_in_for_the_only_data_set_of_a_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = POLICY.format(epsilon=6.0, public="true", accuracy=EXACT)
    text = text.replace('data."*"', "data.hearts").replace(
        'requesters = ["*"]', 'requesters = ["eve"]'
    )
    (tmp_path / "holder.toml").write_text(text)
    (tmp_path / "job.toml").write_text(experiment(rounds=3).to_toml())
    command = [
        "simulate", str(tmp_path / "job.toml"), "--quiet",
        "--policy", str(tmp_path / "holder.toml"), "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    assert privet(*command) == 2
    assert "requesters: asked for 'simulation'" in capsys.readouterr().err
    assert privet(*command, "--requester", "eve") == 0
    assert {entry.who for entry in ledger(tmp_path / "run").entries} >= {"eve", "guard"}


def test_a_job_that_asks_for_it_gets_more_noise_and_all_its_rounds(
    tmp_path: Path, policy: Any
) -> None:
    settings = experiment(rounds=8, privacy__on_budget="calibrate")
    summary = simulate(settings, out=tmp_path / "run", policy=policy(6.0))
    assert summary["stopped"] is None
    assert 5.9 < summary["epsilon"]["max"] <= 6.0
    assert all(len(e["participants"]) == 3 for e in history(tmp_path / "run")[1:])


def test_sizes_that_silos_keep_reach_neither_server_nor_history(
    tmp_path: Path, policy: Any
) -> None:
    settings = experiment(
        federation__partition="linear", training__steps=3, strategy__weighting="uniform"
    )
    summary = simulate(settings, out=tmp_path / "run", policy=policy(public=False))
    for entry in history(tmp_path / "run")[1:]:
        assert len(entry["participants"]) == 3
        assert set(entry["events"].values()) == {None}
        assert entry["epsilon"] == {"max": None, "per_silo": dict.fromkeys(entry["events"])}
    # The host of a simulation has every ledger, so the summary is whole.
    books = ledger(tmp_path / "run")
    for silo, epsilon in summary["epsilon"]["per_silo"].items():
        assert epsilon == books.spent(silo, delta=1e-5) > 0
    assert summary["epsilon"]["max"] == max(summary["epsilon"]["per_silo"].values())


@pytest.mark.parametrize("accuracy", [EXACT, NOISED])
def test_silos_measure_the_model_on_records_of_their_own(
    tmp_path: Path, policy: Any, accuracy: str
) -> None:
    settings = experiment(rounds=5, evaluation__every=2, evaluation__holdout=0.3)
    summary = simulate(settings, out=tmp_path / "run", policy=policy(accuracy=accuracy))
    entries = history(tmp_path / "run")
    measured = [entry["round"] for entry in entries if entry["evaluation"]]
    assert measured == [2, 4, 5]
    last = summary["evaluation"]
    assert last["round"] == 5
    assert set(last["per_silo"]) == {"silo-0", "silo-1", "silo-2"}
    how = "exact" if accuracy == EXACT else "noised"
    assert last["released"]["silo-0"] == {"accuracy": how, "loss": "withheld"}
    # The server's own test records and the silos' measure the same model.
    assert last["metrics"]["accuracy"] == pytest.approx(summary["accuracy"], abs=0.25)
    assert charged(tmp_path / "run") == reported(tmp_path / "run")
    uses = Counter(charge.use for charge in ledger(tmp_path / "run").charges.values())
    assert uses == {"training": 15} | ({"evaluation": 9} if how == "noised" else {})


def test_evaluation_repeats_bit_by_bit_for_any_number_of_workers(
    tmp_path: Path, policy: Any
) -> None:
    settings = experiment(evaluation__every=2)
    rules = policy(accuracy=NOISED)
    for workers in (1, 2):
        execution = Execution(workers=workers)
        simulate(settings, out=tmp_path / str(workers), policy=rules, execution=execution)
    one, two = (history(tmp_path / name) for name in ("1", "2"))
    assert [entry["evaluation"] for entry in one] == [entry["evaluation"] for entry in two]


def test_a_policy_that_cannot_be_read_stops_the_run_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.toml").write_text(experiment().to_toml())
    policy, out = str(tmp_path / "none.toml"), str(tmp_path / "run")
    assert privet("simulate", str(tmp_path / "job.toml"), "--policy", policy, "--out", out) == 2
    assert "privet policy init" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
