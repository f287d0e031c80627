"""Jobs on disk: an order that a kill cut off, and a job that silos keep away from for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate_project import GateProject
from privet.deployment.parties import PartiesFile
from privet.deployment.parties.orders import Order
from privet.deployment.parties.requests import Denied
from privet.deployment.server import runner as runner_module
from privet.deployment.server.grid import Cancelled
from privet.deployment.server.jobs import OVER, Job, JobStore, State
from privet.deployment.server.runner import Runner
from privet.experiment import Experiment
from privet.server.cohort import Absent
from privet.simulations.run import simulate


def added(store: JobStore, project: GateProject, order: Order | None = None) -> Job:
    kit = project.server_kit()
    parties = PartiesFile(kit.parties, project_key=kit.project_key).current()
    return store.add((order or ordered()).signed(project.key("ana")), parties)


def ordered() -> Order:
    settings = Experiment.from_mapping({"task": "digits", "rounds": 2})
    return Order.create(settings, project="lungs", requester="ana")


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_an_order_that_a_kill_cut_off_can_be_given_again(
    project: GateProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ordered()
    with monkeypatch.context() as during:
        during.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            added(JobStore(tmp_path), project, order)
    store = JobStore(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert added(store, project, order).standing.state == "queued"
    with pytest.raises(Denied, match="known already"):
        added(store, project, order)
    assert [path.name for path in tmp_path.iterdir()] == [order.job]


class Flaky(Runner):
    """At its first tries a silo has just gone away."""

    tries = 0

    def _run(self, job: Job) -> None:
        self.tries += 1
        job.become("running", start=True)
        if self.tries < 3:
            raise Absent("1 of 2 silos would go on; one cannot: restarted")


def test_a_job_waits_for_a_silo_that_went_away_as_it_began(
    project: GateProject, tmp_path: Path
) -> None:
    store = JobStore(tmp_path)
    job = added(store, project)
    notifier: Any = SimpleNamespace(notify_reply=lambda: None)
    link: Any = SimpleNamespace(end_old_runs=lambda: None)
    runner = Flaky(store, None, link, notifier)  # type: ignore[arg-type]
    runner.start()
    end = time.monotonic() + 10
    while job.standing.state != "finished" and time.monotonic() < end:
        time.sleep(0.02)
    runner.stop()
    assert job.standing.state == "finished"
    assert job.standing.starts == 3
    assert job.log().count("waiting: 1 of 2 silos would go on") == 2


class Stage:
    """A runner at work by itself, up to the moment at which an administrator's cancel arrives."""

    def __init__(self, store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch, *, at: int):
        self.moments: list[str] = []
        self.at, self.job, self.cancelled, self.ran_on = at, job, False, False
        members = SimpleNamespace(
            nodes={"north": 1}, identify=lambda node: None, current=lambda: self.moment("list")
        )
        link = SimpleNamespace(status=self.status, run=self.run)
        bells = SimpleNamespace(notify_reply=lambda: None)
        self.runner = Runner(store, members, link, bells)  # type: ignore[arg-type]
        self.runner._job = job
        real = Job.become

        def become(job: Job, state: State, detail: str = "", *, start: bool = False) -> bool:
            if state == "cancelled":
                return real(job, state, detail, start=start)
            self.moment(f"before {state}")
            told = real(job, state, detail, start=start)
            self.moment(f"after {state}")
            return told

        monkeypatch.setattr(Job, "become", become)
        monkeypatch.setattr(Job, "order", lambda *_: SimpleNamespace(settings=lambda: SETTINGS))
        monkeypatch.setattr(runner_module.app, "run", self.train)
        monkeypatch.setattr(runner_module, "_LOOK_AROUND", 0.001)

    def moment(self, name: str) -> None:
        self.moments.append(name)
        if len(self.moments) == self.at:
            self.cancelled = bool(self.runner.cancel(self.job))

    def status(self, nodes: Any) -> dict[int, Any]:
        self.moment("status")
        return {1: SimpleNamespace(online=self.moments.count("status") > 1)}

    @contextmanager
    def run(self, config: Any) -> Iterator[Any]:
        self.moment("run")
        yield SimpleNamespace(id=1)
        self.moment("run ends")

    def train(self, *_: Any) -> None:
        self.moment("round 1")
        if self.runner._stop.is_set():
            raise Cancelled
        self.ran_on = self.ran_on or self.cancelled
        self.moment("round 2")


SETTINGS = Experiment.from_mapping({"task": "digits", "rounds": 2})


@pytest.mark.parametrize("at", range(1, 17))
def test_a_cancel_is_final_whenever_it_comes(
    project: GateProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    store = JobStore(tmp_path)
    job = added(store, project)
    stage = Stage(store, job, monkeypatch, at=at)
    stage.runner._try(job)
    if at <= len(stage.moments) - (stage.moments[-1] == "after finished"):
        assert stage.cancelled, stage.moments
    assert job.standing.state == ("cancelled" if stage.cancelled else "finished"), stage.moments
    assert not stage.ran_on
    assert store.pending() == []
    stage.runner._try(job)
    assert job.log().count("cancelled") == stage.cancelled
    assert job.log().count("finished") == (not stage.cancelled)


def test_a_job_in_which_nothing_trained_has_failed(
    project: GateProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detached = {"task": "frozen_tasks:Detached", "rounds": 1, "federation": {"silos": 3}}
    simulate(Experiment.from_mapping(detached), out=tmp_path / "run")
    store = JobStore(tmp_path / "jobs")
    job = added(store, project)
    stage = Stage(store, job, monkeypatch, at=0)
    # What a run leaves behind, of a loss that gives nothing any gradient.
    monkeypatch.setattr(runner_module.app, "run", lambda *_: copytree(tmp_path / "run", job.run))
    stage.runner._try(job)
    assert job.standing.state == "failed"
    assert job.standing.detail.startswith("nothing was trained: every number of the model is")


@given(st.lists(st.sampled_from(get_args(State)), max_size=8))
def test_a_job_that_is_over_becomes_nothing_else(states: list[State]) -> None:
    with TemporaryDirectory() as folder:
        job = Job(Path(folder))
        ends = [at for at, state in enumerate(states) if state in OVER]
        last = ends[0] if ends else len(states) - 1
        assert [job.become(state) for state in states] == [at <= last for at in range(len(states))]
        if states:
            assert job.standing.state == states[last]
        assert len(job.log().splitlines()) == last + 1


def test_one_of_many_ends_a_job(tmp_path: Path) -> None:
    job, barrier = Job(tmp_path), threading.Barrier(2 * len(OVER) + 2)
    job.become("running", start=True)

    def end(state: State) -> tuple[State, bool]:
        barrier.wait()
        Job(tmp_path).become("waiting", "for a silo")
        return state, Job(tmp_path).become(state)

    with ThreadPoolExecutor(2 * len(OVER) + 2) as threads:
        ends = list(threads.map(end, sorted(OVER) * 2 + ["cancelled", "finished"]))
    (winner,) = (state for state, won in ends if won)
    assert job.standing.state == winner
    assert job.standing.starts == 1
