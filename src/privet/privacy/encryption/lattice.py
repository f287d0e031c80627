"""Sums under secrets that live for one upload: BFV's plaintexts with a key that adds up too.

For every chunk k of a sum all clients know the same random polynomial a_k. A client draws a short
secret s and sends, of every plaintext m_k,

    c_k = a_k s + e_k + round(q m_k / t)        in Z_q[X] / (X^4096 + 1)

of which the coefficients that hold anything, each in 56 bits (modulus switching: Brakerski &
Vaikuntanathan 2011), and s itself, masked, in 4096 numbers of 11 bits. Both parts add up: whoever
takes the masks out of the sum of secrets S opens the sum of the c_k, and no single one. So no key
outlives a round that a server could aim at with crafted sums, masks cost the same for every length
of the vector, and a receiver has no more to do for a hundred clients than for one. The idea is that
of ACORN (Bell et al., USENIX Security 2023) and Willow (Bell-Clark et al., ePrint 2024/936): a
cipher that is homomorphic in its keys.

Secrets and errors are centred binomials of 128 coins, deviation 5.66. S and the sum of the errors
become known to those who open the sum. What is left of the secrets and errors of any two honest
clients is at least what one Gaussian of deviation 2.83 hides (Hint-LWE: Kim, Lee, Seo & Song,
CRYPTO 2023, for Gaussians; binomials of this width are taken for them), which at N = 4096 and 60
bits of q is far on the safe side of 128 bits: the standard allows 109 bits of q at deviation 3.2.

Products are exact: a_k is cut into limbs of 20 bits, and each is multiplied with s by a Fourier
transform in double precision, whose error (Brent, Percival & Zimmermann 2007) is below 2^-7 for the
sums of 128 honest clients. Nothing branches on a secret or is looked up by one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from privet.privacy.encryption.backend import (
    COINS,
    DEGREE,
    MODULUS,
    SECRET_BITS,
    Mask,
    Plaintext,
)
from privet.privacy.encryption.codec import Words, bound_to
from privet.privacy.encryption.errors import EncryptionError
from privet.privacy.encryption.header import Header, Terms
from privet.privacy.encryption.keys.secret import SecretKey
from privet.privacy.encryption.residues import (
    NONCE_BYTES,
    SENT_BYTES,
    Integers,
    ResidueSum,
    add,
    lift,
    narrow,
    pack,
    pack_secret,
    read_frames,
    widen,
)

Short = NDArray[np.int64]
"""A polynomial with small coefficients of either sign, shape (4096,)."""
_Spectrum = NDArray[np.complex128]

_LIMB_BITS, _LIMBS = 20, 3
_LIMB = np.uint64(2**_LIMB_BITS - 1)
_Q_BITS = MODULUS.bit_length()
_FOLD = 2**_Q_BITS - MODULUS
"""2^60 modulo q."""
# X^4096 + 1 = (X^2048 - i)(X^2048 + i), and a real polynomial is known by its rest modulo the first
# factor; the twist makes products modulo X^2048 - i cyclic.
_HALF = DEGREE // 2
_TWIST = np.exp(1j * np.pi / DEGREE * np.arange(_HALF))


def words(key: bytes, place: int, count: int) -> Integers:
    """`count` words of 64 bits, AES-256 in counter mode; none repeats for another `place`."""
    # The upper half of the counter is the place; blocks within it never reach that half.
    start = place.to_bytes(8, "big") + bytes(8)
    stream = Cipher(algorithms.AES(key), modes.CTR(start)).encryptor()
    return np.frombuffer(stream.update(bytes(8 * count)), dtype="<u8")


def draw_short(key: bytes, place: int) -> Short:
    """A centred binomial of 128 coins in every coefficient: -64 to 64, deviation 5.66."""
    heads = np.bitwise_count(words(key, place, 2 * DEGREE)).reshape(2, DEGREE)
    drawn: Short = heads.sum(axis=0, dtype=np.int64)
    drawn -= COINS // 2
    return drawn


class PublicPolynomials:
    """a_0, a_1, ... of one sum: everyone finds them from what the sum is about.

    For one thread: products are worked out in one place, since memory that is new each time costs
    as much as the transforms.
    """

    def __init__(self, context: bytes) -> None:
        self._key = hashlib.sha256(b"privet public polynomials 1" + context).digest()
        self._limbs = np.empty((_LIMBS, _HALF), dtype=np.complex128)

    def times(self, chunk: int, spectrum: _Spectrum) -> Integers:
        """a_chunk times the polynomial with this spectrum, shape (4096,), below q."""
        residues = words(self._key, chunk, DEGREE) & np.uint64(2**_Q_BITS - 1)
        np.minimum(residues, residues - np.uint64(MODULUS), out=residues)
        limbs = self._limbs
        for place, limb in enumerate(limbs):
            _fold((residues >> np.uint64(_LIMB_BITS * place)) & _LIMB, out=limb)
        np.fft.fft(limbs, out=limbs)
        limbs *= spectrum
        np.fft.ifft(limbs, out=limbs)
        limbs *= _TWIST.conj()
        values = limbs.view(np.float64)
        np.rint(values, out=values)
        return _joined(values.astype(np.int64)).reshape(_HALF, 2).T.flatten()


def spectrum(short: Short) -> _Spectrum:
    """What `PublicPolynomials.times` takes; exact up to coefficients of 2^15."""
    folded = np.empty(_HALF, dtype=np.complex128)
    _fold(short, out=folded)
    return np.fft.fft(folded)


def encrypt(
    plaintexts: Iterable[Plaintext], secret: Short, *, context: bytes, plain_modulus: int
) -> Iterator[Integers]:
    """c_k for every plaintext below t in turn, as long as it; `context` says what sum it is for."""
    public, own, errors = PublicPolynomials(context), spectrum(secret), os.urandom(32)
    for chunk, plaintext in enumerate(plaintexts):
        noise = draw_short(errors, chunk)[: len(plaintext)].view(np.uint64)
        np.minimum(noise, noise + np.uint64(MODULUS), out=noise)
        masked = add(public.times(chunk, own)[: len(plaintext)], noise, modulus=MODULUS)
        yield add(masked, lift(plaintext, plain_modulus), modulus=MODULUS)


def decrypt(
    residues: Iterable[Integers], secret: Short, *, context: bytes, plain_modulus: int
) -> Iterator[Integers]:
    """The plaintexts of a sum whose secrets add up to `secret`; of anything else, some plaintexts.

    Exact for errors below q / 2t.
    """
    public, own = PublicPolynomials(context), spectrum(secret)
    for chunk, total in enumerate(residues):
        own_part = public.times(chunk, own)[: len(total)]
        yield _rounded(subtract(total, own_part), plain_modulus)


def subtract(a: Integers, b: Integers) -> Integers:
    """a - b modulo q, for residues."""
    difference: Integers = a - b
    # Below zero it wraps to something huge, and adding q wraps it back.
    np.minimum(difference, difference + np.uint64(MODULUS), out=difference)
    return difference


def _rounded(residues: Integers, plain_modulus: int) -> Integers:
    """t v / q to the nearest integer modulo t: the reverse of `lift`."""
    bits = plain_modulus.bit_length() - 1
    room = np.uint64(_Q_BITS - bits)
    # lift(m) is m 2^room less a share of m, which hangs on its upper bits only.
    share = (residues >> room) * np.uint64(_FOLD)
    share >>= np.uint64(bits)
    found: Integers = (residues + share + np.uint64(2 ** (int(room) - 1))) >> room
    found &= np.uint64(plain_modulus - 1)
    return found


def _fold(polynomial: NDArray[Any], *, out: _Spectrum) -> None:
    out.real, out.imag = polynomial[:_HALF], polynomial[_HALF:]
    out *= _TWIST


def _joined(limbs: Short) -> Integers:
    """limbs[0] + 2^20 limbs[1] + 2^40 limbs[2] modulo q, for limbs below 2^59."""
    total, *others = limbs
    for place, limb in enumerate(others, start=1):
        kept = _Q_BITS - _LIMB_BITS * place
        # What lies above 2^60, which is 2^14 - 1 modulo q.
        above = limb >> kept
        limb -= above << kept
        limb <<= _LIMB_BITS * place
        above *= _FOLD
        total += above
        total += limb
    residues: Integers = (total % MODULUS).view(np.uint64)
    return residues


class LatticeBackend:
    """See `Backend`; the key of an epoch only hides the secrets' sum from who is no client."""

    takes_masks = True
    modulus_bits = _Q_BITS
    chunk_bytes = float(SENT_BYTES * DEGREE)

    def __init__(self, plain_modulus: int) -> None:
        self._plain_modulus = plain_modulus
        self.name = (
            f"short secrets N={DEGREE} q={MODULUS} t={plain_modulus} coins={COINS}"
            f" sent {8 * SENT_BYTES}, {SECRET_BITS} bits"
        )

    def generate(self) -> bytes:
        """Nothing: no secret of the lattice outlives an upload."""
        return b""

    def check(self, lattice: bytes) -> None:
        """See `Backend.check`."""
        if lattice:
            raise EncryptionError("the key holds a secret of the lattice, which bfv has none of")

    def encrypt(
        self,
        plaintexts: Iterable[Plaintext],
        *,
        key: SecretKey,
        terms: Terms,
        mask: Mask | None = None,
    ) -> Iterator[bytes]:
        """All chunks in turn, a fresh nonce, and the secret that they were encrypted under."""
        context, nonce = bound_to(terms, key), os.urandom(NONCE_BYTES)
        secret = draw_short(os.urandom(32), 0)
        chunks = encrypt(plaintexts, secret, context=context, plain_modulus=self._plain_modulus)
        yield from (pack(narrow(chunk)) for chunk in chunks)
        yield nonce
        hidden = secret.astype(np.uint16) + _pad(key, context, nonce)
        if mask is not None:
            hidden += mask
        yield pack_secret(hidden)

    def decrypt(
        self, body: memoryview, *, key: SecretKey, header: Header, length: int
    ) -> Iterator[Integers]:
        """See `Backend.decrypt`."""
        frames = read_frames(body, length=length, clients=len(header.clients))
        context, hidden = bound_to(header.terms, key), frames.secret.copy()
        for nonce in frames.nonces:
            hidden -= _pad(key, context, nonce)
        residues = map(widen, frames.chunks())
        return decrypt(
            residues, _signed(hidden), context=context, plain_modulus=self._plain_modulus
        )

    def accumulator(self, length: int) -> ResidueSum:
        """An empty sum."""
        return ResidueSum(length)


def _signed(secret: Mask) -> Short:
    """Numbers modulo 2^11 as -1024 to 1023."""
    top = 1 << (SECRET_BITS - 1)
    signed: Short = ((secret & (2 * top - 1)) ^ top).astype(np.int64) - top
    return signed


def _pad(key: SecretKey, context: bytes, nonce: bytes) -> Mask:
    """What hides one upload's secret from everybody without the key."""
    pad = Words(key.tag, purpose=b"secrets", context=context + nonce).of(0, DEGREE // 2)
    return pad.view(np.uint16)
