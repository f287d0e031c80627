"""A live server that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gate_project import GateProject, LiveServer


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> GateProject:
    return GateProject(tmp_path_factory.mktemp("project"), body_seconds=2.0)


@pytest.fixture(scope="module")
def server(project: GateProject) -> Iterator[LiveServer]:
    with project.serving() as live:
        yield live
