"""What all silos must agree on before they mask, and how many of them may side with the server.

Let n silos share out their secrets, t of them be needed to rebuild one (the threshold), and c side
with the server, which may lie about who dropped out. An honest silo approves one list of survivors,
and no share leaves it before t silos have approved the same list. Two lists with t approvals each
would take 2(t - c) honest approvals from n - c honest silos, so if 2t > n + c there is one list at
most. Then at most one of a silo's two secrets is ever rebuilt, and the one sum that is unmasked has
the updates of at least t - c honest silos in it. (Bonawitz et al., CCS 2017, has the same bound for
a server that cheats.)
"""

from __future__ import annotations

from dataclasses import dataclass

from privet.privacy.encryption.errors import MaskError, TooFewSilos
from privet.privacy.encryption.keys.roster import Field, Fields, Session, check_numbers

DEFAULT_BITS = 47


def least_threshold(silos: int, *, colluding: int = 1) -> int:
    """The smallest threshold that is safe when `colluding` of `silos` side with the server.

    More than half of silos + colluding, and enough for two honest updates in the sum. MaskError
    when no threshold is: the sum of two silos, for one, says everything to either of them.

    >>> [least_threshold(silos) for silos in (3, 4, 6, 16)]
    [3, 3, 4, 9]
    """
    least = max((silos + colluding) // 2 + 1, colluding + 2)
    if least > silos:
        raise MaskError(f"masks of {silos} silos cannot withstand {colluding} that collude")
    return least


@dataclass(frozen=True, kw_only=True)
class MaskPlan:
    """One masked sum; every message about it carries this, so that silos with other plans part."""

    session: Session
    round: int
    threshold: int
    """Survivors without whom nothing is unmasked; dropouts beyond it lose the round."""
    count: int
    """Coefficients that are masked."""
    bits: int = DEFAULT_BITS
    """Coefficients are numbers modulo 2^bits, and so is their sum."""
    colluding: int = 1
    """Silos that may side with the server without learning more than the sum."""

    def __post_init__(self) -> None:
        check_numbers(
            round=self.round, threshold=self.threshold, count=self.count, colluding=self.colluding
        )
        if not 1 <= self.bits <= 64:
            raise MaskError(f"bits = {self.bits} is outside 1 to 64")
        if self.count == 0:
            raise MaskError("there are no coefficients to mask")

    @property
    def facts(self) -> tuple[Field, ...]:
        """The fields with which a message says what it is about, besides the session."""
        return self.round, self.threshold, self.count, self.bits, self.colluding

    def check(self, fields: Fields) -> None:
        """Read `facts` and insist that they are these; MessageError otherwise."""
        named = {"round": self.round, "threshold": self.threshold, "count": self.count}
        for name, mine in (named | {"bits": self.bits, "colluding": self.colluding}).items():
            theirs = fields.number()
            if theirs != mine:
                raise fields.fault(f"its maker masks with {name} = {theirs}, not {mine}")

    def check_silos(self, silos: int) -> None:
        """MaskError unless the threshold protects `silos` silos and can be reached by them."""
        if silos < self.threshold:
            raise TooFewSilos(f"{silos} silos are fewer than the threshold of {self.threshold}")
        least = least_threshold(silos, colluding=self.colluding)
        if self.threshold < least:
            raise MaskError(
                f"threshold = {self.threshold} does not protect {silos} silos of which "
                f"{self.colluding} collude; it must be {least} or more"
            )
