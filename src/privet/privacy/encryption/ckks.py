"""Sums of real numbers through TenSEAL's documented `ckks_vector`: what it can do, what it cannot.

CKKS (Cheon, Kim, Kim & Song 2017) decrypts to the sum plus a little noise, and the noise hangs on
the secret: who sees two ciphertexts and what they decrypt to at full precision solves for the key
(Li & Micciancio 2021, ePrint 2020/1533). So nothing here hands out a decryption as it is. Means
are rounded to multiples of clamp * 2^-17, up or down by a secret dither that follows from the key
and the ciphertext and is the same for every holder of the key. The noise of a sum is about 2^-40 of
the clamp for one client and 2^-36 for 128 (measured), so with weights that add to 1 or more, a
published value has a distribution within 2^-19 of one without noise. That takes the attack its
equations; it is not a proof. BFV has one: it decrypts exactly, there is no noise to publish.

Further limits: 32 bytes a parameter; no masks; the server adds in native code, see `documented`;
tags are compared within 2^-30, so changing one value by less than clamp * 2^-18 goes unseen and a
lucky forgery of larger changes has probability about 2^-36 and not 2^-60. Use "bfv".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from privet.privacy.encryption.backend import TAGS
from privet.privacy.encryption.codec import (
    FIELD_BITS,
    Contribution,
    OpenedSum,
    SealedSum,
    Trailer,
    Words,
    bound_to,
    identity,
)
from privet.privacy.encryption.errors import EncryptionError, Tampered
from privet.privacy.encryption.header import Header, Terms
from privet.privacy.encryption.keys.secret import SecretKey
from privet.privacy.encryption.residues import integer_to_weight

MAX_CLIENTS = 128
SCALE_BITS = 50
SLOTS = 2048
GRID = 2.0**-17
"""Published means are multiples of this times the clamp."""

_FIELDS = 4
_TOLERANCE = 2.0**-30
_WEIGHT_GRID = 2.0**-24
_MODULUS_BITS = 59
"""The prime that carries data is above 2^59."""

Slots = NDArray[np.float64]


class RealCodec:
    """Vectors as real numbers; every slot of a client, tags included, lies in [-1, 1]."""

    values = SLOTS - _FIELDS - TAGS
    name = f"reals, clients {MAX_CLIENTS}, tags {TAGS} within 2^-30"

    def __init__(self) -> None:
        # No coefficient of a plaintext exceeds its largest slot, and half the modulus must hold it.
        if MAX_CLIENTS * 2**SCALE_BITS >= 2 ** (_MODULUS_BITS - 1):
            raise EncryptionError(f"a sum of {MAX_CLIENTS} clients overflows at 2^{SCALE_BITS}")

    def length(self, size: int) -> int:
        """See `Codec.length`; chunks are whole."""
        return -(-size // self.values) * SLOTS

    def encode(self, own: Contribution, *, terms: Terms, secret: SecretKey) -> Iterator[Slots]:
        """Slots, shape (2048,), for every `values` values of the vector."""
        words = Words(secret.tag, purpose=b"tags", context=bound_to(terms, secret))
        trailer = _as_reals(Trailer.of(own, terms=terms, secret=secret))
        for chunk, start in enumerate(range(0, terms.size, self.values)):
            part = own.x[start : start + self.values]
            slots = np.zeros(SLOTS)
            np.clip(part, -terms.clamp, terms.clamp, out=slots[: len(part)], dtype=np.float64)
            slots[: len(part)] *= own.weight / terms.clamp
            slots[self.values : -TAGS] = trailer
            slots[-TAGS:] = _tags(words, chunk, slots[:-TAGS])
            yield slots

    def decode(self, chunks: Iterable[Slots], *, of: SealedSum, secret: SecretKey) -> OpenedSum:
        """See `Codec.decode`; the mean is rounded as this module says."""
        terms, clients = of.header.terms, of.header.clients
        words = Words(secret.tag, purpose=b"tags", context=bound_to(terms, secret))
        # The same at every holder and every time: the average of several random roundings of one
        # sum would be its decryption at full precision.
        dither = Words(secret.tag, purpose=b"dither", context=of.fingerprint())
        mean = np.empty(terms.size, dtype=np.float32)
        genuine, trailer, weight = True, np.zeros(_FIELDS), 1.0
        for chunk, slots in enumerate(chunks):
            if chunk == 0:
                trailer = slots[self.values : -TAGS]
                genuine = _is_of(trailer, of.header, secret)
                weight = float(trailer[1]) if genuine else np.inf
            genuine &= _near(slots[-TAGS:], _tags(words, chunk, slots[:-TAGS]))
            genuine &= _near(slots[self.values : -TAGS], trailer)
            part = mean[chunk * self.values : (chunk + 1) * self.values]
            with np.errstate(over="ignore"):  # what is not genuine can be of any size
                part[:] = _rounded(slots[: len(part)] / weight, GRID, dither, chunk) * terms.clamp
        if not genuine:
            raise Tampered
        rounded = _rounded(trailer[1:2], _WEIGHT_GRID, dither, 2**63)
        return OpenedSum(mean=mean, weight=float(rounded[0]), clients=clients)


def _is_of(trailer: Slots, header: Header, secret: SecretKey) -> bool:
    """Whether a trailer is that of these clients, with a weight of one or more: a smaller one would
    leave more of the noise in the mean than is rounded away."""
    identities = [
        identity(client, terms=header.terms, secret=secret, bits=FIELD_BITS)
        for client in header.clients
    ]
    expected = np.array([len(identities), sum(identities) / 2**FIELD_BITS])
    return _near(trailer[[0, 2]], expected) and bool(trailer[1] > 1 - _TOLERANCE)


def _as_reals(trailer: Trailer) -> Slots:
    fields = (trailer.identity, trailer.nonce)
    reals = [float(field / 2**FIELD_BITS) for field in fields]
    return np.array([trailer.count, integer_to_weight(trailer.weight), *reals])


def _tags(words: Words, chunk: int, slots: Slots) -> Slots:
    """As in `codec.Tagger`, over reals: secret factors of random sign, between a half and one."""
    drawn = words.of(chunk, len(slots) + TAGS - 1)
    factors = (0.5 + (drawn >> 1) / 2**32) * np.where(drawn & 1, 1.0, -1.0)
    tags = [factors[k : k + len(slots)] @ slots / len(slots) for k in range(TAGS)]
    return np.array(tags)


def _near(found: Slots, expected: Slots) -> bool:
    """False for NaN as well."""
    return bool((np.abs(found - expected) <= _TOLERANCE).all())


def _rounded(values: Slots, grid: float, dither: Words, chunk: int) -> Slots:
    """`values` to multiples of `grid`, up with the probability that keeps the expectation."""
    up = dither.of(chunk, len(values)) / 2**32
    return np.floor(values / grid + up) * grid
