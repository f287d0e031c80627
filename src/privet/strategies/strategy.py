"""What every aggregation rule offers to the server and to a silo.

A rule has a state (momentum, control variates), a round that takes updates one at a time, and a
part that runs in the silo. Vectors are flat, float32, shape (d,): the model's parameters in order,
then whatever else of the model is averaged (see `privet.vectors`). Sums are running: memory for one
vector, however many updates arrive.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from privet.errors import ExperimentError, PrivetError
from privet.paged import paged_zeros

if TYPE_CHECKING:
    from torch import nn

Vector = NDArray[np.float32]
State = dict[str, Vector]
Correction = Callable[[Sequence["nn.Parameter"]], None]

_MOST_WEIGHT = 2.0**53
"""Counts above this are not exact in float64, and no silo holds so many records."""


class RoundSkipped(PrivetError):  # noqa: N818 (it says what happened; the run goes on)
    """The updates that arrived cannot be combined; model and state stay as they were."""


@dataclass(frozen=True, eq=False)
class Update:
    """What one silo sends back, or a weighted mean of several silos for a `linear` strategy."""

    vector: Vector
    """Local minus global weights, shape (d,)."""
    weight: float
    """Number of training records, >= 0."""
    loss: float | None = None
    """Mean loss on the silo's records, for strategies with `needs_loss`."""
    extras: Mapping[str, Vector] = field(default_factory=dict)
    """The strategy's own vectors, each of shape (d,)."""


def _no_extras(delta: Vector, steps: int) -> dict[str, Vector]:  # noqa: ARG001
    return {}


@dataclass(frozen=True)
class Local:
    """A rule's part in the silo, for one round of local training."""

    correction: Correction | None = None
    """Adds to the gradients before each optimizer step, after any noise, hence at no privacy cost.

    It is called with all of the model's parameters in order; one without a gradient is left alone.
    """
    finish: Callable[[Vector, int], dict[str, Vector]] = _no_extras
    """(local minus global weights, steps taken) -> extras to send; updates the silo's memory."""


class Strategy(ABC):
    """An aggregation rule with its options and the state it keeps from round to round."""

    name: str
    linear: ClassVar[bool] = False
    """Works from weighted sums alone, so the server need not see single updates."""
    needs_loss: ClassVar[bool] = False
    """Asks each silo for its loss, which no differential privacy of the update covers."""
    plain_sgd: ClassVar[bool] = False
    """Allows neither momentum nor Adam in the silos."""
    counts_records: bool = False
    """Weighs silos by their number of records, which every silo must then reveal."""
    extras: ClassVar[tuple[str, ...]] = ()
    """Extra vectors that every update must bring."""
    fewest: int = 1
    """With fewer updates than this every round is skipped."""
    state_names: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._state: State = {}

    @abstractmethod
    def _round(self, weights: Vector, lr: float | None) -> Round:
        """An empty round that starts at `weights`."""

    def check_silos(self, silos: int) -> None:
        """Raises ExperimentError when no round of `silos` silos could ever be combined."""
        if silos < self.fewest:
            raise ExperimentError(
                f"strategy.name = '{self.name}' needs updates from at least {self.fewest} silos "
                f"with these options; the federation has {silos}"
            )

    def open(self, weights: Vector, *, lr: float | None = None) -> Round:
        """Begin a round at the global `weights`, shape (d,); `lr` is the silos' learning rate.

        Raises ValueError when the state was saved for a model of another size, and in qfedavg
        without `lr`.
        """
        for key, vector in self._state.items():
            if vector.shape != weights.shape:
                raise ValueError(
                    f"{self.name}'s '{key}' has shape {vector.shape}, the model {weights.shape}"
                )
        return self._round(weights, lr)

    def state(self) -> State:
        """What a checkpoint keeps; empty before the first round. Later rounds leave it alone."""
        return dict(self._state)

    @property
    def proposes(self) -> bool:
        """Whether the next model is the weighted mean of what `proposal` makes in every silo.

        Then it can be found from a sum alone, which may be encrypted.
        """
        return False

    @property
    def has_momentum(self) -> bool:
        """Whether `proposal` looks at the model before the last one."""
        return False

    def proposal(self, trained: Vector, *, now: Vector, before: Vector) -> Vector:
        """What a silo would have the next global model be, shape (d,), given its own `trained`.

        `now` and `before` are the last two global models, equal in the first round.
        """
        raise NotImplementedError(f"{self.name} has no proposals")

    def load_state(self, state: Mapping[str, Vector]) -> None:
        """Go on from what `state` gave. Raises ValueError for the state of another strategy."""
        if state and set(state) != set(self.state_names):
            raise ValueError(
                f"{self.name} keeps {sorted(self.state_names)}, the checkpoint has {sorted(state)}"
            )
        self._state = {key: np.array(vector, dtype=np.float32) for key, vector in state.items()}

    def broadcast(self) -> State:
        """Vectors to send to every silo along with the model."""
        return {}

    def local(
        self,
        *,
        weights: Vector,  # noqa: ARG002
        extras: Mapping[str, Vector],  # noqa: ARG002
        memory: dict[str, Vector],  # noqa: ARG002
        lr: float,  # noqa: ARG002
    ) -> Local:
        """The silo's part of one round.

        `weights` and `extras` are what the server sent, `lr` the rate of the local steps. `memory`
        belongs to the silo, outlives the round and is empty the first time.
        """
        return Local()


class Round(ABC):
    """The updates of one round on their way to new weights."""

    def __init__(self, strategy: Strategy, weights: Vector) -> None:
        self.strategy = strategy
        self.weights = weights
        self.updates = 0

    def add(self, update: Update) -> None:
        """Take one silo's update.

        Raises ValueError, and leaves the round as it was, for a vector that has the wrong shape or
        a value that is not finite, for a weight that is no count, and for a missing loss or extra.
        """
        _check(update, self.weights.shape, self.strategy)
        self._take(update)
        self.updates += 1

    def close(self, *, round: int, silos: int) -> Vector:
        """New weights, shape (d,), with the state moved on; `silos` counts the whole federation.

        Without updates the weights come back as they are and the state stays. Raises RoundSkipped
        when the rule cannot combine what arrived; then, too, the state stays.
        """
        if round < 1 or silos < 1:
            raise ValueError(f"round = {round} and silos = {silos} must be at least 1")
        if self.updates == 0:
            return self.weights
        if self.updates < self.strategy.fewest:
            raise RoundSkipped(
                f"{self.strategy.name} needs {self.strategy.fewest} updates, {self.updates} arrived"
            )
        # What overflows is found right below, and is no reason for a warning on every round.
        with np.errstate(over="ignore", invalid="ignore"):
            weights, state = self._combine(silos)
        if not all(map(_is_finite, (weights, *state.values()))):
            raise RoundSkipped(f"{self.strategy.name}: the sum of the updates is out of range")
        # Not earlier: a round that is skipped leaves the state alone.
        self.strategy._state = state
        return weights

    def _moved(self, move: Vector) -> Vector:
        """The weights and `move` together, on disk where the model is large."""
        moved: Vector = paged_zeros(move.shape, np.float32)
        return np.add(self.weights, move, out=moved)

    @abstractmethod
    def _take(self, update: Update) -> None:
        """Count in a checked update."""

    @abstractmethod
    def _combine(self, silos: int) -> tuple[Vector, State]:
        """New weights and state, as new arrays; raises RoundSkipped."""


def _check(update: Update, shape: tuple[int, ...], strategy: Strategy) -> None:
    _check_vector("update", update.vector, shape)
    for key in strategy.extras:
        if key not in update.extras:
            raise ValueError(f"{strategy.name} needs the extra vector '{key}'")
        _check_vector(key, update.extras[key], shape)
    if not 0 <= update.weight <= _MOST_WEIGHT:
        raise ValueError(f"weight = {update.weight} is not a number of records")
    if strategy.needs_loss and not (
        update.loss is not None and math.isfinite(update.loss) and update.loss >= 0
    ):
        raise ValueError(f"{strategy.name} needs a loss >= 0, got {update.loss}")


def _check_vector(what: str, vector: Vector, shape: tuple[int, ...]) -> None:
    if vector.shape != shape or vector.dtype.kind != "f":
        raise ValueError(
            f"{what} is {vector.dtype} of shape {vector.shape}, expected floats of shape {shape}"
        )
    if not _is_finite(vector):
        raise ValueError(f"{what} has values that are not finite")


def _is_finite(vector: Vector) -> bool:
    """Without an array of answers, which would be a quarter of a model."""
    # Both are NaN if one value is.
    return bool(np.isfinite([vector.min(initial=0), vector.max(initial=0)]).all())


_BLOCK = 1 << 16


def blocks(size: int, length: int = _BLOCK) -> Iterator[slice]:
    """Consecutive slices of at most `length` that cover range(size)."""
    for start in range(0, size, length):
        yield slice(start, min(start + length, size))


class WeightedSum:
    """The sum of weight * vector, and of the weights.

    Kept in float64: after n float32 updates the relative error is n * 2^-53 and the result is,
    rounded to float32, that of exact arithmetic. It costs 8 bytes a parameter, once, on disk where
    the model is large; products are formed block by block so that no second vector of float64
    appears.
    """

    def __init__(self, size: int) -> None:
        self.vector = paged_zeros(size, np.float64)
        self.weight = 0.0

    def add(self, vector: Vector, weight: float = 1.0) -> None:
        """Add weight * vector, shape (size,)."""
        factor = np.float64(weight)  # a Python float would leave the product in float32
        for block in blocks(len(self.vector)):
            self.vector[block] += factor * vector[block]
        self.weight += weight

    def over(self, divisor: float) -> Vector:
        """The sum divided by `divisor`, rounded once to float32."""
        quotient: Vector = paged_zeros(self.vector.shape, np.float32)
        np.divide(self.vector, divisor, out=quotient, casting="same_kind")
        return quotient
