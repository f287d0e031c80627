"""Enough of protocol buffers to look at a message before a native parser does."""

from __future__ import annotations

from collections.abc import Iterator

from privet.privacy.encryption.errors import Malformed

_VARINT, _FIXED64, _LENGTH = 0, 1, 2


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value: an int for a varint, bytes for all else.

    Raises Malformed for a message that ends early or uses a wire type that is not expected here.
    """
    place = 0
    while place < len(message):
        key, place = varint(message, place)
        if key & 7 == _VARINT:
            value, place = varint(message, place)
            yield key >> 3, value
            continue
        if key & 7 == _FIXED64:
            length = 8
        elif key & 7 == _LENGTH:
            length, place = varint(message, place)
        else:
            raise Malformed(f"field {key >> 3} has wire type {key & 7}")
        yield key >> 3, _bytes(message, place, length)
        place += length


def varint(message: bytes, place: int) -> tuple[int, int]:
    """The number at `place`, at most 10 bytes long, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = _bytes(message, place, 1)[0]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise Malformed("a number is longer than 10 bytes")


def _bytes(message: bytes, place: int, length: int) -> bytes:
    if place + length > len(message):
        raise Malformed("the message ends early")
    return message[place : place + length]
