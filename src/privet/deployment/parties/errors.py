"""What is wrong with a list of parties, a kit or a node key, said in one line."""

from __future__ import annotations

from privet.errors import PrivetError


class PartiesError(PrivetError):
    """A list of parties that nobody vouches for, a kit with a mistake, a key that is unfit."""


class OtherProtocol(PartiesError):  # noqa: N818 - says which
    """Whoever answers speaks as another version of privet does."""
