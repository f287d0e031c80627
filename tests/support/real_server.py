"""A server of its own, as a process with the usual 1,024 open files, and what is asked of it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from typer.testing import CliRunner

from gate_project import HOST, GateProject
from privet.commands.cli import cli
from privet.deployment.monitoring import health_fault
from privet.deployment.parties.orders import Order
from privet.deployment.silo import serving
from privet.deployment.trial import free_port
from privet.experiment import Experiment
from silo_at_work import POLICY, NoProcess

OPEN_FILES = 1024


@dataclass
class RealServer:
    project: GateProject
    process: subprocess.Popen[bytes]
    log: Path
    health: str
    metrics: str

    def figure(self, name: str) -> float:
        """The sum of a metric's samples."""
        text = httpx.get(f"http://{self.metrics}/metrics", trust_env=False).text
        found = [line for line in text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def privet(self, *words: str) -> str:
        """What an administrator's command prints; it must succeed."""
        kit = {"PRIVET_KIT": str(self.project.folder / "kits/ana"), "COLUMNS": "200"}
        done = CliRunner().invoke(cli, words, env=kit)
        assert done.exit_code == 0, done.output
        return done.output

    def submit(self, *, days: float = 30.0, **settings: Any) -> str:
        digits = Experiment.from_mapping({"task": "digits"})
        made = Order.create(digits, project="lungs", requester="ana", days=days)
        order = replace(made, experiment={"task": "digits", "rounds": 2, **settings})
        with self.project.http("ana") as ana:
            told = ana.post("/privet/v1/jobs", content=order.signed(self.project.key("ana")))
        assert told.status_code == 201, told.text
        return order.job

    def job(self, job: str) -> dict[str, Any]:
        with self.project.http("ana") as ana:
            told: dict[str, Any] = ana.get(f"/privet/v1/jobs/{job}").json()
        return told

    def state(self, job: str) -> str:
        return str(self.job(job)["state"])

    def wait(self, job: str, *states: str, seconds: float = 30.0) -> dict[str, Any]:
        """The job, once it is in one of these states."""
        end = time.monotonic() + seconds
        while (told := self.job(job))["state"] not in states:
            assert time.monotonic() < end, told
            time.sleep(0.1)
        return told


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))


@contextmanager
def running(folder: Path) -> Iterator[RealServer]:
    """The server at work; two things lie among its jobs that are none."""
    project = GateProject(folder)
    kit = project.folder / "kits/server"
    health, metrics = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
    text = (kit / "server.toml").read_text()
    text = text.replace('health = ""', f'health = "{health}"')
    text = text.replace('metrics = ""', f'metrics = "{metrics}"')
    text = text.replace("patience = 60.0", "patience = 0.3")
    (kit / "server.toml").write_text(text)
    (kit / "state/jobs/foo").mkdir(parents=True)
    torn = kit / "state/jobs/abcdefabcdef"
    torn.mkdir()
    (torn / "order.json").write_text("{}")
    (torn / "state.json").write_text("")
    log = project.folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "privet", "server", str(kit)],
            stdout=file,
            stderr=file,
            preexec_fn=few_files,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        end = time.monotonic() + 60
        while health_fault(health) is not None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield RealServer(project, process, log, health, metrics)
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def north_at_work(project: GateProject, monkeypatch: Any) -> Iterator[None]:
    """Silo north, without a process for its worker; it allows digits up to epsilon 5."""
    monkeypatch.setattr(serving, "Worker", NoProcess)
    kit = project.silo_kit("north")
    kit.policy.write_text(POLICY.format(more="", code="", metrics="", sending=""))
    stop, ready = threading.Event(), threading.Event()
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
