"""The same training very many times over, each time with canaries of its own among the records.

Every model starts as the run's did and is trained by the code that trains a silo; the server is the
run's strategy with this silo alone. What two observers see is kept as a number for each canary: of
the server, which gets an update in every round, and of somebody who has the last model. The
canaries are records as bad as they come, since epsilon is a promise about the worst case.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from privet.errors import DataError
from privet.privacy.mechanisms import DpSgd, ExampleLoss, SeededNoise
from privet.privacy.mechanisms.batched import Chain, OptimizerSettings, Row, train_rows
from privet.privacy.mechanisms.canaries import Floats, Mask
from privet.randomness import numpy_generator, one_thread, stream
from privet.strategies.strategy import RoundSkipped, Strategy, Update
from privet.tasks import Examples
from privet.vectors import FlatModel, Vector

OUTLIER_NORM = 3.0
"""The outlier's gradient at the start, in clip norms: clipping then leaves it at the bound, also
when the model has begun to learn it."""

_DOUBLINGS = 12


@dataclass(frozen=True)
class Canary:
    """A record that belongs to nobody: input (1, ...), target (1,)."""

    name: str
    inputs: Tensor
    targets: Tensor


def worst_case(
    records: Examples, targets: Tensor, flat: FlatModel, loss: ExampleLoss, *, clip: float
) -> tuple[Canary, ...]:
    """A mislabelled record of the silo's and one that lies where no record does.

    `targets` are all there are, in any silo; `flat` holds the weights that training starts from.
    DataError when all records have one target, so that none can be wrong.
    """
    known = torch.unique(targets)
    if len(known) < 2:
        raise DataError("all records have the same target: none can be mislabelled")
    first = records.take([0])
    wrong = known[known != first.targets[0]]
    mislabelled = _least_expected(first.inputs, wrong, flat, loss)
    far = _axis(records.inputs)
    outlier = _least_expected(far, known, flat, loss)
    scaled = _scaled(far, outlier, flat, loss, OUTLIER_NORM * clip)
    return (
        Canary("mislabelled", first.inputs, mislabelled),
        Canary("outlier", scaled, outlier),
    )


def _least_expected(inputs: Tensor, targets: Tensor, flat: FlatModel, loss: ExampleLoss) -> Tensor:
    """Of `targets` the one with the largest loss on the input, shape (1,)."""
    with torch.no_grad():
        outputs = flat.module(inputs)
        losses = [float(loss(outputs, target[None])) for target in targets]
    return targets[losses.index(max(losses))][None]


def _axis(inputs: Tensor) -> Tensor:
    """An input of length one along the number that is smallest in the records, shape (1, ...)."""
    flat = inputs.flatten(1)
    axis = torch.zeros_like(flat[:1])
    axis[0, int(flat.square().sum(0).argmin())] = 1.0
    return axis.view_as(inputs[:1])


def _scaled(
    inputs: Tensor, targets: Tensor, flat: FlatModel, loss: ExampleLoss, least: float
) -> Tensor:
    """The input, doubled until its gradient has at least that norm, or else the largest norm."""
    tried = [inputs * 2.0**power for power in range(_DOUBLINGS)]
    norms = [_norm(each, targets, flat, loss) for each in tried]
    largest = max(range(_DOUBLINGS), key=norms.__getitem__)
    return tried[next((place for place, norm in enumerate(norms) if norm >= least), largest)]


def _norm(inputs: Tensor, targets: Tensor, flat: FlatModel, loss: ExampleLoss) -> float:
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss(flat.module(inputs), targets), flat.parameters)
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


_MODELS_AT_ONCE = 50


@dataclass(frozen=True)
class TrainingRound:
    """One round of the silo's: its number, its mechanism and its learning rate."""

    number: int
    plan: DpSgd
    lr: float


@dataclass(frozen=True)
class Case:
    """What is trained: a silo's part in a run, and the canaries that some models get as well."""

    chain: Chain
    loss: ExampleLoss
    descent: OptimizerSettings
    strategy: Callable[[], Strategy]
    start: Vector
    records: Examples
    rounds: tuple[TrainingRound, ...]
    canaries: tuple[Canary, ...]


@dataclass(frozen=True)
class Observations:
    """What the observers know of m models, about each of c canaries."""

    inserted: Mask
    """Which canaries a model's records included, shape (m, c)."""
    products: Floats
    """Of the updates with the canary's gradient, summed over the rounds, shape (m, c)."""
    losses: Floats
    """Of the last model on the canary, shape (m, c)."""


def assignments(models: int, canaries: int, *, seed: int) -> Mask:
    """Which model gets which canary, shape (models, canaries).

    In each half of the models exactly one in two has it: one half chooses an attack, the other
    counts its errors. Otherwise chance decides, for each canary anew.
    """
    found = np.zeros((models, canaries), dtype=bool)
    halves = found[: models // 2], found[models // 2 :]
    for (number, half), canary in itertools.product(enumerate(halves), range(canaries)):
        rng = numpy_generator(stream(seed, "deep", "coins", number, canary))
        half[rng.permutation(len(half))[: len(half) // 2], canary] = True
    return found


def train_many(
    case: Case, inserted: Mask, *, seed: int, watch: Callable[[int], None]
) -> Observations:
    """Train a model for each row of `inserted`; `watch` is called with how many are done.

    A model's numbers depend on `seed`, its place and its row alone, whatever the number of models
    and of cores.
    """
    models = range(len(inserted))
    groups = [models[first : first + _MODELS_AT_ONCE] for first in models[::_MODELS_AT_ONCE]]
    done, parts = 0, []
    # Each group on one thread of torch's, so that no sum depends on the number of cores.
    with one_thread(), ThreadPoolExecutor(os.cpu_count(), "deep") as pool:
        train = partial(_train_group, case, inserted, seed)
        try:
            for group, part in zip(groups, pool.map(train, groups), strict=True):
                parts.append(part)
                watch(done := done + len(group))
        finally:
            pool.shutdown(cancel_futures=True)
    products, losses = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Observations(inserted, products, losses)


def _train_group(
    case: Case, inserted: Mask, seed: int, models: Sequence[int]
) -> tuple[Floats, Floats]:
    records = {bits: _records_with(case, bits) for bits in {tuple(inserted[m]) for m in models}}
    silos = [_Silo(case, records[tuple(inserted[model])], model, seed) for model in models]
    products = np.zeros((len(models), len(case.canaries)))
    for round_ in case.rounds:
        before = np.stack([silo.weights for silo in silos])
        gradients = canary_gradients(case, before)
        rows = [silo.row(round_) for silo in silos]
        outcomes = train_rows(case.chain, rows, case.loss, optimizer=case.descent)
        updates = np.stack([outcome.update for outcome in outcomes])
        products += dot_products(updates, gradients, round_)
        for silo, update in zip(silos, updates, strict=True):
            silo.server_step(round_, update)
    return products, _losses(case, np.stack([silo.weights for silo in silos]))


def _records_with(case: Case, bits: Sequence[bool]) -> Examples:
    chosen = [c for c, bit in zip(case.canaries, bits, strict=True) if bit]
    return Examples(
        torch.cat([case.records.inputs, *(each.inputs for each in chosen)]),
        torch.cat([case.records.targets, *(each.targets for each in chosen)]),
    )


class _Silo:
    """One model in training: the silo's part of a round and the server's."""

    def __init__(self, case: Case, examples: Examples, model: int, seed: int) -> None:
        self.weights = case.start
        self._examples = examples
        self._n_records = len(case.records)
        self._stream = seed, model
        self._strategy = case.strategy()
        self._memory: dict[str, Vector] = {}

    def row(self, round_: TrainingRound) -> Row:
        """The local training of a round, to run together with others'."""
        seed, model = self._stream
        draws = numpy_generator(stream(seed, "deep", "batches", model, round_.number))
        more = len(self._examples) - self._n_records
        self._local = self._strategy.local(
            weights=self.weights,
            extras=self._strategy.broadcast(),
            memory=self._memory,
            lr=round_.lr,
        )
        return Row(
            self.weights,
            self._examples.inputs,
            self._examples.targets,
            list(round_.plan.batches(self._n_records, draws, canaries=more)),
            round_.lr,
            plan=round_.plan,
            noise=SeededNoise(stream(seed, "deep", "noise", model, round_.number)),
            correction=self._local.correction,
        )

    def server_step(self, round_: TrainingRound, update: Vector) -> None:
        """The server's step, of this update alone; one out of range changes nothing."""
        extras = self._local.finish(update, round_.plan.steps)
        step = self._strategy.open(self.weights, lr=round_.lr)
        with suppress(ValueError, RoundSkipped):
            step.add(Update(update, weight=float(self._n_records), extras=extras))
            self.weights = step.close(round=round_.number, silos=1)


def dot_products(updates: Vector, gradients: Floats, round_: TrainingRound) -> Floats:
    """How far the updates (k, d) go along the canaries' gradients, shape (k, c).

    `gradients` (c, k, d) are the canaries' clipped gradients where the round began. In the unit of
    evidence: a canary that is sampled moves the sum by its gradient, the noise has a deviation of
    `noise_multiplier` clip norms, and to first order the log-likelihood ratio is this product.
    """
    plan = round_.plan
    sums = -updates.astype(np.float64) * (plan.batch_size / round_.lr)
    scale = plan.sampling_rate / (plan.noise_multiplier * plan.clip) ** 2
    return np.asarray(np.einsum("kd,ckd->kc", sums, gradients) * scale)


def canary_gradients(case: Case, weights: Vector) -> Floats:
    """The canaries' gradients at each of the weights (k, d), clipped; shape (c, k, d)."""
    clip = case.rounds[0].plan.clip
    parameters = torch.from_numpy(weights)
    inputs, targets = _canaries(case, len(weights))
    _, layers = case.chain.run(inputs, targets, _parts(case.chain, parameters), case.loss)
    found = torch.zeros(len(case.canaries), *parameters.shape)
    for number, rows in enumerate(found):
        left = iter(_parts(case.chain, rows))
        for seen in layers:
            into = [next(left) for _ in seen.layer.shapes]
            one = slice(number, number + 1)
            seen.layer.add_sums(seen.prepared[:, one], seen.backprops[:, one], *into)
    norms = found.norm(dim=2, keepdim=True)
    clipped = found * (clip / norms.clamp(min=clip))
    return np.asarray(clipped.numpy(), dtype=np.float64)


def _losses(case: Case, weights: Vector) -> Floats:
    inputs, targets = _canaries(case, len(weights))
    parameters = _parts(case.chain, torch.from_numpy(weights))
    outputs, _ = case.chain.run(inputs, targets, parameters, case.loss)
    found = [
        [float(case.loss(o[None], t[None])) for o, t in zip(of_model, true_targets, strict=True)]
        for of_model, true_targets in zip(outputs, targets, strict=True)
    ]
    return np.array(found)


def _canaries(case: Case, models: int) -> tuple[Tensor, Tensor]:
    """All canaries for each model: inputs (k, c, ...) and targets (k, c)."""
    inputs = torch.cat([each.inputs for each in case.canaries])
    targets = torch.cat([each.targets for each in case.canaries])
    return inputs.expand(models, *inputs.shape), targets.expand(models, *targets.shape)


def _parts(chain: Chain, flat: Tensor) -> list[Tensor]:
    """Views (k, *shape) of the parameters in (k, d)."""
    sizes = [math.prod(shape) for shape in chain.shapes]
    parts = torch.split(flat, sizes, dim=1)
    return [part.view(-1, *shape) for part, shape in zip(parts, chain.shapes, strict=True)]
