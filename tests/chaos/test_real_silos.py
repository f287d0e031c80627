"""A server and silos as real processes, killed, stopped and cut off while they work."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from failing_wire import Wire
from privet import Experiment
from privet.deployment.admin import AdminClient, NoAnswer
from privet.deployment.server.grid import GRACE
from privet.deployment.trial import SERVER, Trial
from privet.privacy.accounting.events import merged
from privet.privacy.ledger import Ledger, SiloKey, verify
from privet.simulations.run import simulate
from trials import OVER, PLAIN, PRIVATE, history, leftovers


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """One project for all tests: a first round costs its processes more than fifty others do."""
    with Trial.create(tmp_path_factory.mktemp("trial"), plain=True) as made:
        yield made
    assert leftovers(made) == []


@pytest.fixture(scope="module")
def wire(trial: Trial) -> Iterator[Wire]:
    """What leads from south to the server; everybody is online and has trained before.

    Where a first round takes longer than its `round_timeout`, a silo's worker is ended and begins
    anew in every round.
    """
    kit = trial.kit("south") / "silo.toml"
    port = int(kit.read_text().split("https://127.0.0.1:")[1].split('"')[0])
    made = Wire(port)
    kit.write_text(kit.read_text().replace(str(port), str(made.port)))
    trial.start()
    trial.wait_until_online()
    with trial.client() as client:
        settings = {**PRIVATE, "rounds": 1, "round_timeout": 120}
        job = client.submit(Experiment.from_mapping(settings))
        assert wait(client, job, lambda told: False)["state"] == "finished"
    yield made
    made.close()


def wait(client: AdminClient, job: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The job, once `done` says yes, and whether or not the server answers all the time."""
    end = time.monotonic() + 150
    while time.monotonic() < end:
        try:
            told = client.job(job)
        except NoAnswer:
            time.sleep(0.2)
            continue
        if done(told) or told["state"] in OVER:
            return told
        time.sleep(0.05)
    raise AssertionError(f"{told} {client.log(job, start=0)}")


def past(round_: int) -> Callable[[dict[str, Any]], bool]:
    return lambda told: told["round"] >= round_


def charged(trial: Trial) -> dict[str, int]:
    """By silo: the steps that its ledger charges, which is whole and signed."""
    steps = {}
    for name in trial.silos:
        key = SiloKey.load(trial.kit(name) / "identity.key")
        ledger = trial.kit(name) / "ledger.sqlite"
        assert verify(ledger, key.public) == []
        with Ledger.open(ledger, key) as opened:
            known = any(entry.dataset == name for entry in opened.entries())
            events = opened.events(name) if known else []
        steps[name] = sum(part.steps for part in merged(events))
    return steps


def check_ledgers(trial: Trial, entries: list[dict[str, Any]], before: dict[str, int]) -> None:
    """No less charged since `before` than what the server saw of noise."""
    for name, steps in charged(trial).items():
        seen = [entry for entry in entries if name in (entry["events"] or {})]
        assert steps - before[name] >= len(seen) > 0


def test_a_server_that_is_killed_ends_at_the_same_model(
    trial: Trial, wire: Wire, tmp_path: Path
) -> None:
    simulate(Experiment.from_mapping(PLAIN), out=tmp_path / "undisturbed")
    with trial.client() as client:
        job = client.submit(Experiment.from_mapping(PLAIN))
        for round_ in (2, 7):
            wait(client, job, past(round_))
            trial.end(SERVER, how=signal.SIGKILL)
            trial.start(SERVER)
        told = wait(client, job, lambda told: False)
    assert told["state"] == "finished", told["detail"]
    assert told["starts"] == 3
    model = load_file(trial.kit(SERVER) / "state/jobs" / job / "run/model.safetensors")
    undisturbed = load_file(tmp_path / "undisturbed/model.safetensors")
    for name, expected in undisturbed.items():
        assert np.allclose(model[name], expected, atol=1e-5)


def test_a_silo_that_hangs_is_gone_on_without_and_may_come_back(trial: Trial, wire: Wire) -> None:
    before = charged(trial)
    with trial.client() as client:
        settings = {**PRIVATE, "rounds": 24, "round_timeout": 3}
        job = client.submit(Experiment.from_mapping(settings))
        wait(client, job, past(2))
        trial.processes["north"].send_signal(signal.SIGSTOP)
        missed = wait(client, job, past(client.job(job)["round"] + 2))["round"]
        assert client.status()["silos"][0]["name"] == "north"
        trial.processes["north"].send_signal(signal.SIGCONT)
        told = wait(client, job, lambda told: False)
    assert told["state"] == "finished", told["detail"]
    entries = history(trial, job)
    without = [e["round"] for e in entries[1:] if "north" not in e["participants"]]
    assert without
    assert min(without) <= missed
    assert "north" in entries[-1]["participants"]
    check_ledgers(trial, entries, before)


def test_a_worker_that_is_late_goes_on(trial: Trial, wire: Wire) -> None:
    """In a new one a first round would take as long again, and again come too late."""
    before = charged(trial)
    (worker,) = workers(trial, "north")
    with trial.client() as client:
        settings = {**PRIVATE, "rounds": 30, "round_timeout": 1}
        job = client.submit(Experiment.from_mapping(settings))
        wait(client, job, past(2))
        worker.suspend()
        late = wait(client, job, past(client.job(job)["round"] + 1))["round"]
        time.sleep(1 + GRACE)  # then the silo waits no more for the answer
        worker.resume()
        told = wait(client, job, lambda told: False)
    assert told["state"] == "finished", told["detail"]
    entries = history(trial, job)
    reasons = {f["silo"]: f["reason"] for f in entries[late]["failures"]}
    assert reasons == {"north": "no reply within round_timeout"}
    assert "north" in entries[-1]["participants"]
    assert workers(trial, "north") == [worker]
    check_ledgers(trial, entries, before)


def workers(trial: Trial, name: str) -> list[psutil.Process]:
    found = psutil.Process(trial.processes[name].pid).children()
    return [process for process in found if "spawn_main" in " ".join(process.cmdline())]


def test_a_network_that_is_cut_heals(trial: Trial, wire: Wire) -> None:
    before = charged(trial)
    with trial.client() as client:
        settings = {**PRIVATE, "rounds": 30, "round_timeout": 3}
        job = client.submit(Experiment.from_mapping(settings))
        wait(client, job, past(2))
        wire.cut = True
        wait(client, job, past(client.job(job)["round"] + 2))
        wire.cut = False
        told = wait(client, job, lambda told: False)
    assert told["state"] == "finished", told["detail"]
    entries = history(trial, job)
    assert any("south" not in entry["participants"] for entry in entries[1:])
    assert "south" in entries[-1]["participants"]
    check_ledgers(trial, entries, before)
