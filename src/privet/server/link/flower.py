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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

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
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.error import http_error_translator
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, uses_nist_ec_curve
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from flwr.superlink.servicer.runtime import runtime_handlers
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from privet.errors import PrivetError
from privet.server.link.objects import ObjectsOnDisk
from privet.wire.parts import SMALL

HEARTBEAT = 10.0
"""Seconds from one sign of life of a node to the next; after twice as long it is offline."""
_BEAT_OF_RUN = 15.0
_SERVER = Node(node_id=SUPERLINK_NODE_ID)

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


class Link:
    """Nodes, runs and messages; nodes and runs survive a restart, objects do not."""

    def __init__(self, database: Path) -> None:
        """Raises PrivetError when the database cannot be opened."""
        before = os.umask(0o077)
        try:
            objects = ObjectStoreFactory()
            objects.store_instance = ObjectsOnDisk(database.with_name("objects"))
            self.factory = LinkStateFactory(str(database), NoOpFederationManager(), objects)
            self.state: LinkState = self.factory.state()
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
                Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
                Middleware(BaseHTTPMiddleware, dispatch=_blame_the_node),
                Middleware(ProtobufTranslationMiddleware),
                Middleware(NodeAuthMiddleware),
            ],
        )
        app.state.linkstate_factory = self.factory
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
        """Let a node that died a moment ago be activated anew, though it still counts as online."""
        if self.status([node])[node].online:
            self.state.deactivate_node(node)

    def status(self, nodes: Iterable[int]) -> dict[int, NodeStatus]:
        """What is known of `nodes`, by node."""
        found = {info.node_id: info for info in self.state.get_node_info(node_ids=list(nodes))}
        return {node: _status(node, info) for node, info in found.items()}

    def addressee(self, message: str) -> int | None:
        """The node that a waiting message is for."""
        found = self.state.get_valid_message_ins(message)  # type: ignore[attr-defined]
        return None if found is None else int(found["dst_node_id"]) % 2**64

    def take(self, run: int, names: Iterable[str], *, most: int) -> dict[str, bytes]:
        """The parts of messages that are here, up to `most` bytes of them together.

        PrivetError when the run is over, ValueError for a name that none can have.
        """
        names = list(names)
        _check_names(names)
        self._check_running(run)
        found: dict[str, bytes] = {}
        for name in names:
            content = self.state.get_object(run, name)
            if content and len(content) <= SMALL:
                most -= len(content)
                if most < 0:
                    break
                found[name] = content
        self.state.store_traffic(run, bytes_sent=sum(map(len, found.values())), bytes_recv=0)
        return found

    def give(self, run: int, session: str, parts: Mapping[str, bytes]) -> list[str]:
        """Keep parts of a reply; the names of those that were wanted.

        PrivetError when the run is over, ValueError for a part that is not what its name says.
        """
        _check_names(parts)
        if not session.isascii():
            raise ValueError("no session has this name")
        self._check_running(run)
        taken = [
            name
            for name, content in parts.items()
            if session and self.state.store_object(run, session, name, content)
        ]
        came = sum(len(parts[name]) for name in taken)
        self.state.store_traffic(run, bytes_sent=0, bytes_recv=came)
        return taken

    def _check_running(self, run: int) -> None:
        status = self.state.get_run_status({run}).get(run)
        if status is None or status.status != Status.RUNNING:
            raise PrivetError("nobody waits for this any more")

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
        live = LiveRun(self.state, dict(settings))
        try:
            yield live
        except BaseException:
            live.end(SubStatus.FAILED)
            raise
        live.end(SubStatus.COMPLETED)


class LiveRun:
    """A run with its own sign of life, and the messages that it sends and gets."""

    def __init__(self, state: LinkState, settings: dict[str, str]) -> None:
        self._state = state
        self.id = state.create_run(
            fab_id=None,
            fab_version=None,
            fab_hash=None,
            override_config={**settings},
            federation_id=NOOP_FEDERATION_ID,
            federation_config=None,
            flwr_aid=NOOP_FLWR_AID,
            primary_task_type=TaskType.SERVER_APP,
        )
        (info,) = state.get_run_info(run_ids=[self.id])
        self._task_id = int(info.primary_task_id or 0)
        if not (state.claim_task(self._task_id) and state.activate_task(self._task_id)):
            raise PrivetError("Flower's link did not start the run")
        self._task = state.get_tasks(task_ids=[self._task_id])[0]
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
        if not messages:
            return []
        with no_object_id_recompute():
            objects: dict[str, InflatableObject] = {}
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
                objects |= get_all_nested_objects(message)
            answer = runtime_handlers.push_messages(
                PushAppMessagesRequest(
                    messages_list=[
                        message_to_proto(remove_content_from_message(message))
                        for message in messages
                    ],
                    message_object_trees=[get_object_tree(message) for message in messages],
                ),
                self._state,
                self._task,
            )
            push = make_push_object_fn_protobuf(
                lambda request: runtime_handlers.push_object(request, self._state, self._task),
                _SERVER,
                self.id,
                answer.session_id,
            )
            wanted = set(answer.objects_to_push)
            for name, part in objects.items():
                if name in wanted:
                    push(name, part.deflate())
        return [str(name) for name in answer.message_ids]

    def forget(self, messages: Iterable[str]) -> None:
        """Deliver these messages no more, and take no reply to them."""
        self._state.delete_messages(message_ins_ids=set(messages))

    def arrived(self, messages: Iterable[str]) -> Iterator[Reply]:
        """Replies to `messages` that are on their way or here; each is told of once."""
        answer = runtime_handlers.pull_messages(
            PullAppMessagesRequest(message_ids=list(messages)), self._state, self._task
        )
        for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            yield Reply(message_from_proto(proto), tree)

    def is_here(self, reply: Reply) -> bool:
        """Whether the last part of the reply has come; silos send it after all others."""
        return bool(self._state.object_store.get(reply.id))

    def read(self, reply: Reply) -> Message:
        """The whole reply, which is then forgotten; an exception for one with parts missing."""
        pull = make_pull_object_fn_protobuf(
            lambda request: runtime_handlers.pull_object(request, self._state, self._task),
            _SERVER,
            self.id,
        )
        try:
            names = [each.object_id for each in iterate_object_tree(reply.tree)]
            contents = pull_objects(names, pull, initial_backoff=0.01, max_time=1.0)
        finally:
            request = ConfirmMessageReceivedRequest(
                node=_SERVER, run_id=self.id, message_object_id=reply.id
            )
            runtime_handlers.confirm_message_received(request, self._state, self._task)
        message = inflate_object_from_contents(reply.id, contents)
        if not isinstance(message, Message):
            raise ValueError("it is no message")
        message.metadata.__dict__["_message_id"] = reply.id
        return message

    def _beat(self) -> None:
        while not self._over.wait(_BEAT_OF_RUN):
            self._state.acknowledge_task_heartbeat(self._task_id)


@dataclass(frozen=True)
class Reply:
    """A reply whose parts may still be on their way."""

    head: Message
    tree: ObjectTree

    @property
    def id(self) -> str:
        """Its own id, which is that of its last part."""
        return str(self.head.metadata.message_id)

    @property
    def to(self) -> str:
        """The id of the message that it answers."""
        return str(self.head.metadata.reply_to_message_id)


def _check_names(names: Iterable[str]) -> None:
    if not all(re.fullmatch("[0-9a-f]{64}", name) for name in names):
        raise ValueError("a part is named by its SHA-256")


async def _blame_the_node(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Flower takes what a node sends for well-formed; where it stumbles, the node is at fault."""
    try:
        return await call_next(request)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        log.warning("refused: %s: %s", request.url.path, type(error).__name__)
        raise HTTPException(400, "malformed") from None


def _status(node: int, info: NodeInfo) -> NodeStatus:
    online = info.status == "online"
    since = info.last_activated_at if online else info.last_deactivated_at
    beat = info.online_until - HEARTBEAT_PATIENCE * info.heartbeat_interval
    return NodeStatus(
        node,
        online,
        info.online_until or None,
        since=since or None,
        last_beat=beat if info.online_until else None,
    )


@lru_cache(maxsize=4096)
def pem_of(public: str) -> bytes:
    """The form in which Flower keeps and compares node keys."""
    key = load_ssh_public_key(public.encode())
    if not uses_nist_ec_curve(key):  # type: ignore[arg-type]
        raise PrivetError("a node key is not on a NIST curve")
    return public_key_to_bytes(key)  # type: ignore[arg-type]
