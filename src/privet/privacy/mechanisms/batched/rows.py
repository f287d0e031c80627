"""The training loop and its optimizer over K silos, a row each with its own learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from privet.devices import CPU, Device, exact_place
from privet.errors import PrivacyError
from privet.privacy.mechanisms.batched.chain import Chain, LayerPass
from privet.privacy.mechanisms.canaries import CANARY_NORM, Canaries, CanaryTrace, split
from privet.privacy.mechanisms.gradients import clip_factors
from privet.privacy.mechanisms.grid import Grid, release
from privet.privacy.mechanisms.losses import ExampleLoss
from privet.privacy.mechanisms.noise import NoiseSource
from privet.privacy.mechanisms.plan import DpSgd
from privet.vectors import Vector

_BETAS = 0.9, 0.999
_EPS = 1e-8


@dataclass(frozen=True)
class OptimizerSettings:
    """SGD, Adam and AdamW exactly as torch.optim has them, with their defaults for what is not
    named, but for a weight decay of zero."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0

    def begin(self, weights: Tensor) -> BatchedOptimizer:
        """An optimizer of `weights`, shape (K, d), that has not stepped yet."""
        kept = 2 if self.optimizer != "sgd" else 1 if self.momentum else 0
        return BatchedOptimizer(self, [torch.zeros_like(weights) for _ in range(kept)])


@dataclass
class BatchedOptimizer:
    """An optimizer with what it keeps from step to step."""

    settings: OptimizerSettings
    kept: list[Tensor]
    taken: int = 0

    def step(self, weights: Tensor, gradient: Tensor, rates: Tensor) -> None:
        """Move the first k silos' weights (k, d) against `gradient`; `rates` has shape (k, 1).

        In place, and the gradient is used up.
        """
        self.taken += 1
        decay = self.settings.weight_decay
        if decay and self.settings.optimizer == "adamw":
            weights.mul_(1 - rates * decay)
        elif decay:
            gradient.add_(weights, alpha=decay)
        move = self._sgd if self.settings.optimizer == "sgd" else self._adam
        move(weights, gradient, [each[: len(weights)] for each in self.kept], rates)

    def _sgd(self, weights: Tensor, gradient: Tensor, kept: list[Tensor], rates: Tensor) -> None:
        for velocity in kept:
            gradient = velocity.mul_(self.settings.momentum).add_(gradient)
        weights.addcmul_(gradient, rates, value=-1)

    def _adam(self, weights: Tensor, gradient: Tensor, kept: list[Tensor], rates: Tensor) -> None:
        mean, square = kept
        mean.lerp_(gradient, 1 - _BETAS[0])
        square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        spread = (square.sqrt() / math.sqrt(1 - _BETAS[1] ** self.taken)).add_(_EPS)
        rates = rates / (1 - _BETAS[0] ** self.taken)
        weights.addcdiv_(mean * rates, spread, value=-1)


Correction = Callable[[list[nn.Parameter]], None]

_LARGE = 2**20
"""Numbers in a batch from which a row goes alone: the copies then cost more than the calls."""


@dataclass(frozen=True)
class Row:
    """One silo's local training; `plan` and `noise` are its DP-SGD, None for plain steps."""

    weights: Vector
    """To start from, shape (d,)."""
    inputs: Tensor
    targets: Tensor
    batches: Sequence[NDArray[np.int64]]
    """The indices of each step's records; under DP-SGD those of `plan.batches`."""
    lr: float
    plan: DpSgd | None = None
    noise: NoiseSource | None = None
    correction: Correction | None = None
    """Adds to the gradients before each step and after any noise."""
    canaries: Canaries | None = None
    """Take part under DP-SGD; batches number them from the number of records on."""


@dataclass
class RowResult:
    """What a row's training gave."""

    update: Vector
    """Local minus first weights, shape (d,)."""
    losses: list[float] = field(default_factory=list)
    """Mean loss of each batch; none under DP-SGD, which does not cover it."""
    nonfinite: int = 0
    """Examples whose gradient was infinite or NaN and counted as zero, under DP-SGD."""
    canaries: CanaryTrace | None = None
    """What the steps made of them, where some took part."""


def train_rows(
    chain: Chain,
    rows: Sequence[Row],
    loss: ExampleLoss,
    *,
    optimizer: OptimizerSettings,
    device: Device = CPU,
) -> list[RowResult]:
    """Train every row from its weights, one step a batch; outcomes in the order of `rows`.

    Records may lie on `device`, on which all is computed, or follow batch by batch.
    Guarantee, under DP-SGD: a row's update is the one that `privatise` gives with its plan, batches
    and noise, up to rounding in float32. Raises PrivacyError for rows with DP-SGD beside rows
    without, for DP-SGD without noise, for more batches than a plan has steps, and for rows with
    differently many coordinates for canaries.
    """
    for row in rows:
        _check(row, private=rows[0].plan is not None, block=_width(rows[0]))
    if len(rows) > 1 and max(map(_largest, rows)) > _LARGE:
        return [_train_stacked(chain, [row], loss, optimizer, device)[0] for row in rows]
    return _train_stacked(chain, rows, loss, optimizer, device)


def _train_stacked(
    chain: Chain,
    rows: Sequence[Row],
    loss: ExampleLoss,
    optimizer: OptimizerSettings,
    device: Device,
) -> list[RowResult]:
    # The longest come first, so that those which still train are always the first.
    order = sorted(range(len(rows)), key=lambda place: -len(rows[place].batches))
    stack = _Stack(chain, [rows[place] for place in order], loss, optimizer, device)
    for number, noise in enumerate(stack.noise()):
        stack.step(number, noise)
    return [stack.outcome(order.index(place)) for place in range(len(rows))]


def _largest(row: Row) -> int:
    """Numbers in the inputs of the row's largest batch."""
    return max(map(len, row.batches), default=0) * math.prod(row.inputs.shape[1:])


def _width(row: Row) -> int:
    return len(row.canaries) if row.canaries else 0


def _check(row: Row, *, private: bool, block: int) -> None:
    if (row.plan is not None, row.noise is not None) != (private, private):
        raise PrivacyError(
            "rows that train in one batch are all with DP-SGD and noise, or all without"
        )
    if row.plan is not None and len(row.batches) > row.plan.steps:
        raise PrivacyError(f"{len(row.batches)} batches for a plan of {row.plan.steps} steps")
    if row.plan is not None:
        Grid.of(row.plan, len(row.weights)).check(max(map(len, row.batches), default=0))
    if _width(row) != block or (block and not private):
        raise PrivacyError("rows that train in one batch have equally many canaries, under DP-SGD")


class _Stack:
    """The rows' weights and gradients, each one tensor that the layers see in parts.

    Its shape is (K, d + m): behind the d weights of the model lie those of the m canaries.
    """

    def __init__(
        self,
        chain: Chain,
        rows: Sequence[Row],
        loss: ExampleLoss,
        optimizer: OptimizerSettings,
        device: Device,
    ) -> None:
        self._device = device
        self._exact = exact_place(device.place)
        self._rows = rows
        self._chain = chain
        self._loss = loss
        models = torch.from_numpy(np.stack([row.weights for row in rows]))
        self._model = models.shape[1]
        self._weights = F.pad(models, (0, _width(rows[0]))).to(device.place)
        self._traces = [CanaryTrace(len(row.canaries)) if row.canaries else None for row in rows]
        self._steps = optimizer.begin(self._weights)
        self._rates = torch.tensor([[row.lr] for row in rows], device=device.place)
        plans = [row.plan for row in rows if row.plan is not None]
        self._private = bool(plans)
        self._gradients = torch.empty_like(self._weights)
        if self._private:
            shape = self._weights.shape
            self._sums = torch.empty(shape, dtype=torch.float64, device=self._exact)
            self._noise = tuple(torch.empty(shape, dtype=torch.float64) for _ in range(2))
        self._grids = [Grid.of(plan, self._model) for plan in plans]
        self._clips = self._column([plan.clip for plan in plans])
        self._scales = self._column([grid.scale for grid in self._grids])
        self._units = self._column([grid.step for grid in self._grids])
        self._expected = self._column([plan.batch_size for plan in plans])
        self._losses: list[list[Tensor]] = [[] for _ in rows]
        self._nonfinite = torch.zeros(len(rows), dtype=torch.int64, device=self._exact)

    def _column(self, values: Sequence[float]) -> Tensor:
        columns = [[value] for value in values]
        return torch.tensor(columns, dtype=torch.float64, device=self._exact)

    def noise(self) -> Iterator[Tensor | None]:
        """For each step the integers of its noise, float64 (k, d), if there is any.

        Noise takes as long as a third of the arithmetic. A thread draws it while the step before
        runs, each row's from the row's own source and in order, so that no number depends on it.
        """
        steps = range(len(self._rows[0].batches))
        if not self._private:
            yield from (None for _ in steps)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="noise") as helper:
            ahead = helper.submit(self._drawn, 0)
            for number in steps:
                drawn = ahead.result()
                ahead = helper.submit(self._drawn, number + 1)
                yield drawn

    def _drawn(self, number: int) -> Tensor:
        rows = self._active(number)
        # Two buffers in turn: the step before may still be adding the other one.
        drawn = self._noise[number % 2][: len(rows)]
        for place, row in enumerate(rows):
            assert row.noise is not None  # `_check` looked
            drawn[place] = self._grids[place].noise(row.noise, drawn.shape[1])
        return drawn

    def step(self, number: int, noise: Tensor | None) -> None:
        """The optimizer step `number`, from 0, of the rows that have so many batches."""
        rows = self._active(number)
        active = len(rows)
        weights = self._weights[:active]
        drawn = [split(row.batches[number], len(row.inputs)) for row in rows]
        inputs, targets, taken = self._device.moved(
            _padded(rows, [records for records, _ in drawn])
        )
        outputs, layers = self._chain.run(
            inputs, targets, self._parts(weights), self._loss, self._device
        )
        gradients = self._gradients[:active]
        sampled = [
            _coordinates(row, canaries) for row, (_, canaries) in zip(rows, drawn, strict=True)
        ]
        if noise is None:
            shares = self._shares(outputs, targets, layers, taken)
            _add_sums(layers, shares.unsqueeze(2), self._parts(gradients.zero_()))
        else:
            for seen in layers:
                seen.prepared = seen.prepared.to(self._exact)
                seen.backprops = seen.backprops.to(self._exact)
            sums = self._clipped_sums(layers, taken.to(self._exact), sampled)
            gradients.copy_(release(sums, noise.to(self._exact), self._scales[:active]))
            gradients.mul_((self._units / self._expected)[:active].float().to(gradients.device))
        for place, row in enumerate(rows):
            if (trace := self._traces[place]) is not None:
                trace.coordinates.append(sampled[place])
                trace.private.append(gradients[place, self._model :].to("cpu", copy=True))
            if row.correction is not None:
                row.correction(self._model_of(place, gradients))
        self._steps.step(weights, gradients, self._rates[:active])

    def outcome(self, place: int) -> RowResult:
        """What the row at `place` has come to."""
        update = self._weights[place, : self._model].cpu().numpy() - self._rows[place].weights
        lost = int(self._nonfinite[place])
        losses = [float(loss) for loss in self._losses[place]]
        return RowResult(update, losses, lost, self._traces[place])

    def _active(self, number: int) -> Sequence[Row]:
        return self._rows[: sum(len(row.batches) > number for row in self._rows)]

    def _parts(self, flat: Tensor) -> list[Tensor]:
        """Views (K, *shape) of the model's parameters in (K, d + m)."""
        sizes = [math.prod(shape) for shape in self._chain.shapes]
        parts = torch.split(flat[:, : self._model], sizes, dim=1)
        return [
            part.view(-1, *shape) for part, shape in zip(parts, self._chain.shapes, strict=True)
        ]

    def _model_of(self, place: int, gradients: Tensor) -> list[nn.Parameter]:
        """One row's weights, as a model of its own would have them, with their gradients."""
        parameters = []
        for weights, parts in zip(self._parts(self._weights), self._parts(gradients), strict=True):
            parameters.append(nn.Parameter(weights[place]))
            parameters[-1].grad = parts[place]
        return parameters

    def _shares(
        self, outputs: Tensor, targets: Tensor, layers: Sequence[LayerPass], taken: Tensor
    ) -> Tensor:
        """How much of each example's gradient counts without DP-SGD, (K, B); 0 for what pads."""
        counts = taken.sum(1)
        for place, count in enumerate(counts.tolist()):
            loss = self._loss(outputs[place, :count], targets[place, :count])
            self._losses[place].append(loss.detach())  # a device is asked for it at the end
        if not taken.all():
            _drop(layers, ~taken)
        return taken / counts.unsqueeze(1)

    def _clipped_sums(
        self, layers: Sequence[LayerPass], taken: Tensor, sampled: Sequence[NDArray[np.int64]]
    ) -> Tensor:
        """The sums of clipped gradients, float64 (k, d)."""
        canary_norms, places = (
            each.to(self._exact) for each in _canary_norms(self._rows[: len(taken)], sampled)
        )
        factors = self._factors(layers, taken, canary_norms)
        examples, canaries = torch.split(factors, [taken.shape[1], canary_norms.shape[1]], dim=1)
        sums = self._sums[: len(taken)].zero_()
        _add_sums(layers, examples.unsqueeze(2), self._parts(sums))
        sums[:, self._model :].scatter_add_(1, places, canary_norms * canaries)
        return sums

    def _factors(self, layers: Sequence[LayerPass], taken: Tensor, canary_norms: Tensor) -> Tensor:
        """What clips each example's and canary's gradient, float64 (k, B + C); 0 for what pads."""
        parts = [seen.layer.squared_norms(seen.prepared, seen.backprops) for seen in layers]
        norms = torch.stack(parts).sum(0).sqrt_()
        lost = ~norms.isfinite()
        if lost.any():
            self._nonfinite[: len(lost)] += (lost & taken).sum(1)
            _drop(layers, lost)
            norms = torch.where(lost, 0.0, norms)
        norms, taken = torch.cat([norms, canary_norms], 1), torch.cat([taken, canary_norms > 0], 1)
        return clip_factors(norms, self._clips[: len(norms)]) * taken


def _padded(
    rows: Sequence[Row], batches: Sequence[NDArray[np.int64]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (K, B, ...), targets (K, B), and which of them were taken, a mask (K, B).

    B is the size of the largest batch; others are filled up with the first record, which then
    counts for nothing. One row's batch of all its records is not copied.
    """
    if len(rows) == 1 and _everything(rows[0], batches[0]):
        everyone = torch.ones(1, len(batches[0]), dtype=torch.bool)
        return rows[0].inputs.unsqueeze(0), rows[0].targets.unsqueeze(0), everyone
    longest = max(map(len, batches))
    indices = np.zeros((len(rows), longest), dtype=np.int64)
    for place, batch in enumerate(batches):
        indices[place, : len(batch)] = batch
    chosen = torch.from_numpy(indices)
    inputs = rows[0].inputs.new_empty(len(rows), longest, *rows[0].inputs.shape[1:])
    targets = rows[0].targets.new_empty(len(rows), longest, *rows[0].targets.shape[1:])
    for place, row in enumerate(rows):
        _take(row.inputs, chosen[place], into=inputs[place])
        _take(row.targets, chosen[place], into=targets[place])
    counts = torch.tensor([len(batch) for batch in batches])
    return inputs, targets, torch.arange(longest) < counts.unsqueeze(1)


def _take(values: Tensor, index: Tensor, *, into: Tensor) -> None:
    index = index.to(values.device)
    if values.device == into.device:
        torch.index_select(values, 0, index, out=into)
    else:  # of some silos the records lie on the device, and of others they do not fit
        into.copy_(values.index_select(0, index))


def _everything(row: Row, batch: NDArray[np.int64]) -> bool:
    whole = len(batch) == len(row.inputs)
    return whole and np.array_equal(np.sort(batch), np.arange(len(batch)))


def _coordinates(row: Row, canaries: NDArray[np.int64]) -> NDArray[np.int64]:
    return row.canaries.coordinates[canaries] if row.canaries else canaries


def _canary_norms(
    rows: Sequence[Row], sampled: Sequence[NDArray[np.int64]]
) -> tuple[Tensor, Tensor]:
    """The canaries' gradient norms and their coordinates, both (K, C); 0 for what only pads."""
    canary_norms = torch.zeros(len(rows), max(map(len, sampled)), dtype=torch.float64)
    places = torch.zeros(canary_norms.shape, dtype=torch.int64)
    for place, (row, coordinates) in enumerate(zip(rows, sampled, strict=True)):
        if row.plan is not None:
            canary_norms[place, : len(coordinates)] = CANARY_NORM * row.plan.clip
            places[place, : len(coordinates)] = torch.from_numpy(coordinates)
    return canary_norms, places


def _drop(layers: Sequence[LayerPass], examples: Tensor) -> None:
    """Make the gradients of the examples marked in a mask (K, B) exactly zero."""
    kept = ~examples.unsqueeze(2)
    for seen in layers:
        seen.prepared = torch.where(kept, seen.prepared, 0.0)
        seen.backprops = torch.where(kept, seen.backprops, 0.0)


def _add_sums(layers: Sequence[LayerPass], factors: Tensor, gradients: Sequence[Tensor]) -> None:
    left = iter(gradients)
    for seen in layers:
        into = [next(left) for _ in seen.layer.shapes]
        seen.layer.add_sums(seen.prepared, seen.backprops * factors, *into)
