"""Fifty kills without warning, over everything that runs, and nobody who does more than restart it.

Victims, moments and pauses come from a fixed seed; which instruction a kill meets is chance.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.numpy import load_file

from privet import Experiment
from privet.deployment.admin import AdminClient, NoAnswer
from privet.deployment.trial import SERVER, SILOS, Trial
from privet.privacy.ledger import SiloKey, read_history, verify
from privet.simulations.run import simulate
from privet.tasks import load_task
from trials import OVER, PLAIN, PRIVATE, begun, history, leftovers

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("PRIVET_CHAOS_SEED", "1"))
KILLS, ROUNDS = 25, 100
"""Of each of the two tests; ROUNDS is enough for all of them to come in time."""
PATIENCE = 60.0
"""Seconds within which the job must be a round further, whatever was killed."""
WORKER = "'s worker"
MARK = "PRIVET_CHAOS"


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """A project whose processes bear a mark; none of them, and no temporary file, outlives it."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv(MARK, str(tmp_path))
    with Trial.create(tmp_path / "trial", plain=True) as made:
        for name in made.silos:
            policy = made.kit(name) / "policy.toml"
            # A round is asked for again after every kill that it met, and every kill is counted.
            text = policy.read_text()
            for line, more in (
                ('tasks = ["digits"]', f"attempts_per_round = {KILLS}"),
                (f"[data.{name}.sending]", f"most_failures = {2 * KILLS}"),
            ):
                assert line in text
                text = text.replace(line, f"{line}\n{more}")
            policy.write_text(text)
        yield made
    monkeypatch.delenv(MARK)
    end = time.monotonic() + 10
    while (alive := running(tmp_path)) and time.monotonic() < end:
        time.sleep(0.1)
    assert alive == []
    assert leftovers(made) == []
    files = [path for path in temporary.rglob("*") if not path.is_dir()]
    assert files == []  # but for a folder that torch keeps there


def running(folder: Path) -> list[str]:
    """What the trial started, or what that started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == str(folder):
                found.append(" ".join(process.cmdline()))
    return found


@dataclass
class Reaper:
    """Kills by a plan, and starts again what it killed."""

    trial: Trial
    job: str
    chance: random.Random
    choose: Callable[[random.Random], list[str]]
    """Victims of the same moment."""
    kills: int = 0

    def reap(self, client: AdminClient) -> None:
        """All kills, each moment's after the job has come further since the one before."""
        while self.kills < KILLS:
            before = self.round(client)
            time.sleep(self.chance.uniform(0, 0.3))
            chosen = self.choose(self.chance)
            for victim in sorted(chosen, key=lambda victim: not victim.endswith(WORKER)):
                self.kill(victim)
            self.chance.shuffle(chosen)
            for victim in chosen:
                if not victim.endswith(WORKER):
                    time.sleep(self.chance.choice([0.0, 0.0, self.chance.uniform(0, 2)]))
                    self.trial.start(victim)
            self.round(client, least=before + 1)

    def kill(self, victim: str) -> None:
        """SIGKILL, which nobody can prepare for."""
        name = victim.removesuffix(WORKER)
        if name == victim:
            self.trial.end(name, how=signal.SIGKILL)
        else:
            for child in psutil.Process(self.trial.processes[name].pid).children():
                child.kill()
        self.kills += 1

    def round(self, client: AdminClient, *, least: int = 0) -> int:
        """The job's last round, once it is `least` or more."""
        end = time.monotonic() + PATIENCE
        told: dict[str, Any] = {}
        while time.monotonic() < end:
            with suppress(NoAnswer):
                told = client.job(self.job)
                assert told["state"] not in OVER, f"after {self.kills} kills: {told}"
                if told["round"] >= least:
                    return int(told["round"])
            time.sleep(0.05)
        raise AssertionError(f"{PATIENCE:g} s after kill {self.kills}: {told}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(
            f"--- {name}\n{self.trial.log(name).read_text()[-3000:]}"
            for name in (SERVER, *self.trial.silos)
        )


def survived(
    trial: Trial, settings: dict[str, Any], choose: Callable[[random.Random], list[str]]
) -> tuple[str, list[dict[str, Any]]]:
    """A job that is finished after all kills: its number and its history."""
    job = begun(trial, settings)
    with trial.client() as client:
        reaper = Reaper(trial, job, random.Random(SEED), choose)
        reaper.reap(client)
        end = time.monotonic() + 200
        while (told := client.job(job))["state"] not in OVER:
            assert time.monotonic() < end, told
            time.sleep(0.2)
    assert told["state"] == "finished", told["detail"]
    assert reaper.kills >= KILLS
    return job, history(trial, job)


def check_records(trial: Trial, job: str, entries: list[dict[str, Any]]) -> None:
    """Every round once. Ledgers are whole, with a charge for every release and hardly more."""
    assert [entry["round"] for entry in entries] == list(range(ROUNDS + 1))
    log = (trial.kit(SERVER) / "state/jobs" / job / "log.txt").read_text()
    told = re.findall(r" round (\d+)/", log)
    assert len(told) == len(set(told))
    for name in trial.silos:
        ledger = trial.kit(name) / "ledger.sqlite"
        public = SiloKey.load(trial.kit(name) / "identity.key").public
        assert verify(ledger, public) == []
        charged = [charge.reserve.round for charge in read_history(ledger).charged(name)]
        took_part = {entry["round"] for entry in entries[1:] if name in entry["participants"]}
        assert took_part <= set(charged)
        assert len(charged) - len(took_part) <= KILLS + 2


def the_server_and_silos(chance: random.Random) -> list[str]:
    return [SERVER, *chance.sample(SILOS, chance.randint(0, 3))]


def anybody(chance: random.Random) -> list[str]:
    silos = (*SILOS, *(name + WORKER for name in SILOS))
    return [*chance.sample(silos, chance.randint(1, 2)), *chance.choice([[], [SERVER]])]


def test_the_model_is_that_of_an_undisturbed_run(trial: Trial, tmp_path: Path) -> None:
    """A round that the server did not live to see is run again, with all silos."""
    settings = {**PLAIN, "rounds": ROUNDS}
    job, entries = survived(trial, settings, the_server_and_silos)
    check_records(trial, job, entries)
    assert [len(entry["participants"]) for entry in entries[1:]] == [len(SILOS)] * ROUNDS
    model = load_file(trial.kit(SERVER) / "state/jobs" / job / "run/model.safetensors")
    simulate(Experiment.from_mapping(settings), out=tmp_path / "undisturbed")
    for name, expected in load_file(tmp_path / "undisturbed/model.safetensors").items():
        assert np.allclose(model[name], expected, atol=1e-4), name


def test_no_epsilon_is_lost_with_privacy_and_encryption(trial: Trial) -> None:
    """Whoever is killed: a silo whose process or worker ended is out of that round alone."""
    settings = {**PRIVATE, "rounds": ROUNDS, "federation": {"silos": 3, "min_silos": 1}}
    job, entries = survived(trial, settings, anybody)
    check_records(trial, job, entries)
    told = entries[-1]["epsilon"]["per_silo"]
    for name in trial.silos:
        missed = sum(name not in entry["participants"] for entry in entries[1:])
        assert missed <= KILLS
        spent = read_history(trial.kit(name) / "ledger.sqlite").spent(name, delta=1e-5)
        assert spent >= told[name] - 1e-9 > 0
        assert accuracy_of(trial.kit(name) / "models") > 0.6


def accuracy_of(models: Path) -> float:
    """On the test records, of the one model in a folder."""
    (path,) = models.iterdir()
    task = load_task("digits")
    model, test = task.model(), task.test_data()
    model.load_state_dict({name: torch.as_tensor(v) for name, v in load_file(path).items()})
    assert test is not None
    return task.metrics(model(test.inputs), test.targets)["accuracy"]
