"""What the silos of an encrypted run agree on, and what names it: the settings and the model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privet.experiment import Experiment
from privet.privacy.encryption.keys.roster import Fields, pack
from privet.vectors import Vector

FIRST_CLAMP = 0.5
"""Of every tensor in the first round; later ones follow what the means were."""
_TITLE = "privet model 1"


def job_digest(experiment: Experiment, base: str | None) -> bytes:
    """32 bytes, equal for all who were given the same settings and loaded the same base."""
    (text,) = experiment.to_run_config().values()
    # Settings hold no zero byte.
    return hashlib.sha256(text.encode() + (f"\0{base}".encode() if base else b"")).digest()


def noise_text(multiplier: float | None) -> str:
    """A noise multiplier as the plan of a round has it."""
    return "" if multiplier is None else repr(float(multiplier))


@dataclass(frozen=True, eq=False)
class ModelState:
    """The global model after a round, and what the next round is encoded by."""

    round: int
    """That made it; 0 for the first model, which is public."""
    weights: Vector
    """Shape (d,)."""
    before: Vector
    """The model before it, for rules that need it; else empty."""
    clamps: NDArray[np.float64]
    """Largest value of an update, for each tensor: powers of two."""
    sizes: tuple[int, ...]
    """Of the tensors."""
    salt: bytes
    """32 bytes that the server does not know, so that it cannot try models against a digest."""

    @classmethod
    def first(cls, weights: Vector, sizes: Sequence[int], *, momentum: bool) -> ModelState:
        """The model that a run begins with."""
        return cls(
            round=0,
            weights=weights,
            before=weights if momentum else weights[:0],
            clamps=np.full(len(sizes), FIRST_CLAMP),
            sizes=tuple(sizes),
            salt=bytes(32),
        )

    @cached_property
    def scale(self) -> NDArray[np.float64]:
        """The clamp of every value, shape (d,)."""
        return np.repeat(self.clamps, self.sizes)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes; equal where everything is."""
        return hashlib.sha256(self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """All of it."""
        arrays = (self.weights, self.before, self.clamps, np.array(self.sizes, dtype="<i8"))
        return pack(_TITLE, self.round, self.salt, *(each.tobytes() for each in arrays))

    @classmethod
    def from_bytes(cls, content: bytes) -> ModelState:
        """The inverse; MessageError for anything else."""
        fields = Fields(content, _TITLE)
        round_, salt = fields.number(), fields.blob(size=32)
        weights, before = (np.frombuffer(fields.blob(), dtype="<f4") for _ in range(2))
        clamps = np.frombuffer(fields.blob(), dtype="<f8")
        sizes = tuple(np.frombuffer(fields.blob(), dtype="<i8").tolist())
        fields.end()
        return cls(round_, weights, before, clamps, sizes, salt)
