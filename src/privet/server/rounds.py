"""The round loop: ask, add up, step, evaluate, write down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from privet.experiment import Experiment
from privet.metrics import Metric
from privet.record.folder import Checkpoint, RunFolder
from privet.record.history import (
    Events,
    RecordedMetric,
    RoundRecord,
    RoundSeconds,
    TransferredBytes,
    Watch,
)
from privet.record.summary import EncryptionFacts
from privet.server.accounts import Accounts
from privet.server.choosing import BestModel
from privet.server.cohort import Cohort, IdentifyNode, enrol, invite
from privet.server.evaluation import Scores
from privet.server.models import GlobalModel, under
from privet.server.tally import Measurements, Tally
from privet.strategies import Strategy
from privet.vectors import Vector
from privet.wire import MASKS, Failure, TrainRequest, payload_bytes

Evaluate = Callable[[Vector], Scores]


class SiloMemory(Protocol):
    """What silos keep between rounds, where the coordinator's host also hosts the silos."""

    def save(self) -> dict[str, Vector]:
        """All silos' vectors by a name of the host's choice."""

    def load(self, vectors: Mapping[str, Vector]) -> None:
        """The reverse."""

    def own_parts(self) -> dict[str, Vector | None]:
        """What each silo keeps of the model itself; None of one that has not trained."""


@dataclass(frozen=True)
class RunOutcome:
    """What a finished run amounts to."""

    weights: Vector | None
    """Of the final model; None where only silos can read it."""
    rounds: tuple[RoundRecord, ...]
    accounts: Accounts | None
    silos: tuple[str, ...]
    encryption: EncryptionFacts | None = None
    stopped: str | None = None
    """Why the run ended before its last round, if it did."""
    best: BestModel | None = None
    """With [validation]: which round's model the final one is."""


class Coordinator:
    """Runs the rounds of one experiment over a Flower grid."""

    def __init__(
        self,
        grid: Grid,
        experiment: Experiment,
        strategy: Strategy,
        model: GlobalModel,
        *,
        folder: RunFolder,
        evaluate: Evaluate | None,
        watch: Watch,
        memory: SiloMemory | None = None,
        identify: IdentifyNode | None = None,
        best: BestModel | None = None,
        headline: Metric | None = None,
    ) -> None:
        self._headline = RecordedMetric.of(headline) if headline else None
        self._identify = identify
        self._grid = grid
        self._experiment = experiment
        self._strategy = strategy
        self._model = model
        self._folder = folder
        self._evaluate = evaluate
        self._watch = watch
        self._memory = memory
        self._best = best
        privacy = experiment.privacy
        self._accounts = Accounts(delta=privacy.delta) if privacy else None

    def run(self, checkpoint: Checkpoint | None) -> RunOutcome:
        """All rounds, or those after `checkpoint`.

        It ends early, with the model so far, when too few silos are willing to go on, or validation
        has found no better model for long enough.
        """
        cohort, absent = enrol(self._grid, self._experiment, self._identify, self._model.base)
        # Once more: of the silos that were planned for, some may not have enrolled.
        self._strategy.check_silos(len(cohort))
        first = 1
        if checkpoint is None:
            self._write_down(0, Tally(self._model.seconds, failures=absent), cohort)
        else:
            first = checkpoint.round + 1
            self._restore(checkpoint, cohort)
        stopped = None
        for round_ in range(first, self._experiment.rounds + 1):
            if stopped := cohort.too_few() or self._enough(round_ - 1):
                break
            self._round(round_, cohort)
        self._model.finish(cohort)
        return RunOutcome(
            self._best.weights if self._best else self._model.readable(),
            self._folder.rounds(),
            self._accounts,
            cohort.names,
            encryption=self._model.describe(),
            stopped=stopped,
            best=self._best,
        )

    def _enough(self, round_: int) -> str | None:
        return self._best.enough(round_) if self._best else None

    def _round(self, round_: int, cohort: Cohort) -> None:
        tally = Tally(self._model.seconds)
        tally.failures += invite(
            self._grid, self._experiment, cohort, self._identify, self._model.base
        )
        tally.failures += self._model.prepare(round_, cohort)
        asked = [node for node in cohort.draw(round_) if self._model.admits(cohort.name(node))]
        asked = self._model.open(round_, asked=asked, cohort=cohort, failures=tally.failures)
        self._collect(asked, round_, tally, cohort)
        trained = time.perf_counter()
        tally.training = trained - tally.begun
        tally.skipped = self._model.close(round_, silos=len(cohort), failures=tally.failures)
        tally.aggregation += time.perf_counter() - trained
        down, up = self._model.traffic()
        tally.down, tally.up = tally.down + down, tally.up + up
        tally.measured = self._measure(round_, cohort)
        tally.failures += cohort.learn(tally)
        self._write_down(round_, tally, cohort)

    def _collect(self, asked: list[int], round_: int, tally: Tally, cohort: Cohort) -> None:
        silent = dict.fromkeys(asked)
        requests = self._requests(asked, round_, tally, cohort)
        for reply in self._ask(asked, requests, round_, MessageType.TRAIN):
            arrived = time.perf_counter()
            silent.pop(reply.metadata.src_node_id, None)
            tally.take(reply, cohort.name(reply.metadata.src_node_id), self._model.add)
            tally.aggregation += time.perf_counter() - arrived
            del reply  # before the next one is read
        tally.failures += [
            Failure(cohort.name(node), "transport", "no reply within round_timeout")
            for node in silent
        ]

    def _requests(
        self, asked: list[int], round_: int, tally: Tally, cohort: Cohort
    ) -> Iterator[RecordDict]:
        """What each node gets. Nothing else holds it: a model takes memory."""
        request = TrainRequest(
            round=round_,
            weights=self._model.weights,
            extras=self._strategy.broadcast(),
            noise_multiplier=cohort.noise_floor(),
            base=self._model.base,
        ).to_records()
        tally.down = len(asked) * payload_bytes(request)
        for node in asked:
            yield self._addressed(request, cohort.name(node))

    def _measure(self, round_: int, cohort: Cohort) -> Measurements | None:
        """What the silos say of the new model, in the rounds that have an evaluation."""
        evaluation = self._experiment.evaluation
        if evaluation is None or (round_ % evaluation.every and round_ < self._experiment.rounds):
            return None
        measured = Measurements()
        model = self._model
        nodes = [node for node in cohort.nodes if model.admits(cohort.name(node))]
        requests = (model.evaluation(round_, cohort.name(node)) for node in nodes)
        for reply in self._ask(nodes, requests, round_, MessageType.EVALUATE):
            measured.take(reply, cohort.name(reply.metadata.src_node_id))
        return measured

    def _addressed(self, request: RecordDict, silo: str) -> RecordDict:
        own = self._model.record_for(silo)
        return request if own is None else RecordDict({**request, MASKS: own})

    def _ask(
        self, nodes: list[int], requests: Iterable[RecordDict], round_: int, kind: str
    ) -> Iterator[Message]:
        if not nodes:  # Flower's own grid does not take an empty list
            return
        messages = (
            Message(request, node, kind, group_id=str(round_))
            for node, request in zip(nodes, requests, strict=True)
        )
        del requests  # a model takes memory, and it is let go once it is sent
        yield from self._grid.send_and_receive(messages, timeout=self._experiment.round_timeout)

    def _write_down(self, round_: int, tally: Tally, cohort: Cohort) -> None:
        """Evaluate the model and charge the silos; then the round's line, and the checkpoint."""
        begun = time.perf_counter()
        weights = self._model.readable() if self._evaluate else None
        scores = self._evaluate(weights) if self._evaluate and weights is not None else None
        evaluation = time.perf_counter() - begun
        measured = tally.measured.record() if tally.measured else None
        self._charge(tally.events, measured.events if measured else {})
        spent = self._accounts.spent(cohort.names) if self._accounts else None
        entry = RoundRecord(
            round=round_,
            loss=scores.loss if scores else None,
            accuracy=scores.accuracy if scores else None,
            metrics=scores.metrics if scores else {},
            per_silo=scores.per_silo if scores else None,
            participants=tally.participants,
            failures=tally.failed,
            refused=tally.refused,
            dropped=tally.dropped,
            arrived=tally.arrived,
            evaluation=measured,
            events=tally.events if self._accounts else None,
            bytes=TransferredBytes(down=tally.down, up=tally.up),
            seconds=self._seconds(tally, evaluation),
            epsilon=spent,
            affordable=None if round_ else {s.silo: s.rounds for s in cohort if s.rounds},
            skipped=tally.skipped,
            references={f.silo: f.reference for f in tally.failures if f.reference},
            problems=[*tally.problems, *(scores.problems if scores else ())],
            headline=self._headline,
        )
        # The line first: a resume drops lines behind the checkpoint, and could not make up one that
        # is missing.
        self._folder.append(entry)
        tensors = self._model.tensors()
        if self._best is not None:
            self._best.look(entry, weights)
            tensors |= self._best.tensors()
        if self._memory is not None:
            tensors |= {f"silo.{name}": value for name, value in self._memory.save().items()}
        self._folder.save_checkpoint(round_, tensors, base=self._model.base)
        # Last: whatever a watcher raises finds the round whole on disk.
        self._watch(entry)

    def _seconds(self, tally: Tally, evaluation: float) -> RoundSeconds:
        trained = tally.training is not None
        encrypted = self._model.seconds
        return RoundSeconds(
            total=time.perf_counter() - tally.begun if trained else None,
            training=tally.training,
            aggregation=tally.aggregation if trained else None,
            evaluation=evaluation,
            encryption=None if encrypted is None else encrypted - (tally.encrypted or 0.0),
        )

    def _charge(self, *uses: Events) -> None:
        if self._accounts is None:
            return
        for events in uses:
            for silo, event in events.items():
                self._accounts.charge(silo, event)

    def _restore(self, checkpoint: Checkpoint, cohort: Cohort) -> None:
        self._model.restore(checkpoint.tensors)
        if self._memory is not None:
            self._memory.load(under("silo.", checkpoint.tensors))
        # What was spent and who refused follow from the history, and are not kept twice.
        for entry in self._folder.rounds():
            self._charge(entry.events or {}, entry.evaluation.events if entry.evaluation else {})
            cohort.learn(entry)
            if self._best is not None:
                self._best.look(entry, None)
            self._watch(entry)
        if self._best is not None:
            self._best.restore(checkpoint.tensors)
