"""The global model as the server holds it: in the clear, or sealed for the silos alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from privet.experiment import Experiment
from privet.record.summary import EncryptionFacts
from privet.server.cohort import Cohort
from privet.strategies import Round, RoundSkipped, Strategy, Update
from privet.vectors import Vector
from privet.wire import EvaluateRequest, Failure, TrainReply

Tensors = Mapping[str, np.ndarray]


class GlobalModel(Protocol):
    """What the rounds ask of it. One round is `prepare`, `open`, `add` for each reply, `close`."""

    base: str | None
    """The digest of what the model does not train; None of a model that trains whole."""

    def prepare(self, round_: int, cohort: Cohort) -> list[Failure]:
        """Whatever silos need beforehand; who could not be given it."""

    def open(
        self, round_: int, *, asked: list[int], cohort: Cohort, failures: list[Failure]
    ) -> list[int]:
        """Begin a round: the nodes that can train in it."""

    def record_for(self, silo: str) -> ConfigRecord | None:
        """What goes to this silo alone with its train message."""

    def add(self, silo: str, reply: TrainReply) -> None:
        """Take one silo's update; raises, and takes nothing, when it cannot be used."""

    def close(self, round_: int, *, silos: int, failures: list[Failure]) -> str | None:
        """Move on to the next model; the reason when it stays as it was."""

    def admits(self, silo: str) -> bool:
        """Whether the silo can take part in a round as things are."""

    @property
    def weights(self) -> Vector | None:
        """To send in the clear with a train message, shape (d,); None with encryption."""

    def evaluation(self, round_: int, silo: str) -> RecordDict:
        """The message that has this silo measure the model."""

    def traffic(self) -> tuple[int, int]:
        """Bytes of models and sums down and up, beside train messages, since it was last asked."""

    def readable(self) -> Vector | None:
        """The model, shape (d,), where this process may read it."""

    def finish(self, cohort: Cohort) -> list[Failure]:
        """After the last round; silos that could not write the model down are named."""

    def tensors(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps."""

    def restore(self, tensors: Tensors) -> None:
        """Go on from what `tensors` gave."""

    def describe(self) -> EncryptionFacts | None:
        """The encryption, for the summary; None without."""

    @property
    def seconds(self) -> float | None:
        """What encryption has taken so far, as in `RoundSeconds`; None without."""


class ClearModel:
    """A model that the server reads, and moves by its strategy."""

    seconds: float | None = None

    def __init__(
        self,
        strategy: Strategy,
        weights: Vector,
        experiment: Experiment,
        *,
        base: str | None = None,
    ) -> None:
        self._strategy, self._experiment = strategy, experiment
        self._weights, self.base = weights, base
        self._round: Round | None = None

    def prepare(self, round_: int, cohort: Cohort) -> list[Failure]:  # noqa: ARG002
        """Nothing to prepare."""
        return []

    def open(
        self,
        round_: int,
        *,
        asked: list[int],
        cohort: Cohort,  # noqa: ARG002
        failures: list[Failure],  # noqa: ARG002
    ) -> list[int]:
        """Begin a round of the strategy's."""
        lr = self._experiment.learning_rate(round_)
        self._round = self._strategy.open(self._weights, lr=lr)
        return asked

    def record_for(self, silo: str) -> ConfigRecord | None:  # noqa: ARG002
        """Nothing."""
        return None

    def add(self, silo: str, reply: TrainReply) -> None:  # noqa: ARG002
        """Take one silo's update."""
        if self._round is None or reply.update is None:
            raise ValueError("the update came sealed, and the job has no [encryption]")
        weight = 1.0 if reply.weight is None else reply.weight
        self._round.add(Update(reply.update, weight, reply.loss, reply.extras))

    def close(self, round_: int, *, silos: int, failures: list[Failure]) -> str | None:  # noqa: ARG002
        """Move on as the strategy says."""
        if self._round is None:
            raise AssertionError("closed before it was opened")
        ending, self._round = self._round, None  # its sum takes memory
        try:
            self._weights = ending.close(round=round_, silos=silos)
        except RoundSkipped as reason:
            return str(reason)
        return None

    def admits(self, silo: str) -> bool:  # noqa: ARG002
        """Every silo can."""
        return True

    def finish(self, cohort: Cohort) -> list[Failure]:  # noqa: ARG002
        """The server writes the model itself."""
        return []

    @property
    def weights(self) -> Vector | None:
        """The model."""
        return self._weights

    def evaluation(self, round_: int, silo: str) -> RecordDict:  # noqa: ARG002
        """The same for every silo."""
        return EvaluateRequest(round_, self._weights, base=self.base).to_records()

    def traffic(self) -> tuple[int, int]:
        """None."""
        return 0, 0

    def readable(self) -> Vector | None:
        """The model."""
        return self._weights

    def tensors(self) -> dict[str, np.ndarray]:
        """The model, and the strategy's state."""
        state = {f"strategy.{name}": value for name, value in self._strategy.state().items()}
        return {"weights": self._weights, **state}

    def restore(self, tensors: Tensors) -> None:
        """Go on from a checkpoint."""
        self._strategy.load_state(under("strategy.", tensors))
        self._weights = tensors["weights"]

    def describe(self) -> EncryptionFacts | None:
        """No encryption."""
        return None


def under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
