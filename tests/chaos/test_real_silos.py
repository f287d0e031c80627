"""A server and silos as real processes, killed, stopped and cut off while they work."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from failing_wire import Wire
from privet import Experiment
from privet.deployment.admin import AdminClient, NoAnswer
from privet.deployment.trial import SERVER, Trial
from privet.privacy.accounting.events import merged
from privet.privacy.ledger import Ledger, SiloKey, verify
from privet.simulations.run import simulate
from trials import OVER, PLAIN, PRIVATE, begun, history, leftovers


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


def check_ledgers(trial: Trial, entries: list[dict[str, Any]]) -> None:
    """Whole, signed, and no less charged than what the server saw of noise."""
    for name in trial.silos:
        key = SiloKey.load(trial.kit(name) / "identity.key")
        ledger = trial.kit(name) / "ledger.sqlite"
        assert verify(ledger, key.public) == []
        with Ledger.open(ledger, key) as opened:
            charged = sum(part.steps for part in merged(opened.events(name)))
        seen = [
            json.loads(entry["events"][name])
            if isinstance(entry["events"][name], str)
            else entry["events"][name]
            for entry in entries
            if name in (entry["events"] or {})
        ]
        assert charged >= len(seen) > 0


def test_a_server_that_is_killed_ends_at_the_same_model(tmp_path: Path) -> None:
    simulate(Experiment.from_mapping(PLAIN), out=tmp_path / "undisturbed")
    with Trial.create(tmp_path / "trial", plain=True) as trial:
        job = begun(trial, PLAIN)
        with trial.client() as client:
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
    assert leftovers(trial) == []


def test_a_silo_that_hangs_is_gone_on_without_and_may_come_back(tmp_path: Path) -> None:
    with Trial.create(tmp_path / "trial") as trial:
        job = begun(trial, {**PRIVATE, "rounds": 40, "round_timeout": 3})
        with trial.client() as client:
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
        check_ledgers(trial, entries)


def test_a_network_that_is_cut_heals(tmp_path: Path) -> None:
    with Trial.create(tmp_path / "trial") as trial:
        kit = trial.kit("south") / "silo.toml"
        port = int(kit.read_text().split("https://127.0.0.1:")[1].split('"')[0])
        wire = Wire(port)
        kit.write_text(kit.read_text().replace(str(port), str(wire.port)))
        job = begun(trial, {**PRIVATE, "rounds": 60, "round_timeout": 3})
        with trial.client() as client:
            wait(client, job, past(2))
            wire.cut = True
            wait(client, job, past(client.job(job)["round"] + 2))
            wire.cut = False
            told = wait(client, job, lambda told: False)
        wire.close()
        assert told["state"] == "finished", told["detail"]
        entries = history(trial, job)
        assert any("south" not in entry["participants"] for entry in entries[1:])
        assert "south" in entries[-1]["participants"]
        check_ledgers(trial, entries)
