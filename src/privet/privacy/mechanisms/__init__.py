"""Mechanisms: what clips and adds noise. Each says by an event what it costs."""

from privet.privacy.mechanisms.canaries import Canaries, CanaryBlock, CanaryTrace
from privet.privacy.mechanisms.dpsgd import PrivateStep, privatise
from privet.privacy.mechanisms.examples import ExampleType
from privet.privacy.mechanisms.losses import ExampleLoss
from privet.privacy.mechanisms.noise import NoiseSource, SeededNoise, SystemNoise
from privet.privacy.mechanisms.physical import physical_batch
from privet.privacy.mechanisms.plan import (
    DpSgd,
    NoisyCounts,
    NoisyShare,
    local_steps,
    sampling_rate,
)
from privet.privacy.mechanisms.reach import unreached
from privet.privacy.mechanisms.soundness import check_evaluation, check_model, check_training

__all__ = [
    "Canaries",
    "CanaryBlock",
    "CanaryTrace",
    "DpSgd",
    "ExampleLoss",
    "ExampleType",
    "NoiseSource",
    "NoisyCounts",
    "NoisyShare",
    "PrivateStep",
    "SeededNoise",
    "SystemNoise",
    "check_evaluation",
    "check_model",
    "check_training",
    "local_steps",
    "physical_batch",
    "privatise",
    "sampling_rate",
    "unreached",
]
