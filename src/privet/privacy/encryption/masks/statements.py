"""What the silos of a sum state in public, signed: adverts of a plan, consents, confirmations.

An advert comes before anything is trained: two fresh public keys (one to encrypt shares, one for
the masks), a commitment to the personal seed, by which everyone can check later whether the seed
was rebuilt rightly, and how many records the silo counts by. It is signed over the plan of the
round: settings, round and global model as this silo has them. Whoever gathers the adverts refuses
those of other plans, and all that follows (shares, upload, consent) is bound to the digest of all
adverts. So the silos of a sum have the same model, settings and members, or part before they train.
All of it is for one round: a mask key that was rebuilt after a dropout must not have a second use.

A consent names the survivors: enough silos must have signed the same list before any of them
reveals. Without it, a server could claim to some silos that a silo dropped out and to others that
it survived, and put together from their answers what no single silo would give.

The plan bounds how many silos may side with the server. Let n silos share out their secrets, t of
them be needed to rebuild one (the threshold), and c side with the server, which may lie about who
dropped out. An honest silo approves one list of survivors, and no share leaves it before t silos
have approved the same list. Two lists with t approvals each would take 2(t - c) honest approvals
from n - c honest silos, so if 2t > n + c there is one list at most. Then at most one of a silo's
two secrets is ever rebuilt, and the one sum that is unmasked has the updates of at least t - c
honest silos in it. (Bonawitz et al., CCS 2017, has the same bound for a server that cheats.)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

from privet.privacy.encryption.errors import MaskError, MessageError, TooFewSilos
from privet.privacy.encryption.keys.agreement import read_public
from privet.privacy.encryption.keys.roster import (
    Field,
    Fields,
    Session,
    check_numbers,
    counted,
    pack,
    read_signed,
    write_signed,
)
from privet.privacy.ledger.keys import SiloKey


def least_threshold(silos: int, *, colluding: int = 1) -> int:
    """The smallest threshold that is safe when `colluding` of `silos` side with the server.

    More than half of silos + colluding, and enough for two honest updates in the sum. MaskError
    when no threshold is: the sum of two silos, for one, says everything to either of them.

    >>> [least_threshold(silos) for silos in (3, 4, 6, 16)]
    [3, 3, 4, 9]
    """
    # 2t > n + c for one list of survivors at most; t - c >= 2 for two honest updates in the sum.
    least = max((silos + colluding) // 2 + 1, colluding + 2)
    if least > silos:
        raise MaskError(f"masks of {silos} silos cannot withstand {colluding} that collude")
    return least


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """What the silos of a round agree on before they train, and each finds by itself."""

    session: Session
    round: int
    job: bytes
    """32 bytes, equal for silos that were given the same settings."""
    model: bytes
    """32 bytes, equal for silos that train from the same global model."""
    noise: str = ""
    """The noise multiplier that the server asks of all, as text; empty when it asks for none."""
    threshold: int = 2
    """Survivors without whom there is no sum; raised to what `colluding` needs."""
    colluding: int = 1
    """Silos that may side with the server without learning more than the sum."""
    masked: bool = True

    def __post_init__(self) -> None:
        check_numbers(round=self.round, threshold=self.threshold, colluding=self.colluding)

    @property
    def facts(self) -> tuple[Field, ...]:
        """The fields with which a message says what it is about, besides the session."""
        settings = self.threshold, self.colluding, int(self.masked)
        return self.round, self.job, self.model, self.noise, *settings

    def check(self, fields: Fields) -> None:
        """Read `facts` and insist that they are these; MessageError otherwise."""
        for what, mine in zip(_FACTS, self.facts, strict=True):
            theirs = fields.number() if isinstance(mine, int) else fields.blob()
            if theirs != (mine.encode() if isinstance(mine, str) else mine):
                raise fields.fault(f"its maker has another {what}")

    @classmethod
    def read(cls, fields: Fields, session: Session) -> Self:
        """The plan whose `facts` follow, as this silo wrote them itself."""
        round_, job, model = fields.number(), fields.blob(size=32), fields.blob(size=32)
        noise, threshold, colluding = fields.blob().decode(), fields.number(), fields.number()
        return cls(
            session=session,
            round=round_,
            job=job,
            model=model,
            noise=noise,
            threshold=threshold,
            colluding=colluding,
            masked=bool(fields.number()),
        )

    def least(self, silos: int) -> int:
        """How many of `silos` must survive; MaskError when they are too few for any sum."""
        least = least_threshold(silos, colluding=self.colluding) if self.masked else 2
        least = max(least, self.threshold)
        if silos < least:
            raise TooFewSilos(f"{silos} silos are fewer than the threshold of {least}")
        return least


_FACTS = (
    "round",
    "job",
    "global model",
    "noise multiplier",
    "threshold",
    "number of colluding silos",
    "word on masks",
)

_MOST_TIMES_OTHERS = 8
_LEAST_WEIGHT = 2.0**-10
"""On average, in a sum: what one upload's rounding is in any profile, over the clamp."""

ADVERT_TITLE = "privet mask advert 2"
LARGEST_ADVERT = 1000
"""Bytes of an advert."""


@dataclass(frozen=True)
class Advert:
    """The public keys (X25519, 32 bytes) and the commitment (32 bytes) of silo `name`."""

    name: str
    cipher: bytes
    mask: bytes
    commitment: bytes
    records: int = 0
    """How many it has, where silos count by them; else 0."""
    key: bytes = b""
    """The public id of the epoch's key as it has it: who made the key may have made several."""


@dataclass(frozen=True)
class Adverts:
    """The verified adverts of all silos of a round; made by `gather_adverts`."""

    plan: RoundPlan
    adverts: tuple[Advert, ...]
    """In the order of the roster."""
    messages: tuple[bytes, ...]
    """As they came, in the same order."""

    @cached_property
    def members(self) -> tuple[str, ...]:
        """The silos of the round."""
        return tuple(advert.name for advert in self.adverts)

    @cached_property
    def threshold(self) -> int:
        """Survivors without whom nothing is unmasked; dropouts beyond it lose the round."""
        return self.plan.least(len(self.adverts))

    def weight(self, name: str) -> float:
        """How much silo `name` counts, in (0, 1]: 1 for the one with the most records, and for who
        does not say how many it has. No silo counts more than all others together, or more than
        eight times what those of a sum must have that do not side with the server."""
        most = self._most
        return min(self.of(name).records or most, most) / most if most else 1.0

    def demand_weight(self, names: Collection[str]) -> None:
        """MaskError for silos that count so little that rounding is most of what they add up to.

        Each upload is rounded to levels of the clamp, whatever it counts; who counts is missing.
        """
        if math.fsum(self.weight(name) for name in names) < _LEAST_WEIGHT * len(names):
            raise MaskError("those whose updates came count too little beside those that are out")

    @cached_property
    def _most(self) -> int:
        """Records that one silo may count with: its number is its own word."""
        records = sorted(advert.records for advert in self.adverts if advert.records)
        most = max(records, default=0)
        # Of two silos the other one's number would be the bound; they trust each other as it is.
        if len(self.adverts) > 2:
            most = min(most, sum(records[:-1]) or most)
        if not (self.plan.masked and self.plan.colluding):
            return most
        # The least that the others of a sum can have, whoever drops out and sides with the server:
        # beside next to nothing an update would stand there alone.
        others = sum(records[: self.threshold - 1 - self.plan.colluding])
        return min(most, _MOST_TIMES_OTHERS * others or most)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes, equal for silos that saw the same adverts: the transcript of the round so far.

        Each advert was signed over the plan, which `gather_adverts` has compared.
        """
        # Without the signatures: a silo can sign the same advert in more than one valid way.
        content = (hashlib.sha256(message[:-64]).digest() for message in self.messages)
        return hashlib.sha256(pack("privet mask adverts 1", *content)).digest()

    def of(self, name: str) -> Advert:
        """The advert of silo `name`; MessageError when there is none."""
        for advert in self.adverts:
            if advert.name == name:
                return advert
        raise MessageError(f"silo {name!r} is not among those that mask together")

    def place(self, name: str) -> int:
        """Where the shares of silo `name` lie: its place on the roster, from 1."""
        return self.plan.session.roster.place(name)

    def survivors(self, names: Iterable[str]) -> tuple[str, ...]:
        """`names` in order; MessageError for one that does not mask here, or twice."""
        chosen = list(names)
        if len(set(chosen)) < len(chosen) or not set(chosen) <= set(self.members):
            raise MessageError("survivors refused: they are not different silos that mask together")
        return self.plan.session.roster.ordered(chosen)


def write_advert(advert: Advert, *, plan: RoundPlan, identity: SiloKey) -> bytes:
    """The signed advert; RosterError when `identity` is not the silo's."""
    held = advert.cipher, advert.mask, advert.commitment
    values = *plan.facts, *held, advert.records, advert.key
    return write_signed(
        ADVERT_TITLE, *values, session=plan.session, name=advert.name, identity=identity
    )


def read_advert(message: bytes, *, plan: RoundPlan) -> Advert:
    """The advert in `message`; MessageError unless a silo made it for this plan."""
    name, fields = read_signed(message, ADVERT_TITLE, session=plan.session, most=LARGEST_ADVERT)
    plan.check(fields)
    cipher, mask = read_public(fields, name), read_public(fields, name)
    advert = Advert(name, cipher, mask, fields.blob(size=32), fields.number(), fields.blob())
    fields.end()
    return advert


def gather_adverts(messages: Iterable[bytes], *, plan: RoundPlan) -> Adverts:
    """All adverts of a round.

    MessageError for a refused one, a silo's second one, or different keys; MaskError when the plan
    does not protect this many silos, TooFewSilos when they are fewer than its threshold.
    """
    return _gathered(tuple(messages), plan)


# A silo reads them anew at every step of a round, and hundreds of signatures take their time.
@lru_cache(maxsize=8)
def _gathered(messages: tuple[bytes, ...], plan: RoundPlan) -> Adverts:
    found: dict[str, tuple[Advert, bytes]] = {}
    for message in messages:
        advert = read_advert(message, plan=plan)
        if advert.name in found:
            raise MessageError(f"silo {advert.name!r} appears with two mask adverts")
        found[advert.name] = advert, message
    if len({advert.key for advert, _ in found.values()}) > 1:
        raise MessageError("adverts refused: their silos have different keys of the epoch")
    plan.least(len(found))
    ordered = [found[name] for name in plan.session.roster.ordered(found)]
    return Adverts(plan, tuple(each[0] for each in ordered), tuple(each[1] for each in ordered))


CONSENT_TITLE = "privet mask consent 1"
LARGEST_CONSENT = 100_000
"""Bytes of a consent."""


def write_consent(
    survivors: tuple[str, ...], *, adverts: Adverts, name: str, identity: SiloKey
) -> bytes:
    """The statement of silo `name` that it will unmask the sum of these silos, and no other."""
    values = adverts.digest, *counted(survivors)
    session = adverts.plan.session
    return write_signed(CONSENT_TITLE, *values, session=session, name=name, identity=identity)


def read_consent(message: bytes, *, adverts: Adverts) -> tuple[str, tuple[str, ...]]:
    """Who consented, and to which survivors; MessageError unless it is about these adverts."""
    name, fields = read_signed(
        message, CONSENT_TITLE, session=adverts.plan.session, most=LARGEST_CONSENT
    )
    survivors = read_survivors(fields, adverts=adverts, name=name)
    fields.end()
    return name, survivors


def read_survivors(fields: Fields, *, adverts: Adverts, name: str) -> tuple[str, ...]:
    """The part that consents and reveals have in common; MessageError if it is about other adverts
    (their digest covers the plan), or the survivors are not silos of which `name` is one."""
    if fields.blob(size=32) != adverts.digest:
        raise fields.fault(f"silo {name!r} was shown other mask adverts, or it is a replay")
    survivors = fields.names()
    if survivors != adverts.survivors(survivors) or name not in survivors:
        raise fields.fault(f"silo {name!r} does not list itself and others in order")
    return survivors


def check_consents(
    messages: Iterable[bytes], *, survivors: tuple[str, ...], adverts: Adverts
) -> None:
    """TooFewSilos unless at least `threshold` silos consented to exactly these survivors.

    MessageError for a refused consent, a silo's second one, or one to another list.
    """
    names: set[str] = set()
    for message in messages:
        name, theirs = read_consent(message, adverts=adverts)
        if theirs != survivors:
            raise MessageError(f"silo {name!r} consented to other survivors: nothing is revealed")
        if name in names:
            raise MessageError(f"silo {name!r} appears with two consents")
        names.add(name)
    if len(names) < adverts.threshold:
        raise TooFewSilos(
            f"{len(names)} consents are fewer than the threshold of {adverts.threshold}"
        )


def sum_label(adverts: Adverts) -> str:
    """What uploads of the round are labelled with, and their tags are bound to: its transcript."""
    session = adverts.plan.session
    return f"{session.run}/{session.epoch}/{adverts.digest.hex()}"


def upload_parameters(adverts: Adverts, cipher_digest: bytes) -> bytes:
    """32 bytes that are equal where uploads can be added: of one cipher and one transcript."""
    return hashlib.sha256(cipher_digest + adverts.digest).digest()


CONFIRMATION_TITLE = "privet model confirmation 1"
LARGEST_CONFIRMATION = 1000
"""Bytes of a confirmation."""


def write_confirmation(
    round: int, model: bytes, *, session: Session, name: str, identity: SiloKey
) -> bytes:
    """The statement of silo `name` that it opened the sum of a round, and has this model of it."""
    return write_signed(
        CONFIRMATION_TITLE, round, model, session=session, name=name, identity=identity
    )


def check_confirmations(
    messages: Iterable[bytes], *, session: Session, least: int
) -> tuple[int, bytes]:
    """The round and the model that at least `least` different silos confirmed, all the same.

    With more of them than side with the server, one is honest: it had the model before from others
    that were, and opened the sum itself. MessageError for a refused one, a second one of a silo,
    different ones; TooFewSilos.
    """
    found: dict[str, tuple[int, bytes]] = {}
    for message in messages:
        name, stated = read_confirmation(message, session=session)
        if name in found:
            raise MessageError(f"silo {name!r} appears with two confirmations")
        found[name] = stated
    if len(found) < least:
        raise TooFewSilos(f"{len(found)} silos confirmed the model: at least {least} must")
    if len(set(found.values())) > 1:
        raise MessageError("confirmations refused: they are of different models")
    return next(iter(found.values()))


def read_confirmation(message: bytes, *, session: Session) -> tuple[str, tuple[int, bytes]]:
    """Who confirmed, and the round and the model; MessageError unless it is of this session."""
    name, fields = read_signed(
        message, CONFIRMATION_TITLE, session=session, most=LARGEST_CONFIRMATION
    )
    stated = fields.number(), fields.blob(size=32)
    fields.end()
    return name, stated
