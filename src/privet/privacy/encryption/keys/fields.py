"""One way to write a message: a title, then fields that each say how long they are.

The title ends a line and is different for every kind of message, so no message (and no signature)
can be taken for one of another kind. Lengths have four bytes and numbers eight, so that content has
exactly one encoding: what is not byte for byte what `pack` writes is refused.
"""

from __future__ import annotations

import re

from privet.privacy.encryption.keys.errors import KeysError, MessageError

Field = bytes | str | int

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What may stand for a silo or a run."""
LARGEST_NUMBER = 2**63 - 1

_LENGTH = 4
_NUMBER = 8


def pack(title: str, *values: Field) -> bytes:
    """The message; texts are UTF-8, numbers are 0 to LARGEST_NUMBER."""
    return b"".join([title.encode() + b"\n", *(_framed(value) for value in values)])


def name_like(text: str) -> bool:
    """Whether `text` can be the name of a silo or a run."""
    return re.fullmatch(NAME, text) is not None


def check_numbers(**named: int) -> None:
    """KeysError for a number that a message cannot carry."""
    for name, value in named.items():
        if not 0 <= value <= LARGEST_NUMBER:
            raise KeysError(f"{name} = {value} is outside 0 to {LARGEST_NUMBER}")


class Fields:
    """Reads what `pack` wrote, one field after the other; MessageError for anything else.

    The last `without` bytes are not read: they are somebody else's.
    """

    def __init__(self, message: bytes, title: str, *, without: int = 0) -> None:
        start = title.encode() + b"\n"
        self._what = title.removeprefix("privet ").rstrip(" 0123456789")
        if not isinstance(message, bytes) or not message.startswith(start):
            raise self.fault("it is something else")
        self._message = message
        self._at = len(start)
        self._end = len(message) - without

    def fault(self, problem: str) -> MessageError:
        """The error that names this kind of message."""
        return MessageError(f"{self._what} refused: {problem}")

    def blob(self, *, size: int | None = None) -> bytes:
        """Bytes; of exactly `size` if that is given."""
        length = int.from_bytes(self._take(_LENGTH), "big")
        if size is not None and length != size:
            raise self.fault(f"a field has {length} bytes instead of {size}")
        return self._take(length)

    def number(self) -> int:
        """A number of 0 to LARGEST_NUMBER."""
        value = int.from_bytes(self.blob(size=_NUMBER), "big")
        if value > LARGEST_NUMBER:
            raise self.fault("a number is too large")
        return value

    def name(self) -> str:
        """The name of a silo or a run."""
        text = self.blob().decode("latin-1")
        if not name_like(text):
            raise self.fault("a name has characters that names do not have")
        return text

    def names(self) -> tuple[str, ...]:
        """A counted list of names."""
        return tuple(self.name() for _ in range(self.number()))

    def end(self) -> None:
        """Insist that everything was read."""
        if self._at != self._end:
            raise self.fault("something follows its end")

    def _take(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        if self._at > self._end:
            raise self.fault("it ends too early")
        return self._message[start : self._at]


def counted(names: tuple[str, ...]) -> tuple[Field, ...]:
    """The fields that `Fields.names` reads."""
    return (len(names), *names)


def _framed(value: Field) -> bytes:
    if isinstance(value, int):
        raw = value.to_bytes(_NUMBER, "big")
    else:
        raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(_LENGTH, "big") + raw
