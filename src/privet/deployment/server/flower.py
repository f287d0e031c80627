"""All that is used of Flower's SuperLink beyond its public interface, in one place.

Flower 1.41 has no public way to host a SuperLink in a process of one's own. Its state (nodes, runs,
messages in a database, objects in memory), its fleet routes and its runtime handlers are used as
they are; what it would start as processes (superexec, serverapp) is not started.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from fastapi import FastAPI, HTTPException, Request, Response
from flwr.app import Message
from flwr.app.message.message import remove_content_from_message
from flwr.common.constant import (
    HEARTBEAT_PATIENCE,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    Status,
    SubStatus,
)
from flwr.common.serde import message_from_proto
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.server.superlink.linkstate import LinkStateFactory, SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.error import FlowerError, http_error_translator
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, uses_nist_ec_curve
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.utils import uint64_to_int64
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.routers.fleet import node_auth
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from privet.deployment.monitoring import STRANGERS
from privet.deployment.parties.requests import WINDOW, Denied
from privet.deployment.server.objects import ObjectsOnDisk
from privet.errors import PrivetError
from privet.paged import paged_join
from privet.wire.transport import SMALL, TOGETHER, assemble

# One figure for how far clocks may be apart: the gate has checked it when Flower looks, which bears
# 5 s of a silo that is ahead.
for _tolerance in ("SYSTEM_TIME_TOLERANCE", "TIMESTAMP_TOLERANCE"):
    setattr(node_auth, _tolerance, WINDOW)

HEARTBEAT = 10.0
"""Seconds from one sign of life of a node to the next; after twice as long it is offline."""
# Flower takes a task for dead after two intervals of 30 s; this leaves room for three lost beats.
_BEAT_OF_RUN = 15.0
_OVER = "nobody waits for this any more"

log = logging.getLogger("privet.server")
logging.getLogger("flwr").setLevel(logging.WARNING)  # every push is a line at INFO


@dataclass(frozen=True)
class NodeStatus:
    """One silo's node as the link sees it."""

    node: int
    online: bool
    online_until: float | None
    """Seconds since 1970; None for a node that has not been seen."""
    since: str | None = None
    """ISO 8601: when it came online, or went offline; None for a node that has not been seen."""
    last_beat: float | None = None
    """Of its last sign of life, seconds since 1970; late for a node that signed off."""


ROOM = 64_000_000
_BYTES_A_VALUE = 64


def allowance(values: int) -> int:
    """Bytes of an answer, and of all that a silo may have on its way, in a job whose model trains
    so many values: encrypted or with a strategy's extras, several times the model."""
    return ROOM + _BYTES_A_VALUE * values


class TooMuch(PrivetError):  # noqa: N818 - says what is wrong with it
    """More than a silo may have on the server at a time."""


class Link:
    """Nodes, runs and messages; nodes and runs survive a restart, objects do not."""

    def __init__(self, database: Path) -> None:
        """Raises PrivetError when the database cannot be opened."""
        before = os.umask(0o077)  # SQLite makes the files, in whatever mode the umask leaves
        try:
            # The factories hand out what stands in their caches: so Flower's own routes work on
            # these two objects, and not on a second store and a second connection of theirs.
            objects = ObjectStoreFactory()
            self._objects = ObjectsOnDisk(database.with_name("objects"))
            objects.store_instance = self._objects
            manager = NoOpFederationManager()
            self.factory = LinkStateFactory(str(database), manager, objects)
            self.state = _InTurn(str(database), manager, self._objects)
            self.state.initialize()
            self.factory.state_instance = self.state
            self._starts: Counter[int] = Counter()
            self._anew: set[int] = set()
            self._delivered: dict[int, str] = {}
            """By node: the message that it was sent last."""
            self.allowance: int | None = None
            """As the function of this name gives it for the present job; None: no limit."""
            self._kept: dict[int, dict[str, int]] = {}
            self._counting = threading.Lock()
        except Exception as error:
            raise PrivetError(
                f"{database}: the link's database cannot be opened ({error})"
            ) from error
        finally:
            os.umask(before)

    def app(self) -> FastAPI:
        """Flower's fleet routes: what nodes ask for; nothing else of Flower's is served."""
        app = FastAPI(
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            middleware=[
                # The first is outermost. A node's signature is over nothing but the time; whose
                # request it is, Flower reads in the message itself, which must therefore be
                # translated before.
                Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
                Middleware(BaseHTTPMiddleware, dispatch=_blame_the_node),
                Middleware(ProtobufTranslationMiddleware),
                Middleware(NodeAuthMiddleware),
            ],
        )
        app.state.linkstate_factory = self.factory
        # With it Flower refuses to register or unregister nodes by themselves: who is a node
        # follows from the signed list alone.
        app.state.enable_supernode_auth = True
        app.include_router(fleet_router)
        return app

    def node(self, public: str) -> int | None:
        """The node with this public key (one line of OpenSSH), or None."""
        found: int | None = self.state.get_node_id_by_public_key(pem_of(public))
        return found

    def admit(self, public: str, *, name: str) -> int:
        """The node of a silo with this public key, new or known."""
        known = self.node(public)
        if known is not None:
            return known
        pem = pem_of(public)
        return self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, pem, HEARTBEAT, name=name)

    def expel(self, node: int) -> None:
        """From now on the node can do nothing; its key is never admitted again."""
        self.state.delete_node(NOOP_FLWR_AID, node)

    def forget_session(self, node: int) -> None:
        """Let a node that died a moment ago be activated anew, though it still counts as online.

        What it was sent and has not answered by its first question is delivered again then: it
        died before it had it, or else it says so first.
        """
        # Flower activates an offline node only, which a dead one is no sooner than 20 s later.
        if self.status([node])[node].online:
            self.state.deactivate_node(node)
        self._starts[node] += 1
        self._anew.add(node)
        self._delivered.pop(node, None)

    def status(self, nodes: Iterable[int]) -> dict[int, NodeStatus]:
        """What is known of `nodes`, by node."""
        found = {info.node_id: info for info in self.state.get_node_info(node_ids=list(nodes))}
        return {node: _status(node, info) for node, info in found.items()}

    def run_of(self, message: str, *, asked: int) -> int:
        """The run of a message that waits for the answer of the node `asked`.

        Denied for a message of another node, PrivetError for one that is no longer waited for: its
        run is over, or its time.
        """
        found = self.state.get_valid_message_ins(message)
        if found is None:
            raise PrivetError(_OVER)
        # The row itself, in which SQLite's signed integers stand for Flower's unsigned ids.
        if int(found["dst_node_id"]) % 2**64 != asked:
            raise Denied("a message of another node")
        return int(found["run_id"]) % 2**64

    def next_message(
        self, node: int, *, had: str | None = None
    ) -> tuple[PullMessagesResponse, dict[str, bytes]] | None:
        """The next message for a node, with the parts that may travel together; None for none.

        To have asked is a sign of life of the node. `had`: the message that came to it last, if it
        says so: another one was lost on its way and is sent again.
        """
        # One transaction for a heartbeat and a look: each by itself would wait for the disk.
        with self.state.session():
            self.state.acknowledge_node_heartbeat(node, HEARTBEAT)
            # Not at activation: a silo that was restarted says first which message it had begun,
            # and that one must not be delivered again.
            if node in self._anew:
                self._anew.discard(node)
                self.state.deliver_again(node)
            elif (lost := self._delivered.get(node)) and had not in (None, lost):
                self.state.deliver_again(node, only=lost)
            question = PullMessagesRequest(node=Node(node_id=node))
            found = fleet_handlers.pull_messages(question, self.state, self._objects)
        if not found.messages_list:
            return None
        self._delivered[node] = str(found.messages_list[0].metadata.message_id)
        parts: dict[str, bytes] = {}
        room = TOGETHER
        for each in iterate_object_tree(found.message_object_trees[0]):
            content = self._objects.in_memory(each.object_id)
            if content and len(content) <= min(SMALL, room) and each.object_id not in parts:
                parts[each.object_id] = content
                room -= len(content)
        return found, parts

    def room(self, node: int) -> int | None:
        """Bytes that a node may have the server keep beyond what it has there; None: any."""
        if self.allowance is None:
            return None
        with self._counting:
            kept = self._kept.get(node, {})
            # Also what another silo sent: it stands there once, and counts for both.
            here = {name: size for name, size in kept.items() if name in self._objects}
            self._kept[node] = here
            return max(0, self.allowance - sum(here.values()))

    def count(self, node: int, parts: Mapping[str, int]) -> None:
        """Parts with so many bytes came from a node."""
        with self._counting:
            self._kept.setdefault(node, {}).update(parts)

    def answer(
        self, pushed: PushMessagesRequest, parts: Mapping[str, bytes]
    ) -> PushMessagesResponse:
        """Take a node's answer with these parts of it; says which others are wanted.

        PrivetError when nobody waits for it any more, TooMuch for more than the node has room for,
        ValueError for a part that is not what its name says.
        """
        node = pushed.messages_list[0].metadata.src_node_id
        sizes = {name: len(part) for name, part in parts.items()}
        room = self.room(node)
        if room is not None and sum(sizes.values()) > room:
            raise TooMuch(f"at most {room} bytes are taken here")
        self.count(node, sizes)
        (tree,) = pushed.message_object_trees
        names = {each.object_id for each in iterate_object_tree(tree)}
        # They become names of files; what Flower takes for a hash may have capitals, so two names
        # for one.
        _check_names(names)
        if names <= parts.keys():
            self._keep(pushed, parts)
            return PushMessagesResponse()
        try:
            answer = fleet_handlers.push_messages(pushed, self.state)
        except FlowerError:
            raise PrivetError(_OVER) from None
        run, session = pushed.messages_list[0].metadata.run_id, answer.session_id
        with self.state.session():
            for name in names & parts.keys():
                self.state.store_object(run, session, name, parts[name])
        wanted = [name for name in answer.objects_to_push if name not in parts]
        return PushMessagesResponse(objects_to_push=wanted, session_id=session)

    def _keep(self, pushed: PushMessagesRequest, parts: Mapping[str, bytes]) -> None:
        """A whole answer: needs none of the bookkeeping of one that comes piece by piece."""
        (told,), (tree,) = pushed.messages_list, pushed.message_object_trees
        stored = None
        # Parts first, then the reply: as soon as the reply is stored, the coordinator may read it.
        new = self._objects.preregister(told.metadata.run_id, tree)
        try:
            for name in new:
                self._objects.put(name, parts[name])
            stored = self.state.store_message_res(message_from_proto(told))
        finally:
            # One that was there before is a reply that was stored already, and is not to be taken
            # away.
            if stored is None and tree.object_id in new:
                self._objects.delete(tree.object_id)
        if stored is None:
            raise PrivetError(_OVER)

    def end_old_runs(self) -> None:
        """Runs of an earlier start of the server have no one to go on with them."""
        waiting = [Status.PENDING, Status.STARTING, Status.RUNNING]
        for run in self.state.get_run_info(statuses=waiting):
            self.state.finish_task(
                int(run.primary_task_id or 0), SubStatus.FAILED, "the server was restarted"
            )
            self.state.cleanup_run(run.run_id)

    @contextmanager
    def run(self, settings: Mapping[str, str]) -> Iterator[LiveRun]:
        """A run while the context is open; one at a time in a process, as Flower's tasks are."""
        live = LiveRun(self.state, dict(settings), self._starts, lambda: self.allowance)
        try:
            yield live
        except BaseException:
            live.end(SubStatus.FAILED)
            raise
        live.end(SubStatus.COMPLETED)


class LiveRun:
    """A run with its own sign of life, and the messages that it sends and gets."""

    def __init__(
        self,
        state: SqlLinkState,
        settings: dict[str, str],
        starts: Mapping[int, int],
        most: Callable[[], int | None],
    ) -> None:
        """`starts`: how often each node was started so far, kept up to date. `most`: bytes of an
        answer."""
        self._state, self._starts, self._most = state, starts, most
        self.id = state.create_run(
            fab_id=None,
            fab_version=None,
            fab_hash=None,
            # The only thing of a run that silos are told: it carries the signed order.
            override_config={**settings},
            federation_id=NOOP_FEDERATION_ID,
            federation_config=None,
            flwr_aid=NOOP_FLWR_AID,
            primary_task_type=TaskType.SERVER_APP,
        )
        (info,) = state.get_run_info(run_ids=[self.id])
        self._task_id = int(info.primary_task_id or 0)
        # Flower would have a process of its own do this; unclaimed, the run stays pending and nodes
        # may neither ask for it nor answer.
        if not (state.claim_task(self._task_id) and state.activate_task(self._task_id)):
            raise PrivetError("Flower's link did not start the run")
        self._task = state.get_tasks(task_ids=[self._task_id])[0]
        # Flower's `Message` reads from here who sends it, and has nowhere else to look.
        TaskIdentity.run_id, TaskIdentity.task_id = self.id, self._task_id
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        self._over = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="run heartbeat").start()

    def end(self, how: str) -> None:
        """Finish, and forget messages that nobody waits for."""
        self._over.set()
        self._state.finish_task(self._task_id, how, "")
        self._state.cleanup_run(self.id)

    def nodes(self) -> list[int]:
        """Those that are online."""
        return [info.node_id for info in self._state.get_node_info(statuses=["online"])]

    def send(self, messages: list[Message]) -> list[str]:
        """The messages' ids, in order; "" for one to a node that there is not."""
        # Otherwise every access to an id hashes the whole model again.
        with no_object_id_recompute():
            for message in messages:
                # The property has no setter; Flower does the same.
                message.metadata.__dict__["_message_id"] = message.object_id
                self._keep(message)
        bare = [remove_content_from_message(message) for message in messages]
        with self._state.session():  # one for all, once the parts are there: then they are told of
            names = [self._state.store_message_ins(message) or "" for message in bare]
        for message, name in zip(bare, names, strict=True):
            if not name:
                self._state.object_store.delete(message.metadata.message_id)
        return names

    def _keep(self, message: Message) -> None:
        wanted = set(self._state.object_store.preregister(self.id, get_object_tree(message)))
        # Silos get the same model: of a part that another message brought already nothing is
        # copied.
        for name, part in get_all_nested_objects(message).items():
            if name in wanted:
                self._state.object_store.put(name, part.deflate())

    def forget(self, messages: Iterable[str], *, coming: Iterable[Reply] = ()) -> None:
        """Deliver these messages no more, and take no reply to them; also forget what has come of
        replies that are on their way."""
        forgotten = set(messages)
        self._state.delete_messages(message_ins_ids=forgotten)
        for name in {*forgotten, *(reply.id for reply in coming)}:
            self._state.object_store.delete(name)

    def arrived(self, messages: Iterable[str]) -> Iterator[Reply]:
        """Replies to `messages` that are on their way or here; each is told of once."""
        question = PullAppMessagesRequest(message_ids=list(messages))
        if not question.message_ids:
            return
        with self._state.session():
            answer = runtime_handlers.pull_messages(question, self._state, self._task)
        for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            head = message_from_proto(proto)
            yield Reply(head, tree, self._starts[head.metadata.src_node_id])

    def is_here(self, reply: Reply) -> bool:
        """Whether the last part of the reply has come; silos send it after all others."""
        return bool(self._state.object_store.get(reply.id))

    def is_lost(self, reply: Reply) -> bool:
        """Whether its silo died while it sent the reply, and was started again."""
        starts = self._starts[reply.head.metadata.src_node_id]
        return starts > reply.starts and not self.is_here(reply)

    def read(self, reply: Reply) -> Message:
        """The whole reply, which is then forgotten; an exception for one with parts missing."""
        try:
            return assemble(reply.id, self._part, join=paged_join, most=self._most())
        finally:
            # The question too: one that came whole is never confirmed by its silo
            # (`Connection.fetch`).
            for name in (reply.id, reply.to):
                self._state.object_store.delete(name)

    def _part(self, name: str) -> bytes:
        content = self._state.object_store.get(name)
        if not content:
            raise ValueError("a part of it has not come")
        return content

    def _beat(self) -> None:
        while not self._over.wait(_BEAT_OF_RUN):
            try:
                self._state.acknowledge_task_heartbeat(self._task_id)
            except Exception:  # Flower gives a run up after several lost ones only
                log.exception("a sign of life of run %s cannot be written down", self.id)


@dataclass(frozen=True)
class Reply:
    """A reply whose parts may still be on their way."""

    head: Message
    tree: ObjectTree
    starts: int
    """How often its silo had been started when the head of the reply came."""

    @property
    def id(self) -> str:
        """Its own id, which is that of its last part."""
        return str(self.head.metadata.message_id)

    @property
    def to(self) -> str:
        """The id of the message that it answers."""
        return str(self.head.metadata.reply_to_message_id)


class _InTurn(SqlLinkState):
    """One thread at a time: SQLite lets one write, and has the others sleep and give up."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Flower's sessions are reentrant, so the lock must be.
        self._turn = threading.RLock()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """As Flower's, once it is this thread's turn."""
        with self._turn, super().session() as session:
            yield session

    def store_object(
        self, run_id: int, session_id: str, object_id: str, object_content: bytes
    ) -> bool:
        """As Flower's; False also for a part of a reply that nobody waits for any more."""
        try:
            return bool(super().store_object(run_id, session_id, object_id, object_content))
        except NoObjectInStoreError:
            return False

    def deliver_again(self, node: int, *, only: str | None = None) -> None:
        """Have a node get once more what was delivered to it and is not answered; with `only`, just
        that message."""
        # An empty `delivered_at` is what Flower takes for not yet delivered.
        answered = select(MessageRes.reply_to_message_id)
        open_ = (
            MessageIns.dst_node_id == uint64_to_int64(node),
            MessageIns.message_id.not_in(answered),
            *(() if only is None else (MessageIns.message_id == only,)),
        )
        with self.session() as session:
            session.execute(update(MessageIns).where(*open_).values(delivered_at=""))


def _check_names(names: Iterable[str]) -> None:
    if not all(re.fullmatch("[0-9a-f]{64}", name) for name in names):
        raise ValueError("a part is named by its SHA-256")


async def _blame_the_node(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Flower takes what a node sends for well-formed; where it stumbles, the node is at fault."""
    try:
        return await call_next(request)
    # Within the translator, which makes an answer of the HTTPException; a 500 would have the silo
    # try on for ever.
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        told = logging.getLogger(STRANGERS)
        told.warning("refused: %s: %s", request.url.path, type(error).__name__)
        raise HTTPException(400, "malformed") from None


def _status(node: int, info: NodeInfo) -> NodeStatus:
    online = info.status == "online"
    since = info.last_activated_at if online else info.last_deactivated_at
    # Flower keeps no time of a beat, only how long it is good for.
    beat = info.online_until - HEARTBEAT_PATIENCE * info.heartbeat_interval
    return NodeStatus(
        node,
        online,
        info.online_until or None,
        since=since or None,
        last_beat=beat if info.online_until else None,
    )


# Asked for at every request of a silo, and parsing a key costs more than the rest of the gate.
@lru_cache(maxsize=4096)
def pem_of(public: str) -> bytes:
    """The form in which Flower keeps and compares node keys."""
    key = load_ssh_public_key(public.encode())
    if not uses_nist_ec_curve(key):  # type: ignore[arg-type]
        raise PrivetError("a node key is not on a NIST curve")
    return public_key_to_bytes(key)  # type: ignore[arg-type]
