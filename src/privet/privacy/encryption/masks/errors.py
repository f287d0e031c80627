"""What goes wrong with masks, said in one line.

MaskError       a plan or a step that would not be safe
  TooFewSilos   fewer silos than the threshold: the sum stays masked, and nothing was revealed
"""

from __future__ import annotations

from privet.privacy.encryption.keys.errors import KeysError


class MaskError(KeysError):
    """A plan that would not protect, or a step out of order; nothing was revealed by it."""


class TooFewSilos(MaskError):  # noqa: N818 - nobody erred, silos were lost
    """Fewer silos than the threshold are left: this sum can never be unmasked, by anyone."""
