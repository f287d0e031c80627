"""A job on a real server and a real silo: cancelled by its administrator, approved by a holder."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gate_project import GateProject, LiveServer
from privet.deployment.admin import AdminClient
from privet.deployment.parties.orders import ORDER_KEY, Cancellation, Order
from privet.deployment.server import messages
from privet.deployment.silo import approvals, serving
from privet.deployment.trial import Trial
from privet.errors import PrivetError
from privet.experiment import Experiment
from privet.privacy.ledger import Ledger, LedgerRefusal
from privet.tasks import load_task
from privet.vectors import FlatModel
from privet.wire import ENROL, Failure, TrainRequest
from privet.wire.errors import CODES
from silo_at_work import POLICY, NoProcess

EXPERIMENT = Experiment.from_mapping(
    {
        "task": "digits",
        "rounds": 3,
        "federation": {"silos": 5, "min_silos": 1},
        "training": {"steps": 1},
        "privacy": {"noise_multiplier": 30.0},
    }
)
WEIGHTS = FlatModel(load_task("digits").model()).vector()
USER = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> GateProject:
    return GateProject(tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(provisioned: GateProject, monkeypatch: pytest.MonkeyPatch) -> GateProject:
    """Without a job, and with a new ledger and an empty state folder at north."""
    monkeypatch.setattr(messages, "_HOLD", 0.1)
    kit = provisioned.silo_kit("north")
    at_server = provisioned.server_kit().state
    # What the server knows of the old ledger, too: else the silo refuses the new one.
    for folder in (kit.state, at_server / "jobs", at_server / "ledgers"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in kit.ledger.parent.glob("ledger.sqlite*"):
        file.unlink()
    Ledger.create(kit.ledger, provisioned.key("north")).close()
    policy(provisioned, "")
    return provisioned


def policy(project: GateProject, more: str) -> None:
    text = POLICY.format(more=more, code="", metrics="", sending="")
    project.silo_kit("north").policy.write_text(text)


@pytest.fixture
def server(project: GateProject) -> Iterator[LiveServer]:
    with project.serving() as live:
        yield live


@contextmanager
def north(project: GateProject, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The silo at work, without a process for its worker."""
    monkeypatch.setattr(serving, "Worker", NoProcess)
    stop, ready = threading.Event(), threading.Event()
    kit = project.silo_kit("north")
    thread = threading.Thread(
        target=serving.serve, args=(kit,), kwargs={"stop": stop, "ready": ready.set}, daemon=True
    )
    thread.start()
    assert ready.wait(30)
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def ask(server: LiveServer, text: str, kind: str = "train", round_: int = 1) -> Failure | None:
    """What north says to a message of this order; None for an answer."""
    content = TrainRequest(round=round_, weights=WEIGHTS).to_records()
    with server.run({ORDER_KEY: text}) as grid:
        sent = [server.message("north", kind, content if kind == "train" else None)]
        (reply,) = grid.send_and_receive(sent, timeout=60)
    return Failure.parse(reply.error.reason, silo="") if reply.has_error() else None


def ordered(project: GateProject, **settings: Any) -> Order:
    experiment = EXPERIMENT.with_settings(settings)
    return Order.create(experiment, project=project.name, requester="ana")


def signed(project: GateProject, order: Order) -> str:
    return order.signed(project.key("ana"))


def decisions(project: GateProject) -> list[tuple[str, str]]:
    with Ledger.open(project.silo_kit("north").ledger, project.key("north")) as ledger:
        found = [(e.who, json.loads(e.detail or "{}")) for e in ledger.entries()]
    return [(who, detail["text"]) for who, detail in found if "decision" in detail]


def reserved(project: GateProject) -> int:
    with Ledger.open(project.silo_kit("north").ledger, project.key("north")) as ledger:
        return sum(entry.kind == "reserve" for entry in ledger.entries())


def until(done: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_cancelled_job_is_never_trained_again(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, next_ = ordered(project), ordered(project)
    text = signed(project, order)
    server.store.add(text, project.parties())
    with north(project, monkeypatch):
        assert ask(server, text) is None
        with AdminClient(project.admin_kit("bob")) as bob:
            bob.cancel(order.job)
        # Nobody asks the silo for anything: it hears of it all the same.
        until(lambda: decisions(project) == [("bob", "cancelled by bob")])
        for kind in (ENROL, "train"):
            told = ask(server, text, kind)
            assert told is not None
            assert (told.stage, told.reason) == ("guard", CODES["ended"])
    # A server that has forgotten it, and a silo that was started anew.
    server.store.cancelled = 0
    with north(project, monkeypatch):
        told = ask(server, text, round_=2)
        assert told is not None
        assert told.reason == CODES["ended"]
        assert ask(server, signed(project, ordered(project))) is None
        # And one that tidied its jobs away tells of the next cancel as before.
        server.store.add(signed(project, next_), project.parties())
        with AdminClient(project.admin_kit("bob")) as bob:
            bob.cancel(next_.job)
        until(lambda: len(decisions(project)) == 2)
    assert reserved(project) == 2
    assert decisions(project) == [("bob", "cancelled by bob")] * 2
    with Ledger.open(project.silo_kit("north").ledger, project.key("north")) as ledger:
        noted = [entry for entry in ledger.entries() if "refused: cancelled" in str(entry.detail)]
    assert [entry.job for entry in noted] == [order.job]  # once, however often it was asked for


def test_a_silo_that_was_away_hears_of_a_cancel_before_the_job(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ordered(project)
    text = signed(project, order)
    server.store.add(text, project.parties())
    with AdminClient(project.admin_kit()) as ana:
        ana.cancel(order.job)
    with north(project, monkeypatch):
        told = ask(server, text)
    assert told is not None
    assert told.reason == CODES["ended"]
    assert reserved(project) == 0


def test_a_server_cannot_cancel_by_itself(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ordered(project)
    word = {"project": project.name, "job": order.job, "at": time.time()}
    forged = [
        Cancellation(**word, requester="ana").signed(project.key("north")),
        Cancellation(**word, requester="north").signed(project.key("north")),
        signed(project, order),
        "nonsense",
    ]
    monkeypatch.setattr(server.store, "cancellations", lambda: [*forged, 7, None])
    server.store.cancelled = 4
    with north(project, monkeypatch):
        assert ask(server, signed(project, order)) is None
    assert decisions(project) == []


def test_a_cancel_is_of_one_job(project: GateProject, server: LiveServer) -> None:
    order, other = ordered(project), ordered(project)
    for each in (order, other):
        server.store.add(signed(project, each), project.parties())
    word = Cancellation(project=project.name, job=other.job, requester="ana", at=time.time())
    with project.http("ana") as http:
        for content in ("", word.signed(project.key("ana")), word.signed(project.key("bob"))):
            answer = http.post(f"/privet/v1/jobs/{order.job}/cancel", content=content)
            assert answer.status_code == 403
    assert [job.standing.state for job in server.store.all()] == ["queued", "queued"]
    assert server.store.cancelled == 0


def test_a_job_waits_for_a_person_and_goes_on_when_it_is_approved(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(project, 'approval = "each-job"')
    kit, order = project.silo_kit("north"), ordered(project)
    text = signed(project, order)
    with north(project, monkeypatch):
        for kind in (ENROL, "train", "query.offer"):
            told = ask(server, text, kind)
            assert told is not None
            assert (told.stage, told.reason) == ("approval", CODES["approval"])
        assert approvals.pending(kit) == [order]
        assert approvals.approve(kit, order.job[:4], name="Dr. Ito").job == order.job
        assert approvals.pending(kit) == []
        assert ask(server, text) is None
    assert decisions(project) == [(USER, f"approved by Dr. Ito ({USER})")]


def test_an_approval_is_of_one_order(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(project, 'approval = "each-job"')
    kit, order = project.silo_kit("north"), ordered(project)
    other = replace(order, experiment={**order.experiment, "rounds": 99})
    with north(project, monkeypatch):
        assert ask(server, signed(project, order), ENROL) is not None
        # Not even while somebody looks at the first one is there another in its place.
        assert ask(server, signed(project, other), ENROL) is not None
        assert approvals.pending(kit) == [order]
        approvals.approve(kit, order.job)
        told = ask(server, signed(project, other))
        assert told is not None
        assert told.stage == "approval"
        assert ask(server, signed(project, order)) is None
    assert approvals.pending(kit) == [other]


def test_what_somebody_has_seen_does_not_become_another_order_when_it_ends(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither under its number nor under a number that begins alike."""
    policy(project, 'approval = "each-job"')
    kit, seen = project.silo_kit("north"), replace(ordered(project), until=time.time() + 3.0)
    other = replace(ordered(project), job=seen.job)
    alike = replace(other, job=f"{seen.job[:-1]}{'1' if seen.job[-1] == '0' else '0'}")
    with north(project, monkeypatch):
        assert ask(server, signed(project, seen), ENROL) is not None
        assert approvals.pending(kit) == [seen]
        until(lambda: time.time() > seen.until)
        assert approvals.pending(kit) == []
        for each in (other, alike):
            told = ask(server, signed(project, each), ENROL)
            assert told is not None
            assert told.stage == "approval"
        assert approvals.pending(kit) == [alike]
        for words, why in ((seen.job, "no jobs that wait"), (seen.job[:6], "2 jobs that wait")):
            with pytest.raises(PrivetError, match=why):
                approvals.approve(kit, words)
        assert approvals.approve(kit, alike.job) == alike


def test_a_refusal_is_final_even_for_a_job_that_runs(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, order = project.silo_kit("north"), ordered(project)
    text = signed(project, order)
    with north(project, monkeypatch):
        assert ask(server, text) is None
        with pytest.raises(PrivetError, match="neither a job that waits"):
            approvals.refuse(kit, order.job[:4])
        assert approvals.refuse(kit, order.job) == order.job
        for kind in ("train", ENROL, "query.offer"):
            told = ask(server, text, kind, round_=2)
            assert told is not None
            assert told.reason == CODES["terms"]  # by the guard, which finds it in the ledger
        assert decisions(project)[-1] == (USER, f"refused by {USER}")
        with (
            Ledger.open(kit.ledger, project.key("north")) as ledger,
            pytest.raises(LedgerRefusal, match="final"),
        ):
            ledger.decide(order.job, "approved", "x", who="y", order=order.digest)
    assert reserved(project) == 1


def test_a_policy_that_asks_from_now_on_holds_for_a_job_that_runs(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ordered(project)
    with north(project, monkeypatch):
        assert ask(server, signed(project, order)) is None
        policy(project, 'approval = "each-job"')
        told = ask(server, signed(project, order))
        assert told is not None
        assert told.stage == "approval"
        approvals.approve(project.silo_kit("north"), order.job)
        assert ask(server, signed(project, order)) is None


def test_an_order_that_can_not_run_any_more_waits_for_nobody(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(project, 'approval = "each-job"')
    order = ordered(project)
    with north(project, monkeypatch):
        assert ask(server, signed(project, order), ENROL) is not None
        stranger = replace(ordered(project), requester="bob")
        told = ask(server, stranger.signed(project.key("bob")), ENROL)
        assert told is not None
        assert "requesters" in told.reason
    assert approvals.pending(project.silo_kit("north")) == [order]
    later = SimpleNamespace(time=lambda: order.until)
    monkeypatch.setattr("privet.deployment.parties.orders.time", later)
    assert approvals.pending(project.silo_kit("north")) == []
    with pytest.raises(PrivetError, match="no jobs that wait"):
        approvals.approve(project.silo_kit("north"), order.job)


def privet(*words: str) -> str:
    command = [sys.executable, "-m", "privet", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else f"{done.returncode}: {done.stderr}"


def test_jobs_on_a_whole_project_wait_for_its_holder_and_not_for_each_other(
    tmp_path: Path,
) -> None:
    trial = Trial.create(tmp_path / "trial", silos=("north",))
    kit = str(trial.kit("north"))
    file = trial.kit("north") / "policy.toml"
    asking = 'tasks = ["digits"]\napproval = "each-job"'
    file.write_text(file.read_text().replace('tasks = ["digits"]', asking))
    settings = {"federation.silos": 1, "federation.min_silos": 1}
    experiment = EXPERIMENT.with_settings(settings)
    with trial:
        trial.start()
        trial.wait_until_online()
        with trial.client() as client:
            jobs = [client.submit(experiment) for _ in range(3)]

            def told(number: int) -> str:
                job = client.job(jobs[number])
                return f"{job['state']} {job['detail']}".strip()

            until(lambda: {told(n) for n in range(3)} == {"waiting for approval at north"}, 60)
            waiting = re.findall("^[0-9a-f]{12}", privet("silo", "pending", kit), flags=re.M)
            assert waiting == jobs
            said = privet("silo", "approve", jobs[1], kit, "--as", "Dr. Ito")
            assert said == f"Job {jobs[1]} is approved\n"
            until(lambda: told(1) == "finished", 120)
            assert told(0) == "waiting for approval at north"
            assert "is refused" in privet("silo", "refuse", jobs[0], kit)
            assert "no jobs that wait" in privet("silo", "approve", jobs[0], kit)
            until(lambda: told(0).startswith("failed"), 60)
            assert CODES["ended"] in told(0)
            shown = privet("ledger", "show", f"{kit}/ledger.sqlite")
            assert f"{jobs[1]}: approved by Dr. Ito ({USER})" in shown
            assert f"{jobs[0]}: refused by {USER}" in shown
            trial.end("north")
            assert jobs[2] in privet("silo", "approve", jobs[2][:6], kit)  # while nothing runs
            trial.start("north")
            until(lambda: told(2) == "finished", 120)
            log = client.log(jobs[1], start=0)
            assert log.count("waiting: for approval at north") == 1
            assert log.count(" running") == 2  # before it is known to wait, and at last
