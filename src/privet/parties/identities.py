"""Whether a text is an Ed25519 public key that only the owner of a private one can sign for."""

from __future__ import annotations

import re

_P = 2**255 - 19
_Y8 = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
# Points of order 1, 2, 4 and 8, in every encoding: anyone can sign for such a "key", and the zeros
# of a template are one of them.
_SMALL_ORDER = {0, 1, _Y8, _P - _Y8, _P - 1, _P, _P + 1}


def identity_fault(text: str) -> str | None:
    """What is wrong with `text` as a public key, or None; the text itself is not repeated.

    Someone may have pasted the private half.
    """
    if not re.fullmatch("[0-9a-f]{64}", text):
        return "is not a public key (64 hexadecimal digits, small letters)"
    if int.from_bytes(bytes.fromhex(text), "little") % 2**255 in _SMALL_ORDER:
        return "is no key: anyone could sign for it"
    return None
