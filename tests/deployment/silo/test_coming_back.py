"""A silo that the server would not have for a while comes back by itself; a ledger from yesterday
does not."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gate_project import GateProject, LiveServer
from privet.deployment.parties import Party
from privet.deployment.server import messages
from privet.deployment.silo import serving
from privet.errors import PrivetError
from privet.privacy.ledger import Ledger
from silo_at_work import POLICY, NoProcess


class Silo:
    """North at work in a thread; `ended` is what ended it."""

    def __init__(self, project: GateProject) -> None:
        self.kit = project.silo_kit("north")
        self.stop, self.ready = threading.Event(), threading.Event()
        self.ended: BaseException | None = None
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            serving.serve(self.kit, stop=self.stop, ready=self.ready.set)
        except BaseException as error:
            self.ended = error

    def says(self) -> str:
        try:
            told = serving.standing(self.kit)
        except PrivetError:
            return ""
        return f"{told['state']}: {told['why']}"


@pytest.fixture
def project(tmp_path: Path) -> GateProject:
    project = GateProject(tmp_path / "project")
    text = POLICY.format(more="", code="", metrics="", sending="")
    project.silo_kit("north").policy.write_text(text)
    return project


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "Worker", NoProcess)
    monkeypatch.setattr(serving, "_FIRST_PAUSE", 0.1)
    monkeypatch.setattr(serving, "_LONGEST_PAUSE", 0.5)
    monkeypatch.setattr(messages, "_HOLD", 0.2)


@contextmanager
def at_work(project: GateProject) -> Iterator[Silo]:
    silo = Silo(project)
    silo.thread.start()
    try:
        yield silo
    finally:
        silo.stop.set()
        silo.thread.join(20)


def eventually(what: Callable[[], Any], seconds: float = 15.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def is_online(server: LiveServer) -> bool:
    node = server.node("north")
    return server.link.status([node])[node].online


def test_a_clock_that_is_wrong_for_a_while_ends_no_silo(
    project: GateProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = [0.0]
    signing = partial(serving.Signing, clock=lambda: time.time() + ahead[0])
    monkeypatch.setattr(serving, "Signing", signing)
    with project.serving() as server, at_work(project) as silo:
        eventually(lambda: is_online(server))
        ahead[0] = 86400.0 * 365
        said = eventually(lambda: silo.says() if "clock" in silo.says() else "")
        now = time.gmtime()
        assert f"the server {now.tm_year}-{now.tm_mon:02}" in said
        assert f"north has {now.tm_year + 1}-" in said
        assert silo.thread.is_alive()
        ahead[0] = 0.0
        eventually(lambda: silo.says() == "online: ")


def test_a_silo_registers_anew_where_the_state_of_the_server_is_lost(project: GateProject) -> None:
    with at_work(project) as silo:
        with project.serving() as server:
            eventually(lambda: is_online(server))
        shutil.rmtree(project.server_kit().state)
        with project.serving() as server:
            eventually(lambda: is_online(server))
        assert silo.ended is None


def test_its_own_revocation_on_the_signed_list_ends_a_silo(project: GateProject) -> None:
    def revoke(party: Party) -> Party:
        return replace(party, revoked=party.revoked or party.name == "north")

    with project.serving() as server, at_work(project) as silo:
        eventually(lambda: is_online(server))
        content = project.change(revoke)
        # A server that lets it have the list no more is not enough; here the holder brings it.
        silo.kit.parties.write_bytes(content)
        eventually(lambda: silo.ended)
        assert "silo 'north' is revoked" in str(silo.ended)


def test_a_clock_within_the_one_tolerance_is_borne_by_all_parts(
    project: GateProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower would refuse a silo that is 5 s ahead."""
    from flwr.supernode import node_auth_http_interceptor as theirs

    real = theirs.now
    monkeypatch.setattr(theirs, "now", lambda: real() + timedelta(seconds=90))
    signing = partial(serving.Signing, clock=lambda: time.time() + 90)
    monkeypatch.setattr(serving, "Signing", signing)
    with project.serving() as server, at_work(project):
        eventually(lambda: is_online(server))


def test_a_ledger_from_yesterday_is_refused_by_its_own_silo(
    project: GateProject, tmp_path: Path
) -> None:
    kit, key = project.silo_kit("north"), project.key("north")
    files = list(kit.ledger.parent.glob("ledger.sqlite*"))
    yesterday = {path: path.read_bytes() for path in files}
    with Ledger.open(kit.ledger, key) as ledger:
        ledger.note("today", who="operator")
    with project.serving() as server:
        with at_work(project):
            eventually(lambda: is_online(server))
            eventually(lambda: list((project.server_kit().state / "ledgers").iterdir()))
            time.sleep(0.5)
        today = {path: path.read_bytes() for path in kit.ledger.parent.glob("ledger.sqlite*")}
        restore(kit.ledger, yesterday)
        with at_work(project) as silo:
            eventually(lambda: silo.ended)
        assert "it ends at entry 1, and this silo has signed for entry 2" in str(silo.ended)
        assert "docs/deploy.md" in str(silo.ended)
        restore(kit.ledger, today)
        with at_work(project) as silo:
            assert silo.ready.wait(15)


def test_a_head_that_somebody_else_made_up_keeps_no_silo_away(project: GateProject) -> None:
    kit = project.silo_kit("north")
    with Ledger.open(kit.ledger, project.key("north")) as ledger:
        assert serving.went_back(ledger, "") is None
        assert serving.went_back(ledger, "{}") is None
        others = (project.silo_kit("south").ledger.with_name("ledger.sqlite.head")).read_text()
        assert serving.went_back(ledger, others) is None
        own = kit.ledger.with_name("ledger.sqlite.head").read_text()
        assert serving.went_back(ledger, own) is None


def restore(ledger: Path, files: dict[Path, bytes]) -> None:
    for path in ledger.parent.glob("ledger.sqlite*"):
        path.unlink()
    for path, content in files.items():
        path.write_bytes(content)
        path.chmod(0o600)
