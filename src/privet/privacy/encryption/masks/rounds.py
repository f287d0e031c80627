"""One silo's part in one masked sum, step by step, across restarts of its process.

The next phase is on disk before a step's answer is returned, and is taken by exactly one process:
a server that asks twice at once gets one answer. A process that dies in between loses its part of
the round, and the others go on without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from privet.privacy.encryption.errors import KeyFileError, MaskError, MessageError
from privet.privacy.encryption.keys.keyfile import find_key, read_key, swap_key
from privet.privacy.encryption.keys.roster import Fields, pack
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.encryption.masks.phases import (
    PHASES,
    Advertised,
    Closed,
    Consented,
    Masked,
    Phase,
    Shared,
)
from privet.privacy.encryption.masks.plan import MaskPlan
from privet.privacy.encryption.masks.seeds import Coefficients
from privet.privacy.encryption.masks.statements import check_consents, write_advert, write_consent
from privet.privacy.encryption.masks.unmasking import Reveal, write_reveal
from privet.privacy.ledger.keys import SiloKey

_TITLE = "privet mask phase 1"
_KIND = "masks"

_Phase = TypeVar("_Phase", Advertised, Shared, Masked, Consented)


class MaskRound:
    """Steps in order: `advert`, `share`, `mask`, `consent`, `reveal`, `close`.

    Each is possible once (`advert` and `reveal` again, with the same outcome). A step that raises
    has changed nothing and can be tried with better messages. MaskError for a step out of order,
    KeyFileError when another process was quicker.

    `keep` is the file in which the round outlives the process (mode 0600); without it everything is
    in memory, as a simulation needs it. It has a name of its own for every epoch and round, and
    stays until the run is over: it is what remembers that something was masked already.
    """

    def __init__(
        self, phase: Phase, *, plan: MaskPlan, name: str, identity: SiloKey, keep: Path | None
    ) -> None:
        self._phase = phase
        self._plan = plan
        self._name = name
        self._identity = identity
        self._keep = keep

    @classmethod
    def begin(
        cls, *, plan: MaskPlan, name: str, identity: SiloKey, keep: Path | None = None
    ) -> MaskRound:
        """A round with fresh keys, in place of an attempt that has not masked anything yet.

        MaskError if something was masked: one update under two sets of masks, in sums of different
        silos, could be told apart.
        """
        plan.session.check_identity(name, identity)
        phase = Advertised.fresh(plan, name)
        if keep is not None:
            old = find_key(keep, kind=_KIND, session=plan.session)
            if old is not None and _kind(old, keep) not in (Advertised, Shared):
                raise MaskError(f"{keep}: round {plan.round} was masked already")
            swap_key(keep, _secret(phase, plan, name), old=old, kind=_KIND, session=plan.session)
        return cls(phase, plan=plan, name=name, identity=identity, keep=keep)

    @classmethod
    def resume(cls, *, plan: MaskPlan, name: str, identity: SiloKey, keep: Path) -> MaskRound:
        """The round as it was left; KeyFileError when there is none, or it is another one."""
        plan.session.check_identity(name, identity)
        secret = read_key(keep, kind=_KIND, session=plan.session)
        phase = _phase(secret, plan, name, keep)
        return cls(phase, plan=plan, name=name, identity=identity, keep=keep)

    def advert(self) -> bytes:
        """What the silo says in public, for everyone."""
        advert = self._at(Advertised).advert
        return write_advert(advert, plan=self._plan, identity=self._identity)

    def share(self, adverts: Iterable[bytes]) -> dict[str, bytes]:
        """Letters to all other silos, by name, given everyone's adverts (its own among them)."""
        phase, letters = self._at(Advertised).share(adverts)
        self._move(phase)
        return letters

    def mask(self, coefficients: Coefficients, *, letters: Mapping[str, bytes]) -> Coefficients:
        """`coefficients` plus masks modulo 2^bits, given the others' letters to this silo, by name.

        By itself each masked number is uniform, whatever the coefficient is.
        """
        phase, masked = self._at(Shared).mask(coefficients, letters)
        self._move(phase)
        return masked

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
        check_consents(consents, survivors=phase.survivors, adverts=phase.adverts)
        reveal = Reveal(self._name, phase.survivors, phase.shares)
        return write_reveal(reveal, adverts=phase.adverts, identity=self._identity)

    def close(self) -> None:
        """Forget all secrets of the round; that it took place is remembered."""
        self._move(Closed(self._plan, self._name))

    def __repr__(self) -> str:
        return f"MaskRound(round={self._plan.round}, name={self._name!r}, {_label(self._phase)})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a MaskRound is not copied or pickled; keep it in a file and resume it")

    def _at(self, kind: type[_Phase]) -> _Phase:
        if not isinstance(self._phase, kind):
            raise MaskError(
                f"round {self._plan.round} of masks is {_label(self._phase)}; "
                f"this step is for one that is {kind.__name__.lower()}"
            )
        return self._phase

    def _move(self, phase: Phase) -> None:
        if self._keep is not None:
            old, new = (_secret(each, self._plan, self._name) for each in (self._phase, phase))
            swap_key(self._keep, new, old=old, kind=_KIND, session=self._plan.session)
        self._phase = phase


def _label(phase: Phase) -> str:
    return type(phase).__name__.lower()


def _secret(phase: Phase, plan: MaskPlan, name: str) -> Secret:
    return Secret(pack(_TITLE, _label(phase), name, *plan.facts, *phase.fields()))


def _kind(secret: Secret, keep: Path) -> type[Phase]:
    label = Fields(secret.reveal(), _TITLE).name()
    for kind in PHASES:
        if kind.__name__.lower() == label:
            return kind
    raise KeyFileError(f"{keep} holds no round of masks")


def _phase(secret: Secret, plan: MaskPlan, name: str, keep: Path) -> Phase:
    kind = _kind(secret, keep)
    try:
        fields = Fields(secret.reveal(), _TITLE)
        fields.name()
        if fields.name() != name:
            raise fields.fault("it is another silo's")
        plan.check(fields)
        phase = kind.read(fields, plan, name)
        fields.end()
    except MessageError as error:
        raise KeyFileError(f"{keep}: {error}") from None
    return phase
