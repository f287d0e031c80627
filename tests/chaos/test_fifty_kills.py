"""Fifty kills without warning, over everything that runs, and nobody who does more than restart it.

Victims, moments and pauses come from a fixed seed; which instruction a kill meets is chance.
"""

from __future__ import annotations

import getpass
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from privet import Experiment, simulate
from privet.privacy.ledger import SiloKey, read_history, verify
from privet.remote import Desk, NoAnswer
from privet.trial import SERVER, SILOS, Trial
from trials import OVER, PLAIN, PRIVATE, begun, history, leftovers

pytestmark = pytest.mark.slow

OF_THE_SERVER, OF_ALL = 15, 35
ROUNDS = 120
PATIENCE = 60.0
"""Seconds within which the job must be a round further, whatever was killed."""
WORKER = "'s worker"
MARK = "PRIVET_CHAOS"


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """A project whose processes can be told by their environment, with a temporary folder."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv(MARK, str(tmp_path))
    with Trial.create(tmp_path / "trial", plain=True) as made:
        yield made
    monkeypatch.delenv(MARK)
    end = time.monotonic() + 10
    while (alive := running(tmp_path)) and time.monotonic() < end:
        time.sleep(0.1)
    assert alive == []
    assert leftovers(made) == []
    made_by_torch = f"torchinductor_{getpass.getuser()}"  # an empty folder, at its import
    assert {path.name for path in (tmp_path / "temporary").iterdir()} <= {made_by_torch}


def running(folder: Path) -> list[str]:
    """The processes that the trial or one of its processes started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == str(folder):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


@dataclass
class Reaper:
    """Kills by a plan, as often as it says."""

    trial: Trial
    job: str
    chance: random.Random
    victims: tuple[str, ...]
    planned: int
    kills: int = 0

    def reap(self, desk: Desk) -> None:
        """All kills, each after the job has come further since the one before."""
        while self.kills < self.planned:
            before = self.round(desk)
            time.sleep(self.chance.uniform(0, 0.5))
            most = min(self.planned - self.kills, len(self.victims), 4)
            chosen = self.chance.sample(self.victims, self.chance.randint(1, most))
            for victim in sorted(chosen, key=lambda name: not name.endswith(WORKER)):
                self.kill(victim)
            for victim in chosen:
                if not victim.endswith(WORKER):
                    time.sleep(self.chance.choice([0.0, 0.0, self.chance.uniform(0, 1.5)]))
                    self.trial.start(victim)
            self.wait(desk, lambda round_, least=before + 1: round_ >= least)

    def kill(self, victim: str) -> None:
        """SIGKILL, which nobody can prepare for."""
        name = victim.removesuffix(WORKER)
        if name == victim:
            self.trial.end(name, how=signal.SIGKILL)
        else:
            for child in psutil.Process(self.trial.processes[name].pid).children():
                child.kill()
        self.kills += 1

    def round(self, desk: Desk) -> int:
        return self.wait(desk, lambda _: True)

    def wait(self, desk: Desk, enough: Any) -> int:
        """The job's round, once `enough` says so."""
        end = time.monotonic() + PATIENCE
        told: dict[str, Any] = {}
        while time.monotonic() < end:
            try:
                told = desk.job(self.job)
            except NoAnswer:
                time.sleep(0.1)
                continue
            assert told["state"] not in OVER, f"after {self.kills} kills: {told}"
            if enough(told["round"]):
                return int(told["round"])
            time.sleep(0.05)
        raise AssertionError(f"{PATIENCE:g} s after kill {self.kills}: {told}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(
            f"--- {name}\n{self.trial.log(name).read_text()[-3000:]}"
            for name in (SERVER, *self.trial.silos)
        )


def finish(desk: Desk, job: str) -> None:
    end = time.monotonic() + 200
    while (told := desk.job(job))["state"] not in OVER:
        assert time.monotonic() < end, told
        time.sleep(0.2)
    assert told["state"] == "finished", told["detail"]


def check_records(trial: Trial, entries: list[dict[str, Any]]) -> None:
    """History: every round once. Ledgers: whole, no release without its charge, hardly more."""
    assert [entry["round"] for entry in entries] == list(range(ROUNDS + 1))
    for name in trial.silos:
        ledger = trial.kit(name) / "ledger.sqlite"
        public = SiloKey.load(trial.kit(name) / "identity.key").public
        assert verify(ledger, public) == []
        charges = list(read_history(ledger).charged(name))
        took_part = {entry["round"] for entry in entries[1:] if name in entry["participants"]}
        assert took_part <= {charge.reserve.round for charge in charges}
        assert len(charges) <= ROUNDS + OF_ALL


def test_the_model_is_that_of_an_undisturbed_run(trial: Trial, tmp_path: Path) -> None:
    """Killed is the server; nothing is random, and every silo's answer to every round counts."""
    settings = {**PLAIN, "rounds": ROUNDS}
    job = begun(trial, settings)
    with trial.desk() as desk:
        reaper = Reaper(trial, job, random.Random(1), (SERVER,), OF_THE_SERVER)
        reaper.reap(desk)
        finish(desk, job)
    entries = history(trial, job)
    check_records(trial, entries)
    assert [entry["failures"] for entry in entries[1:] if len(entry["participants"]) < 3] == []
    model = load_file(trial.kit(SERVER) / "state/jobs" / job / "run/model.safetensors")
    simulate(Experiment.from_mapping(settings), out=tmp_path / "undisturbed")
    for name, expected in load_file(tmp_path / "undisturbed/model.safetensors").items():
        assert np.allclose(model[name], expected, atol=1e-4), name


def test_no_epsilon_is_lost_with_privacy_and_encryption(trial: Trial) -> None:
    """Killed are the server, silos, and the processes in which silos train."""
    settings = {**PRIVATE, "rounds": ROUNDS, "federation": {"silos": 3, "min_silos": 1}}
    job = begun(trial, settings)
    victims = (SERVER, *SILOS, *(name + WORKER for name in SILOS))
    with trial.desk() as desk:
        reaper = Reaper(trial, job, random.Random(2), victims, OF_ALL)
        reaper.reap(desk)
        finish(desk, job)
    entries = history(trial, job)
    check_records(trial, entries)
    for name in trial.silos:
        history_of_silo = read_history(trial.kit(name) / "ledger.sqlite")
        spent = history_of_silo.spent(name, delta=1e-5)
        assert spent >= entries[-1]["epsilon"]["per_silo"][name] - 1e-9
