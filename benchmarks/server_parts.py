"""What the parts of a server cost for each message, without network and processes.

A link as `privet server` has it, with the nodes of a project, and messages with a small model's
weights. Measured: processor time of this process, statements and transactions of SQLite.

    python benchmarks/server_parts.py [--nodes 200]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from flwr.app import Message
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from many_nodes import provisioned
from sqlalchemy import event

from privet.deployment.parties import PartiesFile, ServerKit, SiloKit
from privet.deployment.parties.requests import SIGNATURE, Checking, Signing
from privet.deployment.server.flower import HEARTBEAT, Link, LiveRun
from privet.deployment.server.membership import Membership
from privet.deployment.trial import SERVER
from privet.privacy.ledger import SiloKey
from privet.wire import TrainReply, TrainRequest
from privet.wire.transport import assemble

PARAMETERS = 4_810
SIGNATURES = 2_000


class Clock:
    """Processor time, statements and transactions since the last look."""

    def __init__(self, link: Link) -> None:
        event.listen(link.state._engine, "before_cursor_execute", self._statement)
        event.listen(link.state._engine, "commit", self._commit)
        self.restart()

    def restart(self) -> None:
        self._sql = self._commits = 0
        self._start = time.process_time()

    def tell(self, what: str, count: int) -> None:
        took = time.process_time() - self._start
        print(
            f"  {what:<36}{1000 * took / count:>7.2f} ms{self._sql / count:>7.1f} statements"
            f"{self._commits / count:>7.2f} transactions",
            flush=True,
        )
        self.restart()

    def _statement(self, *_: object) -> None:
        self._sql += 1

    def _commit(self, *_: object) -> None:
        self._commits += 1


def answer_to(
    head: PullMessagesResponse, parts: dict[str, bytes]
) -> tuple[PushMessagesRequest, dict[str, bytes]]:
    """What a silo does."""
    asked = assemble(head.message_object_trees[0].object_id, parts.__getitem__)
    weights = TrainRequest.from_records(asked.content).weights
    assert weights is not None
    update = weights + np.float32(asked.metadata.dst_node_id % 1000)
    reply = Message(TrainReply(update, 1.0, event=None).to_records(), reply_to=asked)
    reply.metadata.__dict__["_src_node_id"] = asked.metadata.dst_node_id
    with no_object_id_recompute():
        reply.metadata.__dict__["_message_id"] = reply.object_id
        pushed = PushMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
        )
        return pushed, {n: part.deflate() for n, part in get_all_nested_objects(reply).items()}


def exchange(link: Link, run: LiveRun, nodes: list[int], clock: Clock) -> None:
    """One message for each node and back."""
    request = TrainRequest(round=1, weights=np.zeros(PARAMETERS, np.float32)).to_records()
    messages = [Message(request, node, "train", ttl=600.0) for node in nodes]
    many = len(nodes)
    clock.restart()
    sent = run.send(messages)
    clock.tell("a message is sent", many)
    found = [link.next_message(node) for node in nodes]
    clock.tell("its node gets it", many)
    answers = [answer_to(*each) for each in found if each]
    clock.restart()
    for node, (pushed, parts) in zip(nodes, answers, strict=True):
        link.run_of(pushed.messages_list[0].metadata.reply_to_message_id, asked=node)
        link.answer(pushed, parts)
    clock.tell("its answer is taken", many)
    for name in sent:
        for reply in run.arrived([name]):
            run.read(reply)
    clock.tell("its answer is read", many)
    for node in nodes:
        link.next_message(node)
    clock.tell("a node asks, and nothing waits", many)
    for node in nodes:
        link.state.acknowledge_node_heartbeat(node, HEARTBEAT)
    clock.tell("a sign of life is noted", many)


def sweep(link: Link, run: LiveRun, nodes: list[int], clock: Clock) -> None:
    """What a coordinator asks every two seconds while it waits for everybody."""
    request = TrainRequest(round=1, weights=np.zeros(PARAMETERS, np.float32)).to_records()
    sent = run.send([Message(request, node, "train", ttl=600.0) for node in nodes])
    clock.restart()
    for _ in range(10):
        assert not list(run.arrived(sent))
    clock.tell(f"a look at {len(nodes)} that are at work", 10)
    run.forget(sent)


def signatures(checking: Checking, signing: Signing, clock: Clock) -> None:
    """Requests as a silo signs them and a gate checks them."""
    requests = [httpx.Request("POST", "https://x/y", content=b"") for _ in range(SIGNATURES)]
    next(signing.auth_flow(requests[0]))
    signing._start = checking.start
    for request in requests:
        next(signing.auth_flow(request))
    clock.restart()
    for request in requests:
        checking.check(request.headers[SIGNATURE], method="POST", target="/y")
    clock.tell("a signature is checked", SIGNATURES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=200)
    silos = parser.parse_args().nodes
    with tempfile.TemporaryDirectory(prefix="server-parts-") as folder:
        trial, _ = provisioned(Path(folder) / "project", silos)
        kit = ServerKit.from_folder(trial.kit(SERVER))
        kit.state.mkdir()
        link = Link(kit.state / "link.sqlite")
        file = PartiesFile(kit.parties, project_key=kit.project_key)
        members = Membership(file, link, folder=kit.state)
        members.current()
        nodes, clock = list(members.nodes.values()), Clock(link)
        for node in nodes:
            link.state.activate_node(node, HEARTBEAT)
        print(f"{silos} nodes, {PARAMETERS:,} parameters, for each of them:")
        silo = SiloKit.from_folder(trial.kit(trial.silos[0]))
        signing = Signing(
            project=silo.project, name=silo.name, identity=SiloKey.load(silo.identity)
        )
        signatures(Checking(members.current), signing, clock)
        with link.run({}) as run:
            exchange(link, run, nodes, clock)
            sweep(link, run, nodes, clock)


if __name__ == "__main__":
    main()
