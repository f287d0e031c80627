"""The silos of a trial on stock Flower: a SuperLink and SuperNodes over TLS, with node keys."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from privet import Experiment
from privet.deployment.parties import AdminKit, PartiesFile, ServerKit, SiloKit
from privet.deployment.silo.orders import OrderedJob, node_config
from privet.deployment.trial import ADMIN, SERVER, Trial, free_port
from privet.record.folder import SUMMARY

PATIENCE = 600.0
_APP = """\
[project]
name = "privet-digits"
version = "1.0.0"
description = "Digits"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "privet"

[tool.flwr.app.components]
serverapp = "thin:app"
clientapp = "privet.client.app:app"

[tool.flwr.app.config]
"""
_SERVER = """\
from flwr.serverapp import ServerApp

from privet.server.app import Hosting, run

app = ServerApp()


@app.main()
def main(grid, context):
    ask = grid.send_and_receive

    def send_and_receive(messages, *, timeout=None):
        # Flower's HttpGrid answers an empty list, which other grids take, with HTTP 500.
        messages = list(messages)
        return ask(messages, timeout=timeout) if messages else []

    grid.send_and_receive = send_and_receive
    run(grid, context, Hosting())
"""


@dataclass
class StockFlower:
    """Stock Flower's processes on the kits of `trial`; a context manager that ends them all.

    Certificates, node keys, policies, ledgers and shares are those of the trial's kits, so the apps
    have the same work to do. Everything that Flower writes lies in the trial's folder.
    """

    trial: Trial
    settings: Mapping[str, str] = field(default_factory=dict)
    """More environment of all processes, such as FLWR_SUPEREXEC_TASK_POLL_INTERVAL."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Everything of stock Flower's."""
        return self.trial.folder / "flower"

    def start(self) -> None:
        """Start everything and return when all silos are online; kits are registered once."""
        new = not self.folder.exists()
        self.folder.mkdir(exist_ok=True)
        self._start_link()
        home = self.folder / "cli"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "real"\n\n[superlink.real]\naddress = "{self._address}"\n'
            f'root-certificates = "{self._ca}"\n',
            encoding="utf-8",
        )
        for _ in range(60):
            if not self._flwr("supernode", "list", "real", "--format", "json").returncode:
                break
            time.sleep(0.5)
        for silo in self.trial.silos:
            if new:
                self._register(silo)
            self._start_node(silo)
        end = time.monotonic() + 120
        while self._online() < len(self.trial.silos):
            if time.monotonic() > end:
                raise RuntimeError(f"the SuperNodes are not online: {self.logs()}")
            time.sleep(0.5)
        ended = [name for name, each in self.processes.items() if each.poll() is not None]
        if ended:
            raise RuntimeError(f"{', '.join(ended)} ended: {self.logs()}")

    def run(self, experiment: Experiment, out: Path) -> None:
        """`flwr run`, until the run folder `out` is finished."""
        app = out.with_name(f"{out.name}-app")
        app.mkdir()
        config: dict[str, Any] = {"out": str(out), **experiment.to_run_config()}
        if experiment.encryption is not None:
            config["roster"] = str(self._roster())
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items())
        (app / "pyproject.toml").write_text(_APP + lines, encoding="utf-8")
        (app / "thin.py").write_text(_SERVER, encoding="utf-8")
        before = self._finished()
        _check(self._flwr("run", str(app), "real"))
        end = time.monotonic() + PATIENCE
        while not (out / SUMMARY).exists():
            over = self._finished() > before and not (out / SUMMARY).exists()
            if over or time.monotonic() > end:
                raise RuntimeError(f"stock Flower did not finish {out.name}: {self.logs()}")
            time.sleep(1.0)

    def logs(self) -> str:
        """The ends of all logs."""
        ends = (file.read_text(errors="replace")[-3000:] for file in self.folder.glob("*.log"))
        return "\n".join(ends)

    def __enter__(self) -> StockFlower:
        return self

    def __exit__(self, *_: object) -> None:
        # Silos first: one that cannot sign off any more counts as online for a minute, and is
        # refused when it is started again within it.
        for name in sorted(self.processes, key="superlink".__eq__):
            process = self.processes.pop(name)
            for how in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, how)  # with the processes that it has started
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)

    def _start_link(self) -> None:
        kit = ServerKit.from_folder(self.trial.kit(SERVER))
        self._ca = AdminKit.from_folder(self.trial.kit(ADMIN)).ca
        self._port = free_port()
        self._address = f"127.0.0.1:{self._port}"
        self._start(
            "superlink", "flower-superlink",
            "--ssl-ca-certfile", self._ca,
            "--ssl-certfile", kit.certificate,
            "--ssl-keyfile", kit.certificate_key,
            "--host", "127.0.0.1", "--port", self._port,
            "--enable-supernode-auth",
            "--database", self.folder / "state.db",
            "--disable-runtime-dependency-installation",
        )  # fmt: skip

    def _start_node(self, name: str) -> None:
        kit = SiloKit.from_folder(self.trial.kit(name))
        nobody = OrderedJob(id="", requester=ADMIN, number=0, run_config={})
        config = node_config(kit, nobody, roster=self._roster())
        del config["job"]  # the run's number
        self._start(
            name, "flower-supernode",
            "--root-certificates", self._ca,
            "--superlink", self._address,
            "--auth-supernode-private-key", kit.node_key,
            "--port", free_port(),
            "--node-config", " ".join(f"{k}={json.dumps(v)}" for k, v in config.items()),
        )  # fmt: skip

    def _register(self, name: str) -> None:
        for _ in range(5):  # a busy SuperLink may not answer in the time that the command gives it
            done = self._flwr("supernode", "register", str(self._public(name)), "real")
            if not done.returncode:
                return
        _check(done)

    def _start(self, name: str, command: str, *arguments: object) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [_bin(command), *map(str, arguments)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=self._environment(name),
                start_new_session=True,
            )

    def _flwr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_bin("flwr"), *arguments],
            capture_output=True,
            text=True,
            env=self._environment("cli"),
            timeout=120,
        )

    def _environment(self, name: str) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "FLWR_HOME": str(self.folder / name),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            **self.settings,
        }

    def _online(self) -> int:
        return self._flwr("supernode", "list", "real", "--format", "json").stdout.count('"online"')

    def _finished(self) -> int:
        """Runs that are over, as the log has it: `flwr list` takes seconds of the processor."""
        log = (self.folder / "superlink.log").read_text(errors="replace")
        return log.count("Finished task")

    def _public(self, silo: str) -> Path:
        kit = SiloKit.from_folder(self.trial.kit(silo))
        key = serialization.load_ssh_private_key(kit.node_key.read_bytes(), None).public_key()
        path = self.folder / f"{silo}.pub"
        path.write_bytes(
            key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        )
        return path

    def _roster(self) -> Path:
        kit = ServerKit.from_folder(self.trial.kit(SERVER))
        path = self.folder / "roster.toml"
        if not path.exists():
            parties = PartiesFile(kit.parties, project_key=kit.project_key).current()
            path.write_text(parties.roster().to_toml(), encoding="utf-8")
        return path


def _bin(command: str) -> str:
    return shutil.which(command, path=str(Path(sys.executable).parent)) or command


def _check(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise RuntimeError(f"{' '.join(done.args)} failed:\n{done.stdout}\n{done.stderr}"[-4000:])
