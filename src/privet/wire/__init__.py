"""What travels between the server and a silo, as Flower records.

    train, down     "model":  weights and the strategy's own vectors     "task": round, lr, ...
    train, up       "update": local minus global weights, extra vectors  "metrics": weight, loss
                    "privacy": the mechanism that ran
    evaluate, down  "model":  weights                                    "task": round
    evaluate, up    "metrics": what the silo's policy lets out           "released": how each left
    query.enrol     a silo says its name, the noise multiplier it needs, and rounds it can afford

A model's base does not travel: "task" names it by its digest, in all three.

With encryption silos keep the model, and "sealed" takes the place of "update": bytes that only
their sum can be opened of. The keys for that travel as `query.offer` (a silo's fresh public key),
`query.make` (the elected silo gets all offers and answers with the key, wrapped for each other
silo) and `query.take`. A round begins with `query.advert` (which model, which silos: all sign for
it) and `query.share`; after the training come `query.consent` and `query.reveal`, which unmask the
sum, and `query.confirm`, with which silos open it and sign for the model that it makes.

Both ends are here, so that they cannot disagree.
"""

from privet.wire.errors import REFUSED, UNUSABLE, WAITING, ErrorReply, Failure
from privet.wire.records import (
    ADVERT,
    CONFIRM,
    CONSENT,
    KEEP,
    MAKE,
    MASKS,
    OFFER,
    REVEAL,
    SHARE,
    TAKE,
    KeyAnswer,
    KeyRequest,
    MaskAnswer,
    MaskRequest,
    Sealed,
    SealedUpdate,
    SumToOpen,
    payload_bytes,
)
from privet.wire.rounds import (
    ENROL,
    Enrolment,
    EnrolRequest,
    EvaluateReply,
    EvaluateRequest,
    TrainReply,
    TrainRequest,
    model_of,
    put_model,
)
from privet.wire.states import ModelState, job_digest, noise_text

__all__ = [
    "ADVERT",
    "CONFIRM",
    "CONSENT",
    "ENROL",
    "KEEP",
    "MAKE",
    "MASKS",
    "OFFER",
    "REFUSED",
    "REVEAL",
    "SHARE",
    "TAKE",
    "UNUSABLE",
    "WAITING",
    "EnrolRequest",
    "Enrolment",
    "ErrorReply",
    "EvaluateReply",
    "EvaluateRequest",
    "Failure",
    "KeyAnswer",
    "KeyRequest",
    "MaskAnswer",
    "MaskRequest",
    "ModelState",
    "Sealed",
    "SealedUpdate",
    "SumToOpen",
    "TrainReply",
    "TrainRequest",
    "job_digest",
    "model_of",
    "noise_text",
    "payload_bytes",
    "put_model",
]
