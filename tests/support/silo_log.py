"""What a silo's own log says of an error reply, found by the reference that both sides have."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from flwr.app import Message

from privet.wire import ErrorReply


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        reference, _, said = self.format(record).partition(": ")
        # "train failed at guard: " comes before the error's own words.
        self.lines.setdefault(reference, said.partition(": ")[2])


_KEPT = _Kept()
logging.getLogger("privet.silo").addHandler(_KEPT)


@dataclass(frozen=True)
class Refused:
    """An error reply, and the line of the silo's log that it refers to."""

    stage: str
    code: str
    names: tuple[str, ...]
    logged: str


def refused(reply: Message) -> Refused:
    """Both sides of an error reply of a real silo, in which there is no text."""
    assert reply.has_error(), "it was answered"
    told = ErrorReply.parse(reply.error.reason or "")
    assert told.text is None
    return Refused(told.stage, told.code, told.names, _KEPT.lines[told.reference])
