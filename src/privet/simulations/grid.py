"""A Flower grid inside one process: the same apps as in deployment, without sockets or Ray.

Messages are answered lazily and in the order in which they were sent, so a coordinator that adds
up replies as they come holds one update at a time, and the result depends neither on the number
of workers nor on which of them was fast.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, cast

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from privet.client.own_part import OWN_PART
from privet.vectors import Vector
from privet.wire import ErrorReply

# The number that Flower's SuperLink has.
SERVER_NODE = 1
_FIRST_SILO_NODE = 2
_AHEAD = 4
"""Groups whose messages are read before the first is answered."""

NodeConfig = Mapping[str, str | int | float | bool]
Asked = tuple[Message, Context]
"""A message with the context of the silo that is to answer it."""
_Record = ArrayRecord | ConfigRecord | MetricRecord


class Executor(Protocol):
    """Runs the ClientApp on messages, in order, wherever the processes are."""

    def answers(
        self, messages: Iterable[Message], states: Callable[[int], RecordDict]
    ) -> Iterator[tuple[Message, RecordDict]]:
        """The reply to each message with the silo's new state, in the order of the messages."""

    def close(self) -> None:
        """Give back the processes."""


class BatchedTraining(Protocol):
    """Answers train messages of several silos at once."""

    @property
    def size(self) -> int:
        """The most messages that it takes."""

    def __call__(self, asked: Sequence[Asked]) -> list[Message]:
        """The reply to each message; what the silos keep goes into their contexts."""


class InProcessGrid(Grid):
    """Nodes `2 .. silos + 1`, each with its own Flower context."""

    def __init__(
        self,
        executor: Executor,
        *,
        silos: int,
        run_id: int,
        isolate: bool = False,
        names: Sequence[str] = (),
    ) -> None:
        """`isolate` serialises every message exactly as Flower's wire does; `names` are the
        silos'."""
        self._executor = executor
        self._nodes = node_ids(silos)
        self._names = tuple(names) or tuple(f"silo-{index}" for index in range(silos))
        self._states: dict[int, RecordDict] = {}  # of the nodes that keep something
        self._run = Run.create_empty(run_id)
        self._isolate = isolate
        self._pushed: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        assume_identity(run_id)

    def set_run(self, run: Run) -> None:
        """Take over the information of another run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Information on the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node (deprecated in Flower in favour of `Message`)."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; none ever leaves."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; they are answered when they are pulled."""
        pushed = [self._stamp(message) for message in messages]
        self._pushed |= {message.metadata.message_id: message for message in pushed}
        return [message.metadata.message_id for message in pushed]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer queued messages."""
        known = [self._pushed.pop(name) for name in message_ids if name in self._pushed]
        return list(self._answer(known))

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002 - workers have their own time limit
    ) -> Iterator[Message]:
        """Answer `messages` one after the other while the caller consumes the replies."""
        return self._answer(self._stamp(message) for message in messages)

    def close(self) -> None:
        """Give back the worker processes."""
        self._executor.close()

    def save(self) -> dict[str, Vector]:
        """What silos remember between rounds, as vectors named `node/record/key`."""
        return {
            f"{node}/{name}/{key}": array.numpy()
            for node, state in sorted(self._states.items())
            for name, record in state.array_records.items()
            for key, array in record.items()
        }

    def load(self, vectors: Mapping[str, Vector]) -> None:
        """Restore what `save` gave."""
        for path, vector in vectors.items():
            node, name, key = path.split("/", 2)
            state = self._states.setdefault(int(node), RecordDict())
            record = state.array_records.get(name, ArrayRecord())
            record[key] = Array(vector)
            state[name] = record

    def own_parts(self) -> dict[str, Vector | None]:
        """What each silo keeps of the model itself; None of one that has not trained."""
        found = (self._state(node).array_records.get(OWN_PART) for node in self._nodes)
        parts = (None if record is None else record[OWN_PART].numpy() for record in found)
        return dict(zip(self._names, parts, strict=True))

    def _answer(self, messages: Iterable[Message]) -> Iterator[Message]:
        for reply, state in self._executor.answers(messages, self._state):
            if state:
                self._states[reply.metadata.src_node_id] = state
            else:
                self._states.pop(reply.metadata.src_node_id, None)
            yield over_the_wire(reply) if self._isolate else reply

    def _state(self, node: int) -> RecordDict:
        return self._states.get(node) or RecordDict()

    def _stamp(self, message: Message) -> Message:
        """The message as a node receives it, with an id as the SuperLink would give it."""
        sent = over_the_wire(message) if self._isolate else _with_own_records(message)
        _name(sent, str(next(self._numbers)))
        return sent


def node_ids(silos: int) -> range:
    """The node ids of a simulated federation."""
    return range(_FIRST_SILO_NODE, _FIRST_SILO_NODE + silos)


def contexts(
    silos: int, *, run_id: int, run_config: Mapping[str, str], node_config: NodeConfig
) -> dict[int, Context]:
    """A Flower context for each node; `node_config` is common to all."""
    return {
        node: Context(
            run_id=run_id,
            node_id=node,
            node_config={**node_config, "partition-id": index, "num-partitions": silos},
            state=RecordDict(),
            run_config=dict(run_config),
        )
        for index, node in enumerate(node_ids(silos))
    }


def call(client_app: ClientApp, message: Message, context: Context) -> Message:
    """Run the ClientApp; an exception that it lets through becomes an error reply."""
    try:
        return client_app(message, context)
    except Exception as error:
        return failed(message, f"{type(error).__name__}: {error}", stage="app")


def failed(message: Message, reason: str, *, stage: str) -> Message:
    """An error reply in the name of a silo that cannot speak for itself."""
    told = ErrorReply(stage, "worker" if stage == "worker" else "code", text=reason)
    return Message(Error(code=ErrorCode.CLIENT_APP_CRASHED, reason=str(told)), reply_to=message)


def answer(
    client_app: ClientApp, together: BatchedTraining | None, asked: Sequence[Asked]
) -> list[Message]:
    """The replies to one of the groups that `in_groups` makes."""
    if together is None or len(asked) == 1:
        return [call(client_app, message, context) for message, context in asked]
    try:
        return together(asked)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return [failed(message, reason, stage="app") for message, _context in asked]


def in_groups(
    messages: Iterable[Message], together: BatchedTraining | None
) -> Iterator[list[Message]]:
    """Messages that are answered at once: trainings of different silos, anything else by itself.

    The groups follow from the messages alone, so results do not depend on who answers which.
    """
    size = together.size if together else 1
    waiting: dict[int, Message] = {}
    for message in messages:
        joins = size > 1 and message.metadata.message_type == MessageType.TRAIN
        silo = message.metadata.dst_node_id
        if not joins or silo in waiting or len(waiting) == _AHEAD * size:
            yield from _alike(list(waiting.values()), size)
            waiting = {}
        if joins:
            waiting[silo] = message
        else:
            yield [message]
    yield from _alike(list(waiting.values()), size)


def _alike(messages: list[Message], size: int) -> Iterator[list[Message]]:
    """An even number of groups, which two processes share well, of at most `size` and alike."""
    count = 2 * math.ceil(len(messages) / (2 * size))
    ends = [len(messages) * number // count for number in range(count + 1)] if count else []
    return (messages[start:end] for start, end in itertools.pairwise(ends) if end > start)


class Sequential:
    """Answers in this very process, one silo (or group of silos) after the other."""

    def __init__(
        self,
        client_app: ClientApp,
        silos: Mapping[int, Context],
        together: BatchedTraining | None = None,
    ) -> None:
        self._client_app = client_app
        self._contexts = silos
        self._together = together

    def answers(
        self, messages: Iterable[Message], states: Callable[[int], RecordDict]
    ) -> Iterator[tuple[Message, RecordDict]]:
        """The reply to each message with the silo's new state."""
        for group in in_groups(messages, self._together):
            asked = [(message, self._contexts[message.metadata.dst_node_id]) for message in group]
            for _, context in asked:
                context.state = states(context.node_id)
            replies = answer(self._client_app, self._together, asked)
            for (_, context), reply in zip(asked, replies, strict=True):
                yield reply, context.state

    def close(self) -> None:
        """Nothing to give back."""


def assume_identity(run_id: int) -> None:
    """Make this process able to create messages, as Flower's own launchers do."""
    TaskIdentity.run_id = run_id
    TaskIdentity.task_id = os.getpid()
    TaskIdentity.node_id = SERVER_NODE


def over_the_wire(message: Message) -> Message:
    """A copy made from the very bytes that Flower would send."""
    contents = {key: part.deflate() for key, part in get_all_nested_objects(message).items()}
    received = cast(Message, inflate_object_from_contents(message.object_id, contents))
    _name(received, message.metadata.message_id)
    return received


def _name(message: Message, message_id: str) -> None:
    # The SuperLink names messages; Flower's property for it is read-only for everyone else.
    message.metadata.__dict__["_message_id"] = message_id


def _with_own_records(message: Message) -> Message:
    """The message with settings and metrics that its receiver may change; arrays are shared."""
    received = copy.copy(message)
    received.content = RecordDict(
        {name: _own(record) for name, record in message.content.items()},
    )
    return received


def _own(record: _Record) -> _Record:
    if isinstance(record, ArrayRecord):
        return record
    return type(record)(dict(record))  # type: ignore[arg-type]
