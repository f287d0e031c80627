"""Jobs on disk: an order that a kill cut off, and a job that silos keep away from for a moment."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gate_project import GateProject
from privet.deployment.parties import PartiesFile
from privet.deployment.parties.orders import Order
from privet.deployment.parties.requests import Denied
from privet.deployment.server.jobs import Job, JobStore
from privet.deployment.server.runner import Runner
from privet.experiment import Experiment
from privet.server.cohort import Absent


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
