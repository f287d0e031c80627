"""What goes wrong with encrypted sums, keys and masks, each in one line.

    EncryptionError      a setting, a vector or a key that does not fit
      Malformed          bytes that are no upload and no sum of this cipher
      UploadRefused      an upload that may not be added: one client too many, twice the same, ...
      TooFewClients      a sum of fewer clients than the caller will look at
      Tampered           a sum that is not what its clients sent
    KeysError            a setting or a call that would not be safe
      RosterError        the list of silos, or a silo that is not on it
      MessageError       a message that is not exactly what its maker sent, here and now
        SharesRefused    shares of a mask's seeds that do not open, or open and fit no secret
      KeyFileError       a file that holds no key, or holds it badly
      MaskError          a plan or a step that would not be safe
        TooFewSilos      fewer silos than the threshold: the sum stays masked, nothing was revealed

No text of these errors contains a key, a share or anything else that was encrypted.
"""

from __future__ import annotations

from privet.errors import PrivetError


class EncryptionError(PrivetError):
    """A parameter, a vector or a key that does not fit the cipher."""


class Malformed(EncryptionError):  # noqa: N818 - says what the bytes are
    """Bytes that this cipher did not make: wrong length, unknown version, a number out of range."""


class UploadRefused(EncryptionError):  # noqa: N818 - the sum is right, the upload is not
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


class KeysError(PrivetError):
    """A setting or a call that would not be safe; nothing was sent or written."""


class RosterError(KeysError):
    """A roster that cannot be read or is not sound, or a silo that it does not list."""


class MessageError(KeysError):
    """A message that is malformed, altered, replayed or not from whom it says: none of it is used.

    Texts do not depend on a secret, so that a refusal reveals nothing but that
    the message came.
    """


class SharesRefused(MessageError):  # noqa: N818 - says what was done with them
    """Shares that silo `dealer` made, or others passed on in its name, do not open or fit."""

    def __init__(self, text: str, *, dealer: str) -> None:
        super().__init__(text)
        self.dealer = dealer


class KeyFileError(KeysError):
    """A key file that is missing, damaged, open to others, or for another run."""


class MaskError(KeysError):
    """A plan that would not protect, or a step out of order; nothing was revealed by it."""


class TooFewSilos(MaskError):  # noqa: N818 - nobody erred, silos were lost
    """Fewer silos than the threshold are left: this sum can never be unmasked, by anyone."""
