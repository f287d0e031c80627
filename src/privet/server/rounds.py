"""The round loop: ask, add up, step, evaluate, write down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.privacy.accounting import decode_event
from privet.randomness import numpy_generator, stream
from privet.server.accounts import Accounts
from privet.server.evaluation import Evaluation
from privet.server.folder import Checkpoint, RunFolder
from privet.strategies import Round, RoundSkipped, Strategy, Update
from privet.vectors import Vector
from privet.wire import ENROL, Enrolment, Failure, TrainReply, TrainRequest, payload_bytes

DROPOUT_STAGE = "dropout"

Evaluate = Callable[[Vector], Evaluation]
Watch = Callable[[Mapping[str, Any]], None]


class Memory(Protocol):
    """What silos keep between rounds, where the coordinator's host also hosts the silos."""

    def save(self) -> dict[str, Vector]:
        """All silos' vectors by a name of the host's choice."""

    def load(self, vectors: Mapping[str, Vector]) -> None:
        """The reverse."""


@dataclass(frozen=True)
class Outcome:
    """What a finished run amounts to."""

    weights: Vector
    entries: list[dict[str, Any]]
    accounts: Accounts | None
    silos: tuple[str, ...]


@dataclass
class _Tally:
    """What one round's replies amount to."""

    participants: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    events: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    up: int = 0
    aggregation: float = 0.0


class Coordinator:
    """Runs the rounds of one experiment over a Flower grid."""

    def __init__(
        self,
        grid: Grid,
        experiment: Experiment,
        strategy: Strategy,
        *,
        folder: RunFolder,
        evaluate: Evaluate | None,
        watch: Watch,
        memory: Memory | None = None,
    ) -> None:
        self._grid = grid
        self._experiment = experiment
        self._strategy = strategy
        self._folder = folder
        self._evaluate = evaluate
        self._watch = watch
        self._memory = memory
        privacy = experiment.privacy
        self._accounts = Accounts(delta=privacy.delta) if privacy else None
        self._roster: dict[int, Enrolment] = {}

    def run(self, weights: Vector, checkpoint: Checkpoint | None) -> Outcome:
        """All rounds from `weights`, or those after `checkpoint`."""
        absent = self._enrol()
        self._strategy.check_silos(len(self._roster))
        first = 1
        if checkpoint is None:
            self._note(self._entry(0, weights, _Tally(failures=absent)), weights)
        else:
            first, weights = checkpoint.round + 1, self._restore(checkpoint)
        for round_ in range(first, self._experiment.rounds + 1):
            weights = self._round(round_, weights)
        silos = tuple(enrolment.silo for enrolment in self._roster.values())
        return Outcome(weights, self._folder.history(), self._accounts, silos)

    def _enrol(self) -> list[Failure]:
        """Fill the roster; whoever cannot take part is left out of the run, with the reason."""
        nodes = sorted(self._grid.get_node_ids())
        messages = [Message(RecordDict(), node, ENROL) for node in nodes]
        enrolled, failures = {}, []
        for reply in self._grid.send_and_receive(messages, timeout=self._experiment.round_timeout):
            node = reply.metadata.src_node_id
            if reply.has_error():
                failures.append(Failure.parse(reply.error.reason, silo=f"node {node}"))
                continue
            try:
                enrolled[node] = Enrolment.from_records(reply.content)
            except Exception as error:  # whatever a peer sends, the run goes on without it
                failures.append(Failure(f"node {node}", "enrol", f"unusable reply: {error}"))
        if not enrolled:
            reason = failures[0].reason if failures else "no silo answered"
            raise ExperimentError(f"no silo can take part: {reason}")
        self._roster = dict(sorted(enrolled.items(), key=lambda item: item[1].index))
        return failures

    def _round(self, round_: int, weights: Vector) -> Vector:
        start = time.perf_counter()
        asked = self._draw(round_)
        lr = learning_rate(self._experiment, round_)
        request = TrainRequest(
            round=round_,
            lr=lr,
            weights=weights,
            extras=self._strategy.broadcast(),
            noise_multiplier=self._noise_floor(),
        ).to_records()
        total = self._strategy.open(weights, lr=lr)
        tally = self._collect(asked, request, round_, total)
        trained = time.perf_counter()
        weights, skipped = self._step(total, round_, weights)
        tally.aggregation += time.perf_counter() - trained
        entry = self._entry(round_, weights, tally)
        if skipped:
            entry["skipped"] = skipped
        entry["bytes"] = {"down": len(asked) * payload_bytes(request), "up": tally.up}
        entry["seconds"] |= {
            "total": time.perf_counter() - start,
            "training": trained - start,
            "aggregation": tally.aggregation,
        }
        self._note(entry, weights)
        return weights

    def _draw(self, round_: int) -> list[int]:
        """Each silo by its own coin, so that the law is exactly Poisson sampling of silos."""
        rate, seed = self._experiment.federation.participation, self._experiment.seed
        return [
            node
            for node, silo in self._roster.items()
            if rate >= 1
            or numpy_generator(stream(seed, "participation", silo.index, round_)).random() < rate
        ]

    def _collect(self, asked: list[int], request: RecordDict, round_: int, total: Round) -> _Tally:
        tally = _Tally()
        messages = self._messages(asked, request, round_)
        silent = dict.fromkeys(asked)
        for reply in self._grid.send_and_receive(messages, timeout=self._experiment.round_timeout):
            arrived = time.perf_counter()
            silent.pop(reply.metadata.src_node_id, None)
            self._take(reply, total, tally)
            tally.aggregation += time.perf_counter() - arrived
        tally.failures += [
            Failure(self._roster[node].silo, "transport", "no reply within round_timeout")
            for node in silent
        ]
        return tally

    def _messages(self, nodes: list[int], request: RecordDict, round_: int) -> Iterator[Message]:
        for node in nodes:
            yield Message(request, node, MessageType.TRAIN, group_id=str(round_))

    def _take(self, reply: Message, total: Round, tally: _Tally) -> None:
        silo = self._roster[reply.metadata.src_node_id].silo
        if reply.has_error():
            tally.failures.append(Failure.parse(reply.error.reason, silo=silo))
            return
        try:
            update = TrainReply.from_records(reply.content)
            if update.event is not None:
                decode_event(update.event)
                tally.events[silo] = update.event  # charged even if the update is unusable
            total.add(Update(update.update, update.weight, update.loss, update.extras))
        except Exception as error:  # whatever a peer sends, the round goes on without it
            tally.failures.append(Failure(silo, "update", f"unusable reply: {error}"))
            return
        tally.up += payload_bytes(reply.content)
        tally.participants.append(silo)

    def _step(self, total: Round, round_: int, weights: Vector) -> tuple[Vector, str | None]:
        try:
            return total.close(round=round_, silos=len(self._roster)), None
        except RoundSkipped as reason:
            return weights, str(reason)

    def _noise_floor(self) -> float | None:
        privacy = self._experiment.privacy
        if privacy is None or privacy.calibrate != "shared":
            return None
        return max(silo.noise_multiplier or 0.0 for silo in self._roster.values())

    def _entry(self, round_: int, weights: Vector, tally: _Tally | None = None) -> dict[str, Any]:
        tally = tally or _Tally()
        start = time.perf_counter()
        evaluation = self._evaluate(weights) if self._evaluate else None
        evaluated = time.perf_counter()
        for silo, event in tally.events.items():
            if self._accounts is not None:
                self._accounts.charge(silo, event)
        return {
            "round": round_,
            "loss": evaluation.loss if evaluation else None,
            "accuracy": evaluation.accuracy if evaluation else None,
            "metrics": evaluation.metrics if evaluation else {},
            "per_silo": evaluation.per_silo if evaluation else None,
            "participants": tally.participants,
            "failures": [
                {"silo": failure.silo, "stage": failure.stage, "reason": failure.reason}
                for failure in tally.failures
                if failure.stage != DROPOUT_STAGE
            ],
            "dropped": [
                failure.silo for failure in tally.failures if failure.stage == DROPOUT_STAGE
            ],
            "epsilon": self._epsilon(),
            "events": dict(tally.events) if self._accounts else None,
            "bytes": {"down": 0, "up": 0},
            "seconds": {"evaluation": evaluated - start},
        }

    def _epsilon(self) -> dict[str, Any] | None:
        if self._accounts is None:
            return None
        per_silo = self._accounts.epsilons(silo.silo for silo in self._roster.values())
        return {"max": max(per_silo.values()), "per_silo": per_silo}

    def _note(self, entry: dict[str, Any], weights: Vector) -> None:
        self._folder.append(entry)
        tensors = {"weights": weights}
        tensors |= {f"strategy.{name}": value for name, value in self._strategy.state().items()}
        if self._memory is not None:
            tensors |= {f"silo.{name}": value for name, value in self._memory.save().items()}
        self._folder.save_checkpoint(entry["round"], tensors)
        self._watch(entry)

    def _restore(self, checkpoint: Checkpoint) -> Vector:
        self._strategy.load_state(_under("strategy.", checkpoint.tensors))
        if self._memory is not None:
            self._memory.load(_under("silo.", checkpoint.tensors))
        for entry in self._folder.history():
            for silo, event in (entry["events"] or {}).items():
                if self._accounts is not None:
                    self._accounts.charge(silo, event)
            self._watch(entry)
        return checkpoint.tensors["weights"]


def learning_rate(experiment: Experiment, round_: int) -> float:
    """The silos' learning rate in a round, rounds counted from 1."""
    training = experiment.training
    if training.schedule == "constant":
        return training.lr
    return training.lr * 0.5 * (1 + math.cos(math.pi * (round_ - 1) / experiment.rounds))


def _under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
