"""A whole project on one machine, as real processes over TLS: to try out, to test, to measure.

Nothing is simulated but the distance: kits, server, silos, policies and ledgers are those of a real
project, and the silos' noise is real. Each silo holds a share of a public data set.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from privet.deployment.admin import AdminClient, NoAnswer
from privet.deployment.parties import AdminKit
from privet.deployment.provision import Project, provision
from privet.errors import PrivetError
from privet.privacy.ledger import Ledger, SiloKey

SERVER, ADMIN = "server", "admin"
SILOS = ("north", "south", "west")
BUDGET = 8.0
"""Epsilon that every silo allows, at delta 1e-5."""
_HOST = "127.0.0.1"
_PORTS = range(20_000, 32_000)
_given_out: set[int] = set()
_POLICY = """\
# What a silo of a trial allows.
version = 1

[data.{name}]
requesters = ["{admin}"]
tasks = ["digits"]

[data.{name}.budget]
epsilon = {budget}
delta = 1e-5

[data.{name}.training]
units = ["record"]
mechanisms = ["dp-sgd"]
plain = {plain}

[data.{name}.sending]
records_public = true

[data.{name}.metrics]
accuracy = {{ release = "noised", noise_multiplier = 8.0 }}
"""


@dataclass
class Trial:
    """The processes of one project in `folder`; a context manager that ends them all."""

    folder: Path
    silos: tuple[str, ...]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @classmethod
    def create(
        cls, folder: Path, *, silos: Sequence[str] = SILOS, plain: bool = False, port: int = 0
    ) -> Self:
        """Provision a project; every silo allows digits up to epsilon 8, `plain` training too if
        told so. `port`: 0 for a free one."""
        folder.mkdir(parents=True, exist_ok=True)
        project = folder / "project.toml"
        project.write_text(_project(silos, port or free_port()), encoding="utf-8")
        provision(Project.from_file(project), out=folder / "kits")
        trial = cls(folder, tuple(silos))
        settings = trial.kit(SERVER) / "server.toml"
        everywhere = settings.read_text(encoding="utf-8")
        # A trial is nobody else's to reach.
        settings.write_text(everywhere.replace("0.0.0.0", _HOST), encoding="utf-8")  # noqa: S104
        for name in silos:
            kit = trial.kit(name)
            text = _POLICY.format(
                name=name,
                admin=ADMIN,
                plain=str(plain).lower(),
                budget="inf" if plain else BUDGET,
            )
            (kit / "policy.toml").write_text(text, encoding="utf-8")
            Ledger.create(kit / "ledger.sqlite", SiloKey.load(kit / "identity.key")).close()
        return trial

    def kit(self, name: str) -> Path:
        """The kit of a party."""
        return self.folder / "kits" / name

    def log(self, name: str) -> Path:
        """What the process of a party wrote."""
        return self.folder / f"{name}.log"

    def client(self) -> AdminClient:
        """The administrator's door to the server."""
        return AdminClient(AdminKit.from_folder(self.kit(ADMIN)))

    def start(self, *names: str) -> None:
        """Start the processes of these parties; without names, of all."""
        for name in names or (SERVER, *self.silos):
            role = SERVER if name == SERVER else "silo"
            with self.log(name).open("ab") as log:
                # Each process would otherwise take as many threads as there are cores, and all
                # would be slow.
                share = max(1, (os.cpu_count() or 1) // len(self.silos))
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "privet", role, str(self.kit(name))],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    # Ctrl-C goes to the trial alone, which ends them in order.
                    start_new_session=True,
                    env={**os.environ, "OMP_NUM_THREADS": str(share)},
                )

    def end(self, name: str, *, how: int = signal.SIGTERM) -> int:
        """Send a signal to a party's process and wait for its end; its exit code.

        A process that is killed takes its worker along by itself.
        """
        process = self.processes.pop(name)
        process.send_signal(how)
        try:
            return process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def wait_until_online(self, *names: str, timeout: float = 120.0) -> None:
        """Return when these silos are online, without names all; PrivetError when that fails."""
        wanted, end = set(names or self.silos), time.monotonic() + timeout
        with self.client() as client:
            while True:
                self._check_alive()
                try:
                    online = {each["name"] for each in client.status()["silos"] if each["online"]}
                except NoAnswer:
                    online = set()
                if wanted <= online:
                    return
                if time.monotonic() > end:
                    raise PrivetError(f"not online after {timeout:g} s: {wanted - online}")
                time.sleep(0.2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            # All are told before any is waited for: they end side by side.
            process.terminate()
        for name in list(self.processes):
            self.end(name)

    def _check_alive(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is not None:
                said = self.log(name).read_text(encoding="utf-8", errors="replace")
                raise PrivetError(f"{name} ended: {said.strip()[-2000:]}")


def free_port() -> int:
    """A port of this machine that nobody listens at.

    Not one that the system hands out by itself: it may hand it to somebody's outgoing connection
    before the caller listens there. Nor one that was given out before, here or, but for one in
    sixteen, by another process: seconds may pass before somebody listens.
    """
    own = [port for port in _PORTS if port % 16 == os.getpid() % 16]
    fresh = [port for port in own if port not in _given_out] or own
    # Not by a generator that tests seed: two trials at once would try the same ports.
    for port in random.SystemRandom().sample(fresh, min(len(fresh), 100)):
        with socket.socket() as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            _given_out.add(port)
            return port
    raise PrivetError(f"no port of {_HOST} is free among a hundred from {_PORTS}")


def _project(silos: Sequence[str], port: int) -> str:
    parts = [
        f'[silos.{name}]\nshare = "{place}/{len(silos)}"\nhealth = ""\nmetrics = ""\n'
        for place, name in enumerate(silos)
    ]
    return (
        f'name = "trial"\ndays = 30\n\n[server]\nhosts = ["{_HOST}", "localhost"]\nport = {port}\n'
        f'health = ""\nmetrics = ""\n\n' + "\n".join(parts) + f"\n[admins.{ADMIN}]\n"
    )
