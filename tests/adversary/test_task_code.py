"""Code of a task that changes while a silo is up: a worker with the old one in memory is ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import silo_at_work
from gate_project import GateProject
from hostile_server import HostileServer
from privet.client.task_code import code_hash
from privet.deployment.parties.orders import ORDER_KEY, Order
from privet.deployment.silo.worker import Worker
from privet.experiment import Experiment
from privet.wire import Enrolment
from silo_at_work import SiloAtWork

TASK = "warm_package.task:Mine"
SOURCE = """
from toy_tasks import Tiny

class Mine(Tiny):
    def train_data(self):
        with open({trace!r}, "a") as file:
            file.write("{version}\\n")
        return super().train_data()
"""


def test_a_warm_worker_does_not_keep_old_code(
    project: GateProject,
    server: HostileServer,
    north: SiloAtWork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package, trace = tmp_path / "warm_package", tmp_path / "trace"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(silo_at_work, "NoProcess", Worker)
    settings: dict[str, Any] = {
        "task": TASK,
        "rounds": 9,
        "federation": {"silos": 5},
        "training": {"batch_size": 5},
        "privacy": {"noise_multiplier": 30.0},
    }
    order = Order.create(
        Experiment.from_mapping(settings), project=project.name, requester="ana"
    ).signed(project.key("ana"))
    hashes = []
    with north.working() as silo:
        try:
            for number, version in enumerate(["one", "one", "two", "two"]):
                (package / "task.py").write_text(SOURCE.format(trace=str(trace), version=version))
                hashes.append(f'"{code_hash(TASK)}"')
                north.policy(code=f"code = [{', '.join(hashes)}]")
                server.send({ORDER_KEY: order}, ttl=120.0)
                reply = server.answer(number, seconds=120)
                assert not reply.has_error(), reply.error.reason
                assert Enrolment.from_records(reply.content).silo == "north"
        finally:
            silo.worker.stop()  # else its process is waited for
    # Each once: a worker keeps its records, and goes on as long as the code is the same.
    assert trace.read_text().split() == ["one", "two"]
