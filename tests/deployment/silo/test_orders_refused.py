"""A silo whose server is hostile: nothing but what an administrator signed is ever done."""

from __future__ import annotations

import errno
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context
from flwr.app.user_config import UserConfig
from flwr.supernode.fleet_http_client import FleetHttpClient

from gate_project import GateProject, LiveServer
from privet.client.app import app
from privet.client.guard import code_hash
from privet.deployment.parties import SiloKit
from privet.deployment.parties.orders import ORDER_KEY, Order
from privet.deployment.server import messages
from privet.deployment.server.gate import Gate
from privet.deployment.silo import serving
from privet.deployment.silo.worker import Died, Work, Worker
from privet.experiment import Experiment
from privet.privacy.ledger import Ledger, LedgerError, read_history
from privet.wire import ENROL, Failure
from privet.wire.errors import CODES

POLICY = """
version = 1
[data.{name}]
requesters = ["ana", "bob"]
tasks = ["*"]
code = [{code}]
[data.{name}.budget]
epsilon = inf
delta = 1e-5
[data.{name}.training]
plain = true
[data.{name}.sending]
records_public = true
"""
THIEF = '''
from toy_tasks import Tiny

class Thief(Tiny):
    """Puts the records into its metrics."""

    def train_data(self):
        data = super().train_data()
        open({trace!r}, "a").write("read\\n")
        return data
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> GateProject:
    return GateProject(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def server(project: GateProject) -> Iterator[LiveServer]:
    with project.serving() as live:
        yield live


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's answers without the worker's process."""

    def answer(self: Worker, work: Work, *, until: float) -> Any:
        config: UserConfig = work.node_config
        context = Context(work.run, work.node, config, work.state, work.run_config)
        return app(work.message, context), context.state

    monkeypatch.setattr(messages, "_HOLD", 0.1)
    monkeypatch.setattr(Worker, "start", lambda self: None)
    monkeypatch.setattr(Worker, "answer", answer)


@contextmanager
def silo(project: GateProject, name: str = "north", code: str = "") -> Iterator[None]:
    """A silo at work."""
    kit = project.silo_kit(name)
    kit.policy.write_text(POLICY.format(name=name, code=code))
    stop, ready = threading.Event(), threading.Event()
    fault: list[BaseException] = []

    def work() -> None:
        try:
            serving.serve(kit, stop=stop, ready=ready.set)
        except BaseException as error:
            fault.append(error)
            ready.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not fault, fault


def order(project: GateProject, by: str = "ana", **settings: Any) -> Order:
    made = Experiment.from_mapping(
        {"task": "digits", "rounds": 2, "federation": {"silos": 5}, **settings}
    )
    return Order.create(made, project=project.name, requester=by)


def ask(
    server: LiveServer, settings: dict[str, Any], times: int = 1, silo: str = "north"
) -> list[Failure | None]:
    """What the silo says to messages of a run with these settings."""
    with server.run(settings) as grid:
        replies = []
        for _ in range(times):
            replies += grid.send_and_receive([server.message(silo, ENROL)], timeout=30)
    assert len(replies) == times
    return [
        Failure.parse(reply.error.reason, silo="") if reply.has_error() else None
        for reply in replies
    ]


def notes(project: GateProject) -> list[str]:
    with Ledger.open(project.silo_kit("north").ledger, project.key("north")) as ledger:
        return [entry.detail for entry in ledger.entries() if entry.kind == "note"]


def others(project: GateProject) -> Iterator[tuple[str, dict[str, Any], str]]:
    yield "no order", {}, "without an administrator's order"
    yield "no text", {ORDER_KEY: 7}, "without an administrator's order"
    yield "no JSON", {ORDER_KEY: "["}, "malformed"
    for field in ("requester", "project", "job", "experiment"):
        whole = json.loads(order(project).signed(project.key("ana")))
        whole["order"][field] = ["odd"]
        yield f"odd {field}", {ORDER_KEY: json.dumps(whole)}, "malformed"
    yield (
        "a silo's",
        {ORDER_KEY: order(project, "north").signed(project.key("north"))},
        ("no administrator"),
    )
    yield (
        "nobody's",
        {ORDER_KEY: order(project, "eve").signed(project.key("south"))},
        ("no administrator"),
    )
    yield "in another's name", {ORDER_KEY: order(project).signed(project.key("bob"))}, "not sign"
    elsewhere = replace(order(project), project="livers").signed(project.key("ana"))
    yield "another project's", {ORDER_KEY: elsewhere}, "project 'livers'"
    whole = json.loads(order(project).signed(project.key("ana")))
    whole["order"]["experiment"]["rounds"] = 2000
    yield "altered by a setting", {ORDER_KEY: json.dumps(whole)}, "did not sign"


def test_what_no_administrator_signed_is_refused_and_noted_once(
    project: GateProject,
    server: LiveServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered: list[Work] = []
    monkeypatch.setattr(Worker, "answer", lambda self, work, until: answered.append(work))
    monkeypatch.setattr(FleetHttpClient, "GetFab", lambda *_: pytest.fail("a FAB was fetched"))
    with silo(project):
        for what, settings, reason in others(project):
            caplog.clear()
            before = notes(project)
            told = ask(server, settings, times=3) + ask(server, settings)
            for failure in told:
                assert failure is not None, what
                assert (failure.stage, failure.reason) == ("guard", CODES["order"]), what
            said = [r.getMessage() for r in caplog.records if "is refused" in r.getMessage()]
            assert len(said) == 2, what  # one for each run
            assert {line[:8] for line in said} == {f.reference for f in told if f}, what
            assert all(reason in line for line in said), what
            new = notes(project)[len(before) :]
            assert len(new) <= 1, what
            assert any(reason in note for note in notes(project)), what
    assert answered == []


def test_a_revoked_administrators_order_is_refused_from_that_moment(
    project: GateProject, server: LiveServer
) -> None:
    settings = {ORDER_KEY: order(project, "bob").signed(project.key("bob"))}
    with silo(project):
        assert ask(server, settings) == [None]
        project.change(lambda p: replace(p, revoked=True) if p.name == "bob" else p)
        (told,) = ask(server, settings)
    assert told is not None
    assert told.reason == CODES["order"]
    assert any("'bob' is revoked" in note for note in notes(project))


def test_what_a_server_says_beside_the_order_is_not_listened_to(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Work] = []
    inner = Worker.answer

    def answer(self: Worker, work: Work, *, until: float) -> Any:
        seen.append(work)
        return inner(self, work, until=until)

    monkeypatch.setattr(Worker, "answer", answer)
    signed = order(project)
    beside = {
        "task": "toy_tasks:Tiny",
        "experiment": "{}",
        "rounds": "99",
        "privacy.noise_multiplier": "0.1",
        "dataset": "south",
        "policy": "/dev/null",
    }
    with silo(project):
        assert ask(server, {**beside, ORDER_KEY: signed.signed(project.key("ana"))}) == [None]
    (work,) = seen
    assert Experiment.from_run_config(work.run_config) == signed.settings()
    assert work.node_config["dataset"] == "north"
    assert work.node_config["requester"] == "ana"
    assert Path(work.node_config["policy"]) == project.silo_kit("north").policy


def test_an_app_that_a_run_brings_is_never_fetched(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, asked = server.link.state.create_run, []

    def with_app(**said: Any) -> Any:
        said |= {"fab_id": "mallory/privet", "fab_version": "1.0.0", "fab_hash": "f" * 64}
        return create(**said)

    monkeypatch.setattr(server.link.state, "create_run", with_app)
    monkeypatch.setattr(FleetHttpClient, "GetFab", lambda *_: pytest.fail("a FAB was fetched"))
    inner = Gate._serve

    async def spy(self: Gate, scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await inner(self, scope, receive, send)

    monkeypatch.setattr(Gate, "_serve", spy)
    before = set(sys.modules)
    with silo(project):
        assert ask(server, {ORDER_KEY: order(project).signed(project.key("ana"))}) == [None]
        (told,) = ask(server, {})
    assert told is not None
    assert "/v1/fleet/get-run" in asked
    assert "/v1/fleet/get-fab" not in asked
    assert not any("mallory" in name for name in set(sys.modules) - before)


def test_code_of_a_task_runs_only_when_its_hash_is_approved(
    project: GateProject,
    server: LiveServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "thief_module.py").write_text(THIEF.format(trace=str(trace)))
    monkeypatch.syspath_prepend(tmp_path)
    task = "thief_module:Thief"
    settings = {ORDER_KEY: order(project, task=task).signed(project.key("ana"))}
    with silo(project, "south"):
        (told,) = ask(server, settings, silo="south")
    assert told is not None
    assert told.stage == "guard"
    assert "code" in told.reason
    assert "thief_module" not in sys.modules
    assert not trace.exists()
    try:
        with silo(project, "south", code=f'"{code_hash(task)}"'):
            assert ask(server, settings, silo="south") == [None]
        assert trace.exists()
    finally:
        sys.modules.pop("thief_module", None)


@pytest.mark.parametrize("ttl", [float("nan"), float("inf"), 1e300, -1.0, 0.0, 5.0])
def test_a_silo_works_for_a_day_at_most_whatever_the_server_would_wait(ttl: float) -> None:
    assert 0 <= serving._seconds(ttl) <= 86400


def test_a_worker_that_ends_is_counted_for_the_data_set_that_its_job_names(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How a process ends can hang on a record as well as any other failure."""

    def ends(*_: object, **__: object) -> None:
        raise Died("its process ended with exit code 3")

    monkeypatch.setattr(Worker, "answer", ends)
    monkeypatch.setattr(SiloKit, "meant", lambda *_: ("stays", None))
    ledger = project.silo_kit("north").ledger
    settings = {ORDER_KEY: order(project).signed(project.key("ana"))}
    with silo(project):
        (told,) = ask(server, settings)
        assert told is not None
        assert (told.stage, told.reason) == ("worker", CODES["worker"])
        assert read_history(ledger).failures("stays", "ana") == 1
        monkeypatch.setattr(Ledger, "count_failure", full)
        (told,) = ask(server, settings)
    assert told is not None
    assert (told.stage, told.reason) == ("guard", CODES["ledger"])


def full(*_: object, **__: object) -> None:
    raise LedgerError("no space left on device")


def test_a_full_disk_in_the_midst_of_a_message_is_an_answer_and_no_end(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    settings = {ORDER_KEY: order(project).signed(project.key("ana"))}
    with silo(project):
        with monkeypatch.context() as during:
            during.setattr(serving._Silo, "_roster", full)
            (failure,) = ask(server, settings)
        assert failure is not None
        assert "ledger cannot be believed or written" in failure.reason
        assert ask(server, settings) == [None]
