"""SEAL as a second opinion: it opens what we encrypted, and we open what it encrypted.

SEAL's interface reads and writes files only and keeps secret keys to itself. What it saves, in the
end, is residues of 64 bits behind a head of known length, so a key or a ciphertext of our own is
made by putting other residues behind the head of one that SEAL made.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tenseal.sealapi as sealapi
import zstandard

from privet.privacy.encryption.backend import DEGREE, MODULUS
from privet.privacy.encryption.lattice import Short
from privet.privacy.encryption.residues import Integers

_HEAD = struct.Struct("<5sBHQ")
"""Of all that SEAL saves: magic, size and version; compression; reserved; length of the whole."""
_UNCOMPRESSED = 0


def saved(thing: Any) -> bytes:
    """What SEAL writes for `thing`, its head left out, uncompressed."""
    return uncompressed(_written(thing))


def uncompressed(written: bytes) -> bytes:
    """What stands behind the head of something that SEAL wrote."""
    return zstandard.ZstdDecompressor().decompressobj().decompress(written[_HEAD.size :])


def _written(thing: Any) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        thing.save(file.name)
        return Path(file.name).read_bytes()


def _loaded(empty: Any, context: Any, body: bytes) -> Any:
    version, *_ = _HEAD.unpack_from(_written(sealapi.Plaintext()))
    head = _HEAD.pack(version, _UNCOMPRESSED, 0, _HEAD.size + len(body))
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(head + body)
        empty.load(context, file.name)
    return empty


class Reference:
    """SEAL's BFV with N, q and a plaintext modulus t, at SEAL's level TC128."""

    def __init__(self, plain_modulus: int) -> None:
        parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(DEGREE)
        parameters.set_coeff_modulus([sealapi.Modulus(MODULUS)])
        parameters.set_plain_modulus(plain_modulus)
        self._t = plain_modulus
        self.context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
        self._evaluator = sealapi.Evaluator(self.context)
        self._own = sealapi.KeyGenerator(self.context).secret_key()
        self._encryptor = sealapi.Encryptor(self.context, self._own)

    def secret_key(self, secret: Short) -> Any:
        """A key of these coefficients, shape (4096,), as if SEAL had drawn it.

        SEAL keeps a key as a plaintext in NTT form, which takes what is above t / 2 as negative.
        """
        plaintext = self._plaintext((secret % self._t).astype(np.uint64))
        self._evaluator.transform_to_ntt_inplace(plaintext, self.context.first_parms_id())
        return _loaded(sealapi.SecretKey(), self.context, saved(plaintext))

    def own_secret(self) -> Short:
        """The coefficients of SEAL's own key: what opens c0 = 0 and c1 = q / t, rounded."""
        one = np.zeros(DEGREE, dtype=np.uint64)
        one[0] = MODULUS // self._t
        coefficients = self._opened(np.zeros_like(one), one, self._own).astype(np.int64)
        return np.where(coefficients > self._t // 2, coefficients - self._t, coefficients)

    def encrypt(self, plaintext: Integers) -> tuple[Integers, Integers]:
        """c0 and c1, shape (4096,), below q, under SEAL's own key."""
        return _polynomials(self._encrypted(plaintext))

    def decrypt(self, c0: Integers, c1: Integers, secret: Short) -> Integers:
        """What c0 + c1 s says in SEAL's eyes, shape (4096,)."""
        return self._opened(c0, c1, self.secret_key(secret))

    def budget(self, c0: Integers, c1: Integers, secret: Short) -> int:
        """Whole bits of room that SEAL finds left in the noise."""
        decryptor = sealapi.Decryptor(self.context, self.secret_key(secret))
        return int(decryptor.invariant_noise_budget(self._ciphertext(c0, c1)))

    def lifted(self, plaintext: Integers) -> Integers:
        """What SEAL's `add_plain` adds to c0."""
        zero, total = self._encrypted(np.zeros_like(plaintext)), sealapi.Ciphertext()
        self._evaluator.add_plain(zero, self._plaintext(plaintext), total)
        before, after = (_polynomials(each)[0] for each in (zero, total))
        return (after + (np.uint64(MODULUS) - before)) % np.uint64(MODULUS)

    def _opened(self, c0: Integers, c1: Integers, key: Any) -> Integers:
        plaintext = sealapi.Plaintext()
        sealapi.Decryptor(self.context, key).decrypt(self._ciphertext(c0, c1), plaintext)
        found = np.zeros(DEGREE, dtype=np.uint64)  # SEAL leaves leading zeros out
        count = plaintext.coeff_count()
        found[:count] = np.frombuffer(saved(plaintext)[-8 * count :], dtype="<u8")
        return found

    def _plaintext(self, coefficients: Integers) -> Any:
        terms = (f"{c:X}x^{place}" for place, c in enumerate(coefficients.tolist()) if c)
        return sealapi.Plaintext(" + ".join(reversed(list(terms))).replace("x^0", "") or "0")

    def _ciphertext(self, c0: Integers, c1: Integers) -> Any:
        head = saved(self._encrypted(np.zeros_like(c0)))[: -2 * 8 * DEGREE]
        return _loaded(sealapi.Ciphertext(), self.context, head + c0.tobytes() + c1.tobytes())

    def _encrypted(self, coefficients: Integers) -> Any:
        ciphertext = sealapi.Ciphertext()  # one that is given is filled whole, with no seed for c1
        self._encryptor.encrypt_symmetric(self._plaintext(coefficients), ciphertext)
        return ciphertext


def _polynomials(ciphertext: Any) -> tuple[Integers, Integers]:
    words = saved(ciphertext)[-2 * 8 * DEGREE :]
    c0, c1 = np.frombuffer(words, dtype="<u8").reshape(2, DEGREE)
    return c0, c1
