"""What a server says of itself before anybody signs anything."""

from __future__ import annotations

import privet
from privet.parties.errors import PartiesError

PROTOCOL = 2
"""Rises when a party of an older version could not be understood any more."""
_LONGEST = 64


def check_hello(told: object, *, project: str, server: str) -> None:
    """PartiesError, in one line, unless `server` is the project's and speaks as this privet does.

    `told` is whatever somebody answered at that address.
    """
    if not isinstance(told, dict):
        raise PartiesError(f"what answers at {server} is no server of privet")
    theirs = {key: str(told.get(key))[:_LONGEST] for key in ("project", "protocol", "privet")}
    if told.get("project") != project:
        raise PartiesError(f"the server is of project {theirs['project']!r}, not {project!r}")
    if told.get("protocol") != PROTOCOL:
        raise PartiesError(
            f"the server speaks protocol {theirs['protocol']!r} (privet {theirs['privet']!r}), "
            f"this side {PROTOCOL} (privet {privet.__version__}): upgrade the older one"
        )
