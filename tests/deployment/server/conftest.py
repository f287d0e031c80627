"""A live server that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gate_project import GateProject, LiveServer
from real_server import RealServer, running


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A process, which takes seconds to start."""
    with running(tmp_path_factory.mktemp("outside")) as server:
        yield server


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> GateProject:
    return GateProject(tmp_path_factory.mktemp("project"), body_seconds=2.0)


@pytest.fixture(scope="module")
def server(project: GateProject) -> Iterator[LiveServer]:
    with project.serving() as live:
        yield live
