"""The key that Flower knows a silo's node by: NIST P-384, in the files of OpenSSH.

It proves to the server who connects, and nothing more: what a silo vouches for is signed with its
identity key.
"""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from privet.deployment.parties.errors import PartiesError
from privet.files import write_new

LONGEST_PUBLIC = 500
"""Characters; a P-384 key has 156."""


class NodeKey:
    """A node's private key; its `repr` shows the public half only.

    A file is what `ssh-keygen -t ecdsa -b 384` writes and `flower-supernode
    --auth-supernode-private-key` reads, of mode 0600.
    """

    __slots__ = ("private", "public")

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        self.private = private
        self.public = _public_text(private.public_key())
        """The public half in one line without a comment, "ecdsa-sha2-nistp384 AAAA..."."""

    @classmethod
    def create(cls, path: Path) -> NodeKey:
        """A new key in a new file, on disk when this returns; PartiesError if that cannot be."""
        key = cls(ec.generate_private_key(ec.SECP384R1()))
        text = key.private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        try:
            write_new(path, text)
        except FileExistsError:
            raise PartiesError(f"{path} exists already: a key is never overwritten") from None
        except OSError as error:
            raise PartiesError(f"{path}: the key cannot be written ({error.strerror})") from None
        return key

    @classmethod
    def load(cls, path: Path) -> NodeKey:
        """The key in `path`; PartiesError when others may read the file or it holds none."""
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = path.read_bytes()
        except OSError as error:
            raise PartiesError(f"{path}: the key cannot be read ({error.strerror})") from None
        if mode & 0o077:
            raise PartiesError(f"{path} has mode {mode:04o}: others may read the key; chmod 600 it")
        return cls(_private_key(text, path))

    def __repr__(self) -> str:
        return f"NodeKey(public={self.public!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a NodeKey is not copied or pickled: load it where it is needed")


def node_key_fault(text: str) -> str | None:
    """What is wrong with `text` as the public half of a node key, or None."""
    wrong = 'is not a node\'s public key in one line, "ecdsa-sha2-nistp384 AAAA..."'
    # Before a parser sees it: lists come from others.
    if len(text) > LONGEST_PUBLIC or not text.isascii():
        return wrong
    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return wrong
    # One way to write each key, without a comment: keys are told apart by their texts.
    if not isinstance(key, ec.EllipticCurvePublicKey) or _public_text(key) != text:
        return wrong
    return None if isinstance(key.curve, ec.SECP384R1) else wrong


def _public_text(public: ec.EllipticCurvePublicKey) -> str:
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _private_key(text: bytes, path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_ssh_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise PartiesError(f"{path} holds no node key (ECDSA P-384, OpenSSH, without a passphrase)")
    return key
