"""Faults of a hostile or careless implementer, in the code that trains and evaluates.

Those of `mechanism.planted` are in the mechanism as a whole, canaries included; these spare the
canaries: what they get wrong is in the model's own layers, for records alone, behind the noisy
steps, or in what evaluation releases. Each replaces functions of one engine or of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from audits.mechanism import planted as whole
from privet.client import app, evaluation, training
from privet.client.silo import Silo
from privet.privacy.mechanisms import DpSgd, NoisyShare, SeededNoise, gradients, per_example
from privet.privacy.mechanisms.batched import rows
from privet.privacy.mechanisms.canaries import CANARY_NORM
from privet.randomness import stream
from privet.record.folder import RunFolder
from privet.simulations import vectorised
from privet.strategies import averaging

CANARIES = 48
"""How many coordinates the faults take for canaries', at the end of a draw."""

Fault = Callable[[ExitStack], None]
Draw = Callable[[Tensor, float], Tensor]

_normal = SeededNoise.normal
_batches = DpSgd.batches
_noise_of = Silo.noise
_release = NoisyShare.release


def _patched(where: Any, name: str, what: Any) -> Fault:
    return lambda stack: stack.enter_context(patch.object(where, name, what))


def _in_the_model(change: Draw) -> Fault:
    """Noise changed in the model's own coordinates; those of canaries stay."""

    def normal(self: SeededNoise, shape: Sequence[int], std: float) -> Tensor:
        drawn = _normal(self, shape, std)
        if drawn.numel() > 2 * CANARIES:  # not an evaluation's
            end = drawn.numel() - CANARIES if drawn.numel() % 10 != 0 else drawn.numel()
            flat = drawn.view(-1)
            flat[:end] = change(flat[:end].clone(), std)
        return drawn

    return _patched(SeededNoise, "normal", normal)


def _without(part: slice) -> Draw:
    def change(noise: Tensor, _std: float) -> Tensor:
        noise[part] = 0.0
        return noise

    return change


def _tiled(noise: Tensor, _std: float) -> Tensor:
    half = len(noise) // 2
    noise[half : 2 * half] = noise[:half]
    return noise


def _antithetic(noise: Tensor, _std: float) -> Tensor:
    half = len(noise) // 2
    noise[half : 2 * half] = -noise[:half]
    return noise


def _mirrored(noise: Tensor, _std: float) -> Tensor:
    half = len(noise) // 2
    noise[-half:] = noise[:half].flip(0)
    return noise


def _uniform(noise: Tensor, std: float) -> Tensor:
    return (torch.special.ndtr(noise / std) - 0.5) * std * 12**0.5


def _laplace(noise: Tensor, std: float) -> Tensor:
    share = torch.special.ndtr(noise.double() / std).clamp(1e-12, 1 - 1e-12)
    side = share - 0.5
    return (-(2**-0.5) * std * side.sign() * torch.log1p(-2 * side.abs())).float()


def _truncated(noise: Tensor, std: float) -> Tensor:
    cut = noise.clamp(-2 * std, 2 * std)
    return cut * (std / cut.std())


def _gridded(noise: Tensor, std: float) -> Tensor:
    return (noise / (0.1 * std)).round() * (0.1 * std)


def _rounds_and_silos_mixed(self: Silo, round_: int, use: str = "noise") -> Any:
    """Silo 2's noise in round 1 is silo 1's in round 2."""
    assert self.seed is not None
    return SeededNoise(stream(self.seed, use, self.index + round_))


def _autocorrelated(self: SeededNoise, shape: Sequence[int], std: float) -> Tensor:
    drawn = _normal(self, shape, std)
    before = self.__dict__.get("before")
    mixed = drawn if before is None else 0.6 * before + 0.8 * drawn
    self.__dict__["before"] = mixed
    return mixed.clone()


def _shifted(self: SeededNoise, shape: Sequence[int], std: float) -> Tensor:
    """A step's noise is that of the step before, moved by one place."""
    before = self.__dict__.get("before")
    drawn = _normal(self, shape, std)
    if before is not None and drawn.numel() > 2:
        drawn.view(-1)[1:] = before.view(-1)[:-1]
    self.__dict__["before"] = drawn.clone()
    return drawn


def _clipping(change: Callable[[Tensor, Tensor, Any], Tensor]) -> Fault:
    """Factors of records changed; canaries, far longer than records, are clipped as they should."""

    def factors(norms: Tensor, clip: float | Tensor) -> Tensor:
        right = gradients.clip_factors(norms, clip)
        canary = (norms / clip - CANARY_NORM).abs() < 1e-3
        return torch.where(canary, right, change(right, norms, clip))

    def plant(stack: ExitStack) -> None:
        for engine in (per_example, rows):
            stack.enter_context(patch.object(engine, "clip_factors", factors))

    return plant


def _first_unclipped(right: Tensor, _norms: Tensor, _clip: Any) -> Tensor:
    right = right.clone()
    right[..., 0] = 1.0
    return right


def _long_unclipped(right: Tensor, norms: Tensor, clip: Any) -> Tensor:
    return torch.where(norms > 20 * clip, 1.0, right)


def _batch_clipped(right: Tensor, norms: Tensor, clip: Any) -> Tensor:
    whole_ = norms.square().mean(-1, keepdim=True).sqrt()
    return gradients.clip_factors(whole_, clip).expand_as(norms)


def _normalised(right: Tensor, norms: Tensor, clip: Any) -> Tensor:
    """Every gradient to the clip norm, short ones too, times two."""
    return 2 * clip / (norms + 1e-6)


def _by_layer(stack: ExitStack) -> None:
    """Each layer's gradient to the whole clip norm."""

    def add_sums(layers: Any, factors: Tensor, into: Any) -> None:
        left = iter(into)
        for seen in layers:
            norms = seen.layer.squared_norms(seen.prepared, seen.backprops).sqrt()
            own = gradients.clip_factors(norms, 1.0).unsqueeze(2) * (factors > 0)
            parts = [next(left) for _ in seen.layer.shapes]
            seen.layer.add_sums(seen.prepared, seen.backprops * own, *parts)

    def add_clipped(self: Any, groups: Any, sums: Any) -> None:
        for group in groups:
            for part in group:
                norms = part.squared_norms().sqrt()
                part.add_weighted(gradients.clip_factors(norms, self._plan.clip), sums)

    stack.enter_context(patch.object(rows, "_add_sums", add_sums))
    stack.enter_context(patch.object(per_example.PrivateOptimizer, "_add_clipped", add_clipped))


def _records(change: Callable[[np.ndarray, int, np.random.Generator, float], np.ndarray]) -> Fault:
    """The records of each batch changed; the canaries in it stay."""

    def batches(
        self: DpSgd, n: int, rng: np.random.Generator, *, canaries: int = 0
    ) -> Iterator[np.ndarray]:
        other = np.random.default_rng(int(rng.integers(2**31)))
        for batch in _batches(self, n, rng, canaries=canaries):
            own = change(batch[batch < n], n, other, self.sampling_rate)
            yield np.concatenate([np.sort(own), batch[batch >= n]])

    return _patched(DpSgd, "batches", batches)


def _twice_as_often(own: np.ndarray, n: int, rng: np.random.Generator, rate: float) -> np.ndarray:
    return np.flatnonzero(rng.random(n) < min(1.0, 2 * rate))


def _fixed_size(own: np.ndarray, n: int, rng: np.random.Generator, rate: float) -> np.ndarray:
    return rng.choice(n, size=round(rate * n), replace=False)


def _all(own: np.ndarray, n: int, rng: np.random.Generator, rate: float) -> np.ndarray:
    return np.arange(n)


def _some_twice(own: np.ndarray, n: int, rng: np.random.Generator, rate: float) -> np.ndarray:
    return np.concatenate([own, own[:3]])


def _more_steps(stack: ExitStack) -> None:
    """Two steps more than the plan has, and than the ledger is told."""

    def batches(
        self: DpSgd, n: int, rng: np.random.Generator, *, canaries: int = 0
    ) -> Iterator[np.ndarray]:
        yield from _batches(replace(self, steps=self.steps + 2), n, rng, canaries=canaries)

    event = DpSgd.event

    def told(self: DpSgd, steps: int | None = None) -> Any:
        return event(self, None if steps is None else min(steps, self.steps))

    stack.enter_context(patch.object(DpSgd, "batches", batches))
    stack.enter_context(patch.object(DpSgd, "event", told))
    refuse = patch.object(per_example.PrivateOptimizer, "_refuse_what_is_not_planned", _nothing)
    stack.enter_context(refuse)
    stack.enter_context(patch.object(rows, "_check", lambda *_, **__: None))


def _nothing(*_: object, **__: object) -> None:
    return None


def _result(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    """What comes of a training, changed behind its last noisy step."""
    made = training.Trained

    def trained(update: np.ndarray, *args: Any, **options: Any) -> Any:
        return made(change(update).astype(np.float32), *args, **options)

    def plant(stack: ExitStack) -> None:
        for module in (training, vectorised):
            stack.enter_context(patch.object(module, "Trained", trained))

    return plant


def _one_more_step(update: np.ndarray) -> np.ndarray:
    """As a step without noise at the end would; of which records matters to nobody here."""
    return update + 0.01 * np.sign(update)


def _sent(stack: ExitStack) -> None:
    """The update is changed when it is about to be sent."""
    reply = app.TrainReply

    def changed(*args: Any, update: Any, **options: Any) -> Any:
        moved = None if update is None else (update * 1.05).astype(np.float32)
        return reply(*args, update=moved, **options)

    stack.enter_context(patch.object(app, "TrainReply", changed))


def _server(stack: ExitStack) -> None:
    """The server moves the model once more, by what no update says."""
    close = averaging._MeanRound.close

    def closed(self: Any, **options: Any) -> Any:
        return (close(self, **options) + 0.01).astype(np.float32)

    stack.enter_context(patch.object(averaging._MeanRound, "close", closed))


def _given_away(stack: ExitStack) -> None:
    """The model that is given away at the end is not that of the last round."""
    save = RunFolder.save_model

    def moved(self: RunFolder, tensors: Any, **facts: Any) -> None:
        moved = {name: values + np.float32(0.01) for name, values in tensors.items()}
        save(self, moved, **facts)

    stack.enter_context(patch.object(RunFolder, "save_model", moved))


def _actual_size(stack: ExitStack) -> None:
    """The sum is divided by how many records there really were."""
    step, pre_step = rows._Stack.step, per_example.PrivateOptimizer.pre_step

    def stacked(self: Any, number: int, noise: Tensor) -> None:
        kept = self._expected
        active = self._active(number)
        sizes = [max(1, int((row.batches[number] < len(row.inputs)).sum())) for row in active]
        self._expected = kept.clone()
        self._expected[: len(sizes), 0] = torch.tensor(sizes, dtype=torch.float32)
        own = self._model_of
        step(self, number, noise)
        self._expected, self._model_of = kept, own

    def single(self: Any, closure: Any = None) -> bool:
        count = max(1, self._model.batch or 1)
        plan = self._plan
        self._plan = replace(plan, batch_size=float(count))
        try:
            return bool(pre_step(self, closure))
        finally:
            self._plan = plan

    stack.enter_context(patch.object(rows._Stack, "step", stacked))
    stack.enter_context(patch.object(per_example.PrivateOptimizer, "pre_step", single))


def _weighted(stack: ExitStack) -> None:
    """Clipped gradients are multiplied afterwards, as by class weights or gathered batches."""

    def add_sums(layers: Any, factors: Tensor, into: Any) -> None:
        left = iter(into)
        for seen in layers:
            parts = [next(left) for _ in seen.layer.shapes]
            seen.layer.add_sums(seen.prepared, seen.backprops * factors * 1.5, *parts)

    def add_clipped(self: Any, groups: Any, sums: Any) -> None:
        for group in groups:
            norms = torch.stack([part.squared_norms() for part in group]).sum(0).sqrt()
            for part in group:
                factors = gradients.clip_factors(norms, self._plan.clip)
                part.add_weighted(factors * (1.5 if len(groups[0]) else 1.0), sums)

    stack.enter_context(patch.object(rows, "_add_sums", add_sums))
    stack.enter_context(patch.object(per_example.PrivateOptimizer, "_add_clipped", add_clipped))


def _evaluation(scale: float) -> Fault:
    def release(self: NoisyShare, values: Tensor, noise: Any) -> float:
        class Weak:
            def normal(self, shape: Sequence[int], std: float) -> Tensor:
                return noise.normal(shape, std) * scale  # type: ignore[no-any-return]

        return _release(self, values, Weak())

    return _patched(NoisyShare, "release", release)


def _evaluation_again(fields: Callable[[Silo, int], tuple[int, int]]) -> Fault:
    def noise(self: Silo, round_: int, use: str = "noise") -> Any:
        if not use.startswith("evaluation"):
            return _noise_of(self, round_, use)
        assert self.seed is not None
        return SeededNoise(stream(self.seed, use, *fields(self, round_)))

    return _patched(Silo, "noise", noise)


def _exact(stack: ExitStack) -> None:
    """A figure that is to have noise is released as it is."""
    figure = evaluation._Measured.figure

    def exact(self: Any, rule: Any) -> float:
        return figure(self, replace(rule, noise_multiplier=None))

    stack.enter_context(patch.object(evaluation._Measured, "figure", exact))


FAULTS: dict[str, Fault] = {
    **{f"whole: {name}": fault for name, fault in whole.FAULTS.items()},
    "no noise in the model": _in_the_model(_without(slice(None))),
    "half the noise in the model": _in_the_model(lambda noise, _: noise / 2),
    "no noise in the last 10 (biases)": _in_the_model(_without(slice(-10, None))),
    "no noise in the first layer": _in_the_model(_without(slice(0, 2048))),
    "no noise behind the first 300": _in_the_model(_without(slice(300, None))),
    "noise by the root of its deviation": _in_the_model(lambda n, std: n / std * std**0.5 * 0.7),
    "noise tiled": _in_the_model(_tiled),
    "noise antithetic": _in_the_model(_antithetic),
    "noise mirrored": _in_the_model(_mirrored),
    "noise uniform": _in_the_model(_uniform),
    "noise Laplace": _in_the_model(_laplace),
    "noise truncated": _in_the_model(_truncated),
    "noise on a coarse grid": _in_the_model(_gridded),
    "noise of (silo, round) by their sum": _patched(Silo, "noise", _rounds_and_silos_mixed),
    "noise that depends on the step before": _patched(SeededNoise, "normal", _autocorrelated),
    "noise moved by one place": _patched(SeededNoise, "normal", _shifted),
    "records clipped to five times": _clipping(
        lambda right, norms, clip: gradients.clip_factors(norms, 5 * clip)
    ),
    "first record not clipped": _clipping(_first_unclipped),
    "long gradients not clipped": _clipping(_long_unclipped),
    "batch clipped": _clipping(_batch_clipped),
    "gradients made twice as long": _clipping(_normalised),
    "norm of half the layers": _clipping(
        lambda right, norms, clip: gradients.clip_factors(norms / 2, clip)
    ),
    "clipped by layer": _by_layer,
    "multiplied after clipping": _weighted,
    "records twice as often": _records(_twice_as_often),
    "records in batches of one size": _records(_fixed_size),
    "all records in each step": _records(_all),
    "records twice in a step": _records(_some_twice),
    "more steps than charged": _more_steps,
    "divided by the real size": _actual_size,
    "a step without noise at the end": _result(_one_more_step),
    "averaged with what has no noise": _result(lambda update: update * 0.9),
    "changed when sent": _sent,
    "the server moves on": _server,
    "another model is given away": _given_away,
    "evaluation without noise": _evaluation(0.0),
    "evaluation with half the noise": _evaluation(0.5),
    "evaluation exact": _exact,
    "evaluation: noise of round 1": _evaluation_again(lambda silo, _: (silo.index, 1)),
    "evaluation: noise of silo 1": _evaluation_again(lambda _, round_: (1, round_)),
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """While the block lasts the fault `name` is in the code; none for None."""
    with ExitStack() as stack:
        if name is not None:
            FAULTS[name](stack)
        yield
