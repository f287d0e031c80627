"""What ran in the model itself: steps that silos with canaries kept of their trainings.

`mechanism.steps` looks at the run's own training, at some coordinates of every tensor: weights
moved as the noisy gradients say and no further, from round to round as the updates that were sent
say; the gradients vary as noise does at least; records were sampled at their rate.
`mechanism.dry-run` and `mechanism.evaluation` look at what the run did beside, on made-up examples,
whose gradients the auditor knows (`dry_runs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from scipy import stats

from privet.audits import laws
from privet.audits.claims import Claim, judged, unknown
from privet.audits.code import TrainingCode, training_code
from privet.audits.dry_runs import DRY, DRY_RUN, dry_conformance, looked_at, tried_here
from privet.audits.epsilon import parts_of_charges
from privet.audits.evidence import Evidence
from privet.audits.laws import LEVEL, Check, Conformance, fault_of
from privet.audits.oracle import Oracle, unexplained
from privet.audits.shares import share_conformance
from privet.client.watching import trained_sizes
from privet.files import demand_file
from privet.privacy.mechanisms.canaries import CANARIES, Floats
from privet.privacy.mechanisms.traces import (
    EVALUATIONS,
    STEPS,
    EvaluationTrace,
    StepTrace,
    own_places,
    read_evaluations,
    read_traces,
)
from privet.record.folder import CHECKPOINT, MODEL
from privet.server.choosing import BEST
from privet.vectors import is_local

_STEPS = (
    "At {} coordinates of the model, some in every tensor, weights moved in training as their "
    "noisy gradients say and no further, and these varied as much as noise does at least."
)
_MEANS, _MEAN_OPTIONS = {"fedavg", "fedprox"}, {"weighting", "proximal_mu"}
_FEWEST = 25
"""Sampled records, as expected, from which on the spread of their counts is tested."""

Code = TrainingCode | Exception
"""The run's task as code, or why it cannot be made here."""


def claims(run: Evidence) -> Iterator[Claim]:
    """Of a run with differential privacy, as far as its task can be made here."""
    code = _code_of(run)
    traces = read_traces(run.folder / CANARIES / STEPS)
    if traces or (run.folder / CANARIES).exists():
        yield _of_steps(run, code, [each for each in traces if each.use == "training"])
        yield _of_dry_runs(run, code, [each for each in traces if each.use in DRY])
    if shares := read_evaluations(run.folder / CANARIES / EVALUATIONS):
        yield _of_evaluations(run, shares)


def _code_of(run: Evidence) -> Code:
    try:
        return training_code(run.settings)
    except Exception as error:  # the task is somebody's own code, and so are its data
        return error


def _missing(error: Exception) -> str:
    return f"the task cannot be made here: {error}"


def _of_steps(run: Evidence, code: Code, traces: Sequence[StepTrace]) -> Claim:
    count = max((each.gradients.shape[1] for each in traces), default=0)
    id_, statement = "mechanism.steps", _STEPS.format(count)
    if isinstance(code, Exception):
        return unknown(id_, run.subject, statement, _missing(code))
    if not traces:
        return unknown(id_, run.subject, statement, "the run kept no steps of its training")
    steps = sum(len(each.gradients) for each in traces)
    found = Conformance(LEVEL, tuple(_own_checks(code, traces)), steps, steps * count)
    faults = [
        *_movements(run, traces),
        *_server_moves(run, code, traces),
        *_another_model(run, code),
        *map(fault_of, found.failed),
    ]
    return judged(id_, run.subject, statement, faults=faults, notes=[looked_at(found)])


def _movements(run: Evidence, traces: Sequence[StepTrace]) -> Iterator[str]:
    """Where a silo's weights are elsewhere than its steps lead, or it took more than it charged."""
    for trace in traces:
        lr = run.settings.learning_rate(trace.round)
        yield from unexplained(trace, run.settings.training, lr)
        ledger = run.ledger(trace.silo)
        charged = parts_of_charges(ledger.of("training", trace.round)) if ledger else []
        steps = sum(part.steps for part in charged)
        ran = max(len(trace.gradients), len(trace.counts))
        if ledger and ran > steps:
            yield (
                f"{trace.silo}, round {trace.round}: {ran} steps, and the ledger charges {steps}"
            )


def _server_moves(run: Evidence, code: TrainingCode, traces: Sequence[StepTrace]) -> Iterator[str]:
    """Where the model of the next round is no mean of the updates that were sent.

    Of strategies that take one, in the clear; silos count alike or by their records.
    """
    strategy = run.settings.strategy
    plain = strategy.name in _MEANS and not set(strategy.options) - _MEAN_OPTIONS
    if not plain or run.settings.encryption is not None:
        return
    shared = _Shared.of(run, code)
    begun = {trace.round: shared.seen(trace.start) for trace in traces}
    begun |= _last_model(run, shared)
    for line in run.lines:
        own = [t for t in traces if t.round == line.round and t.silo in line.participants]
        after = begun.get(line.round + 1)
        if after is None or not own or len(own) != len(line.participants):
            continue
        if not _is_a_mean(run, own, after, shared):
            yield (
                f"round {line.round}: the model moved otherwise than by the mean of the updates "
                "that were sent"
            )


def _is_a_mean(run: Evidence, own: Sequence[StepTrace], after: Floats, shared: _Shared) -> bool:
    updates = np.stack([shared.seen(each.end) - shared.seen(each.start) for each in own])
    records = [float((run.plans or {}).get(each.silo, {}).get("records", 1)) for each in own]
    room = 1e-4 * np.abs(updates).max() + 1e-6 * np.abs(after)
    moved = after - shared.seen(own[0].start)
    means = (np.average(updates, axis=0, weights=w) for w in (records, [1.0] * len(own)))
    return any(bool((np.abs(moved - mean) <= room).all()) for mean in means)


def _another_model(run: Evidence, code: TrainingCode) -> Iterator[str]:
    """The model that a finished run gives away is that of its last round, or the best one's."""
    chosen = run.settings.validation is not None
    path, last = run.folder / MODEL, _weights(run, BEST if chosen else "weights")
    if not path.exists() or last is None:
        return
    with safe_open(demand_file(path), "numpy") as file:
        known = set(file.keys())
        shared = _Shared.of(run, code)
        if not known.issuperset(shared.names):
            yield f"{MODEL}: it has not the weights of the run's model"
            return
        given = np.concatenate([file.get_tensor(name).ravel() for name in shared.names])
    if not np.array_equal(given, last[: shared.count], equal_nan=True):
        yield f"{MODEL}: it is not the model of the {'best' if chosen else 'last'} round"


def _weights(run: Evidence, name: str = "weights") -> NDArray[np.float32] | None:
    """The model behind the last round, shape (d,), or the best one; None where it is not there in
    the clear."""
    path = run.folder / CHECKPOINT
    if not path.exists():
        return None
    with safe_open(demand_file(path), "numpy") as file:
        if file.metadata().get("round") != str(run.lines[-1].round):
            return None
        return file.get_tensor(name) if name in set(file.keys()) else None


def _last_model(run: Evidence, shared: _Shared) -> dict[int, Floats]:
    """What a round behind the last would begin with, by its number."""
    vector = _weights(run)
    return {} if vector is None else {run.lines[-1].round + 1: shared.of_model(vector)}


@dataclass(frozen=True)
class _Shared:
    """What of the trained coordinates travels: all, but for what stays in silos."""

    names: tuple[str, ...]
    """Of the tensors, in order."""
    count: int
    """Of their numbers, with which the server's model begins; buffers lie behind."""
    columns: NDArray[np.bool_]
    """Which of the coordinates that a trace has."""
    places: NDArray[np.int64]
    """Where those are in the server's model."""

    @classmethod
    def of(cls, run: Evidence, code: TrainingCode) -> _Shared:
        patterns = run.settings.federation.local or ()
        trained = {n: p.numel() for n, p in code.model.named_parameters() if p.requires_grad}
        names = tuple(name for name in trained if not is_local(name, patterns))
        travels = np.repeat([name in names for name in trained], [*trained.values()])
        seen = own_places(tuple(trained.values()))
        places = (np.cumsum(travels) - 1)[seen[travels[seen]]]
        return cls(names, int(travels.sum()), travels[seen], places)

    def seen(self, coordinates: NDArray[np.float32]) -> Floats:
        """Of a trace's coordinates those that travel; none where it has none."""
        kept = coordinates[self.columns] if len(coordinates) else coordinates
        return kept.astype(np.float64)

    def of_model(self, vector: NDArray[np.float32]) -> Floats:
        """The same coordinates of the server's model, shape (d,)."""
        return vector[self.places].astype(np.float64)


def _own_checks(code: TrainingCode, traces: Sequence[StepTrace]) -> Iterator[Check]:
    sums = np.concatenate([_sums(each) for each in traces])
    sizes = trained_sizes(code.model)
    ends = np.searchsorted(own_places(tuple(sizes)), np.cumsum(sizes))
    parts = np.split(sums, ends[:-1], axis=1)
    finds = "too little noise in a tensor"
    tests = [laws.at_least("own-noise", finds, part) for part in parts if part.size]
    if tests:
        yield laws.smallest("own-noise", tests)
    if counted := [each for each in traces if each.counts and each.records]:
        yield from _counts(counted)


def _sums(trace: StepTrace) -> Floats:
    """Noisy sums in deviations of the noise, shape (steps, k)."""
    plan = trace.plan
    scale = plan.batch_size / max(plan.noise_multiplier * plan.clip, 1e-300)
    return np.asarray(trace.gradients.astype(np.float64) * scale)


def _counts(traces: Sequence[StepTrace]) -> Iterator[Check]:
    """Of how many records each step was, where the numbers are known."""
    records = np.array([each.records for each in traces for _ in each.counts], dtype=np.float64)
    rates = np.array([each.plan.sampling_rate for each in traces for _ in each.counts])
    counts = np.array([count for each in traces for count in each.counts], dtype=np.float64)
    total, drawn = int(records.sum()), int(counts.sum())
    rate = min(1.0, float((records * rates).sum()) / total)
    p_value = float(stats.binomtest(min(drawn, total), total, rate).pvalue)
    yield Check("own-sampling", "records sampled more or less often", p_value, drawn / total, rate)
    coins = records * rates * (1 - rates)
    if coins.sum() >= _FEWEST:
        finds = "batches that do not vary as independent coins make them"
        yield laws.spread("own-batches", finds, counts - records * rates, coins, rate=rate)


def _of_dry_runs(run: Evidence, code: Code, traces: Sequence[StepTrace]) -> Claim:
    id_, statement = "mechanism.dry-run", f"In the run, {DRY_RUN}."
    if isinstance(code, Exception):
        return unknown(id_, run.subject, statement, _missing(code))
    if not traces:
        return unknown(id_, run.subject, statement, "the run made no dry run, or kept none")
    try:
        oracle = Oracle.of(code, run.settings.training.class_weights)
    except Exception as reason:  # a task's own code
        return unknown(id_, run.subject, statement, str(reason))
    found = dry_conformance(oracle, traces)
    faults = [*map(fault_of, found.failed), *_another_noise(run, traces)]
    return judged(id_, run.subject, statement, faults=faults, notes=[looked_at(found)])


def _another_noise(run: Evidence, traces: Sequence[StepTrace]) -> Iterator[str]:
    """The dry run for noise has the noise of the round that it was made in."""
    for trace in traces:
        charged = _noise_of(run, trace.silo, "training", trace.round)
        if trace.use == "noise" and charged and trace.plan.noise_multiplier not in charged:
            yield f"{trace.silo}: the dry run's noise is not what the ledger charges"


def _noise_of(run: Evidence, silo: str, use: str, round_: int) -> set[float]:
    ledger = run.ledger(silo)
    charged = parts_of_charges(ledger.of(use, round_)) if ledger else []
    return {part.noise_multiplier for part in charged}


def _of_evaluations(run: Evidence, traces: Sequence[EvaluationTrace]) -> Claim:
    found = share_conformance(traces)
    statement = (
        f"The noise of {found.values} shares of made-up values, released in the run as its "
        "evaluations are, follows the claimed law."
    )
    faults = [*map(fault_of, found.failed), *_another_share(run, traces)]
    notes = [looked_at(found)]
    return judged("mechanism.evaluation", run.subject, statement, faults=faults, notes=notes)


def _another_share(run: Evidence, traces: Sequence[EvaluationTrace]) -> Iterator[str]:
    for trace in traces:
        charged = _noise_of(run, trace.silo, "evaluation", trace.round)
        if charged and trace.noise_multiplier not in charged:
            yield f"{trace.silo}, round {trace.round}: the noise is not what the ledger charges"


def claims_of_code(run: Evidence) -> Iterator[Claim]:
    """`mechanism.code`, of a run with differential privacy."""
    id_, code = "mechanism.code", _code_of(run)
    statement = f"By the code that is installed here, {DRY_RUN}, with nothing after them."
    if isinstance(code, Exception):
        yield unknown(id_, run.subject, statement, _missing(code))
        return
    try:
        faults, notes = tried_here(run, code)
    except Exception as error:  # a task's own code
        why = f"it cannot be tried here: {type(error).__name__}: {error}"
        yield unknown(id_, run.subject, statement, why)
        return
    yield judged(id_, run.subject, statement, faults=faults, notes=notes)
