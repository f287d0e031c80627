"""What a silo answers to the messages that bring an epoch's key to all silos, and the last model.

offer   its fresh public key
make    (the elected silo) the new key, wrapped for every other, and the model sealed under it
take    nothing; it keeps the key that came for it
keep    nothing; it writes the final model where its node configuration says (`models`)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from safetensors.numpy import save_file

from privet.client.keyring import Keyring, cipher_of, open_keyring, secret_of
from privet.client.sealed import KeyHolder
from privet.errors import ExperimentError
from privet.experiment import EncryptionSettings, Experiment
from privet.privacy.encryption.keys import Session
from privet.randomness import numpy_generator, stream
from privet.vectors import FlatModel, Vector
from privet.wire import KeyAnswer, KeyRequest


def offer(message: Message, context: Context, experiment: Experiment) -> Message:
    """A fresh public key for the epoch that the server names."""
    _, keyring, session, _ = _opened(message, context, experiment)
    return _answer(message, KeyAnswer(offer=keyring.offer(session)))


def make(message: Message, context: Context, experiment: Experiment) -> Message:
    """The epoch's key, by the silo that all offers elect; models are carried over into it."""
    request, keyring, session, encryption = _opened(message, context, experiment)
    cipher = cipher_of(encryption)
    key, wraps = keyring.make(session, request.offers, cipher=cipher, since=request.since)
    new = KeyHolder(keyring, key, secret_of(key), cipher, encryption.smallest_sum)
    carried = request.carried
    if carried is None or carried.now is None:
        return _answer(message, KeyAnswer(wraps=wraps))
    old = KeyHolder.of(keyring, encryption, carried)
    now, before = old.models(carried, None)
    rng = _rounding(context, experiment, session)
    return _answer(
        message,
        KeyAnswer(
            wraps=wraps,
            now=new.reseal(now, round_=request.since, rng=rng),
            before=new.reseal(before, round_=request.since, rng=rng) if carried.before else None,
        ),
    )


def take(message: Message, context: Context, experiment: Experiment) -> Message:
    """Keep the key that the elected silo wrapped for this one."""
    request, keyring, session, _ = _opened(message, context, experiment)
    if request.wrapped is None:
        raise ExperimentError("no wrapped key came")
    keyring.take(session, request.offers, request.wrapped)
    return _answer(message, KeyAnswer())


def keep(message: Message, context: Context, experiment: Experiment) -> Message:
    """Write the final model down, where this silo keeps models."""
    request, keyring, _, encryption = _opened(message, context, experiment)
    sealed, folder = request.carried, context.node_config.get("models")
    if sealed is None:
        raise ExperimentError("no model came that could be kept")
    if folder is not None:
        now, _ = KeyHolder.of(keyring, encryption, sealed).models(sealed, None)
        _write_model(Path(str(folder)) / f"{sealed.run}.safetensors", now, context, experiment)
    return _answer(message, KeyAnswer())


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
    save_file(tensors, path, metadata={"format": "pt"})


def _opened(
    message: Message, context: Context, experiment: Experiment
) -> tuple[KeyRequest, Keyring, Session, EncryptionSettings]:
    if experiment.encryption is None:
        raise ExperimentError("the job has no [encryption], so there is no key to make")
    keyring = open_keyring(context)
    request = KeyRequest.from_records(message.content)
    return request, keyring, keyring.session(request.run, request.epoch), experiment.encryption


def _answer(message: Message, answer: KeyAnswer) -> Message:
    return Message(answer.to_records(), reply_to=message)
