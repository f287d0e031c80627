"""What travels between the server and a silo, as Flower records.

    train, down     "model":  weights and the strategy's own vectors     "task": round, lr, ...
    train, up       "update": local minus global weights, extra vectors  "metrics": weight, loss
                    "privacy": the mechanism that ran
    evaluate, down  "model":  weights                                    "task": round
    evaluate, up    "metrics": what the silo's policy lets out           "released": how each left
    query.enrol     a silo says its name, the noise multiplier it needs, and rounds it can afford

With encryption, "sealed" takes the place of "model" and "update": bytes that only silos can open.
The keys for that travel as `query.offer` (a silo's fresh public key), `query.make` (the elected
silo gets all offers and answers with the key, wrapped for each other silo) and `query.take`.
Masked rounds have `query.advert` and `query.share` before training, `query.consent` and
`query.reveal` after it.

Both ends are here, so that they cannot disagree.
"""

from privet.wire.errors import REFUSED, UNUSABLE, WAITING, ErrorReply, Failure
from privet.wire.records import (
    ADVERT,
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
    payload_bytes,
)
from privet.wire.rounds import (
    ENROL,
    Enrolment,
    EvaluateReply,
    EvaluateRequest,
    TrainReply,
    TrainRequest,
)

__all__ = [
    "ADVERT",
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
    "Enrolment",
    "ErrorReply",
    "EvaluateReply",
    "EvaluateRequest",
    "Failure",
    "KeyAnswer",
    "KeyRequest",
    "MaskAnswer",
    "MaskRequest",
    "Sealed",
    "SealedUpdate",
    "TrainReply",
    "TrainRequest",
    "payload_bytes",
]
