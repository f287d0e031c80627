"""Sums of updates that no one sees alone: clients encrypt, the server adds, clients decrypt."""

from privet.privacy.encryption.cipher import (
    SCHEMES,
    Adder,
    Cipher,
    CipherFacts,
    Upload,
    make_cipher,
)
from privet.privacy.encryption.codec import OpenedSum
from privet.privacy.encryption.errors import (
    EncryptionError,
    Malformed,
    Tampered,
    TooFewClients,
    UploadRefused,
)
from privet.privacy.encryption.header import Header, Terms, read_header
from privet.privacy.encryption.keys.secret import SecretKey

__all__ = [
    "SCHEMES",
    "Adder",
    "Cipher",
    "CipherFacts",
    "EncryptionError",
    "Header",
    "Malformed",
    "OpenedSum",
    "SecretKey",
    "Tampered",
    "Terms",
    "TooFewClients",
    "Upload",
    "UploadRefused",
    "make_cipher",
    "read_header",
]
