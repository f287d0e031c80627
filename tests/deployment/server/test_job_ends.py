"""What becomes of jobs on a server of its own: what waits, what is stopped, what is removed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from privet.commands.cli import cli
from privet.deployment.parties import PartiesFile
from privet.deployment.parties.orders import Cancellation, Order
from privet.deployment.parties.requests import Denied
from privet.deployment.server.jobs import JobStore
from privet.experiment import Experiment
from real_server import RealServer, north_at_work

ALONE = {
    "federation": {"silos": 5, "min_silos": 1},
    "round_timeout": 20,
    "training": {"steps": 1},
    "privacy": {"noise_multiplier": 30.0},
}
ALL_FIVE = {**ALONE, "federation": {"silos": 5, "min_silos": 5}}


@pytest.fixture
def north(outside: RealServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with north_at_work(outside.project, monkeypatch):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("north")
def test_a_job_that_waits_lets_others_go_first_and_says_how_it_ends(outside: RealServer) -> None:
    waits = outside.submit(**ALL_FIVE)
    outside.wait(waits, "waiting")
    runs = outside.submit(**ALONE)
    assert outside.wait(runs, "finished", "failed")["state"] == "finished"
    told = outside.wait(waits, "waiting")
    assert told["detail"].startswith("for south, west, late, gone (1 of 5 silos are here)")
    # What is left of epsilon 5 is good for some rounds of this one, and for no more.
    spends = {**ALONE, "privacy": {"noise_multiplier": 0.7}, "rounds": 40}
    told = outside.wait(outside.submit(**spends), "stopped early", "finished", "failed")
    assert told["state"] == "stopped early"
    assert told["detail"].startswith("1 of 1 silos refused (budget), after round ")
    assert told["detail"].endswith(" of 40")
    assert "model.safetensors" in told["files"]
    with outside.project.http("ana") as ana:
        word = Cancellation(project="lungs", job=waits, requester="ana", at=time.time())
        ana.post(f"/privet/v1/jobs/{waits}/cancel", content=word.signed(outside.project.key("ana")))
    outside.wait(waits, "cancelled")


def test_a_job_ends_with_its_order(outside: RealServer) -> None:
    told = outside.wait(outside.submit(days=2 / 86400, **ALL_FIVE), "stopped early", seconds=15)
    assert told["detail"].startswith("its order ended (20")


def test_a_job_that_is_over_is_removed_by_a_command(outside: RealServer) -> None:
    job = outside.submit(task="nobodys.module:Task")
    outside.wait(job, "failed")
    assert outside.privet("jobs", "remove", job) == f"Job {job} is removed\n"
    assert job not in outside.privet("status")
    waits = outside.submit(**ALL_FIVE)
    kit = {"PRIVET_KIT": str(outside.project.folder / "kits/ana")}
    done = CliRunner().invoke(cli, ["jobs", "remove", waits], env=kit)
    assert "cancel it first" in str(done.exception)
    outside.privet("cancel", waits)
    outside.privet("jobs", "remove", waits)
    # Silos that are away now still have to hear of it.
    with outside.project.http("north") as north:
        words = north.get("/privet/v1/cancelled").json()
    assert any(waits in word for word in words)


# --- a server that dies at any of the operations on its files


OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


class Killer:
    """Ends this process, as far as files go, at operation number `at`."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.folder = ""
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left is None or event not in OPERATIONS or self.folder not in str(arguments[0]):
            return
        if self.left <= 0:
            raise KeyboardInterrupt
        self.left -= 1

    @contextmanager
    def at(self, number: int, folder: Path) -> Iterator[None]:
        self.left, self.folder = number, str(folder)
        try:
            yield
        finally:
            self.left = None


@pytest.fixture(scope="module")
def killer() -> Killer:
    return Killer()


@pytest.mark.parametrize("what", ["add", "become", "cancel", "remove"])
def test_a_server_that_dies_anywhere_leaves_jobs_that_can_be_read(
    outside: RealServer, tmp_path: Path, killer: Killer, what: str
) -> None:
    project = outside.project
    kit = project.server_kit()
    parties = PartiesFile(kit.parties, project_key=kit.project_key).current()
    key = project.key("ana")

    def ordered() -> str:
        settings = Experiment.from_mapping({"task": "digits"})
        return Order.create(settings, project="lungs", requester="ana").signed(key)

    deaths = 0
    for number in range(200):
        store = JobStore(tmp_path / str(number) / "jobs")
        job = store.add(ordered(), parties)
        word = Cancellation(project="lungs", job=job.id, requester="ana", at=1.0).signed(key)
        if what == "remove":
            store.cancel(job, word, parties)
            job.become("cancelled")
        acts: dict[str, Callable[[], object]] = {
            "add": lambda store=store: store.add(ordered(), parties),
            "become": lambda job=job: job.become("running", "round 1", start=True),
            "cancel": lambda store=store, job=job, word=word: store.cancel(job, word, parties),
            "remove": lambda store=store, job=job: store.remove(job),
        }
        try:
            with killer.at(number, tmp_path / str(number)):
                acts[what]()
        except KeyboardInterrupt:
            deaths += 1
        else:
            break
        again = JobStore(tmp_path / str(number) / "jobs")
        assert again.broken == {}
        states = {each.id: each.standing.state for each in again.all()}
        if what == "remove":  # whole or gone; the word stays
            assert states in ({}, {job.id: "cancelled"})
            assert again.cancellations() == [word]
        else:
            assert states.pop(job.id) in ("queued", "running", "cancelled")
            assert set(states.values()) <= {"queued"}
    assert deaths > 3
    with pytest.raises(Denied):
        store.add("{}", parties)
