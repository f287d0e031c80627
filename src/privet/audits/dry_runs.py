"""Trainings on made-up examples, whose gradients the auditor knows (`oracle`).

What is left of each step is its noise, in every coordinate of the model; where there is next to no
noise, what is left is what clipping and sampling did not do. Dry runs are kept by runs with
canaries, and made here by the code that is installed: these say what it does, not what ran
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from scipy import stats
from scipy.special import ndtr

from privet.audits import laws
from privet.audits.code import TrainingCode
from privet.audits.epsilon import parts_of_charges
from privet.audits.evidence import Evidence
from privet.audits.laws import LEVEL, Check, Conformance, fault_of
from privet.audits.oracle import Oracle, unexplained
from privet.audits.shares import share_conformance
from privet.client.silo import LocalData, ModelCache, Silo
from privet.client.training import LocalPlan, LocalTraining, Trained, loss_of, train
from privet.client.watching import (
    EXAMPLES,
    dry_evaluation,
    dry_examples,
    dry_model,
    dry_training,
    trace_of,
)
from privet.privacy.mechanisms import DpSgd
from privet.privacy.mechanisms.batched import NotBatchable
from privet.privacy.mechanisms.canaries import Floats
from privet.privacy.mechanisms.traces import StepTrace, Use
from privet.randomness import numpy_generator, one_thread, stream
from privet.simulations.vectorised import chain_for, ways_to_train

DRY: tuple[Use, ...] = ("noise", "clipping")
DRY_RUN = (
    f"steps on {EXAMPLES} made-up examples are their gradients, clipped one by one, and noise of "
    "the claimed law in every coordinate of the model that was looked at"
)
_SILOS, _ROUNDS, _RATE = 2, 2, 0.1
_RELEASES, _SHARE_NOISE = 20, 10.0
_PARTS = 8

Ways = Callable[[Sequence[LocalTraining]], Sequence[Callable[[], Trained]]]
"""What trains several silos: a call for each."""


def looked_at(found: Conformance) -> str:
    """How much was looked at, and how often that is wrong."""
    return (
        f"{len(found.checks)} tests of {found.values:,} numbers from {found.steps:,} steps; a "
        f"correct mechanism fails with probability {found.level:g}"
    )


def dry_conformance(oracle: Oracle, traces: Sequence[StepTrace]) -> Conformance:
    """Test what dry runs left of their steps against gradients that are known."""
    residuals = [oracle.residuals(each) for each in traces]
    if all(np.isfinite(each).all() for each in residuals):
        pairs = [*zip(traces, residuals, strict=True)]
        checks = [
            *_noise_checks(oracle, [left for trace, left in pairs if trace.use == "noise"]),
            *_clipping_checks(oracle, [pair for pair in pairs if pair[0].use == "clipping"]),
            *_sampling_checks(traces),
        ]
    else:
        checks = [Check("finite", "numbers that are infinite or none", 0.0, 1.0, 0.0)]
    steps, values = sum(map(len, residuals)), sum(each.size for each in residuals)
    return Conformance(LEVEL, tuple(checks), steps, values)


def _noise_checks(oracle: Oracle, residuals: Sequence[Floats]) -> Iterator[Check]:
    if not residuals:
        return
    noise = np.concatenate(residuals)
    tensors = [noise[:, part] for part in oracle.tensors.values() if part.stop > part.start]
    parts = [part for part in np.array_split(noise, _PARTS, axis=1) if part.size]
    amount = "too little or too much noise"
    yield laws.variance("noise", amount, noise)
    for name, where, found in (
        ("noise-tensors", "in a tensor", tensors),
        ("noise-parts", "in a part of the model", parts),
        ("noise-steps", "in a step", [*noise]),
    ):
        tests = [laws.variance(name, f"{amount} {where}", each) for each in found]
        yield laws.smallest(name, tests)
    sums = noise.sum(axis=1) / np.sqrt(noise.shape[1])
    yield laws.variance("noise-together", "noise shared by coordinates", sums)
    centred = [laws.mean("", "noise that is not centred", each) for each in tensors]
    yield laws.smallest("noise-mean", centred)
    yield laws.normality(noise.ravel())
    yield laws.tail(noise)
    yield laws.grid(noise)
    yield laws.again_elsewhere([*noise])
    yield laws.again_within([each.ravel() for each in residuals])


def _clipping_checks(oracle: Oracle, pairs: Sequence[tuple[StepTrace, Floats]]) -> Iterator[Check]:
    """What is left along the examples' gradients: with so little noise, nothing but noise."""
    if not pairs:
        return
    left = np.concatenate([residual for _, residual in pairs])
    yield laws.variance("clipping-rest", "steps that are not clipped gradients and noise", left)
    parts = oracle.clipped(pairs[0][0].plan.clip)
    lengths = np.linalg.norm(parts, axis=1)
    directions = parts[lengths > 0] / lengths[lengths > 0, None]
    along = left @ directions.T
    finds = "gradients not clipped one by one, after everything, to the clip norm"
    yield _largest("clipping", finds, along)
    yield _largest("clipping-always", finds, along.sum(axis=0) / np.sqrt(len(along)))


def _largest(name: str, finds: str, normal: Floats) -> Check:
    """The largest of standard normal numbers, which may depend on each other (Bonferroni)."""
    most = float(np.abs(normal).max(initial=0.0))
    p_value = min(1.0, 2 * float(ndtr(-most)) * normal.size)
    return Check(name, finds, p_value, most, 0.0)


def _sampling_checks(traces: Sequence[StepTrace]) -> Iterator[Check]:
    """Coins of made-up examples: as often as claimed, and each by itself."""
    taken = np.stack([_taken(batch) for trace in traces for batch in trace.batches])
    rate = traces[0].plan.sampling_rate
    twice = float((taken > 1).any())
    yield Check("twice", "an example twice in a step", 1.0 - twice, twice, 0.0)
    drawn = min(int(taken.sum()), taken.size)
    p_value = float(stats.binomtest(drawn, taken.size, rate).pvalue)
    finds = "examples sampled more or less often"
    yield Check("sampling", finds, p_value, float(taken.mean()), rate)
    ends = np.cumsum([len(trace.batches) for trace in traces])[:-1]
    turns = np.concatenate([part.sum(axis=0) for part in np.split(taken - rate, ends)])
    lengths = np.repeat([len(trace.batches) for trace in traces], taken.shape[1])
    coins = lengths * rate * (1 - rate)
    yield laws.spread("sampling-turns", "examples that take turns", turns, coins, rate=rate)
    together = (taken - rate).sum(axis=1)
    spread = np.full(len(taken), taken.shape[1] * rate * (1 - rate))
    yield laws.spread("sampling-together", "batches of one size", together, spread, rate=rate)


def _taken(batch: Sequence[int]) -> Floats:
    return np.bincount(np.array(batch, dtype=np.int64), minlength=EXAMPLES).astype(np.float64)


Tried = tuple[list[str], list[str]]
"""Faults and notes."""


def tried_here(run: Evidence, code: TrainingCode) -> Tried:
    """Faults and notes of dry runs by the installed code, with the run's settings.

    By both engines, as far as the model suits them; with the noise of simulations, or for a job the
    noise of real silos. Once for all runs of an audit that train alike. Raises what the task's own
    code does.
    """
    parts = run.settings.model_dump_json(include={"task", "model", "data", "training"})
    privacy = run.settings.privacy
    key = f"{parts} {privacy and privacy.clip} {_noise_multiplier(run)} {run.job is None}"
    if key not in run.shared:
        run.shared[key] = _tried(run, code)
    found: Tried = run.shared[key]
    return found


def _tried(run: Evidence, code: TrainingCode) -> Tried:
    silos = _stand_ins(run, code)
    oracle = Oracle.of(code, run.settings.training.class_weights)
    faults: list[str] = []
    notes: list[str] = []
    for name, ways in _engines(silos[0].local, run):
        traces = _traces(run, silos, ways)
        for trace in traces:
            if trace.use == "steps":
                faults += unexplained(trace, run.settings.training, _RATE)
        found = dry_conformance(oracle, [each for each in traces if each.use in DRY])
        faults += [f"{name}: {fault_of(check)}" for check in found.failed]
        notes.append(f"{name}: {looked_at(found)}")
    shares = share_conformance(
        [dry_evaluation(silo, n, _SHARE_NOISE) for silo in silos for n in range(1, _RELEASES + 1)]
    )
    faults += [f"evaluation: {fault_of(check)}" for check in shares.failed]
    return faults, [*notes, f"evaluation: {looked_at(shares)}"]


def _stand_ins(run: Evidence, code: TrainingCode) -> list[Silo]:
    """Silos whose records are made up."""
    examples = dry_examples(dry_model(code.base), code.like)
    names = tuple(f"made-up-{place}" for place in range(_SILOS))
    cache = ModelCache(code.model, code.base.constant)
    local = LocalData(code.task, names, (examples,) * _SILOS, cache)
    seed = None if run.job else run.settings.seed
    return [Silo(name, place, local, seed) for place, name in enumerate(names)]


def _engines(local: LocalData, run: Evidence) -> Iterator[tuple[str, Ways]]:
    yield "one silo at a time", _one_by_one
    try:
        chain = chain_for(local, loss_of(local.task, run.settings.training))
    except NotBatchable:
        return
    yield "silos together", partial(ways_to_train, chain)


def _one_by_one(works: Sequence[LocalTraining]) -> list[Callable[[], Trained]]:
    return [partial(train, work) for work in works]


def _traces(run: Evidence, silos: Sequence[Silo], ways: Ways) -> list[StepTrace]:
    found = []
    with one_thread():
        for use in (*DRY, "steps"):
            works = [
                (silo, round_, dry_training(_template(run, silo), use, silo=silo, round_=round_))
                for silo in silos
                for round_ in range(1, _ROUNDS + 1)
            ]
            done = [way() for way in ways([work for *_, work in works])]
            found += [
                trace_of(work, use, silo=silo, round_=round_, update=trained.update)
                for (silo, round_, work), trained in zip(works, done, strict=True)
            ]
    return found


def _template(run: Evidence, silo: Silo) -> LocalTraining:
    """A training as the run's settings have it, with noise that it charged."""
    privacy, training = run.settings.privacy, run.settings.training
    assert privacy is not None
    plan = DpSgd(
        noise_multiplier=_noise_multiplier(run),
        clip=privacy.clip,
        sampling_rate=1.0,
        steps=1,
        batch_size=EXAMPLES,
    )
    return LocalTraining(
        silo.model,
        loss_of(silo.task, training),
        silo.examples,
        silo.model().vector(),
        LocalPlan(1, EXAMPLES, plan),
        training,
        _RATE,
        partial(silo.noise, 0),
        numpy_generator(stream(0, "unused")),
    )


def _noise_multiplier(run: Evidence) -> float:
    """The first that a ledger charges; 1 without one."""
    ledgers = [run.ledger(name) for name in run.silos]
    charged = (p for ledger in ledgers if ledger for p in parts_of_charges(ledger.charges))
    return next((p.noise_multiplier for p in charged if 0 < p.noise_multiplier < 1e6), 1.0)
