"""A silo's part in one encrypted round, from the agreement before it to the unmasking after it.

    advert    the signed plan of the round as this silo has it, with fresh public keys
    share     shares of this silo's two secrets, encrypted to each of the others
    (train    the update, masked and encrypted: see `SealedRound`)
    consent   the promise to unmask the sum of these survivors and no other
    reveal    its shares of what the survivors' sum needs

Settings come from the job that the silo was given, never from the message: the server names an
epoch, a round, a model that enough silos have confirmed, and who takes part, and every silo signs
for what it was told before anything is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from flwr.app import Context, Message, RecordDict

from privet.client.keyring import Keyring, OutOfOrder, cipher_of, secret_of
from privet.client.sealed import ModelHolder, resumed
from privet.client.silo import Silo
from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.privacy.encryption import Terms
from privet.privacy.encryption.backend import Mask
from privet.privacy.encryption.keys import rotation, sign_upload
from privet.privacy.encryption.masks import MaskRound, RoundPlan, sum_label, upload_parameters
from privet.randomness import numpy_generator
from privet.vectors import FlatModel, Vector
from privet.wire import (
    MASKS,
    MaskAnswer,
    MaskRequest,
    ModelState,
    Sealed,
    SealedUpdate,
    TrainRequest,
    job_digest,
    model_of,
    noise_text,
)

log = logging.getLogger("privet.silo")


def advert(
    message: Message,
    context: Context,
    experiment: Experiment,
    records: int | None,
    base: str | None,
) -> RecordDict:
    """Begin the round: the plan as this silo has it, with fresh keys, signed.

    `records`: how many the silo counts by, where silos do. `base`: the digest of what the silo's
    own model does not train.
    """
    holder, request = ModelHolder.of(context, experiment), MaskRequest.from_records(message.content)
    keyring, (public, _) = holder.keyring, model_of(message.content)
    if request.round <= keyring.memory().unmasked and not keyring.simulated:
        raise OutOfOrder(f"this silo has unmasked the sum of round {request.round} already")
    key, settings = keyring.key(request.epoch), holder.encryption
    # Who keeps to the job's word on keys is not for the server to say. More than a number holds
    # stands for never.
    due = settings.rotate_every or 2**63
    if rotation(key.age, round=request.round, present=key.members, tags_failed=False, every=due):
        raise OutOfOrder(f"the key of epoch {request.epoch} has served its rounds")
    state = holder.receive(Sealed.of(message.content), public)
    if state.round >= request.round:
        raise OutOfOrder(f"round {request.round} of a model of round {state.round}")
    if not keyring.simulated:
        keyring.memory().demand_newest(state)
    plan = RoundPlan(
        session=key.session,
        round=request.round,
        job=job_digest(experiment, base),
        model=state.digest,
        noise=noise_text(request.noise_multiplier),
        threshold=settings.least_sum,
        colluding=settings.colluding,
        masked=settings.masked,
    )
    begun = MaskRound.begin(
        plan=plan,
        name=keyring.name,
        identity=keyring.signer(),
        records=records or 0,
        key=bytes.fromhex(key.id),
        keep=keyring.mask_file(request.epoch, request.round),
    )
    return MaskAnswer(begun.advert()).to_records()


def share(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Deal shares to everyone who adverted the same plan."""
    request, _, round_ = _resumed(message, context, experiment)
    encrypted_shares = round_.share(request.messages)
    return MaskAnswer(encrypted_shares=encrypted_shares).to_records()


def consent(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Promise the survivors' sum, and no other of this round in any epoch."""
    request, keyring, round_ = _resumed(message, context, experiment)
    model = ModelHolder.of(context, experiment).base_of(round_.plan)
    survivors, exact = request.survivors, experiment.privacy is None
    with keyring.promising(round_.plan, model, survivors, exact=exact):
        promised = round_.consent(survivors)
    return MaskAnswer(promised).to_records()


def reveal(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Give the shares that the promised sum needs, and forget the round's secrets."""
    request, keyring, round_ = _resumed(message, context, experiment)
    revealed, memory, plan = round_.reveal(request.messages), keyring.memory(), round_.plan
    # A process that ended between the step and its memory has promised nothing.
    if (memory.unmasked, memory.summed) != (plan.round, plan.model.hex()):
        raise OutOfOrder(f"this silo remembers no promise to unmask round {plan.round}")
    # Before the answer is sent: secrets that were used must not wait for a server that asks again.
    round_.close()
    return MaskAnswer(revealed).to_records()


@dataclass(frozen=True)
class SealedRound:
    """An encrypted round that this silo trains in: the model to begin with, and how to answer."""

    holder: ModelHolder
    state: ModelState
    round: MaskRound
    encrypted_shares: Mapping[str, bytes]
    mask: Mask | None = None

    @classmethod
    def of(
        cls,
        message: Message,
        context: Context,
        experiment: Experiment,
        request: TrainRequest,
        *,
        model: FlatModel,
    ) -> SealedRound:
        """The round that a train message goes on with; OutOfOrder unless it is the one agreed on.

        `model` is the task's. ExperimentError when the message has not gone through the agreement.
        """
        if MASKS not in message.content:
            raise ExperimentError("the job has [encryption], and the round was not agreed on")
        masks, _, round_ = _resumed(message, context, experiment)
        plan, holder = round_.plan, ModelHolder.of(context, experiment)
        job = job_digest(experiment, model.unsent)
        if (plan.round, plan.job) != (request.round, job) or request.extras:
            raise OutOfOrder(f"round {request.round} is not the one that was agreed on")
        if plan.noise != noise_text(request.noise_multiplier):
            raise OutOfOrder("another noise multiplier than was agreed on")
        state = holder.base_of(plan)
        # Of the first model the server says them; this silo knows them by its own task.
        if state.sizes != model.shared_sizes:
            raise OutOfOrder("the model that was agreed on has other tensors than the task's")
        return cls(holder, state, round_, masks.encrypted_shares)

    def joined(self) -> SealedRound:
        """The same, with this silo's mask: from here on it uploads once, or drops out."""
        mask = self.round.mask(self.encrypted_shares)
        return replace(self, mask=mask)

    def seal(self, update: Vector, *, silo: Silo) -> SealedUpdate:
        """The silo's update, encrypted and signed.

        Rounding draws from the system, and repeatably in a simulation.
        """
        keyring, adverts = self.holder.keyring, self.round.adverts
        cipher, plan = cipher_of(self.holder.encryption), adverts.plan
        upload = cipher.encrypt(
            update / self.state.scale,
            key=secret_of(keyring.key(plan.session.epoch)),
            terms=Terms(run=sum_label(adverts), round=plan.round, size=update.size, clamp=1.0),
            weight=adverts.weight(keyring.name),
            client=keyring.name,
            rng=numpy_generator(silo.entropy(plan.round, use="rounding")),
            mask=self.mask,
        )
        if upload.clipped:
            # For the silo's own log alone: it says something of this one update.
            log.info("%d values have no room in the encoding and are cut off", upload.clipped)
        statement = sign_upload(
            upload.data,
            session=plan.session,
            name=keyring.name,
            identity=keyring.signer(),
            round=plan.round,
            parameters=upload_parameters(adverts, cipher.digest),
        )
        return SealedUpdate(upload.data, statement)


def _resumed(
    message: Message, context: Context, experiment: Experiment
) -> tuple[MaskRequest, Keyring, MaskRound]:
    request = MaskRequest.from_records(message.content)
    keyring = ModelHolder.of(context, experiment).keyring
    return request, keyring, resumed(keyring, request)
