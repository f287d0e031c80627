"""A silo at work in this process, and a server that sends it what a test likes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gate_project import GateProject
from hostile_server import HostileServer
from privet.deployment.parties.transport import PROTOCOL
from privet.privacy.ledger import Ledger
from silo_at_work import SiloAtWork


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> GateProject:
    return GateProject(tmp_path_factory.mktemp("project"))


@pytest.fixture
def server(project: GateProject) -> Iterator[HostileServer]:
    hello = {"project": project.name, "protocol": PROTOCOL, "privet": "0.1.0"}
    made = HostileServer(project.server_kit(), hello, port=project.port)
    with made.serving():
        yield made


@pytest.fixture
def north(project: GateProject, server: HostileServer) -> Iterator[SiloAtWork]:
    """A silo with a ledger of its own for every test."""
    silo = SiloAtWork(project, server)
    for file in silo.kit.ledger.parent.glob("ledger.sqlite*"):
        file.unlink()
    Ledger.create(silo.kit.ledger, project.key("north")).close()
    silo.policy()
    yield silo
    assert {type(error).__name__ for error in silo.errors} <= {"Stopped"}
