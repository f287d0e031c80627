"""TenSEAL's documented `ckks_vector` as a backend, one for each chunk.

All clients share one secret key, and the server adds with TenSEAL, whose parser is native code: a
message without its `sizes` crashes it, too large ones make it read memory that is not its own. So
every message is held against the one form that an honest client sends before TenSEAL sees it. What
is left is SEAL's own parsing of a ciphertext: an upload belongs here only after the caller has
authenticated who sent it. `fields` reads enough of protocol buffers for that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import tenseal as ts

from privet.privacy.encryption.backend import DEGREE, Mask, Plaintext
from privet.privacy.encryption.errors import EncryptionError, Malformed
from privet.privacy.encryption.header import Header, Terms
from privet.privacy.encryption.keys.secret import SecretKey

_VARINT, _FIXED64, _LENGTH_DELIMITED = 0, 1, 2


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
        elif key & 7 == _LENGTH_DELIMITED:
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


PRIMES = (60, 49)
"""Bits: one prime for the data, one that TenSEAL keeps for keys; 109 in all, the most for 128."""

_LENGTH = struct.Struct("<I")
_SIZES, _CIPHERTEXT, _SCALE = 1, 2, 3
_LONGEST = 2 * 8 * DEGREE + 4096
"""Bytes of a ciphertext that zstd could not make smaller, generously."""
_WRONG_KEY = "the secret key does not belong to this cipher"
_NATIVE_ERRORS = (ValueError, RuntimeError, IndexError, TypeError)


SLOTS = DEGREE // 2
"""Numbers in one ciphertext."""


class DocumentedBackend:
    """Real numbers in units of 2^-scale_bits, encrypted symmetrically at N = 4096 and SEAL's level
    TC128."""

    takes_masks = False
    modulus_bits = sum(PRIMES)

    def __init__(self, scale_bits: int) -> None:
        self._scale = 2.0**scale_bits
        self.name = f"ckks_vector N={DEGREE} primes {PRIMES} scale=2^{scale_bits}"

    @cached_property
    def chunk_bytes(self) -> float:
        """Measured on one chunk: TenSEAL compresses, so lengths vary a little."""
        vector = _encrypted(_context(self._scale), np.zeros(SLOTS))
        return float(sum(map(len, _framed([vector]))))

    def generate(self) -> bytes:
        """A context with a fresh secret key and no public ones."""
        return _serialized(_context(self._scale), secret=True)

    def check(self, lattice: bytes) -> None:
        """Encrypt with it, and add the result to what fits."""
        vector = _encrypted(_private(lattice), np.zeros(SLOTS))
        try:
            self.accumulator(SLOTS).add(memoryview(b"".join(_framed([vector]))))
            vector.decrypt()
        except (Malformed, *_NATIVE_ERRORS):
            raise EncryptionError(_WRONG_KEY) from None

    def encrypt(
        self,
        plaintexts: Iterable[Plaintext],
        *,
        key: SecretKey,
        terms: Terms,  # noqa: ARG002 - the plaintexts are bound to them
        mask: Mask | None = None,  # noqa: ARG002
    ) -> Iterator[bytes]:
        """Length and message of every vector in turn."""
        context = _private(key.lattice)
        return _framed(_encrypted(context, chunk) for chunk in plaintexts)

    def decrypt(
        self,
        body: memoryview,
        *,
        key: SecretKey,
        header: Header,  # noqa: ARG002
        length: int,
    ) -> Iterator[Plaintext]:
        """See `Backend.decrypt`."""
        context = _private(key.lattice)
        messages = _messages(body, chunks=length // SLOTS, scale=self._scale)
        return (_opened(context, message) for message in messages)

    def accumulator(self, length: int) -> VectorSum:
        """An empty sum; TenSEAL adds, with parameters and no key."""
        return VectorSum(length // SLOTS, scale=self._scale, fits=self._fits)

    @cached_property
    def _fits(self) -> Any:
        """A vector without its key: what can be added to it can be added to any honest one."""
        own = _context(self._scale)
        message = ts.ckks_vector(own, [0] * SLOTS).serialize()
        return ts.ckks_vector_from(ts.context_from(_serialized(own, secret=False)), message)


def _encrypted(context: Any, chunk: Plaintext) -> Any:
    try:
        return ts.ckks_vector(context, chunk.tolist())
    except _NATIVE_ERRORS:
        raise EncryptionError(_WRONG_KEY) from None


def _opened(context: Any, message: bytes) -> Plaintext:
    try:
        found = ts.ckks_vector_from(context, message).decrypt()
    except _NATIVE_ERRORS:
        # Nobody learns which chunk it was: the codec finds that it is not genuine.
        found = [0] * SLOTS
    return np.array(found, dtype=np.float64)


class VectorSum:
    """A running sum of uploads of `chunks` vectors, 65 kB each."""

    def __init__(self, chunks: int, *, scale: float, fits: Any) -> None:
        self._chunks, self._scale, self._fits = chunks, scale, fits
        self._total: list[Any] = []

    def add(self, body: memoryview) -> None:
        """Add an upload; Malformed, when our own look or TenSEAL's finds fault, adds nothing."""
        messages = _messages(body, chunks=self._chunks, scale=self._scale)
        try:
            context = self._fits.context()
            parsed = [ts.ckks_vector_from(context, message) for message in messages]
            # The first upload too is added to what fits: that it can be parsed proves too little.
            before = self._total or [self._fits] * self._chunks
            after = [total + vector for total, vector in zip(before, parsed, strict=True)]
        except _NATIVE_ERRORS:
            raise Malformed("a ciphertext is not one of these parameters") from None
        self._total = after if self._total else parsed

    def body(self) -> Iterator[bytes]:
        """Length and message of every vector in turn."""
        return _framed(self._total)


def _context(scale: float) -> Any:
    """With fresh keys."""
    made = ts.context(
        ts.SCHEME_TYPE.CKKS,
        DEGREE,
        coeff_mod_bit_sizes=list(PRIMES),
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,  # whoever encrypts holds the key anyway
    )
    made.global_scale = scale
    return made


def _serialized(context: Any, *, secret: bool) -> bytes:
    return bytes(
        context.serialize(
            save_public_key=False,
            save_secret_key=secret,
            save_galois_keys=False,
            save_relin_keys=False,
        )
    )


def _private(secret: bytes) -> Any:
    try:
        return ts.context_from(secret)
    except _NATIVE_ERRORS:
        raise EncryptionError(_WRONG_KEY) from None


def _framed(vectors: Iterable[Any]) -> Iterator[bytes]:
    for vector in vectors:
        message = vector.serialize()
        yield _LENGTH.pack(len(message))
        yield message


def _messages(body: memoryview, *, chunks: int, scale: float) -> list[bytes]:
    """The messages in a body, each of them held against the form that it must have."""
    messages, place = [], 0
    for _ in range(chunks):
        if place + _LENGTH.size > len(body):
            raise Malformed("the body ends early")
        (length,) = _LENGTH.unpack_from(body, place)
        place += _LENGTH.size + length
        messages.append(bytes(body[place - length : place]))
    if place != len(body):
        raise Malformed(f"the body has {len(body)} bytes, its frames are {place} long")
    # All of them before the first reaches native code.
    for message in messages:
        _check(message, scale)
    return messages


def _check(message: bytes, scale: float) -> None:
    """Exactly: all slots in one ciphertext and our scale, each field once."""
    found = list(fields(message))
    expected = (_SCALE, struct.pack("<d", scale))
    if [number for number, _ in found[:2]] != [_SIZES, _CIPHERTEXT] or found[2:] != [expected]:
        raise Malformed("a vector has other fields or another scale")
    (_, sizes), (_, ciphertext) = found[:2]
    if not isinstance(sizes, bytes) or varint(sizes, 0) != (SLOTS, len(sizes)):
        raise Malformed(f"a vector has not {SLOTS} slots in one ciphertext")
    if not isinstance(ciphertext, bytes) or not 0 < len(ciphertext) <= _LONGEST:
        raise Malformed("a ciphertext has an impossible length")
