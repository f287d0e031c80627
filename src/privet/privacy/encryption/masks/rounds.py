"""One silo's part in one masked sum, step by step, across restarts of its process.

The next phase is on disk before a step's answer is returned, and is taken by exactly one process:
a server that asks twice at once gets one answer. A process that dies in between loses its part of
the round, and the others go on without it. What a silo holds at each step, each of which leaves
behind what must not be kept:

    Advertised   its keys and its personal seed
    Shared       the same, and everyone's adverts; the shares are on their way
    Masked       the others' shares, two of each silo; its own keys and seed are gone, so nothing
                 can be masked twice
    Consented    one share of each silo; the other one is gone, so it can never be shown
    Closed       no secret; the round is over, but for one sum that the silo opens

A step either fails and changes nothing, or gives the next phase and what it has to say. Phases are
written as fields, to be kept between the messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from privet.privacy.encryption.backend import Mask
from privet.privacy.encryption.errors import (
    KeyFileError,
    MaskError,
    MessageError,
    SharesRefused,
    Tampered,
    TooFewSilos,
)
from privet.privacy.encryption.keys.agreement import AgreementKey
from privet.privacy.encryption.keys.roster import Field, Fields, Session, counted, pack
from privet.privacy.encryption.keys.runkey import find_key, read_key, swap_key
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.encryption.masks.shares import (
    SECRET,
    SHARE,
    HeldShares,
    add_stream,
    no_mask,
    pair_sign,
    pair_stream,
    personal_commitment,
    personal_stream,
    read_share,
    split,
    write_share,
)
from privet.privacy.encryption.masks.statements import (
    Advert,
    Adverts,
    RoundPlan,
    check_consents,
    gather_adverts,
    write_advert,
    write_consent,
)
from privet.privacy.encryption.masks.unmasking import Reveal, write_reveal
from privet.privacy.ledger.keys import SiloKey


@dataclass(frozen=True, kw_only=True)
class Advertised:
    """Keys and seed of one round, freshly made."""

    plan: RoundPlan
    name: str
    cipher: AgreementKey
    """Encrypts shares to the others."""
    mask: AgreementKey
    personal: Secret
    records: int = 0
    key: bytes = b""
    """The public id of the epoch's key."""

    @classmethod
    def fresh(cls, plan: RoundPlan, name: str, *, records: int, key: bytes) -> Advertised:
        return cls(
            plan=plan,
            name=name,
            records=records,
            key=key,
            cipher=AgreementKey.generate(),
            mask=AgreementKey.generate(),
            personal=Secret.random(SECRET),
        )

    @property
    def advert(self) -> Advert:
        """What is said about them in public."""
        commitment = personal_commitment(self.plan, self.name, self.personal)
        keys = self.cipher.public, self.mask.public
        return Advert(self.name, *keys, commitment, self.records, self.key)

    def share(self, messages: Iterable[bytes]) -> tuple[Shared, dict[str, bytes]]:
        """Deal both secrets to all silos that adverted in `messages`; encrypted, by recipient."""
        adverts = gather_adverts(messages, plan=self.plan)
        # Else the server could have this silo share secrets for keys that are not its own.
        if adverts.of(self.name) != self.advert:
            raise MessageError(f"the adverts hold another one of silo {self.name!r} than it made")
        places = {name: adverts.place(name) for name in adverts.members}
        threshold = adverts.threshold
        personal = split(self.personal, threshold=threshold, places=places.values())
        pair = split(self.mask.secret(), threshold=threshold, places=places.values())
        own = personal[places.pop(self.name)]
        if not self.plan.masked:
            return Shared(made=self, adverts=adverts, own=own), {}
        encrypted_shares = {
            name: write_share(
                HeldShares(personal[place], pair[place]),
                adverts=adverts,
                sender=self.name,
                recipient=name,
                cipher=self.cipher,
            )
            for name, place in places.items()
        }
        return Shared(made=self, adverts=adverts, own=own), encrypted_shares

    def fields(self) -> tuple[Field, ...]:
        secrets = self.cipher.secret(), self.mask.secret(), self.personal
        return *(secret.reveal() for secret in secrets), self.records, self.key

    @classmethod
    def read(cls, fields: Fields, plan: RoundPlan, name: str) -> Advertised:
        cipher, mask, personal = (Secret(fields.blob(size=SECRET)) for _ in range(3))
        return cls(
            plan=plan,
            name=name,
            cipher=AgreementKey.from_secret(cipher),
            mask=AgreementKey.from_secret(mask),
            personal=personal,
            records=fields.number(),
            key=fields.blob(),
        )


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Ready to upload, once the others' encrypted shares are here."""

    made: Advertised
    adverts: Adverts
    own: Secret
    """Its own share of its own personal seed; of its mask key it keeps none, being no dropout."""

    def mask(self, encrypted_shares: Mapping[str, bytes]) -> tuple[Masked | Closed, Mask | None]:
        """The silo's mask, given every other silo's encrypted share, by name."""
        name = self.made.name
        if not self.adverts.plan.masked:
            return Closed(adverts=self.adverts, name=name, survivors=()), None
        # Everyone's shares must be here before anything is masked: a secret that too few silos hold
        # could never be rebuilt.
        held = {peer: self._opened(encrypted_shares, peer) for peer in self._peers}
        mask = no_mask()
        add_stream(mask, personal_stream(self.adverts, name, self.made.personal), sign=1)
        for peer in self._peers:
            seed = pair_stream(self.adverts, name, self.made.mask, peer)
            add_stream(mask, seed, sign=pair_sign(name, peer))
        return Masked(adverts=self.adverts, name=name, own=self.own, held=held), mask

    @property
    def _peers(self) -> list[str]:
        return [member for member in self.adverts.members if member != self.made.name]

    def _opened(self, encrypted_shares: Mapping[str, bytes], peer: str) -> HeldShares:
        if peer not in encrypted_shares:
            raise MaskError(f"silo {peer!r} has dealt no shares: begin the round again without it")
        made, message = self.made, encrypted_shares[peer]
        between = {"sender": peer, "recipient": made.name}
        try:
            return read_share(message, adverts=self.adverts, cipher=made.cipher, **between)
        except MessageError as error:
            raise SharesRefused(str(error), dealer=peer) from None

    def fields(self) -> tuple[Field, ...]:
        return *self.made.fields(), *_written(self.adverts), self.own.reveal()

    @classmethod
    def read(cls, fields: Fields, plan: RoundPlan, name: str) -> Shared:
        made = Advertised.read(fields, plan, name)
        adverts = _read_adverts(fields, plan)
        return cls(made=made, adverts=adverts, own=Secret(fields.blob(size=SHARE)))


@dataclass(frozen=True, kw_only=True)
class Masked:
    """The mask is used; the shares of the others are kept."""

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
        threshold = self.adverts.threshold
        if len(survivors) < threshold:
            raise TooFewSilos(
                f"{len(survivors)} survivors are fewer than the threshold of {threshold}"
            )
        self.adverts.demand_weight(survivors)
        if self.name not in survivors:
            raise MessageError(f"survivors refused: silo {self.name!r} is here and not among them")
        # Of a survivor the personal seed, of a dropout the mask key: both of one silo would unmask
        # its single update.
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
        # In the order of the members, in which `read` takes them: `held` was made in it.
        both = (
            share.reveal() for held in self.held.values() for share in (held.personal, held.pair)
        )
        return *_written(self.adverts), self.own.reveal(), *both

    @classmethod
    def read(cls, fields: Fields, plan: RoundPlan, name: str) -> Masked:
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
    def read(cls, fields: Fields, plan: RoundPlan, name: str) -> Consented:
        adverts = _read_adverts(fields, plan)
        survivors = adverts.survivors(fields.names())
        shares = {member: Secret(fields.blob(size=SHARE)) for member in adverts.members}
        return cls(adverts=adverts, name=name, survivors=survivors, shares=shares)


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The silo has done its part; no secret of the round is left."""

    adverts: Adverts
    name: str
    survivors: tuple[str, ...]
    """Whose sum was unmasked; empty where nothing is masked and no sum was opened yet."""
    total: bytes = b""
    """SHA-256 of the sum that this silo opens; empty before it was asked to."""

    def bound(self, total: bytes, names: Iterable[str]) -> Closed:
        """For this sum alone."""
        try:
            survivors = self.adverts.survivors(names)
        except MessageError:
            raise Tampered from None
        if (self.survivors or survivors, self.total or total) != (survivors, total):
            raise Tampered
        return replace(self, survivors=survivors, total=total)

    def fields(self) -> tuple[Field, ...]:
        return *_written(self.adverts), *counted(self.survivors), self.total

    @classmethod
    def read(cls, fields: Fields, plan: RoundPlan, name: str) -> Closed:
        adverts = _read_adverts(fields, plan)
        survivors = adverts.survivors(fields.names())
        return cls(adverts=adverts, name=name, survivors=survivors, total=fields.blob())


Phase = Advertised | Shared | Masked | Consented | Closed
PHASES: tuple[type[Phase], ...] = (Advertised, Shared, Masked, Consented, Closed)
"""In the order in which they follow each other."""


def _written(adverts: Adverts) -> tuple[Field, ...]:
    return len(adverts.messages), *adverts.messages


def _read_adverts(fields: Fields, plan: RoundPlan) -> Adverts:
    return gather_adverts([fields.blob() for _ in range(fields.number())], plan=plan)


_TITLE = "privet mask phase 3"
_KIND = "masks"

_Phase = TypeVar("_Phase", Advertised, Shared, Masked, Consented, Closed)


class MaskRound:
    """Steps in order: `advert`, `share`, `mask`, `consent`, `reveal`, `close`, `open`.

    Each is possible once (`advert`, `reveal` and `open` again, with the same outcome). A step that
    raises has changed nothing and can be tried with better messages. MaskError for a step out of
    order, KeyFileError when another process was quicker.

    `keep` is the file in which the round outlives the process (mode 0600); without it everything is
    in memory. It has a name of its own for every epoch and round, and stays until the epoch is
    over: it is what remembers that something was masked already.
    """

    def __init__(
        self, phase: Phase, *, plan: RoundPlan, name: str, identity: SiloKey, keep: Path | None
    ) -> None:
        self._phase = phase
        self.plan = plan
        self._name = name
        self._identity = identity
        self._keep = keep

    @classmethod
    def begin(
        cls,
        *,
        plan: RoundPlan,
        name: str,
        identity: SiloKey,
        records: int = 0,
        key: bytes = b"",
        keep: Path | None = None,
    ) -> MaskRound:
        """A round with fresh keys, in place of an attempt that has not masked anything yet.

        MaskError if something was masked: one update under two sets of masks, in sums of different
        silos, could be told apart.
        """
        plan.session.check_identity(name, identity)
        phase = Advertised.fresh(plan, name, records=records, key=key)
        if keep is not None:
            old = find_key(keep, kind=_KIND, session=plan.session)
            # While only shares are on their way nothing was masked, and the round may begin anew.
            if old is not None and _kind(old, keep) not in (Advertised, Shared):
                raise MaskError(f"{keep}: round {plan.round} was masked already")
            swap_key(keep, _secret(phase, plan, name), old=old, kind=_KIND, session=plan.session)
        return cls(phase, plan=plan, name=name, identity=identity, keep=keep)

    @classmethod
    def resume(cls, *, session: Session, name: str, identity: SiloKey, keep: Path) -> MaskRound:
        """The round as it was left; KeyFileError when there is none, or it is another one."""
        session.check_identity(name, identity)
        secret = read_key(keep, kind=_KIND, session=session)
        plan, phase = _left(secret, session, name, keep)
        return cls(phase, plan=plan, name=name, identity=identity, keep=keep)

    @property
    def adverts(self) -> Adverts:
        """Everyone's adverts; MaskError before this silo has dealt its shares."""
        if isinstance(self._phase, Advertised):
            self._at(Shared)
        assert not isinstance(self._phase, Advertised)
        return self._phase.adverts

    def open(self, total: bytes, names: Iterable[str]) -> Closed:
        """The end of the round, from now on bound to one sum: its SHA-256, and whose it says it is.

        MaskError before the end; Tampered for another sum than the first, or than was consented to.
        """
        phase = self._at(Closed)
        bound = phase.bound(total, names)
        if bound != phase:
            self._move(bound)
        return bound

    def advert(self) -> bytes:
        """What the silo says in public, for everyone."""
        advert = self._at(Advertised).advert
        return write_advert(advert, plan=self.plan, identity=self._identity)

    def share(self, adverts: Iterable[bytes]) -> dict[str, bytes]:
        """Encrypted shares for all other silos, by name, given everyone's adverts (and its own)."""
        phase, encrypted_shares = self._at(Advertised).share(adverts)
        self._move(phase)
        return encrypted_shares

    def mask(self, encrypted_shares: Mapping[str, bytes]) -> Mask | None:
        """What hides this silo's secret modulo 2^16, given the others' encrypted shares, by name.

        By itself each number is uniform. None, and the round is closed, where nothing is masked.
        """
        phase, mask = self._at(Shared).mask(encrypted_shares)
        self._move(phase)
        return mask

    def consent(self, survivors: Iterable[str]) -> bytes:
        """The promise to unmask the sum of these silos and no other, for everyone.

        The shares that could unmask another sum are destroyed.
        """
        phase = self._at(Masked).consent(survivors)
        self._move(phase)
        return write_consent(
            phase.survivors, adverts=phase.adverts, name=self._name, identity=self._identity
        )

    def reveal(self, consents: Iterable[bytes]) -> bytes:
        """The silo's shares, given consents of at least `threshold` silos to the same survivors.

        The bytes are secret; see privet.privacy.encryption.masks for whom they are meant.
        """
        phase = self._at(Consented)
        # Only now: before enough silos bound themselves to one list, the server could have two.
        check_consents(consents, survivors=phase.survivors, adverts=phase.adverts)
        reveal = Reveal(self._name, phase.survivors, phase.shares)
        return write_reveal(reveal, adverts=phase.adverts, identity=self._identity)

    def close(self) -> None:
        """Forget all secrets of the round; that it took place is remembered."""
        last = self._at(Consented)
        self._move(Closed(adverts=last.adverts, name=self._name, survivors=last.survivors))

    def __repr__(self) -> str:
        return f"MaskRound(round={self.plan.round}, name={self._name!r}, {_label(self._phase)})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a MaskRound is not copied or pickled; keep it in a file and resume it")

    def _at(self, kind: type[_Phase]) -> _Phase:
        if not isinstance(self._phase, kind):
            raise MaskError(
                f"round {self.plan.round} of masks is {_label(self._phase)}; "
                f"this step is for one that is {kind.__name__.lower()}"
            )
        return self._phase

    def _move(self, phase: Phase) -> None:
        if self._keep is not None:
            old, new = (_secret(each, self.plan, self._name) for each in (self._phase, phase))
            # Compare and swap: of two processes that were asked at once, one takes the step.
            swap_key(self._keep, new, old=old, kind=_KIND, session=self.plan.session)
        self._phase = phase


def _label(phase: Phase) -> str:
    return type(phase).__name__.lower()


def _secret(phase: Phase, plan: RoundPlan, name: str) -> Secret:
    return Secret(pack(_TITLE, _label(phase), name, *plan.facts, *phase.fields()))


def _kind(secret: Secret, keep: Path) -> type[Phase]:
    label = Fields(secret.reveal(), _TITLE).name()
    for kind in PHASES:
        if kind.__name__.lower() == label:
            return kind
    raise KeyFileError(f"{keep} holds no round of masks")


def _left(secret: Secret, session: Session, name: str, keep: Path) -> tuple[RoundPlan, Phase]:
    kind = _kind(secret, keep)
    try:
        fields = Fields(secret.reveal(), _TITLE)
        fields.name()
        if fields.name() != name:
            raise fields.fault("it is another silo's")
        plan = RoundPlan.read(fields, session)
        phase = kind.read(fields, plan, name)
        fields.end()
    except MessageError as error:
        raise KeyFileError(f"{keep}: {error}") from None
    return plan, phase
