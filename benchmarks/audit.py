"""What the audit of the mechanism finds, how often it is wrong, and what it costs.

    python benchmarks/audit.py conformance   time of a look, false alarms, planted faults found
    python benchmarks/audit.py one-run       the lower bound of one run on a correct mechanism
    python benchmarks/audit.py deep          attacks on a thousand small models, and their time
    python benchmarks/audit.py cost          simulations with and without 1,000 canaries

Faults are those of tests/audits/mechanism/planted.py, in the code that trains. Seeds are fixed; but
for times, a second run prints the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from privet import Execution, Experiment
from privet.audits import evidence
from privet.audits.deep.claims import deep_audit
from privet.audits.deep.record import DeepOptions
from privet.audits.laws import Conformance
from privet.audits.lower_bounds import View, one_run_bound, score
from privet.audits.mechanism import conformance
from privet.privacy.accounting import noise_multiplier_for
from privet.privacy.mechanisms import Canaries, DpSgd, ExampleLoss, SeededNoise
from privet.privacy.mechanisms.batched import OptimizerSettings, Row, chain_of, train_rows
from privet.privacy.mechanisms.canaries import CANARIES, CanaryObservation, read_observations
from privet.randomness import numpy_generator, stream
from privet.simulations import Engine
from privet.simulations.run import simulate

sys.path.append(str(Path(__file__).parent.parent / "tests" / "audits" / "mechanism"))
from planted import FAULTS, planted

DELTA = 1e-5
RATE, STEPS = 0.05, 200
VIEWS: tuple[View, ...] = ("steps", "updates", "model")


def experiment(seed: int, **changes: object) -> Experiment:
    return Experiment.from_mapping({"task": "digits"}).with_settings(
        {
            "model": "linear",
            "rounds": 4,
            "seed": seed,
            "federation.silos": 4,
            "training.batch_size": 32,
            "privacy.epsilon": 4.0,
            **changes,
        }
    )


def seen(settings: Experiment, canaries: int) -> list[CanaryObservation]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        simulate(settings, out=out, execution=Execution(engine="vectorised", canaries=canaries))
        return read_observations(out / CANARIES)


def audited(fault: str | None, seed: int) -> Conformance:
    with planted(fault):
        return conformance(seen(experiment(seed), canaries=64))


def conformance_table(faulty: int, correct: int) -> None:
    """Claimed epsilon 4; 4 silos, 4 rounds of 12 steps, 64 coordinates: 12,288 numbers."""
    passed = [audited(None, seed) for seed in range(correct)]
    alarms = sum(not found.conforms for found in passed)
    print(f"correct runs failed at level 0.01: {alarms} of {correct}")
    at_five = sum(found.p_value <= 0.05 for found in passed)
    print(f"                 at level 0.05: {at_five} of {correct}")
    for fault in FAULTS:
        found = sum(not audited(fault, seed).conforms for seed in range(faulty))
        print(f"{fault:32} found in {found:2} of {faulty}")
    many = seen(experiment(1, **{"rounds": 20, "federation.silos": 10}), canaries=100)
    values = sum(each.gradients.size for each in many)
    times = []
    for _ in range(11):
        start = time.perf_counter()
        conformance(many)
        times.append(time.perf_counter() - start)
    print(f"a look at {values:,} numbers: {1000 * statistics.median(times):.0f} ms")


def block(plan: DpSgd, seed: int, canaries: int) -> list[CanaryObservation]:
    """Of one silo's training with `canaries` coordinates, by the engine itself, as 10 rounds."""
    records = round(plan.batch_size / plan.sampling_rate)
    inputs, targets = torch.zeros(records, 1), torch.zeros(records, dtype=torch.int64)
    chain = chain_of(nn.Linear(1, 2), inputs)
    inserted = Canaries(numpy_generator(stream(seed, "coins")).random(canaries) < 0.5)
    draws = numpy_generator(stream(seed, "batches"))
    batches = list(plan.batches(records, draws, canaries=len(inserted.coordinates)))
    noise = SeededNoise(stream(seed, "noise"))
    weights = np.zeros(4, dtype=np.float32)
    row = Row(weights, inputs, targets, batches, 0.1, plan, noise, canaries=inserted)
    (outcome,) = train_rows(
        chain,
        [row],
        ExampleLoss(F.cross_entropy, separable=True),
        optimizer=OptimizerSettings(),
    )
    assert outcome.canaries is not None
    steps = zip(
        np.split(outcome.canaries.sampled, 10),
        np.split(outcome.canaries.gradients, 10),
        strict=True,
    )
    return [
        CanaryObservation("silo", round_, plan, inserted.inserted, sampled, gradients)
        for round_, (sampled, gradients) in enumerate(steps, start=1)
    ]


def one_run_table(audits: int) -> None:
    """A rate of 0.05 over 200 steps, delta 1e-5, confidence 95 %; medians."""
    for canaries in (200, 1000, 5000):
        for epsilon in (1.0, 2.0, 4.0, 8.0):
            sigma = noise_multiplier_for(
                epsilon=epsilon, delta=DELTA, sampling_rate=RATE, steps=STEPS
            )
            plan = DpSgd(
                noise_multiplier=sigma, clip=1.0, sampling_rate=RATE, steps=STEPS, batch_size=1.0
            )
            made = [block(plan, seed, canaries) for seed in range(audits)]
            start = time.perf_counter()
            bounds = {view: [bound(each, view) for each in made] for view in VIEWS}
            seconds = (time.perf_counter() - start) / audits / len(VIEWS)
            medians = ", ".join(f"{v} {statistics.median(b):.2f}" for v, b in bounds.items())
            highest = max(max(each) for each in bounds.values())
            print(
                f"m = {canaries}, epsilon {epsilon:g}: at least {medians}; "
                f"highest {highest:.2f}; {1000 * seconds:.0f} ms each"
            )


def bound(sightings: list[CanaryObservation], view: View) -> float:
    found = score(sightings, view=view)
    return one_run_bound(found.scores, found.inserted, delta=DELTA).epsilon


def deep_table(models: int) -> None:
    """A silo of 144 digits, batch 64, 120 steps in 40 rounds (mlp: 60 in 20); delta 1e-5.

    Bounds are Clopper and Pearson's and, behind the stroke, those under the Gaussian assumption.
    """
    for model, rounds in (("linear", 40), ("mlp", 20)):
        for epsilon in (1.0, 2.0, 4.0, 8.0):
            shape = {"model": model, "training.batch_size": 64, "training.lr": 0.5}
            settings = experiment(7, rounds=rounds, **{"federation.silos": 10, **shape})
            deeply(settings.with_settings({"privacy.epsilon": epsilon}), models)


def deeply(settings: Experiment, models: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        simulate(settings, out=out)
        own = evidence.read_own(out, subject="ledger", keys={})
        run = evidence.read_run(out, subject="run", others=(), own=own, policy=None)
        wall, cpu = time.perf_counter(), time.process_time()
        claims, record = deep_audit(run, DeepOptions(models, seed=1), lambda _done: None)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert record is not None
    bounds = [f"{bound.epsilon:.2f}" for bound in record.bounds]
    verdicts = {claim.verdict for claim in claims}
    print(
        f"{settings.model}, epsilon {record.claimed:.3g}: at least {'/'.join(bounds[:2])} from the "
        f"updates, {'/'.join(bounds[2:])} from the model; {' '.join(verdicts)}; "
        f"{wall:.0f} s, {cpu:.0f} s of CPU",
        flush=True,
    )


def cost_table(pairs: int) -> None:
    """10 silos, 5 rounds of 12 steps, 100 canary coordinates for each silo or none; CPU seconds."""
    data = os.environ.get("PRIVET_DATA")
    tasks = {"digits": None, "mnist": Path(data)} if data else {"digits": None}
    for task, folder in tasks.items():
        shape = {"task": task, "model": "mlp", "training.batch_size": 50, "training.steps": 12}
        settings = experiment(1, rounds=5, **{"federation.silos": 10}).with_settings(shape)
        for engine in ("in-process", "vectorised"):
            taken: dict[int, list[tuple[float, float]]] = {0: [], 100: []}
            for canaries in [0, 100] * (pairs + 1):
                taken[canaries].append(seconds(settings, engine, canaries, folder))
            runs = list(zip(taken[0], taken[100], strict=True))[1:]
            ratios = sorted(with_[0] / without[0] for without, with_ in runs)
            print(
                f"{task}, {engine}: {statistics.median(each[0][0] for each in runs):.2f} s without,"
                f" with canaries {statistics.median(ratios):.3f} times as long ({ratios[0]:.3f} to "
                f"{ratios[-1]:.3f}); audit {statistics.median(e[1][1] for e in runs):.3f} s",
                flush=True,
            )


def seconds(
    settings: Experiment, engine: Engine, canaries: int, data: Path | None
) -> tuple[float, float]:
    """Of CPU, for a run and for the audit of what was seen."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        execution = Execution(engine=engine, canaries=canaries)
        start = time.process_time()
        simulate(settings, out=out, execution=execution, data_dir=data)
        done = time.process_time()
        if found := read_observations(out / CANARIES):
            conformance(found)
            scored = score(found, view="steps")
            one_run_bound(scored.scores, scored.inserted, delta=DELTA)
        return done - start, time.process_time() - done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("conformance", "one-run", "deep", "cost"))
    parser.add_argument("--runs", type=int, help="fewer for a quick look")
    given = parser.parse_args()
    if given.what == "conformance":
        conformance_table(given.runs or 20, 5 * (given.runs or 20))
    elif given.what == "one-run":
        one_run_table(given.runs or 20)
    elif given.what == "deep":
        deep_table(given.runs or 1000)
    else:
        cost_table(given.runs or 7)


if __name__ == "__main__":
    main()
