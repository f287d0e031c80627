"""What goes wrong with encrypted sums.

EncryptionError    a setting, a vector or a key that does not fit
  Malformed        bytes that are no upload and no sum of this cipher
  Refused          an upload that may not be added: one client too many, twice the same, ...
  TooFewClients    a sum of fewer clients than the caller will look at
  Tampered         a sum that is not what its clients sent
"""

from __future__ import annotations

from privet.errors import PrivetError


class EncryptionError(PrivetError):
    """A parameter, a vector or a key that does not fit the cipher."""


class Malformed(EncryptionError):  # noqa: N818 - says what the bytes are
    """Bytes that this cipher did not make: wrong length, unknown version, a number out of range."""


class Refused(EncryptionError):  # noqa: N818 - the sum is right, the upload is not welcome
    """A well-formed upload that may not be added to this sum; the sum stays as it was."""


class TooFewClients(EncryptionError):  # noqa: N818 - says what there is
    """A sum of fewer clients than the caller asked for: it would say too much about each."""


class Tampered(EncryptionError):  # noqa: N818 - says what happened
    """The sum was altered, mixed up, replayed, or made under other keys.

    The text is always the same. Who sends forged sums and watches the answers learns one bit a try,
    and should find that the clients have changed their key after the first. A change too small to
    reach the plaintext, within what the noise of a ciphertext may be, alters nothing and is not
    noticed.
    """

    def __init__(self) -> None:
        super().__init__("the encrypted sum is not what its clients sent, or the key is another")
