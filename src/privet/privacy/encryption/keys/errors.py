"""What goes wrong with keys and with the messages about them, said in one line.

KeysError         a setting or a call that would not be safe
  RosterError     the list of silos, or a silo that is not on it
  MessageError    a message that is not exactly what its maker sent, here and now
  KeyFileError    a file that holds no key, or holds it badly

No text of these errors contains a key, a share or anything else that was encrypted.
"""

from __future__ import annotations

from privet.errors import PrivetError


class KeysError(PrivetError):
    """A setting or a call that would not be safe; nothing was sent or written."""


class RosterError(KeysError):
    """A roster that cannot be read or is not sound, or a silo that it does not list."""


class MessageError(KeysError):
    """A message that is malformed, altered, replayed or not from whom it says: none of it is used.

    Texts do not depend on a secret, so that a refusal tells its sender nothing but that it came.
    """


class KeyFileError(KeysError):
    """A key file that is missing, damaged, open to others, or for another run."""
