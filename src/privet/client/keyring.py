"""A silo's keys of encrypted runs: its identity, the roster it trusts, and the key of each epoch.

The node's configuration names them: `roster` (the file that the operators agreed on), `name` (the
silo's on the roster), `identity` (its signing key; unset: `key`, which signs the ledger) and `keys`
(a folder for keys that come and go, mode 0700).

With the keys a silo answers the messages of a masked round, in this order:

    advert    fresh public keys
    share     shares of this silo's two secrets, encrypted to each of the others
    (train    the update, masked: see `mask_of`)
    consent   the promise to unmask the sum of these survivors and no other
    reveal    its shares of what the survivors' sum needs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict

from privet.errors import ExperimentError, PrivetError
from privet.experiment import EncryptionSettings, Experiment
from privet.privacy.encryption import Cipher, SecretKey, make_cipher
from privet.privacy.encryption.keys import (
    Roster,
    RunKey,
    Secret,
    Session,
    forget_key,
    gather,
    load_roster,
    make_offer,
    read_agreement,
    write_agreement,
)
from privet.privacy.encryption.masks import MaskPlan, MaskRound
from privet.privacy.encryption.residues import Integers
from privet.privacy.ledger import SiloKey
from privet.wire import MASKS, MaskAnswer, MaskRequest

_SETTINGS = ("roster", "identity", "keys")


class NoKeys(PrivetError):  # noqa: N818 - says what the silo lacks
    """A silo that is asked to encrypt and has not been given what it needs for that."""


@dataclass(frozen=True)
class Keyring:
    """What one silo needs to take part in encrypted runs."""

    name: str
    roster: Roster
    identity: Path
    folder: Path

    def offer(self, session: Session) -> bytes:
        """A fresh public key for the session, signed; its private key waits in the folder."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = SiloKey.load(self.identity)
        agreement, offer = make_offer(session=session, name=self.name, identity=identity)
        # Before the offer leaves: the answer may come to a process that was started anew.
        write_agreement(self._offer_file(session), agreement, session=session)
        return offer

    def make(
        self, session: Session, offers: Sequence[bytes], *, cipher: Cipher, since: int
    ) -> tuple[RunKey, dict[str, bytes]]:
        """The key of the session, kept in the folder, and wrapped for each other silo by name."""
        gathered = gather(offers, session=session)
        agreement = read_agreement(self._offer_file(session), session=session)
        container = Secret(cipher.generate().to_bytes())
        key = RunKey.create(offers=gathered, since=since, container=container)
        wraps = key.wrapped(
            offers=gathered,
            name=self.name,
            identity=SiloKey.load(self.identity),
            agreement=agreement,
        )
        self._keep(key, session)
        return key, dict(wraps)

    def take(self, session: Session, offers: Sequence[bytes], wrapped: bytes) -> None:
        """Unwrap the key that the elected silo made and keep it in the folder."""
        agreement = read_agreement(self._offer_file(session), session=session)
        gathered = gather(offers, session=session)
        self._keep(
            RunKey.unwrapped(wrapped, offers=gathered, name=self.name, agreement=agreement), session
        )

    def key(self, session: Session) -> RunKey:
        """The key of the session; KeyFileError when this silo has none."""
        return RunKey.load(self._key_file(session), session=session)

    def holds(self, run: str, epoch: int) -> bool:
        """Whether the key of this epoch is in the folder."""
        return self._key_file(self.session(run, epoch)).exists()

    def mask_file(self, plan: MaskPlan) -> Path:
        """Where a masked round waits between its messages, and is remembered."""
        return self.folder / f"{plan.session.run}-{plan.session.epoch}-{plan.round}.masks"

    def session(self, run: str, epoch: int) -> Session:
        """An epoch of a run, between the silos of this silo's own roster."""
        return Session(run=run, epoch=epoch, roster=self.roster)

    def _keep(self, key: RunKey, session: Session) -> None:
        key.save(self._key_file(session))
        # Only now that the key is kept. It must go: who finds it later could open the wrapped key.
        forget_key(self._offer_file(session))

    def _key_file(self, session: Session) -> Path:
        return self.folder / f"{session.run}-{session.epoch}.key"

    def _offer_file(self, session: Session) -> Path:
        return self.folder / f"{session.run}-{session.epoch}.offer"


def open_keyring(context: Context) -> Keyring:
    """The keyring that the node's configuration names; NoKeys when it is incomplete."""
    node = dict(context.node_config)
    if "identity" not in node and "key" in node:
        node["identity"] = node["key"]
    missing = [name for name in _SETTINGS if name not in node]
    if missing:
        raise NoKeys(
            f"this silo has no {', '.join(missing)} in its node configuration, so it cannot "
            "take part in encrypted runs"
        )
    name = str(node.get("name", node.get("dataset", "")))
    return Keyring(
        name, _roster(Path(str(node["roster"]))), *_paths(node["identity"], node["keys"])
    )


def cipher_of(encryption: EncryptionSettings) -> Cipher:
    """The cipher that the settings name, tried out once in a process."""
    return _cipher(encryption.scheme, encryption.profile)


def secret_of(key: RunKey) -> SecretKey:
    """The part of the key that opens sums."""
    return SecretKey.from_bytes(key.container.reveal())


def _paths(*values: object) -> list[Path]:
    return [Path(str(value)) for value in values]


@lru_cache(maxsize=4)
def _cipher(scheme: str, profile: str) -> Cipher:
    return make_cipher(scheme, profile=profile)


@lru_cache(maxsize=4)
def _roster(path: Path) -> Roster:
    return load_roster(path)


def advert(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Begin the round with fresh keys; the private keys wait in the silo's folder."""
    _, keyring, plan = _opened(message, context, experiment)
    begun = MaskRound.begin(
        plan=plan,
        name=keyring.name,
        identity=SiloKey.load(keyring.identity),
        keep=keyring.mask_file(plan),
    )
    return _answer(MaskAnswer(begun.advert()))


def share(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Deal shares to everyone who adverted."""
    request, keyring, plan = _opened(message, context, experiment)
    encrypted_shares = _resumed(keyring, plan).share(request.messages)
    return _answer(MaskAnswer(encrypted_shares=encrypted_shares))


def consent(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Promise the survivors' sum."""
    request, keyring, plan = _opened(message, context, experiment)
    return _answer(MaskAnswer(_resumed(keyring, plan).consent(request.survivors)))


def reveal(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Give the shares that the promised sum needs, and forget the round's secrets."""
    request, keyring, plan = _opened(message, context, experiment)
    resumed = _resumed(keyring, plan)
    revealed = resumed.reveal(request.messages)
    # Before the answer is sent: secrets that were used must not wait for a server that asks again.
    resumed.close()
    return _answer(MaskAnswer(revealed))


def mask_of(message: Message, context: Context, experiment: Experiment) -> Integers | None:
    """This silo's mask for the round, shape (coefficients(d),); None for a job without masks.

    ExperimentError when the job has masks and the server sends none: nothing leaves unmasked.
    """
    if experiment.encryption is None or not experiment.encryption.pairwise_masks:
        return None
    if MASKS not in message.content:
        raise ExperimentError("the job has encryption.pairwise_masks, and no encrypted shares came")
    request, keyring, plan = _opened(message, context, experiment)
    # Masking zeros gives the mask alone, which the cipher adds to each chunk as it encodes it.
    nothing = np.zeros(plan.count, dtype=np.uint64)
    return _resumed(keyring, plan).mask(nothing, encrypted_shares=request.encrypted_shares)


def _resumed(keyring: Keyring, plan: MaskPlan) -> MaskRound:
    return MaskRound.resume(
        plan=plan,
        name=keyring.name,
        identity=SiloKey.load(keyring.identity),
        keep=keyring.mask_file(plan),
    )


def _opened(
    message: Message, context: Context, experiment: Experiment
) -> tuple[MaskRequest, Keyring, MaskPlan]:
    encryption = experiment.encryption
    if encryption is None or not encryption.pairwise_masks:
        raise ExperimentError("the job has no encryption.pairwise_masks")
    request, keyring = MaskRequest.from_records(message.content), open_keyring(context)
    # The job that the silo was given decides how many may collude, not what the server plans.
    if request.colluding < encryption.colluding:
        raise ExperimentError(
            f"encryption.colluding = {encryption.colluding}; the server plans for "
            f"{request.colluding}"
        )
    plan = MaskPlan(
        session=keyring.session(request.run, request.epoch),
        round=request.round,
        threshold=request.threshold,
        count=request.count,
        bits=request.bits,
        colluding=request.colluding,
    )
    return request, keyring, plan


def _answer(answer: MaskAnswer) -> RecordDict:
    return RecordDict({MASKS: answer.record()})
