"""What left the silos, by kind of message and not by silo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privet.simulations.audit.leaks import Left


@dataclass(frozen=True)
class Kind:
    """A field of messages, with everything that is the same of all silos."""

    occasion: str
    field: str
    protection: str
    protected: bool
    silos: int
    """Of all runs together: a silo of two runs counts twice."""
    messages: int

    @property
    def model(self) -> bool:
        """Whether it is the model's update itself, and not what came beside it."""
        return self.field.startswith(("update.", "sealed-update."))


def kinds(leaks: Sequence[Left]) -> tuple[Kind, ...]:
    """What has no protection first, the model's update last."""
    found: dict[tuple[str, str, str, bool], list[Left]] = {}
    for left in leaks:
        place = left.occasion, left.field, left.protection, left.protected
        found.setdefault(place, []).append(left)
    listed = [
        Kind(
            *place,
            len({(left.subject, left.silo) for left in same}),
            sum(left.messages for left in same),
        )
        for place, same in found.items()
    ]
    return tuple(sorted(listed, key=lambda kind: (kind.model, kind.protected)))
