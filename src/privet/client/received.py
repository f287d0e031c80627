"""The global model as it came to a silo, in the clear or sealed, and what seals the answer."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import Context, Message, MessageType

from privet.client.keyring import open_keyring
from privet.client.mask_messages import mask_of
from privet.client.sealed import KeyHolder
from privet.client.silo import Silo
from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.privacy.encryption.fixed_point import Integers
from privet.randomness import numpy_generator
from privet.strategies import Strategy
from privet.vectors import Vector
from privet.wire import Sealed, SealedUpdate


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
        weight = len(silo.examples) * self.weight_unit if strategy.counts_records else 1.0
        return self.holder.seal(
            strategy.proposal(self.now + update, now=self.now, before=self.before),
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
