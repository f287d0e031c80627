"""Symmetric BFV with half of every ciphertext replaced by the seed it was made from.

Only this module uses `tenseal.sealapi`, the raw SEAL that TenSEAL ships. SEAL saves and loads its
objects in a form of its own. Where in that form the residues and the seed of a ciphertext lie is
learned from fresh ciphertexts at first use and then proved on a known sum, so a library that writes
another form is noticed and never guessed at. Bytes of a peer do not come through here: only
residues and seeds whose number and range have been checked.

Symmetric, since whoever encrypts holds the key anyway: no public key is ever published, the noise
is smaller, and c1 is random from a seed. A ciphertext of 4096 coefficients travels as c0, in 7.5
bytes a coefficient, and the 64 bytes from which c1 follows; a sum as the sum of the c0 and all the
seeds. The sum of the c1 would be smaller only above 480 clients. Expanding the seeds takes a
receiver about 0.2 ms each.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, Self

import numpy as np
import tenseal.sealapi as sealapi
import zstandard

from privet.privacy.encryption.backend import DEGREE, MODULUS, Plaintext
from privet.privacy.encryption.errors import EncryptionError
from privet.privacy.encryption.residues import (
    C0_BYTES,
    SEED_BYTES,
    Bytes,
    Integers,
    ResidueSum,
    add,
    lift,
    pack,
    read_frames,
    unpack,
)


class Scratch:
    """A file in memory, since SEAL's interface reads and writes paths only; gone when closed.

    On systems without memfd it is a private temporary file. Not to be carried through a fork: both
    processes would write to the same file.
    """

    def __init__(self) -> None:
        self._named: Path | None = None
        if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
            self._descriptor = os.memfd_create("privet", os.MFD_CLOEXEC)
            self.path = f"/proc/self/fd/{self._descriptor}"
        else:
            self._descriptor, self.path = tempfile.mkstemp(prefix="privet-")
            self._named = Path(self.path)

    def read(self) -> bytes:
        """All of the file."""
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def write(self, *parts: bytes, offset: int = 0) -> None:
        """`parts`, one after the other, from `offset` on; the rest of the file stays."""
        for part in parts:
            offset += os.pwrite(self._descriptor, part, offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file up."""
        os.close(self._descriptor)
        if self._named is not None:
            self._named.unlink(missing_ok=True)


_C0_BYTES = 8 * DEGREE
_HEADER = struct.Struct("<5sBHQ")  # magic, header size, version; compression; reserved; total size
_NO_COMPRESSION, _ZSTD = 0, 2
_SAMPLES = 16


class SealChanged(Exception):  # noqa: N818 - says what happened
    """The installed library does not do what it is needed for."""


@lru_cache(maxsize=4)
def ring(plain_modulus: int) -> Ring:
    """The ring of this plaintext modulus, learned and proved; SealChanged when that fails."""
    try:
        made = Ring(plain_modulus)
        prove(made)
    except Exception as error:  # whatever another version may raise
        raise SealChanged(f"tenseal.sealapi: {type(error).__name__}: {error}") from error
    return made


class Ring:
    """BFV in Z[X]/(X^4096 + 1) modulo one prime of 60 bits, at SEAL's level TC128.

    There is one prime and so no key for key switching: nothing but ciphertexts is ever published.
    """

    def __init__(self, plain_modulus: int) -> None:
        parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(DEGREE)
        parameters.set_coeff_modulus([sealapi.Modulus(MODULUS)])
        parameters.set_plain_modulus(plain_modulus)
        self.plain_modulus = plain_modulus
        self.context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            raise SealChanged(f"t = {plain_modulus} is refused at 128 bits of security")
        self.form = _learn(self.context)

    def generate(self) -> bytes:
        """A fresh secret key, as SEAL saves it, uncompressed."""
        with _Saver() as saved:
            return saved(sealapi.KeyGenerator(self.context).secret_key())

    def session(self, secret: bytes) -> SealSession:
        """To encrypt or decrypt with `secret`, which `generate` made; EncryptionError if not."""
        return SealSession(self, secret)


class SealSession:
    """One secret key in use; a context manager, for one thread and one process."""

    def __init__(self, ring: Ring, secret: bytes) -> None:
        self._plain_modulus, self._context, self._form = ring.plain_modulus, ring.context, ring.form
        key = _secret_key(ring.context, secret)
        self._encryptor = sealapi.Encryptor(ring.context, key)
        self._decryptor = sealapi.Decryptor(ring.context, key)
        self._evaluator = sealapi.Evaluator(ring.context)

    def __enter__(self) -> Self:
        with ExitStack() as files:
            self._saved = files.enter_context(_Saver())
            self._sum, self._seeded = (files.enter_context(Scratch()) for _ in range(2))
            self._seeded.write(self._form.blob(bytes(_C0_BYTES), bytes(SEED_BYTES)))
            self._files = files.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def encrypt(self, plaintext: Integers) -> tuple[Integers, bytes]:
        """Coefficients, shape (4096,), below t, as c0, shape (4096,), below q, and the seed of c1.

        The message is added to a fresh encryption of zero, which is all that encrypting it does.
        """
        zero = self._saved(self._encryptor.encrypt_zero_symmetric())
        c0, seed = self._form.parts(zero)
        return add(c0, lift(plaintext, self._plain_modulus), modulus=MODULUS), seed

    def decrypt(self, c0: Integers, seeds: Sequence[bytes]) -> Integers:
        """The plaintext, shape (4096,), of a sum with this c0 and one seed for each summand.

        Whatever c0 below q and seeds are given, the answer is some plaintext.
        """
        self._sum.write(self._form.blob(c0.astype("<u8", copy=False).tobytes(), seeds[0]))
        total = self._load(self._sum)
        for seed in seeds[1:]:
            # With c0 = 0, so that it adds the c1 of this seed and nothing else.
            self._seeded.write(seed, offset=self._form.seed_start)
            self._evaluator.add_inplace(total, self._load(self._seeded))
        plaintext = sealapi.Plaintext()
        self._decryptor.decrypt(total, plaintext)
        return self._form.coefficients(self._saved(plaintext))

    def _load(self, file: Scratch) -> Any:
        ciphertext = sealapi.Ciphertext()
        ciphertext.load(self._context, file.path)
        return ciphertext


@dataclass(frozen=True)
class Form:
    """Where things lie in what SEAL saves, uncompressed."""

    head: bytes
    """What stands before the residues of a seeded ciphertext."""
    middle: bytes
    """What stands between its residues and its seed, which is the end."""
    plaintext_start: int

    @property
    def seed_start(self) -> int:
        """Place of the seed."""
        return len(self.head) + _C0_BYTES + len(self.middle)

    def blob(self, c0: bytes, seed: bytes) -> bytes:
        """A seeded ciphertext."""
        return b"".join((self.head, c0, self.middle, seed))

    def parts(self, blob: bytes) -> tuple[Integers, bytes]:
        """c0 and the seed of what SEAL just saved; SealChanged if it has another form."""
        start, end = len(self.head), len(self.head) + _C0_BYTES
        if not (
            len(blob) == self.seed_start + SEED_BYTES
            and blob.startswith(self.head)
            and blob.startswith(self.middle, end)
        ):
            raise SealChanged("a seeded ciphertext has an unknown form")
        return np.frombuffer(blob, dtype="<u8", count=DEGREE, offset=start), blob[-SEED_BYTES:]

    def coefficients(self, blob: bytes) -> Integers:
        """All 4096 coefficients of a plaintext; SEAL leaves out leading zeros."""
        found = np.frombuffer(blob, dtype="<u8", offset=self.plaintext_start)
        coefficients = np.zeros(DEGREE, dtype=np.uint64)
        coefficients[: len(found)] = found
        return coefficients


def _learn(context: Any) -> Form:
    """Compare fresh ciphertexts: what is the same in all of them is form, the rest is content."""
    encryptor = sealapi.Encryptor(context, sealapi.KeyGenerator(context).secret_key())
    with _Saver() as saved:
        blobs = [saved(encryptor.encrypt_zero_symmetric()) for _ in range(_SAMPLES)]
        plaintext_start = len(saved(sealapi.Plaintext(DEGREE))) - _C0_BYTES
    columns = np.array([np.frombuffer(blob, dtype=np.uint8) for blob in blobs])
    # Sixteen random bytes at the start of the residues are not all equal (but for 1 in 2^120).
    start = int((columns != columns[0]).any(axis=0).argmax())
    middle = blobs[0][start + _C0_BYTES : -SEED_BYTES]
    form = Form(head=blobs[0][:start], middle=middle, plaintext_start=plaintext_start)
    for blob in blobs:
        form.parts(blob)
    return form


def prove(ring: Ring) -> None:
    """Encrypt, add and decrypt a known vector; SealChanged unless the sum is exact."""
    t = ring.plain_modulus
    # The whole range in both orders, and the largest coefficient everywhere: sums wrap modulo t.
    known = np.arange(DEGREE, dtype=np.uint64) * (t // DEGREE)
    plaintexts = [known, known[::-1] // 3, np.full(DEGREE, t - 1, dtype=np.uint64)]
    with ring.session(ring.generate()) as session:
        encrypted = [session.encrypt(plaintext) for plaintext in plaintexts]
        c0 = reduce(lambda a, b: add(a, b, modulus=MODULUS), [c0 for c0, _ in encrypted])
        opened = session.decrypt(c0, [seed for _, seed in encrypted])
    if not np.array_equal(opened, sum(plaintexts) % t):
        raise SealChanged("a known sum is decrypted to something else")


def _secret_key(context: Any, secret: bytes) -> Any:
    key = sealapi.SecretKey()
    with Scratch() as file:
        file.write(secret)
        try:
            key.load(context, file.path)
        except (RuntimeError, ValueError):
            raise EncryptionError("the secret key does not belong to this cipher") from None
    return key


class _Saver:
    """SEAL's way to save, ending in uncompressed bytes; a context manager, for one thread."""

    def __init__(self) -> None:
        self._file, self._zstd = Scratch(), zstandard.ZstdDecompressor()

    def __call__(self, thing: Any) -> bytes:
        thing.save(self._file.path)
        blob = self._file.read()
        start, compression, reserved, size = _HEADER.unpack_from(blob)
        if size != len(blob) or compression not in (_NO_COMPRESSION, _ZSTD):
            raise SealChanged("a saved object has an unknown form")
        body = memoryview(blob)[_HEADER.size :]
        if compression == _ZSTD:
            body = memoryview(self._zstd.decompressobj().decompress(body))
        return _HEADER.pack(start, _NO_COMPRESSION, reserved, _HEADER.size + len(body)) + body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class SeededBackend:
    """BFV through raw SEAL; the server's side is `ResidueSum`, numpy alone.

    Raises SealChanged when the installed TenSEAL cannot do this.
    """

    layout = "seeded"
    modulus_bits = MODULUS.bit_length()
    chunk_bytes = float(C0_BYTES + SEED_BYTES)

    def __init__(self, plain_modulus: int) -> None:
        self._ring = ring(plain_modulus)
        self.name = f"seeded N={DEGREE} q={MODULUS} t={plain_modulus}"

    def generate(self) -> bytes:
        """A fresh secret key, as SEAL saves it."""
        return self._ring.generate()

    def encrypt(self, plaintexts: Iterable[Plaintext], *, secret: bytes) -> Iterator[bytes]:
        """c0 and seed of every chunk in turn."""
        with self._ring.session(secret) as session:
            for plaintext in plaintexts:
                c0, seed = session.encrypt(plaintext)
                yield pack(c0)
                yield seed

    def decrypt(
        self, body: memoryview, *, secret: bytes, chunks: int, clients: int
    ) -> Iterator[Integers]:
        """See `Backend.decrypt`; every frame is checked before the first is decrypted."""
        packed, seeds = read_frames(body, chunks=chunks, seeds=clients)
        return self._decrypted(packed, seeds, secret)

    def accumulator(self, chunks: int) -> ResidueSum:
        """An empty sum."""
        return ResidueSum(chunks)

    def _decrypted(self, packed: Bytes, seeds: Bytes, secret: bytes) -> Iterator[Integers]:
        with self._ring.session(secret) as session:
            for c0, of in zip(packed, seeds, strict=True):
                yield session.decrypt(unpack(c0), [seed.tobytes() for seed in of])
