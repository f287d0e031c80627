"""Sums of updates that no one sees alone: clients encrypt, the server adds, clients decrypt."""

from privet.privacy.encryption.adder import Adder
from privet.privacy.encryption.cipher import SCHEMES, Cipher, CipherFacts, Upload, make_cipher
from privet.privacy.encryption.codec import OpenedSum
from privet.privacy.encryption.errors import (
    EncryptionError,
    Malformed,
    Refused,
    Tampered,
    TooFewClients,
)
from privet.privacy.encryption.header import Header, read_header
from privet.privacy.encryption.secret import SecretKey
from privet.privacy.encryption.terms import Terms

__all__ = [
    "SCHEMES",
    "Adder",
    "Cipher",
    "CipherFacts",
    "EncryptionError",
    "Header",
    "Malformed",
    "OpenedSum",
    "Refused",
    "SecretKey",
    "Tampered",
    "Terms",
    "TooFewClients",
    "Upload",
    "make_cipher",
    "read_header",
]
