"""What a silo answers to the messages of a masked round, in their order.

advert    fresh public keys
share     letters to the others, with shares of this silo's two secrets
(train    the update, masked: see `mask_of`)
consent   the promise to unmask the sum of these survivors and no other
reveal    its shares of what the survivors' sum needs
"""

from __future__ import annotations

import numpy as np
from flwr.app import Context, Message, RecordDict

from privet.client.keyring import Keyring, open_keyring
from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.privacy.encryption.fixed_point import Integers
from privet.privacy.encryption.masks import MaskPlan, MaskRound
from privet.privacy.ledger import SiloKey
from privet.wire import MASKS, MaskAnswer, MaskRequest


def advert(message: Message, context: Context, experiment: Experiment) -> Message:
    """Begin the round with fresh keys; the private halves wait in the silo's folder."""
    _, keyring, plan = _opened(message, context, experiment)
    begun = MaskRound.begin(
        plan=plan,
        name=keyring.name,
        identity=SiloKey.load(keyring.identity),
        keep=keyring.mask_file(plan),
    )
    return _answer(message, MaskAnswer(begun.advert()))


def share(message: Message, context: Context, experiment: Experiment) -> Message:
    """Deal shares to everyone who adverted."""
    request, keyring, plan = _opened(message, context, experiment)
    letters = _resumed(keyring, plan).share(request.messages)
    return _answer(message, MaskAnswer(letters=letters))


def consent(message: Message, context: Context, experiment: Experiment) -> Message:
    """Promise the survivors' sum."""
    request, keyring, plan = _opened(message, context, experiment)
    return _answer(message, MaskAnswer(_resumed(keyring, plan).consent(request.survivors)))


def reveal(message: Message, context: Context, experiment: Experiment) -> Message:
    """Give the shares that the promised sum needs, and forget the round's secrets."""
    request, keyring, plan = _opened(message, context, experiment)
    resumed = _resumed(keyring, plan)
    revealed = resumed.reveal(request.messages)
    resumed.close()
    return _answer(message, MaskAnswer(revealed))


def mask_of(message: Message, context: Context, experiment: Experiment) -> Integers | None:
    """This silo's mask for the round, shape (coefficients(d),); None for a job without masks.

    ExperimentError when the job has masks and the server sends none: nothing leaves unmasked.
    """
    if experiment.encryption is None or not experiment.encryption.pairwise_masks:
        return None
    if MASKS not in message.content:
        raise ExperimentError("the job has encryption.pairwise_masks, and no letters came")
    request, keyring, plan = _opened(message, context, experiment)
    nothing = np.zeros(plan.count, dtype=np.uint64)
    return _resumed(keyring, plan).mask(nothing, letters=request.letters)


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


def _answer(message: Message, answer: MaskAnswer) -> Message:
    return Message(RecordDict({MASKS: answer.record()}), reply_to=message)
