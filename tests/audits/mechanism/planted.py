"""Faults planted into the code that really trains: each replaces one named function of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from privet.client.silo import Silo
from privet.privacy.mechanisms import SeededNoise, gradients, per_example, plan
from privet.privacy.mechanisms.batched import rows
from privet.randomness import stream

Fault = Callable[[ExitStack], None]

_normal = SeededNoise.normal
_poisson_batches = plan.poisson_batches


def _noise(scale: float) -> Fault:
    def weak(self: SeededNoise, shape: Sequence[int], std: float) -> Tensor:
        return _normal(self, shape, std) * scale

    return _patched(SeededNoise, "normal", weak)


def _same_each_step(self: SeededNoise, shape: Sequence[int], std: float) -> Tensor:
    if "first" not in self.__dict__:
        self.__dict__["first"] = _normal(self, shape, std)
    return self.__dict__["first"].clone()


def _every_second_again(self: SeededNoise, shape: Sequence[int], std: float) -> Tensor:
    kept = self.__dict__.pop("kept", None)
    if kept is None:
        self.__dict__["kept"] = kept = _normal(self, shape, std)
    return kept.clone()


def _two_values(self: SeededNoise, shape: Sequence[int], std: float) -> Tensor:
    return _normal(self, shape, std).sign() * std


def _cut_off(self: SeededNoise, shape: Sequence[int], std: float) -> Tensor:
    # A little below 3, from where on the tail is counted.
    return _normal(self, shape, std).clamp_(-2.99 * std, 2.99 * std)


def _one_number(self: SeededNoise, shape: Sequence[int], std: float) -> Tensor:
    return _normal(self, (1,), std).expand(*shape).clone()


def _of_round_one(self: Silo, round_: int, use: str = "noise") -> SeededNoise:
    assert self.seed is not None
    return SeededNoise(stream(self.seed, use, self.index, 1))


def _of_silo_one(self: Silo, round_: int, use: str = "noise") -> SeededNoise:
    assert self.seed is not None
    return SeededNoise(stream(self.seed, use, 1, round_))


def _longer(norms: Tensor, clip: float | Tensor) -> Tensor:
    return gradients.clip_factors(norms, clip * 5)


def _batch(norms: Tensor, clip: float | Tensor) -> Tensor:
    """The norm of the whole batch decides; its examples' gradients are taken for orthogonal."""
    whole = norms.square().sum(-1, keepdim=True).sqrt()
    return gradients.clip_factors(whole, clip).expand_as(norms)


def _not_at_all(norms: Tensor, clip: float | Tensor) -> Tensor:
    return torch.ones_like(norms)


def _sampling(change: Callable[[float], float]) -> Fault:
    def batches(n: int, *, rate: float, steps: int, rng: np.random.Generator) -> Iterator[Any]:
        return _poisson_batches(n, rate=min(1.0, change(rate)), steps=steps, rng=rng)

    return _patched(plan, "poisson_batches", batches)


def _in_turns(n: int, *, rate: float, steps: int, rng: np.random.Generator) -> Iterator[Any]:
    """Shuffled passes in batches of equal size, accounted for as Poisson sampling."""
    order: list[int] = []
    for _ in range(steps):
        if len(order) < round(rate * n):
            order = list(rng.permutation(n))
        yield np.sort([order.pop() for _ in range(round(rate * n))])


def _patched(where: Any, name: str, what: Any) -> Fault:
    def plant(stack: ExitStack) -> None:
        stack.enter_context(patch.object(where, name, what))

    return plant


def _clipping(what: Any) -> Fault:
    def plant(stack: ExitStack) -> None:
        for engine in (per_example, rows):
            stack.enter_context(patch.object(engine, "clip_factors", what))

    return plant


FAULTS: dict[str, Fault] = {
    "no noise": _noise(0.0),
    "noise / 10": _noise(0.1),
    "noise / 2": _noise(0.5),
    "clip x 5": _clipping(_longer),
    "batch clipped": _clipping(_batch),
    "rate x 2": _sampling(lambda rate: 2 * rate),
    "all participate": _sampling(lambda rate: 1.0),
    "same noise each step": _patched(SeededNoise, "normal", _same_each_step),
    "noise repeats per round": _patched(Silo, "noise", _of_round_one),
    "noise twice in a row": _patched(SeededNoise, "normal", _every_second_again),
    "noise shared by silos": _patched(Silo, "noise", _of_silo_one),
    "one number for all coordinates": _patched(SeededNoise, "normal", _one_number),
    "noise of two values": _patched(SeededNoise, "normal", _two_values),
    "noise cut off": _patched(SeededNoise, "normal", _cut_off),
    "no clipping": _clipping(_not_at_all),
    "records take turns": _patched(plan, "poisson_batches", _in_turns),
}
"""By name: nine that have been seen in the wild or in other audits first, then others."""


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """While the block lasts the fault `name` is in the code; none for None."""
    with ExitStack() as stack:
        if name is not None:
            FAULTS[name](stack)
        yield
