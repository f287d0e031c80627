"""What a silo holds at each step of a masked sum; each step leaves behind what must not be kept.

    Advertised   its keys and its personal seed
    Shared       the same, and everyone's adverts; the shares are on their way
    Masked       the others' shares, two of each silo; its own keys and seed are gone, so nothing
                 can be masked twice
    Consented    one share of each silo; the other one is gone, so it can never be shown
    Closed       nothing; the round is over

A step either fails and changes nothing, or gives the next phase and what it has to say. Phases are
written as fields, to be kept between the messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from privet.privacy.encryption.errors import MaskError, MessageError, TooFewSilos
from privet.privacy.encryption.keys.agreement import AgreementKey
from privet.privacy.encryption.keys.roster import Field, Fields, counted
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.encryption.masks.plan import MaskPlan
from privet.privacy.encryption.masks.seeds import (
    Coefficients,
    add_stream,
    pair_sign,
    pair_stream,
    personal_commitment,
    personal_stream,
    reduced,
)
from privet.privacy.encryption.masks.shares import (
    SECRET,
    SHARE,
    HeldShares,
    read_share,
    split,
    write_share,
)
from privet.privacy.encryption.masks.statements import Advert, Adverts, gather_adverts


@dataclass(frozen=True, kw_only=True)
class Advertised:
    """Keys and seed of one round, freshly made."""

    plan: MaskPlan
    name: str
    cipher: AgreementKey
    """For the letters with shares."""
    mask: AgreementKey
    personal: Secret

    @classmethod
    def fresh(cls, plan: MaskPlan, name: str) -> Advertised:
        return cls(
            plan=plan,
            name=name,
            cipher=AgreementKey.generate(),
            mask=AgreementKey.generate(),
            personal=Secret.random(SECRET),
        )

    @property
    def advert(self) -> Advert:
        """What is said about them in public."""
        commitment = personal_commitment(self.plan, self.name, self.personal)
        return Advert(self.name, self.cipher.public, self.mask.public, commitment)

    def share(self, messages: Iterable[bytes]) -> tuple[Shared, dict[str, bytes]]:
        """Deal both secrets to all silos whose adverts are in `messages`; letters by recipient."""
        adverts = gather_adverts(messages, plan=self.plan)
        if adverts.of(self.name) != self.advert:
            raise MessageError(f"the adverts hold another one of silo {self.name!r} than it made")
        places = {name: adverts.place(name) for name in adverts.members}
        threshold = self.plan.threshold
        personal = split(self.personal, threshold=threshold, places=places.values())
        pair = split(self.mask.secret(), threshold=threshold, places=places.values())
        own = personal[places.pop(self.name)]
        letters = {
            name: write_share(
                HeldShares(personal[place], pair[place]),
                adverts=adverts,
                sender=self.name,
                recipient=name,
                cipher=self.cipher,
            )
            for name, place in places.items()
        }
        return Shared(made=self, adverts=adverts, own=own), letters

    def fields(self) -> tuple[Field, ...]:
        return self.cipher.secret().reveal(), self.mask.secret().reveal(), self.personal.reveal()

    @classmethod
    def read(cls, fields: Fields, plan: MaskPlan, name: str) -> Advertised:
        cipher, mask, personal = (Secret(fields.blob(size=SECRET)) for _ in range(3))
        return cls(
            plan=plan,
            name=name,
            cipher=AgreementKey.from_secret(cipher),
            mask=AgreementKey.from_secret(mask),
            personal=personal,
        )


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Ready to mask, once the others' letters are here."""

    made: Advertised
    adverts: Adverts
    own: Secret
    """Its own share of its own personal seed; of its mask key it keeps none, being no dropout."""

    def mask(
        self, coefficients: Coefficients, letters: Mapping[str, bytes]
    ) -> tuple[Masked, Coefficients]:
        """The coefficients under masks, given the letter of every other silo, by name."""
        plan, name = self.made.plan, self.made.name
        _check_coefficients(coefficients, plan)
        held = {peer: self._opened(letters, peer) for peer in self._peers}
        masked = coefficients.flatten()
        add_stream(masked, personal_stream(self.adverts, name, self.made.personal), sign=1)
        for peer in self._peers:
            seed = pair_stream(self.adverts, name, self.made.mask, peer)
            add_stream(masked, seed, sign=pair_sign(name, peer))
        result = reduced(masked, bits=plan.bits).reshape(coefficients.shape)
        return Masked(adverts=self.adverts, name=name, own=self.own, held=held), result

    @property
    def _peers(self) -> list[str]:
        return [member for member in self.adverts.members if member != self.made.name]

    def _opened(self, letters: Mapping[str, bytes], peer: str) -> HeldShares:
        if peer not in letters:
            raise MaskError(f"silo {peer!r} has dealt no shares: begin the round again without it")
        made = self.made
        return read_share(
            letters[peer],
            adverts=self.adverts,
            sender=peer,
            recipient=made.name,
            cipher=made.cipher,
        )

    def fields(self) -> tuple[Field, ...]:
        return *self.made.fields(), *_written(self.adverts), self.own.reveal()

    @classmethod
    def read(cls, fields: Fields, plan: MaskPlan, name: str) -> Shared:
        made = Advertised.read(fields, plan, name)
        adverts = _read_adverts(fields, plan)
        return cls(made=made, adverts=adverts, own=Secret(fields.blob(size=SHARE)))


@dataclass(frozen=True, kw_only=True)
class Masked:
    """The masked coefficients have left; the shares of the others are kept."""

    adverts: Adverts
    name: str
    own: Secret
    held: Mapping[str, HeldShares]
    """By silo that dealt them; all but its own."""

    def consent(self, names: Iterable[str]) -> Consented:
        """Keep one share of each silo, as fits these survivors.

        MessageError unless they are silos that mask here and this one is among them; TooFewSilos
        below the threshold.
        """
        survivors = self.adverts.survivors(names)
        threshold = self.adverts.plan.threshold
        if len(survivors) < threshold:
            raise TooFewSilos(
                f"{len(survivors)} survivors are fewer than the threshold of {threshold}"
            )
        if self.name not in survivors:
            raise MessageError(f"survivors refused: silo {self.name!r} is here and not among them")
        shares = {
            silo: held.personal if silo in survivors else held.pair
            for silo, held in self.held.items()
        }
        return Consented(
            adverts=self.adverts,
            name=self.name,
            survivors=survivors,
            shares={**shares, self.name: self.own},
        )

    def fields(self) -> tuple[Field, ...]:
        both = (
            share.reveal() for held in self.held.values() for share in (held.personal, held.pair)
        )
        return *_written(self.adverts), self.own.reveal(), *both

    @classmethod
    def read(cls, fields: Fields, plan: MaskPlan, name: str) -> Masked:
        adverts, own = _read_adverts(fields, plan), Secret(fields.blob(size=SHARE))
        held = {
            member: HeldShares(Secret(fields.blob(size=SHARE)), Secret(fields.blob(size=SHARE)))
            for member in adverts.members
            if member != name
        }
        return cls(adverts=adverts, name=name, own=own, held=held)


@dataclass(frozen=True, kw_only=True)
class Consented:
    """Bound to one list of survivors."""

    adverts: Adverts
    name: str
    survivors: tuple[str, ...]
    shares: Mapping[str, Secret]
    """One of each silo: of its personal seed if it survived, of its mask key if not."""

    def fields(self) -> tuple[Field, ...]:
        shares = (self.shares[member].reveal() for member in self.adverts.members)
        return *_written(self.adverts), *counted(self.survivors), *shares

    @classmethod
    def read(cls, fields: Fields, plan: MaskPlan, name: str) -> Consented:
        adverts = _read_adverts(fields, plan)
        survivors = adverts.survivors(fields.names())
        shares = {member: Secret(fields.blob(size=SHARE)) for member in adverts.members}
        return cls(adverts=adverts, name=name, survivors=survivors, shares=shares)


@dataclass(frozen=True)
class Closed:
    """The round is over for this silo."""

    plan: MaskPlan
    name: str

    def fields(self) -> tuple[Field, ...]:
        return ()

    @classmethod
    def read(cls, _: Fields, plan: MaskPlan, name: str) -> Closed:
        return cls(plan, name)


Phase = Advertised | Shared | Masked | Consented | Closed
PHASES: tuple[type[Phase], ...] = (Advertised, Shared, Masked, Consented, Closed)
"""In the order in which they follow each other."""


def _check_coefficients(coefficients: Coefficients, plan: MaskPlan) -> None:
    if coefficients.dtype != np.uint64 or coefficients.size != plan.count:
        raise MaskError(
            f"masks are for {plan.count} numbers of type uint64, not for "
            f"{coefficients.size} of type {coefficients.dtype}"
        )
    if plan.bits < 64 and int(coefficients.max()) >> plan.bits:
        raise MaskError(f"a coefficient is not below 2^{plan.bits}")


def _written(adverts: Adverts) -> tuple[Field, ...]:
    return len(adverts.messages), *adverts.messages


def _read_adverts(fields: Fields, plan: MaskPlan) -> Adverts:
    return gather_adverts([fields.blob() for _ in range(fields.number())], plan=plan)
