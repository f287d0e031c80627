"""A silo at work in this process, and a server that sends it what a test likes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Context, Message, RecordDict

from gate_project import GateProject
from hostile_server import HostileServer
from privet.client.app import app
from privet.deployment.parties import SiloKit
from privet.deployment.silo.connection import Connection
from privet.deployment.silo.serving import _Silo
from privet.deployment.silo.worker import Work, Worker
from privet.privacy.ledger import Entry, Ledger

POLICY = """
version = 1
[data.north]
requesters = ["ana"]
tasks = ["digits"]
{more}
{code}
[data.north.budget]
epsilon = 5.0
delta = 1e-5
[data.north.training]
mechanisms = ["dp-sgd"]
[data.north.sending]
records_public = true
{sending}
[data.north.metrics]
{metrics}
"""


class NoProcess(Worker):
    """The installed ClientApp, in the process of the test."""

    def start(self) -> None:
        """Nothing to be started."""

    def stop(self) -> None:
        """Nothing to be ended."""

    def answer(self, work: Work, *, until: float) -> tuple[Message, RecordDict]:
        context = Context(work.run, work.node, work.node_config, work.state, dict(work.run_config))
        return app(work.message, context), context.state


@dataclass
class SiloAtWork:
    project: GateProject
    server: HostileServer
    errors: list[BaseException] = field(default_factory=list)
    """What ended the silo."""

    @property
    def kit(self) -> SiloKit:
        return self.project.silo_kit("north")

    def entries(self) -> list[Entry]:
        """Of the ledger, after the one that begins it."""
        with Ledger.open(self.kit.ledger, self.project.key("north")) as ledger:
            return ledger.entries()[1:]

    def policy(
        self, *, code: str = "", metrics: str = "", more: str = "", sending: str = ""
    ) -> None:
        """What the data holder allows."""
        self.kit.policy.write_text(
            POLICY.format(code=code, metrics=metrics, more=more, sending=sending)
        )

    @contextmanager
    def working(self, **limits: Any) -> Iterator[_Silo]:
        """North's process, as a thread; `limits` are those of a request."""
        kit, stop = self.kit, threading.Event()
        kit.state.mkdir(exist_ok=True)
        auth = self.project.auth("north")
        connection = Connection(
            kit.server, ca=kit.ca, node_key=kit.node_key, auth=auth, stop=stop, **limits
        )
        silo = _Silo(kit, connection, auth, stop, worker=NoProcess())
        thread = threading.Thread(target=self._work, args=(silo,), daemon=True)
        thread.start()
        try:
            yield silo
        finally:
            stop.set()
            thread.join(timeout=20)
            connection.close()
            assert not thread.is_alive()

    def _work(self, silo: _Silo) -> None:
        try:
            silo.greet()
            silo.connection.activate()
            silo.work()
        except BaseException as error:
            self.errors.append(error)
