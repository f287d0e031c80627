"""Mechanisms: what clips and adds noise. Each says by an event what it costs."""

from privet.privacy.mechanisms.canaries import Canaries, CanaryBlock, CanaryTrace
from privet.privacy.mechanisms.dpsgd import PrivateStep, privatise
from privet.privacy.mechanisms.modules import check_model
from privet.privacy.mechanisms.plan import (
    DpSgd,
    NoiseSource,
    NoisyShare,
    SeededNoise,
    SystemNoise,
    local_steps,
    sampling_rate,
)

__all__ = [
    "Canaries",
    "CanaryBlock",
    "CanaryTrace",
    "DpSgd",
    "NoiseSource",
    "NoisyShare",
    "PrivateStep",
    "SeededNoise",
    "SystemNoise",
    "check_model",
    "local_steps",
    "privatise",
    "sampling_rate",
]
