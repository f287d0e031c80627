"""Messages between silos that the server carries: asked one by one, answers by silo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from privet.server.roster import Roster
from privet.wire import Failure

T = TypeVar("T")


@dataclass(frozen=True)
class Relay:
    """A grid with the names of its nodes."""

    grid: Grid
    roster: Roster
    timeout: float

    def replies(
        self, messages: Iterable[Message], failures: list[Failure]
    ) -> Iterator[tuple[str, RecordDict]]:
        """What each silo answered; those that did not are added to `failures`."""
        messages = list(messages)
        if not messages:  # Flower's own grid does not take an empty list
            return
        for reply in self.grid.send_and_receive(messages, timeout=self.timeout):
            silo = self.roster.name(reply.metadata.src_node_id)
            if reply.has_error():
                failures.append(Failure.parse(reply.error.reason, silo=silo))
            else:
                yield silo, reply.content


def read_all(
    replies: Iterable[tuple[str, RecordDict]],
    read: Callable[[RecordDict], T],
    failures: list[Failure],
) -> Iterator[tuple[str, T]]:
    """`replies` as `read` reads them; whatever a peer sends, the others go on."""
    for silo, content in replies:
        try:
            answer = read(content)
        except Exception as error:
            failures.append(Failure(silo, "keys", f"unusable reply: {error}"))
        else:
            yield silo, answer
