"""A silo's connection to the server: Flower's fleet protocol, spoken without Flower's SuperNode.

A SuperNode starts a process for every message and runs in it what the job's submitter packed. Here
the code of a job is never even fetched: messages come, and privet's own ClientApp answers them.
A message with its small parts comes in one request, its answer goes in one
(`privet.wire.transport`), and large parts travel by Flower's own routes.

Every call ends: in an answer, or in one of the exceptions below.
"""

from __future__ import annotations

import json
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    pull_objects,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as AnyProto

from privet.deployment.parties.requests import CANCELS, PARTIES, Signing
from privet.deployment.parties.transport import QUIET, WHOLE, Traffic, client
from privet.errors import PrivetError
from privet.wire.transport import ANSWER, HEAD, NEXT, SMALL, TOGETHER, assemble, pack, unpack

HEARTBEAT = 10.0
"""Seconds within which the server wants a sign of life, the least that Flower takes."""
ONLINE = 30.0
"""Seconds after the server's last good answer in which a silo believes itself online."""
# Offline after two intervals of silence: three signs of life may be lost before.
_BEAT = HEARTBEAT / 2
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0
_UPLOAD_TIMEOUT = 170.0
"""Seconds to try for a part of a reply: Flower gives an upload up 180 s after its last part."""

# A ValueError is an answer that is no message; a proxy's page, for one, says nothing final.
_TROUBLE = (httpx.HTTPError, ValueError)
"""No answer, or something else than an answer."""

Answer = TypeVar("Answer")
Proto = TypeVar("Proto", bound=AnyProto)
log = logging.getLogger("privet.silo")


class ServerRefused(PrivetError):  # noqa: N818 - it is the server's answer
    """The server will not have this silo: unknown, expired, revoked, or its clock is wrong."""


class NotTrusted(PrivetError):  # noqa: N818
    """Whoever answers at the server's address is not certified by the project's authority."""


class Unreachable(PrivetError):  # noqa: N818
    """No answer within the time that was given."""


class RunOver(PrivetError):  # noqa: N818
    """Nobody waits for this message any more."""


class Stopped(PrivetError):  # noqa: N818
    """This process was asked to end."""


class Connection:
    """One silo's side of the fleet protocol; `stop` ends every wait with Stopped."""

    def __init__(
        self,
        server: str,
        *,
        ca: Path,
        node_key: Path,
        auth: Signing,
        stop: threading.Event,
        quiet: float = QUIET,
        whole: float = WHOLE,
    ) -> None:
        """`quiet`, `whole`: the limits of a single request, as of `transport.client`."""
        private = load_ssh_private_key(node_key.read_bytes(), None)
        public = private.public_key()
        self._public = public_key_to_bytes(public)  # type: ignore[arg-type]
        self.traffic = Traffic()
        self.parties_version = 0
        """The newest that the server spoke of."""
        self.cancels = 0
        """Another number after every job that was cancelled."""
        self._stop = stop
        # What the heartbeat's thread was told; raised in the thread that works, at its next call.
        self._lost: PrivetError | None = None
        # Not 0: the monotonic clock may begin there, at the start of the machine.
        self._heard = -ONLINE
        self._node = Node()
        self._alive = -HEARTBEAT  # when the server last noted a sign of life, unless by `_beat`
        self._parts: dict[str, bytes] = {}
        self._had = ""
        self._beating: threading.Thread | None = None
        self.ledger: Callable[[], str] = str
        """The signed head of the silo's ledger, told to the server when it is another one."""
        self._told_ledger = ""
        interceptor = NodeAuthHttpInterceptor(private, public)  # type: ignore[arg-type]

        def fleet() -> FleetHttpClient:
            # Flower's own HTTP client is closed before it is used, so `verify` is of no account:
            # the one in its place trusts the project's authority and nobody else.
            made = FleetHttpClient(server, interceptors=[interceptor], verify=False)
            made._client.close()
            made._client = client(
                server, ca=ca, auth=auth, traffic=self.traffic, quiet=quiet, whole=whole
            )
            made._client.event_hooks["response"].append(self._hear)
            return made

        # Two: a sign of life must not wait behind a model that is on its way.
        self._fleet, self._pulse = fleet(), fleet()

    @property
    def node(self) -> int:
        """This silo's number at the server."""
        return int(self._node.node_id)

    @property
    def online(self) -> bool:
        """Whether the server has this silo and answered it a moment ago."""
        heard = time.monotonic() - self._heard < ONLINE
        return bool(self.node) and self._lost is None and heard

    def activate(self) -> None:
        """Come online, and stay so by a sign of life now and then; again, where that ended."""
        self._lost, self._had, self._told_ledger = None, "", ""
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT)
        self._node = Node(node_id=self._call(self._fleet.ActivateNode, request).node_id)
        self._alive = time.monotonic()
        if self._beating is None or not self._beating.is_alive():
            self._beating = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
            self._beating.start()

    def close(self) -> None:
        """Go offline, if the server can be told."""
        if self.node:
            try:
                # Not by `_call`: that raises Stopped once the silo is asked to end, and this is not
                # worth waiting.
                self._pulse.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
            except (httpx.HTTPError, RuntimeError, OSError):
                log.debug("the server was not told that this silo goes")
        self._fleet.close()
        self._pulse.close()

    def next(self) -> tuple[Message, ObjectTree] | None:
        """The head of the next message and the names of its parts; None while there is none.

        The server holds the question open for some seconds, so asking again at once is fine.
        """
        try:
            answer, self._parts = self._call(self._ask, None)
        except RunOver as error:
            # A request that the server does not take today it may take after an upgrade; in its own
            # time.
            log.warning("the server was asked for messages: %s", error)
            self._stop.wait(_LONGEST_WAIT)
            return None
        self._alive = time.monotonic()
        if not answer.messages_list:
            return None
        self._had = str(answer.messages_list[0].metadata.message_id)
        try:
            return message_from_proto(answer.messages_list[0]), answer.message_object_trees[0]
        except (ValueError, LookupError, TypeError) as error:
            log.warning("a message of the server makes no sense: %s", error)
            self._stop.wait(_FIRST_WAIT)
            return None

    def settings(self, run: int) -> dict[str, Any]:
        """What the run was started with."""
        answer = self._call(self._fleet.GetRun, GetRunRequest(node=self._node, run_id=run))
        return dict(run_from_proto(answer.run).override_config)

    def fetch(self, head: Message, tree: ObjectTree, *, timeout: float = WHOLE) -> Message:
        """The whole message, every part checked against its name.

        Unreachable or ObjectPullError when it has not come after `timeout` seconds.
        """
        run, end = head.metadata.run_id, time.monotonic() + timeout
        raw = make_pull_object_fn_protobuf(
            lambda request: self._call(
                self._fleet.PullObject, request, timeout=max(0.0, end - time.monotonic())
            ),
            self._node,
            run,
        )

        def pull(name: str) -> bytes:
            content = raw(name)
            if get_object_id(content) != name:
                raise ObjectPullError(name, "it is not what its name says")
            return content

        # A tree names a part once for each place where it stands.
        names = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
        contents = self._came(names)
        left = [name for name in names if name not in contents]
        # What came whole needs no confirmation: the server forgets it with the reply to it.
        if left:
            contents |= pull_objects(left, pull, initial_backoff=0.05, max_time=timeout)
            make_confirm_message_received_fn_protobuf(
                lambda request: self._call(self._fleet.ConfirmMessageReceived, request),
                self._node,
                run,
            )(tree.object_id)
        try:
            return assemble(tree.object_id, contents.__getitem__)
        except ValueError as error:  # whatever a server sends, the silo goes on
            raise ObjectPullError(tree.object_id, str(error)) from None

    def reply(self, message: Message, *, to: Message) -> None:
        """Send an answer, with its small parts or with all of them.

        What is too large for that follows, the message itself last: the server looks for the answer
        as soon as that stands.
        """
        # Flower has an answer say when it was made, by this machine's clock; how long that took may
        # hang on records.
        message.metadata.created_at = to.metadata.created_at
        message.metadata.ttl = to.metadata.ttl
        message.metadata.__dict__["_message_id"] = message.object_id
        # Otherwise every access to an id hashes the whole update again.
        with no_object_id_recompute():
            tree, parts = get_object_tree(message), get_all_nested_objects(message)
            together = _small(parts, last=tree.object_id)
            pushed = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(message))],
                message_object_trees=[tree],
                # Flower wants to know how long it took, which may hang on records.
                clientapp_runtime_list=[0.0],
            )
            body = pack({HEAD: pushed.SerializeToString(), **together})
            answer = self._call(self._answer, body)
            left = parts.keys() & set(answer.objects_to_push)
            # The last part is what the server waits for, so it must not come before the others.
            for name in sorted(left, key=lambda name: name == tree.object_id):
                self._push(name, parts[name].deflate(), message, answer.session_id)

    def _came(self, names: list[str]) -> dict[str, bytes]:
        """Those parts that came with the head of the present message."""
        parts, self._parts = self._parts, {}
        for name, content in parts.items():
            if get_object_id(content) != name:
                raise ObjectPullError(name, "it is not what its name says")
        return {name: content for name, content in parts.items() if name in names}

    def _ask(self, _: None) -> tuple[PullMessagesResponse, dict[str, bytes]]:
        ledger = self.ledger()
        told = {"had": self._had} | ({} if ledger == self._told_ledger else {"ledger": ledger})
        parts, _facts = unpack(self._post(NEXT, json.dumps(told).encode()))
        self._told_ledger = ledger
        return _read(PullMessagesResponse(), parts.pop(HEAD, b"")), parts

    def _answer(self, body: bytes) -> PushMessagesResponse:
        return _read(PushMessagesResponse(), self._post(ANSWER, body))

    def _post(self, route: str, body: bytes) -> bytes:
        answer = self._fleet._client.post(f"/privet/v1/{route}", content=body)
        answer.raise_for_status()
        return answer.content

    def _push(self, name: str, content: bytes, message: Message, session: str) -> None:
        tries = 0

        def push(request: PushObjectRequest) -> Any:
            nonlocal tries
            tries += 1
            return self._fleet.PushObject(request)

        request = PushObjectRequest(
            node=self._node,
            run_id=message.metadata.run_id,
            object_id=name,
            object_content=content,
            session_id=session,
        )
        answer = self._call(push, request, timeout=_UPLOAD_TIMEOUT)
        if not answer.stored and tries == 1:  # at a second try the first may have arrived
            raise RunOver("the server does not take this reply any more")

    def _call(
        self,
        method: Callable[[Any], Answer],
        request: object,
        *,
        timeout: float | None = None,
    ) -> Answer:
        """The answer, asked for again where that may help, for `timeout` seconds or until told
        to stop."""
        start, wait, tries = time.monotonic(), _FIRST_WAIT, 0
        while True:
            if self._stop.is_set():
                raise Stopped("asked to end")
            if self._lost is not None:
                raise self._lost
            tries += 1
            try:
                answer = method(request)
            except _TROUBLE as error:
                judge(error)
                if timeout is not None and time.monotonic() - start > timeout:
                    raise Unreachable(f"no answer in {timeout:.0f} s: {error}") from error
                if tries == 3:
                    log.warning("the server does not answer (%s); trying on", describe(error))
                self._stop.wait(random.uniform(wait / 2, wait))  # noqa: S311 - spreads silos
                wait = min(wait * 2, _LONGEST_WAIT)
            else:
                if tries > 3:
                    log.info("the server answers again, after %.0f s", time.monotonic() - start)
                return answer

    def _beat(self) -> None:
        wait = _BEAT
        while not self._stop.wait(wait):
            request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT)
            # Two clients, but one network: not to add to what it carries while answers come.
            if time.monotonic() - self._alive < 2 * _BEAT:
                continue  # to ask for messages is a sign of life
            try:
                self._pulse.SendNodeHeartbeat(request)
                wait = _BEAT
            except _TROUBLE as error:
                try:
                    judge(error)
                except RunOver:
                    log.warning("a sign of life was not taken: %s", describe(error))
                except PrivetError as lost:
                    self._lost = lost
                    return
                # Sooner than usual: an interval has gone by already.
                wait = 1.0
            except Exception:  # whatever it is, the next one may go through
                log.exception("a sign of life could not be given")
                wait = _BEAT

    def _hear(self, response: httpx.Response) -> None:
        if response.is_success:
            self._heard = time.monotonic()
        self.parties_version = max(self.parties_version, _number(response, PARTIES))
        # Not the largest: a server whose jobs were tidied away, or its clock set, begins lower.
        self.cancels = _number(response, CANCELS)


def _number(response: httpx.Response, header: str) -> int:
    told = response.headers.get(header, "")
    # ASCII too: other digits are no numbers to `int`, and a long one takes time.
    return int(told[:18]) if told.isdecimal() else 0


def _small(parts: Mapping[str, InflatableObject], *, last: str) -> dict[str, bytes]:
    """All of `parts` if they may travel together, or else the small ones but for the last."""
    found: dict[str, bytes] = {}
    room = TOGETHER
    for name, part in parts.items():
        if isinstance(part, ArrayChunk) and len(part.data) > SMALL:
            continue  # not even copied
        content = part.deflate()
        if len(content) <= min(SMALL, room):
            found[name] = content
            room -= len(content)
    if len(found) < len(parts):
        found.pop(last, None)
    return found


def _read(proto: Proto, content: bytes) -> Proto:
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise ValueError(f"no {type(proto).__name__}") from error
    return proto


def judge(error: Exception) -> None:
    """Raise what asking again would not mend; return for what it may."""
    if isinstance(error, httpx.HTTPStatusError):
        status, text = error.response.status_code, _said(error.response)
        # Both sides say 403: the gate to a silo that it will not have, Flower of a run that is
        # over.
        ours = '"error"' in error.response.text
        if status == httpx.codes.GONE or (status == httpx.codes.FORBIDDEN and not ours):
            raise RunOver(text) from error
        # Flower's 401 is a wrong key or clock, its 412 a node that it will not activate.
        if status in (401, 403, 412):
            raise ServerRefused(f"the server refuses: {text}") from error
        if status in (400, 404, 413):  # this request; the silo is as welcome as before
            raise RunOver(f"the server refuses: {text}") from error
        return
    # httpx wraps the error of the ssl module in one or two of its own.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise NotTrusted(
                f"the server's certificate is not from the project's authority or not for this "
                f"address ({cause.verify_message})"
            ) from error
        cause = cause.__cause__ or cause.__context__


def describe(error: Exception) -> str:
    """An HTTP failure in a few words."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}, {_said(error.response)}"
    return str(error) or type(error).__name__


def _said(response: httpx.Response) -> str:
    """What a server gives as its reason, in one line."""
    return "".join(each if each.isprintable() else " " for each in _reason(response)[:500])


def _reason(response: httpx.Response) -> str:
    try:
        told = response.json()
        if isinstance(told, dict) and "error" in told:
            return str(told["error"])
        flower = FlowerError.from_json(response.text)
    except (ValueError, RecursionError):
        flower = None
    return f"[code: {flower.code}] {flower.message}" if flower else response.text[:200]
