"""A project whose server runs in this process: the real gate and link behind real TLS.

No job is ever begun; what a coordinator would send, tests send themselves.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message, RecordDict
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from privet.deployment.parties import (
    AdminKit,
    Parties,
    PartiesFile,
    Party,
    ServerKit,
    SiloKit,
    load_parties,
)
from privet.deployment.parties.requests import Checking, Signing
from privet.deployment.parties.transport import client
from privet.deployment.provision import Project, provision
from privet.deployment.server.flower import Link
from privet.deployment.server.gate import Gate
from privet.deployment.server.grid import LinkGrid, Notifier
from privet.deployment.server.jobs import JobStore
from privet.deployment.server.membership import Membership
from privet.deployment.server.routes import application
from privet.deployment.server.runner import Runner
from privet.deployment.server.serving import listener
from privet.deployment.silo.connection import Connection
from privet.deployment.trial import free_port
from privet.privacy.ledger import Ledger, SiloKey

HOST = "127.0.0.1"
SILOS = ("north", "south", "west", "late", "gone")


@dataclass
class GateProject:
    folder: Path
    name: str = "lungs"
    body_seconds: float = 120.0
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        silos = "".join(
            f'[silos.{s}]\nhealth = ""\nmetrics = ""\nshare = "{i}/{len(SILOS)}"\n'
            for i, s in enumerate(SILOS)
        )
        text = (
            f'name = "{self.name}"\ndays = 30\n[server]\nhosts = ["{HOST}"]\nport = {self.port}\n'
            f'health = ""\nmetrics = ""\n{silos}[admins.ana]\n[admins.bob]\n'
        )
        (self.folder / "project.toml").write_text(text)
        provision(Project.from_file(self.folder / "project.toml"), out=self.folder / "kits")
        settings = self.folder / "kits/server/server.toml"
        settings.write_text(settings.read_text().replace("0.0.0.0", HOST))
        for silo in SILOS:
            kit = self.silo_kit(silo)
            Ledger.create(kit.ledger, self.key(silo)).close()

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def ca(self) -> Path:
        return self.folder / "kits/server/ca.pem"

    def key(self, name: str) -> SiloKey:
        return SiloKey.load(self.folder / "kits" / name / "identity.key")

    def silo_kit(self, name: str) -> SiloKit:
        return SiloKit.from_folder(self.folder / "kits" / name)

    def admin_kit(self, name: str = "ana") -> AdminKit:
        return AdminKit.from_folder(self.folder / "kits" / name)

    def server_kit(self) -> ServerKit:
        return ServerKit.from_folder(self.folder / "kits/server")

    def auth(self, name: str, **other: Any) -> Signing:
        return Signing(**{"project": self.name, "name": name, "identity": self.key(name), **other})

    def parties(self) -> Parties:
        kit = self.server_kit()
        return load_parties(kit.parties, project_key=kit.project_key)

    def change(self, change: Callable[[Party], Party]) -> bytes:
        """Give the server a new list; its bytes."""
        old = self.parties()
        new = replace(old, version=old.version + 1, members=tuple(map(change, old.members)))
        content = new.signed(SiloKey.load(self.folder / "kits/project.key"))
        fresh = self.server_kit().parties.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(self.server_kit().parties)
        return content

    def http(self, name: str | None, **other: Any) -> httpx.Client:
        """A client that signs as this party, or as nobody."""
        auth: Any = self.auth(name) if name else httpx.Auth()
        return client(self.url, ca=self.ca, auth=auth, **other)

    def node_headers(self, silo: str) -> dict[str, str]:
        """What Flower wants to see of a node."""
        private: Any = load_ssh_private_key(self.silo_kit(silo).node_key.read_bytes(), None)
        stamp = now().isoformat()
        signed = sign_message(private, stamp.encode())
        return {
            "content-type": "application/protobuf",
            FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(
                public_key_to_bytes(private.public_key())
            ).decode(),
            TIMESTAMP_HEADER: stamp,
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(signed).decode(),
        }

    @contextmanager
    def connection(
        self, silo: str, *, stop: threading.Event | None = None, **other: Any
    ) -> Iterator[Connection]:
        kit = self.silo_kit(silo)
        made = Connection(
            self.url,
            ca=kit.ca,
            node_key=kit.node_key,
            auth=self.auth(silo),
            stop=stop or threading.Event(),
            **other,
        )
        try:
            made.activate()
            yield made
        finally:
            made._stop.set()
            made.close()

    def socket(self, tls: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A bare connection."""
        context = tls or ssl.create_default_context(cafile=str(self.ca))
        plain = socket.create_connection((HOST, self.port), timeout=20)
        return context.wrap_socket(plain, server_hostname=HOST)

    @contextmanager
    def serving(self) -> Iterator[LiveServer]:
        kit = self.server_kit()
        kit.state.mkdir(exist_ok=True)
        link, notifier = Link(kit.state / "link.sqlite"), Notifier()
        members = Membership(
            PartiesFile(kit.parties, project_key=kit.project_key), link, folder=kit.state
        )
        members.current()
        store = JobStore(kit.state / "jobs")
        runner = Runner(store, members, link, notifier)
        gate = Gate(
            fleet=link.app(),
            own=application(store, runner, members),
            link=link,
            checking=Checking(members.current),
            notifier=notifier,
            members=members,
            largest=kit.max_message_mb * 1_000_000,
            body_seconds=self.body_seconds,
            cancelled=lambda: store.cancelled,
        )
        server = listener(gate, kit)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield LiveServer(link, notifier, members, store)
        finally:
            server.should_exit = True
            thread.join(timeout=20)


@dataclass
class LiveServer:
    link: Link
    notifier: Notifier
    members: Membership
    store: JobStore

    @contextmanager
    def run(self, settings: dict[str, str] | None = None) -> Iterator[LinkGrid]:
        with self.link.run(settings or {}) as live:
            yield LinkGrid(live, self.notifier, stop=threading.Event())

    def node(self, silo: str) -> int:
        return self.members.nodes[silo]

    def message(self, silo: str, kind: str = "train", content: RecordDict | None = None) -> Message:
        return Message(content or RecordDict(), self.node(silo), kind)


def answer_once(connection: Connection, make: Callable[[Message], Message]) -> None:
    """Take the next message and answer it."""
    found, end = None, time.monotonic() + 5
    while found is None:
        assert time.monotonic() < end, "no message came"
        found = connection.next()
    message = connection.fetch(*found)
    connection.reply(make(message), to=message)


def echo(message: Message) -> Message:
    return Message(message.content, reply_to=message)


def healthy_exchange(project: GateProject, server: LiveServer, silo: str = "north") -> None:
    """A message goes out and its answer comes back."""
    with project.connection(silo) as connection, server.run() as grid:
        thread = threading.Thread(target=answer_once, args=(connection, echo), daemon=True)
        thread.start()
        replies = list(grid.send_and_receive([server.message(silo)], timeout=20))
        thread.join(timeout=10)
    assert [reply.has_error() for reply in replies] == [False]
