"""The global model as it comes to a silo, in the clear or encrypted, and the answer to it.

When the server may see only sums, the model travels as an encrypted sum and the answer as a
proposal for the next model, encrypted and signed. These messages bring an epoch's key to all silos:

    offer   answered with a fresh public key
    make    (the elected silo) with the new key, wrapped for every other, and the model under it
    take    with nothing; the silo keeps the key that came for it
    keep    with nothing; the silo writes the final model where its node says (`models`)
"""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, MessageType, RecordDict
from safetensors.numpy import save_file

from privet.client.keyring import Keyring, cipher_of, mask_of, open_keyring, secret_of
from privet.client.silo import Silo
from privet.errors import ExperimentError
from privet.experiment import EncryptionSettings, Experiment
from privet.files import replacing
from privet.privacy.encryption import Cipher, Malformed, SecretKey, Tampered, Terms, read_header
from privet.privacy.encryption.keys import RunKey, Session, sign_upload
from privet.privacy.encryption.residues import Integers
from privet.privacy.ledger import SiloKey
from privet.randomness import numpy_generator, stream
from privet.strategies import Strategy
from privet.vectors import FlatModel, Vector
from privet.wire import KeyAnswer, KeyRequest, Sealed, SealedUpdate

CLAMP_OVER_LARGEST = 4.0
"""Room for a round's change, over the largest value of the model."""
SMALLEST_CLAMP = 1.0

log = logging.getLogger("privet.silo")


@dataclass(frozen=True)
class KeyHolder:
    """What opens the models of one epoch and seals the answers to them."""

    keyring: Keyring
    key: RunKey
    secret: SecretKey
    cipher: Cipher
    smallest_sum: int

    @classmethod
    def of(cls, keyring: Keyring, encryption: EncryptionSettings, sealed: Sealed) -> KeyHolder:
        """The holder of the key that `sealed` names; KeyFileError when it is not kept here."""
        key = keyring.key(keyring.session(sealed.run, sealed.epoch))
        cipher = cipher_of(encryption)
        return cls(keyring, key, secret_of(key), cipher, encryption.smallest_sum)

    def models(self, sealed: Sealed, public: Vector | None) -> tuple[Vector, Vector]:
        """The global model and the one before it, each of shape (d,).

        `public` is the first model: the global one in round 1, the one before in round 2. Tampered
        for anything that the silos of this epoch did not make, TooFewClients for a sum that would
        reveal too much about single updates.
        """
        if sealed.now is None:
            if public is None:
                raise Malformed("neither a sealed nor a public model came")
            return public, public
        now = self._open(sealed.now)
        if sealed.before is not None:
            return now, self._open(sealed.before)
        return now, now if public is None else public

    def seal(
        self,
        proposal: Vector,
        *,
        weight: float,
        round_: int,
        rng: np.random.Generator,
        now: Vector,
        mask: Integers | None = None,
    ) -> SealedUpdate:
        """A silo's proposal for the next global model, masked, encrypted and signed."""
        terms = Terms(
            run=update_label(self.key),
            round=round_,
            size=proposal.size,
            clamp=clamp_for(now),
        )
        sealed = self.cipher.encrypt(
            proposal,
            key=self.secret,
            terms=terms,
            weight=weight,
            client=self.keyring.name,
            rng=rng,
            mask=mask,
        )
        if sealed.clipped:
            # For the silo's own log alone: it says something of this one update.
            log.warning("%d values have no room in the encoding and are cut off", sealed.clipped)
        return SealedUpdate(sealed.data, self._signed(sealed.data, round_))

    def reseal(self, model: Vector, *, round_: int, rng: np.random.Generator) -> bytes:
        """The global model, which every holder may see, as a sum of its own under this key."""
        terms = Terms(
            run=model_label(self.key), round=round_, size=model.size, clamp=clamp_for(model)
        )
        name = self.keyring.name
        upload = self.cipher.encrypt(
            model, key=self.secret, terms=terms, weight=1.0, client=name, rng=rng
        )
        # A sum of one, since a sum is the form in which silos are sent every model.
        total = self.cipher.adder(terms)
        total.add(upload.data, client=name)
        return total.to_bytes()

    def _open(self, total: bytes) -> Vector:
        terms = read_header(total)[0].terms
        # Labels keep a model that one silo sealed anew apart from an update that a server took for
        # a sum: only the first may be opened though a single silo made it.
        least = {update_label(self.key): self.smallest_sum, model_label(self.key): 1}
        if terms.run not in least:
            raise Tampered
        opened = self.cipher.decrypt(
            total, key=self.secret, run=terms.run, round=terms.round, at_least=least[terms.run]
        )
        return opened.mean

    def _signed(self, upload: bytes, round_: int) -> bytes:
        return sign_upload(
            upload,
            session=self.key.session,
            name=self.keyring.name,
            identity=SiloKey.load(self.keyring.identity),
            round=round_,
            parameters=parameters_of(self.cipher),
        )


def parameters_of(cipher: Cipher) -> bytes:
    """32 bytes that are equal where uploads can be added."""
    return hashlib.sha256(cipher.digest).digest()


def clamp_for(model: Vector) -> float:
    """The largest value that an answer to `model` can carry: a power of two, at least 1.

    Every key holder finds the same; the server learns this much about the model.
    """
    largest = float(np.abs(model).max(initial=0.0))
    wanted = max(SMALLEST_CLAMP, CLAMP_OVER_LARGEST * largest)
    # A power of two: models that differ a little still have the same clamp at every silo, and the
    # server learns no more than the exponent.
    return 2.0 ** math.ceil(math.log2(wanted))


def update_label(key: RunKey) -> str:
    """What uploads of the epoch are labelled with."""
    return f"{key.session.run}/{key.session.epoch}/update"


def model_label(key: RunKey) -> str:
    """What models that were sealed anew in the epoch are labelled with."""
    return f"{key.session.run}/{key.session.epoch}/model"


@dataclass(frozen=True)
class Received:
    """The last two global models, shape (d,) each; `holder` is None where nothing is sealed."""

    now: Vector
    before: Vector
    holder: KeyHolder | None = None
    weight_unit: float = 1.0
    mask: Integers | None = None

    def seal(
        self, strategy: Strategy, update: Vector, *, silo: Silo, round_: int
    ) -> SealedUpdate | None:
        """The silo's proposal for the next global model, sealed; None where nothing is.

        Rounding draws from the system, and repeatably in a simulation.
        """
        if self.holder is None:
            return None
        weight = silo.n_records * self.weight_unit if strategy.counts_records else 1.0
        return self.holder.seal(
            strategy.proposal(self.now + update, now=self.now, before=self.before),
            # The unit is the server's word, and the cipher refuses a weight above 1.
            weight=min(1.0, weight),
            round_=round_,
            rng=numpy_generator(silo.entropy(round_, use="rounding")),
            now=self.now,
            mask=self.mask,
        )


def receive(
    message: Message,
    context: Context,
    experiment: Experiment,
    sealed: Sealed | None,
    public: Vector | None,
) -> Received:
    """What `message` brought; a job with [encryption] gets no answer in the clear.

    Raises ExperimentError when the server does not keep to the job's settings, and what
    `KeyHolder.models` raises.
    """
    if experiment.encryption is None:
        if public is None:
            raise ExperimentError("the model came sealed, and the job has no [encryption]")
        return Received(public, public)
    if sealed is None:
        raise ExperimentError("the job has [encryption], and the server does not say how to seal")
    holder = KeyHolder.of(open_keyring(context), experiment.encryption, sealed)
    now, before = holder.models(sealed, public)
    mask = mask_of(message, context, experiment) if _is_training(message) else None
    return Received(now, before, holder, sealed.weight_unit, mask)


def _is_training(message: Message) -> bool:
    return message.metadata.message_type == MessageType.TRAIN


def offer(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """A fresh public key for the epoch that the server names."""
    _, keyring, session, _ = _opened(message, context, experiment)
    return KeyAnswer(offer=keyring.offer(session)).to_records()


def make(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """The epoch's key, by the silo that all offers elect; models are carried over into it."""
    request, keyring, session, encryption = _opened(message, context, experiment)
    cipher = cipher_of(encryption)
    key, wraps = keyring.make(session, request.offers, cipher=cipher, since=request.since)
    new = KeyHolder(keyring, key, secret_of(key), cipher, encryption.smallest_sum)
    carried = request.carried
    # The model is still the public first one: there is nothing to carry over.
    if carried is None or carried.now is None:
        return KeyAnswer(wraps=wraps).to_records()
    old = KeyHolder.of(keyring, encryption, carried)
    now, before = old.models(carried, None)
    rng = _rounding(context, experiment, session)
    return KeyAnswer(
        wraps=wraps,
        now=new.reseal(now, round_=request.since, rng=rng),
        before=new.reseal(before, round_=request.since, rng=rng) if carried.before else None,
    ).to_records()


def take(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Keep the key that the elected silo wrapped for this one."""
    request, keyring, session, _ = _opened(message, context, experiment)
    if request.wrapped is None:
        raise ExperimentError("no wrapped key came")
    keyring.take(session, request.offers, request.wrapped)
    return KeyAnswer().to_records()


def keep(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Write the final model down, where this silo keeps models."""
    request, keyring, _, encryption = _opened(message, context, experiment)
    sealed, folder = request.carried, context.node_config.get("models")
    if sealed is None:
        raise ExperimentError("no model came that could be kept")
    if folder is not None:
        now, _ = KeyHolder.of(keyring, encryption, sealed).models(sealed, None)
        _write_model(Path(str(folder)) / f"{sealed.run}.safetensors", now, context, experiment)
    return KeyAnswer().to_records()


def _rounding(context: Context, experiment: Experiment, session: Session) -> np.random.Generator:
    """From the system, but repeatable in a simulation."""
    if not context.node_config.get("simulated"):
        return np.random.default_rng()
    return numpy_generator(stream(experiment.seed, "rounding of a carried model", session.epoch))


def _write_model(path: Path, vector: Vector, context: Context, experiment: Experiment) -> None:
    from privet.client.silo import open_silo

    flat = FlatModel(open_silo(experiment, context).task.model())
    flat.load(vector)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.numpy() for name, value in flat.module.state_dict().items()}
    with replacing(path) as part:
        save_file(tensors, part, metadata={"format": "pt"})


def _opened(
    message: Message, context: Context, experiment: Experiment
) -> tuple[KeyRequest, Keyring, Session, EncryptionSettings]:
    if experiment.encryption is None:
        raise ExperimentError("the job has no [encryption], so there is no key to make")
    keyring = open_keyring(context)
    request = KeyRequest.from_records(message.content)
    return request, keyring, keyring.session(request.run, request.epoch), experiment.encryption
