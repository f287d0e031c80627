"""A secret between two silos that the relay between them does not learn (X25519, RFC 7748)."""

from __future__ import annotations

from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from privet.privacy.encryption.keys.aead import derive
from privet.privacy.encryption.keys.errors import MessageError
from privet.privacy.encryption.keys.fields import Fields
from privet.privacy.encryption.keys.secret import Secret


class AgreementKey:
    """An X25519 private key for one purpose; its `repr` shows the public half only."""

    __slots__ = ("_private", "public")

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        """The public half, 32 bytes."""

    @classmethod
    def generate(cls) -> AgreementKey:
        """A new key."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_secret(cls, secret: Secret) -> AgreementKey:
        """The key that `secret()` gave, 32 bytes."""
        return cls(X25519PrivateKey.from_private_bytes(secret.reveal()))

    def secret(self) -> Secret:
        """The private half, 32 bytes."""
        raw = self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return Secret(raw)

    def agree(self, peer: bytes, *, info: bytes) -> Secret:
        """32 bytes that only this key and the one behind the public key `peer` can derive.

        `info` says what they are for. MessageError for a peer that forces a known result (a point
        of small order) or is no key.
        """
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            raise MessageError("agreement refused: the peer's public key is not one") from None
        return derive(Secret(shared), info=info)

    def __repr__(self) -> str:
        return f"AgreementKey(public={self.public.hex()!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an AgreementKey is not copied or pickled; keep it in a key file")


def read_public(fields: Fields, name: str) -> bytes:
    """The next field as a public key of silo `name`, which signed it; 32 bytes.

    MessageError for one that no agreement can use: found here, it can be laid at the silo's door.
    """
    public = fields.blob(size=32)
    try:
        _probe().agree(public, info=b"")
    except MessageError:
        raise fields.fault(f"the public key of silo {name!r} is of small order") from None
    return public


@lru_cache(maxsize=1)
def _probe() -> AgreementKey:
    """A key that is used for nothing else."""
    return AgreementKey.generate()
