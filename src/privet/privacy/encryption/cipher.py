"""Every client encrypts, the server only adds, only clients decrypt.

A cipher is a codec (what the plaintexts mean) over a backend (what encrypts them).

    scheme "bfv"    exact sums, integrity tags, masks: the one to use
    scheme "ckks"   TenSEAL's documented vectors of real numbers, see `privet...encryption.ckks`

The server's side is `Adder`: it adds uploads that belong together, and does nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from privet.errors import nearest
from privet.privacy.encryption.backend import (
    DEGREE,
    PROFILES,
    Accumulator,
    Backend,
    Mask,
    Profile,
    security_bits,
)
from privet.privacy.encryption.codec import (
    Codec,
    Contribution,
    FixedPointCodec,
    OpenedSum,
    SealedSum,
)
from privet.privacy.encryption.errors import (
    EncryptionError,
    Malformed,
    Tampered,
    TooFewClients,
    UploadRefused,
)
from privet.privacy.encryption.header import (
    DIGEST_BYTES,
    Header,
    Terms,
    assembled,
    checked_name,
    read_header,
)
from privet.privacy.encryption.keys.secret import SecretKey
from privet.privacy.encryption.residues import Reals, ResidueSum, count_clipped


class Adder:
    """A running sum of the uploads of one round; holds no key and learns none.

    Made by `Cipher.adder`. A method that raises leaves the sum as it was.
    """

    def __init__(
        self, accumulator: Accumulator, *, digest: bytes, terms: Terms, max_clients: int
    ) -> None:
        self._accumulator = accumulator
        self._digest, self._terms, self._max_clients = digest, terms, max_clients
        self._clients: set[str] = set()

    @property
    def clients(self) -> tuple[str, ...]:
        """Whose uploads are in the sum, sorted."""
        return tuple(sorted(self._clients))

    def add(self, upload: bytes, *, client: str) -> None:
        """Add an upload that came, as the transport knows, from `client`.

        Raises Malformed for bytes that are no upload, UploadRefused for an upload of somebody else,
        of other terms or parameters, of a client that is in the sum, or of one client too many.
        """
        # The cheap checks of the clear header first; the body is looked at only if it may count.
        header, body = read_header(upload)
        self._admit(header, client)
        self._accumulator.add(body)
        self._clients.add(client)

    def unmask(self, correction: Mask) -> None:
        """Take the masks out, shape (4096,), modulo 2^16; EncryptionError for a scheme without."""
        if not isinstance(self._accumulator, ResidueSum):
            raise EncryptionError("this scheme takes no masks")
        self._accumulator.unmask(correction)

    def to_bytes(self) -> bytes:
        """The encrypted sum as it stands; EncryptionError while it is empty."""
        if not self._clients:
            raise EncryptionError("the sum is empty: no client has been added")
        header = Header(kind="sum", digest=self._digest, terms=self._terms, clients=self.clients)
        return assembled(header, self._accumulator.body())

    def _admit(self, header: Header, client: str) -> None:
        if header.kind != "upload":
            raise Malformed("a sum is no upload")
        if header.digest != self._digest:
            raise UploadRefused(f"{client!r} uses another cipher or other parameters")
        if header.terms != self._terms:
            raise UploadRefused(f"{client!r} sent {header.terms}, the sum is of {self._terms}")
        if header.clients != (client,):
            raise UploadRefused(f"{client!r} sent an upload of {header.clients[0]!r}")
        if client in self._clients:
            raise UploadRefused(f"{client!r} is in the sum already")
        if len(self._clients) >= self._max_clients:
            raise UploadRefused(
                f"{client!r} would be client {self._max_clients + 1}: the sum is full"
            )


SCHEMES = ("bfv", "ckks")


@dataclass(frozen=True, kw_only=True)
class CipherFacts:
    """What a report says about a cipher."""

    scheme: str
    profile: str
    degree: int
    """N."""
    modulus_bits: int
    """log2 q of the largest modulus that anything is encrypted under."""
    plain_modulus: int | None
    """t; None for CKKS."""
    security_bits: int
    """Level of the HomomorphicEncryption.org standard; 128 is enforced."""
    max_clients: int
    bytes_per_parameter: float
    """Of an upload of a long vector."""


@dataclass(frozen=True)
class Upload:
    """What a client sends, and what it should know about it."""

    data: bytes
    clipped: int
    """Values beyond +-clamp that were cut off."""


class Cipher:
    """One scheme with its parameters; the same object serves clients and server.

    Both ends make it with `make_cipher`; whether their parameters agree is checked with every key,
    upload and sum. Nothing here keeps state between calls.
    """

    def __init__(
        self,
        codec: Codec,
        backend: Backend,
        *,
        scheme: str,
        profile: str,
        max_clients: int,
        plain_modulus: int | None = None,
    ) -> None:
        self._codec, self._backend = codec, backend
        parameters = f"{codec.name}; {backend.name}".encode()
        self.digest = hashlib.sha256(parameters).digest()[:DIGEST_BYTES]
        """Of all parameters that the two ends must share."""
        self.facts = CipherFacts(
            scheme=scheme,
            profile=profile,
            degree=DEGREE,
            modulus_bits=backend.modulus_bits,
            plain_modulus=plain_modulus,
            security_bits=security_bits(backend.modulus_bits),
            max_clients=max_clients,
            bytes_per_parameter=backend.chunk_bytes / codec.values,
        )

    @property
    def takes_masks(self) -> bool:
        """Whether uploads can be masked."""
        return self._backend.takes_masks

    def generate(self) -> SecretKey:
        """A fresh key for the clients to share; the server never sees it."""
        return SecretKey.fresh(digest=self.digest, lattice=self._backend.generate())

    def check_key(self, key: SecretKey) -> None:
        """EncryptionError for a key, maybe of somebody else's making, that this cipher cannot use.

        What it holds for the lattice reaches a native parser, with CKKS.
        """
        self._require_key(key)
        self._backend.check(key.lattice)

    def encrypt(
        self,
        x: Reals,
        *,
        key: SecretKey,
        terms: Terms,
        weight: float,
        client: str,
        rng: np.random.Generator,
        mask: Mask | None = None,
    ) -> Upload:
        """Encrypt weight * x and weight, for `x` of shape (d,), float32 or float64.

        `weight` is in (0, 1]. Values of `x` beyond +-clamp are cut off and counted. Rounding is
        stochastic and draws from `rng`: from the operating system's entropy on a real silo, named
        by round and client in a simulation. `mask`, shape (4096,), uint16, hides the secret that
        opens the upload; masks of a sum that add to zero modulo 2^16 leave it as it is. Raises
        EncryptionError for values that are not finite and for arguments that do not fit.
        """
        self._require_key(key)
        self._require_vector(x, terms)
        self._require_mask(mask)
        clipped = count_clipped(x, clamp=terms.clamp)
        own = Contribution(x=x, weight=weight, client=client, rng=rng)
        header = Header(
            kind="upload",
            digest=self.digest,
            terms=terms,
            clients=(checked_name("client", client),),
        )
        chunks = self._codec.encode(own, terms=terms, secret=key)
        body = self._backend.encrypt(chunks, key=key, terms=terms, mask=mask)
        return Upload(assembled(header, body), clipped)

    def adder(self, terms: Terms) -> Adder:
        """An empty sum of uploads under `terms`, for the server."""
        return Adder(
            self._backend.accumulator(self._codec.length(terms.size)),
            digest=self.digest,
            terms=terms,
            max_clients=self.facts.max_clients,
        )

    def decrypt(
        self, data: bytes, *, key: SecretKey, run: str, round: int, at_least: int
    ) -> OpenedSum:
        """Open a sum of `at_least` clients or more, of this run and round.

        Size, clamp and names come from the clear header of `data`; the tags bind them. For a sum
        that was kept, `read_header` says which run and round it claims.

        Raises Malformed for bytes that are no sum, TooFewClients, and Tampered for everything else
        that an honest server would not send; after Tampered the clients should change their key.
        """
        self._require_key(key)
        header, body = self._sum(data)
        terms = header.terms
        # Before decryption: an old sum is a replay, whatever its tags say.
        if (terms.run, terms.round) != (run, round):
            raise Tampered
        # The names in the header are the server's word until the tags below have bound them.
        if len(header.clients) < at_least:
            raise TooFewClients(f"a sum of {len(header.clients)} clients: at_least = {at_least}")
        chunks = self._backend.decrypt(
            body, key=key, header=header, length=self._codec.length(terms.size)
        )
        return self._codec.decode(chunks, of=SealedSum(header, body), secret=key)

    def _sum(self, data: bytes) -> tuple[Header, memoryview]:
        header, body = read_header(data)
        if header.kind != "sum":
            raise Malformed("an upload is no sum")
        if header.digest != self.digest:
            raise Malformed("the sum was made by another cipher or with other parameters")
        if len(header.clients) > self.facts.max_clients:
            raise Malformed(
                f"a sum of {len(header.clients)} clients: allowed are {self.facts.max_clients}"
            )
        return header, body

    def _require_key(self, key: SecretKey) -> None:
        if key.digest != self.digest:
            raise EncryptionError(f"key {key.name} was made for another cipher or other parameters")

    def _require_vector(self, x: Reals, terms: Terms) -> None:
        if x.shape != (terms.size,) or x.dtype not in (np.float32, np.float64):
            raise EncryptionError(
                f"the vector is {x.dtype} of shape {x.shape}: expected are {terms.size} floats"
            )

    def _require_mask(self, mask: Mask | None) -> None:
        if mask is None:
            return
        if not self.takes_masks:
            raise EncryptionError(f"{self.facts.scheme} takes no masks: use bfv")
        if mask.shape != (DEGREE,) or mask.dtype != np.uint16:
            raise EncryptionError(
                f"the mask is {mask.dtype} of shape {mask.shape}: expected are {DEGREE} uint16"
            )


def make_cipher(scheme: str = "bfv", *, profile: str = "default") -> Cipher:
    """The cipher of `[encryption] scheme`; `profile` names one of `PROFILES`, for BFV.

    Raises EncryptionError for an unknown scheme or profile.

    >>> make_cipher("bfv").facts.security_bits
    192
    """
    _require_known("scheme", scheme, SCHEMES)
    _require_known("profile", profile, PROFILES if scheme == "bfv" else ["default"])
    return _ckks() if scheme == "ckks" else _bfv(PROFILES[profile])


def _bfv(profile: Profile) -> Cipher:
    from privet.privacy.encryption.lattice import LatticeBackend

    return Cipher(
        FixedPointCodec(profile),
        LatticeBackend(profile.plain_modulus),
        scheme="bfv",
        profile=profile.name,
        max_clients=profile.max_clients,
        plain_modulus=profile.plain_modulus,
    )


def _ckks() -> Cipher:
    from privet.privacy.encryption.ckks import MAX_CLIENTS, SCALE_BITS, RealCodec
    from privet.privacy.encryption.documented import DocumentedBackend

    backend = DocumentedBackend(SCALE_BITS)
    return Cipher(RealCodec(), backend, scheme="ckks", profile="default", max_clients=MAX_CLIENTS)


def _require_known(setting: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        hint = nearest(value, known)
        raise EncryptionError(f"{setting} = {value!r}: allowed are {', '.join(known)}.{hint}")
