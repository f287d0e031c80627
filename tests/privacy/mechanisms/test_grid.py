"""What is released lies on a grid: the attack on low bits, and neighbours after all rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from privet.errors import PrivacyError
from privet.privacy.accounting import epsilon
from privet.privacy.mechanisms import (
    DpSgd,
    ExampleLoss,
    NoisyCounts,
    NoisyShare,
    SeededNoise,
    SystemNoise,
    per_example,
    privatise,
)
from privet.privacy.mechanisms.batched import OptimizerSettings, Row, chain_of, rows, train_rows
from privet.privacy.mechanisms.batched.chain import Linear
from privet.privacy.mechanisms.gradients import clip_factors
from privet.privacy.mechanisms.grid import Grid, release
from privet.privacy.mechanisms.noise import NoiseSource
from privet.randomness import stream
from privet.vectors import FlatModel

Floats = NDArray[np.float64]
LOSS = ExampleLoss(F.cross_entropy, separable=True)


# The attack: one step over all records of a linear model that starts at zero; other records are
# zero there, so that the noisy sum is noise, or noise and the target's gradient, which is known.


def zeros(features: int) -> nn.Module:
    model = nn.Linear(features, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model.train()


class Target:
    """A record among `n`; those beside it are zero in all features."""

    def __init__(self, features: int, n: int) -> None:
        generator = torch.Generator().manual_seed(features * n)
        self.inputs = torch.zeros(n, features)
        self.inputs[-1] = torch.rand(features, generator=generator) * 2 - 1
        self.targets = torch.arange(n) % 2
        self.n = n
        self.model = zeros(features)
        self.chain = chain_of(self.model, self.inputs[:2])

    def plan(self, sigma: float) -> DpSgd:
        return DpSgd(sigma, 1.0, sampling_rate=1.0, steps=1, batch_size=self.n)

    def gradient(self, plan: DpSgd) -> Floats:
        """The target's clipped gradient over the weights, exactly."""
        x, outputs = self.inputs[-1], torch.tensor([0.5, 0.5])
        outputs[self.targets[-1]] -= 1
        layer = Linear(len(x), 2, bias=True)
        norm = layer.squared_norms(x[None, None], outputs[None, None])[0].sqrt()
        clipped = (outputs * clip_factors(norm, plan.clip)).double()
        grid = Grid.of(plan, 2 * len(x) + 2)
        return (torch.outer(clipped, x.double()).flatten() * grid.scale * grid.step).numpy()

    def batch(self, *, taken: bool) -> NDArray[np.int64]:
        return np.arange(self.n if taken else self.n - 1)


Engine = Callable[..., Floats]


def together(target: Target, plan: DpSgd, lr: float, runs: int, *, taken: bool) -> Floats:
    """What `runs` silos' updates say of the weights, by the batched engine."""
    start = FlatModel(target.model).vector()
    batches = [target.batch(taken=taken)]
    found = []
    for first in range(0, runs, 100):
        some = [
            Row(start, target.inputs, target.targets, batches, lr, plan, SystemNoise())
            for _ in range(min(100, runs - first))
        ]
        found += [
            result.update[:-2]
            for result in train_rows(target.chain, some, LOSS, optimizer=OptimizerSettings())
        ]
    return np.array(found)


def alone(target: Target, plan: DpSgd, lr: float, runs: int, *, taken: bool) -> Floats:
    """The same by `privatise`."""
    batch = torch.from_numpy(target.batch(taken=taken))
    inputs, targets = target.inputs[batch], target.targets[batch]
    found = []
    for _ in range(runs):
        model = zeros(target.inputs.shape[1])
        sgd = torch.optim.SGD(model.parameters(), lr=lr)
        with privatise(model, sgd, plan=plan, noise=SystemNoise()) as private:
            private.optimizer.zero_grad()
            private.backward(LOSS, private.model(inputs), targets)
            private.optimizer.step()
        found.append(model.weight.detach().numpy().flatten().copy())
    return np.array(found)


def sums_of(updates: Floats, lr: float, n: int) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """All float32 sums near those that an update would come from, and whether they give it."""
    seen = updates.astype(np.float32)
    sums = (-(seen.astype(np.float64)) / np.float64(np.float32(lr)) * n).astype(np.float32)
    found = []
    for _ in range(3):
        sums = np.nextafter(sums, np.float32(-np.inf))
    for _ in range(7):
        found.append((sums.astype(np.float64), -(np.float32(lr) * (sums / np.float32(n))) == seen))
        sums = np.nextafter(sums, np.float32(np.inf))
    return found


def impossible(updates: Floats, gradient: Floats, lr: float, n: int) -> Floats:
    """In how many coordinates no float32 noise plus the target's gradient gives the sum."""
    could, could_not = np.zeros(updates.shape, bool), np.zeros(updates.shape, bool)
    for sums, fits in sums_of(updates, lr, n):
        noise = sums - gradient
        off = np.abs(noise - noise.astype(np.float32).astype(np.float64))
        room = np.spacing(np.abs(sums).astype(np.float32)).astype(np.float64) * 0.75
        could |= fits & (off <= room)
        could_not |= fits
    return np.asarray((could_not & ~could).sum(1))


def beside_the_grid(updates: Floats, gradient: Floats, lr: float, n: int, step: float) -> Floats:
    """How far, in all, the sums without the target's gradient are from the grid."""
    sums = -updates.astype(np.float64) / lr * n
    off = (sums - gradient) / step
    return np.asarray(np.abs(off - np.rint(off)).sum(1))


def lower_bound(seen: Floats, other: Floats, delta: float, level: float) -> float:
    """On epsilon, from scores with and without the target: at `level`, for the best threshold.

    It is chosen on half of the trials and judged on the others (Clopper & Pearson).
    """
    half = len(seen) // 2
    cuts = np.unique(np.concatenate([seen[:half], other[:half]]))
    cuts = np.quantile(cuts, np.linspace(0, 1, 41))

    def bound(one: Floats, two: Floats, cut: float, sign: int, level: float) -> float:
        often, seldom = (int((sign * each > sign * cut).sum()) for each in (one, two))
        low = stats.beta.ppf(level / 2, often, len(one) - often + 1) if often else 0.0
        high = stats.beta.ppf(1 - level / 2, seldom + 1, len(two) - seldom)
        return math.log(max((low - delta) / (high if seldom < len(two) else 1.0), 1e-9))

    ways = [(*pair, cut, sign) for pair in ((0, 1), (1, 0)) for cut in cuts for sign in (1, -1)]
    scores = seen, other
    first, second, cut, sign = max(
        ways, key=lambda way: bound(scores[way[0]][:half], scores[way[1]][:half], *way[2:], 0.05)
    )
    return bound(scores[first][half:], scores[second][half:], cut, sign, level)


LEVEL = 1e-5
"""How often a sound release fails one case by chance; fifty cases fail once in 2,000 runs."""


def attack(engine: Engine, *, sigma: float, features: int, n: int, lr: float, trials: int) -> None:
    target = Target(features, n)
    plan = target.plan(sigma)
    gradient, step = target.gradient(plan), Grid.of(plan, 2 * features + 2).step
    seen, other = (engine(target, plan, lr, trials, taken=taken) for taken in (True, False))
    claimed = epsilon([plan.event(1)], delta=1e-5)
    for score in (
        partial(impossible, gradient=gradient, lr=lr, n=n),
        partial(beside_the_grid, gradient=gradient, lr=lr, n=n, step=step),
    ):
        assert lower_bound(score(seen), score(other), 1e-5, LEVEL / 4) <= claimed


@pytest.mark.parametrize(
    ("sigma", "features", "n", "lr"),
    [(10.0, 32, 2, 1.0), (10.0, 64, 16, 0.1), (30.0, 100, 8, 1.0)],
)
def test_low_bits_of_silos_trained_together_tell_nothing(
    sigma: float, features: int, n: int, lr: float
) -> None:
    attack(together, sigma=sigma, features=features, n=n, lr=lr, trials=2000)


def test_low_bits_of_a_silo_trained_alone_tell_nothing() -> None:
    attack(alone, sigma=10.0, features=64, n=2, lr=1.0, trials=800)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("features", [4, 32, 256])
@pytest.mark.parametrize(("n", "lr"), [(2, 1.0), (50, 0.1)])
def test_low_bits_tell_nothing_whatever_the_settings(
    sigma: float, features: int, n: int, lr: float
) -> None:
    attack(together, sigma=sigma, features=features, n=n, lr=lr, trials=2000)


@pytest.mark.slow
@pytest.mark.parametrize(("sigma", "features", "n"), [(10.0, 32, 2), (30.0, 100, 8), (2.0, 8, 64)])
def test_low_bits_of_the_plain_path_tell_nothing_whatever_the_settings(
    sigma: float, features: int, n: int
) -> None:
    attack(alone, sigma=sigma, features=features, n=n, lr=0.5, trials=2000)


def test_the_attack_would_find_what_it_looks_for() -> None:
    """Noise and a sum that are not both on the grid; the levels are those above."""
    rng = np.random.default_rng(1)
    gradient, step = rng.normal(size=64) / 4, 2.0**-20
    noise = step * np.rint(rng.normal(size=(2000, 64)) * 10 / step)
    cases = [(noise[:1000] + gradient, noise[1000:])]
    single = rng.normal(size=(2000, 64)).astype(np.float32)
    cases.append((single[:1000] + gradient.astype(np.float32), single[1000:]))
    scores = (
        partial(beside_the_grid, gradient=gradient, lr=1.0, n=1, step=step),
        partial(impossible, gradient=gradient, lr=1.0, n=1),
    )
    for (seen, other), score in zip(cases, scores, strict=True):
        assert lower_bound(score(-seen), score(-other), 1e-5, LEVEL / 4) > 0.5


# Neighbours: sums of clipped gradients in units of the grid, as they are released without noise.


def spied(patch: pytest.MonkeyPatch) -> list[Tensor]:
    """Each release's rounded sum, from now on; there is no noise."""
    seen: list[Tensor] = []

    def spy(total: Tensor, noise: Tensor, scale: float | Tensor) -> Tensor:
        assert not noise.any()
        seen.append(release(total, noise, scale).clone().flatten())
        return total

    patch.setattr(per_example, "release", spy)
    patch.setattr(rows, "release", spy)
    return seen


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    return spied(monkeypatch)


def own_output(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss by whose gradient a linear model without bias is a record's inputs."""
    return outputs.mean() + 0 * targets.sum()


def rounded(sums: list[Tensor], gradients: Tensor, plan: DpSgd, *, batched: bool) -> Tensor:
    """The sum over records whose gradients are `gradients` (n, d), in units of the clip norm."""
    n, d = gradients.shape
    model = nn.Linear(d, 1, bias=False).train()
    targets, noise = torch.zeros(n), SeededNoise(stream(1))
    sums.clear()
    if batched:
        chain = chain_of(model, gradients[:1])
        weights = FlatModel(model).vector()
        row = Row(weights, gradients, targets, [np.arange(n)], 0.0, plan, noise)
        train_rows(chain, [row], ExampleLoss(own_output, separable=True), optimizer=SGD)
    else:
        sgd = torch.optim.SGD(model.parameters(), lr=0.0)
        with privatise(model, sgd, plan=plan, noise=noise) as private:
            private.optimizer.zero_grad()
            outputs = private.model(gradients)
            private.backward(ExampleLoss(own_output, separable=True), outputs, targets)
            private.optimizer.step()
    step = Grid.of(plan, d).step
    assert torch.equal(sums[0], sums[0].round())
    return sums[0] * (step / plan.clip)


SGD = OptimizerSettings()


def plan_of(n: int, clip: float = 1.0) -> DpSgd:
    return DpSgd(0.0, clip, sampling_rate=1.0, steps=1, batch_size=n)


def adversarial(n: int, d: int, kind: str, seed: int) -> Tensor:
    """Gradients of n records, made to lose bits where they are added up."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(n, d))
    if kind == "magnitudes":
        made *= 10.0 ** rng.uniform(-20, 15, size=(n, 1))
    elif kind == "one direction":
        made = np.repeat(made[:1], n, axis=0) * rng.uniform(1, 2, size=(n, 1))
    elif kind == "cancelling":
        made[1::2] = -made[0 : 2 * (n // 2) : 2] * (1 + 1e-7 * rng.normal(size=(n // 2, 1)))
    elif kind == "one coordinate":
        made[:, 1:] *= 1e-12
    elif kind == "halves":
        made = np.sign(made) * 2.0 ** rng.integers(-18, -8, size=(n, d))
    return torch.from_numpy(made).float()


KINDS = ["normal", "magnitudes", "one direction", "cancelling", "one coordinate", "halves"]


@given(
    n=st.integers(2, 40),
    d=st.integers(1, 70),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32),
    clip=st.floats(1e-6, 1e6),
    data=st.data(),
    batched=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_neighbours_stay_within_the_clip_norm_after_all_rounding(
    n: int, d: int, kind: str, seed: int, clip: float, data: st.DataObject, batched: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        seen = spied(patch)
        gradients, plan = adversarial(n, d, kind, seed), plan_of(n, clip)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
        gone = data.draw(st.integers(0, n - 1))
        everybody = rounded(seen, gradients, plan, batched=batched)
        fewer = rounded(seen, gradients[order[order != gone]], plan, batched=batched)
        assert (everybody - fewer).norm() <= 1.0


@pytest.mark.parametrize("batched", [False, True], ids=["alone", "together"])
def test_many_records_do_not_pass_the_clip_norm_where_float32_would(
    sums: list[Tensor], batched: bool
) -> None:
    """With all large records the small ones are rounded up, without one they are not."""
    large, small = 2**14, 1024
    gradients = torch.cat([torch.ones(large), torch.full((small,), 1.001 * 2.0**-10)])[:, None]
    plan = plan_of(len(gradients))
    everybody = rounded(sums, gradients, plan, batched=batched)
    fewer = rounded(sums, gradients[1:], plan, batched=batched)
    assert (everybody - fewer).norm() <= 1.0
    in_float32 = np.cumsum(gradients.numpy())[-1] - np.cumsum(gradients[1:].numpy())[-1]
    assert in_float32 > 1.9


def test_the_bound_leaves_room_for_all_that_it_names() -> None:
    """The grid's own numbers against the derivation, with exact integers."""
    for sigma, clip, b, d in [(1.0, 1.0, 50, 50_890), (10.0, 0.3, 60_000, 7), (0.5, 40, 1, 10**8)]:
        plan = DpSgd(sigma, clip, sampling_rate=1e-3, steps=1, batch_size=b)
        grid = Grid.of(plan, d)
        assert math.frexp(grid.step)[0] == 0.5
        assert grid.step <= clip * 2.0**-12 / math.sqrt(d)
        u, left = (grid.most_records + 3) * 2.0**-53, grid.scale * grid.step
        off = 2 * grid.most_records * u / (1 - u)
        assert left * clip * (1 + off) + math.sqrt(d) * grid.step <= clip * (1 + 1e-15)
        assert left >= 1 - 3e-4
        assert grid.std == sigma * clip
        p = stats.poisson.logsf(grid.most_records, b)
        assert p < -2000


def test_what_float64_cannot_hold_is_refused() -> None:
    for change in ({"noise_multiplier": 1e12}, {"clip": 1e-300}, {"batch_size": 1e12}):
        fine = {"noise_multiplier": 1.0, "clip": 1.0, "sampling_rate": 1.0, "steps": 1}
        with pytest.raises(PrivacyError, match="float64"):
            Grid.of(DpSgd(**{**fine, "batch_size": 8.0, **change}), 10**6)
    with pytest.raises(PrivacyError, match="5,000 records where the plan expects 8"):
        Grid.of(plan_of(8), 10).check(5000)
    with pytest.raises(PrivacyError, match="must be at most"):
        NoisyShare(1e10)


@pytest.mark.parametrize("batched", [False, True], ids=["alone", "together"])
def test_a_batch_beyond_the_bound_is_refused(batched: bool) -> None:
    with pytest.raises(PrivacyError, match="where the plan expects 1"):
        rounded([], torch.ones(5000, 2), plan_of(1), batched=batched)


@pytest.mark.parametrize("engine", [together, alone])
def test_released_sums_lie_on_the_grid(engine: Engine) -> None:
    """Powers of two as size and rate: float32 then holds every integer to the last bit."""
    target = Target(3, 8)
    plan = target.plan(1.0)
    step = Grid.of(plan, 8).step
    integers = engine(target, plan, 1.0, 50, taken=True).astype(np.float64) * 8 / step
    assert (integers == np.rint(integers)).all()
    assert len(np.unique(integers % 16)) == 16  # and on no coarser one


@pytest.mark.parametrize("make", [SystemNoise, lambda: SeededNoise(stream(1, "grid"))])
@pytest.mark.parametrize("std", [0.7, 3.0])
def test_rounded_noise_takes_each_integer_as_often_as_the_gaussian(
    make: Callable[[], NoiseSource], std: float
) -> None:
    """Chi-square of 400,000 integers at level 1e-6; noise 2 % too small is refused at it."""
    drawn = make().normal((400_000,), std).round_().numpy()

    def p_value(std: float) -> float:
        edges = np.arange(-math.ceil(4 * std), math.ceil(4 * std) + 1) - 0.5
        expected = np.diff(stats.norm.cdf(np.array([-np.inf, *edges, np.inf]), scale=std))
        counts = np.histogram(drawn, np.array([-np.inf, *edges, np.inf]))[0]
        return float(stats.chisquare(counts, expected * len(drawn)).pvalue)

    assert p_value(std) > 1e-6
    assert p_value(std * 1.02) < 1e-6


def contexts(make: Callable[[], nn.Module], *, batched: bool, sums: list[Tensor]) -> float:
    """How far a record's part in a sum depends on who stands beside it, in clip norms."""
    torch.manual_seed(3)
    model, inputs = make().train(), torch.randn(40, 12)
    targets, plan = torch.arange(40) % 3, plan_of(40)
    weights = FlatModel(model).vector()
    step = Grid.of(plan, len(weights)).step

    def total(chosen: list[int]) -> Tensor:
        sums.clear()
        batch = np.array(chosen)
        if batched:
            row = Row(weights, inputs, targets, [batch], 0.0, plan, SeededNoise(stream(1)))
            train_rows(chain_of(model, inputs[:2]), [row], LOSS, optimizer=SGD)
        else:
            sgd = torch.optim.SGD(model.parameters(), lr=0.0)
            with privatise(model, sgd, plan=plan, noise=SeededNoise(stream(1))) as private:
                private.optimizer.zero_grad()
                private.backward(LOSS, private.model(inputs[batch]), targets[batch])
                private.optimizer.step()
        return sums[0] * step

    few, many = list(range(8)), list(range(1, 32))
    parts = [total([*others, 39]) - total(others) for others in (few, many)]
    return float((parts[0] - parts[1]).norm())


@pytest.mark.parametrize("batched", [False, True], ids=["alone", "together"])
def test_a_record_adds_the_same_whoever_stands_beside_it(sums: list[Tensor], batched: bool) -> None:
    """Up to the rounding of four sums. The batch's size used to be in the gradients' last bits."""

    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 3))

    grid = Grid.of(plan_of(40), sum(p.numel() for p in mlp().parameters()))
    assert contexts(mlp, batched=batched, sums=sums) <= 2 * grid.step * math.sqrt(64 * 16)


# Shares of records, released with noise.


class Known:
    """Numbers in place of noise."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = numbers

    def normal(self, shape: tuple[int, ...], std: float) -> Tensor:
        return torch.tensor(self._numbers, dtype=torch.float64)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.floats(-1e3, 1e3),
    st.floats(-1e3, 1e3),
)
def test_a_share_comes_from_integers_of_a_grid(values: list[float], a: float, b: float) -> None:
    """Neither values nor noise have low bits that would tell what was added to what."""
    grid = 2.0**-20
    exact = [round(v / grid) * grid for v in values]
    known = Known(round(a / grid) * grid, round(b / grid) * grid)
    share = NoisyShare(3.0).release(torch.tensor(values, dtype=torch.float64), Known(a, b))
    assert share == NoisyShare(3.0).release(torch.tensor(exact, dtype=torch.float64), known)


def test_a_share_of_many_records_is_exact() -> None:
    """Sums of floating-point numbers would depend on the order, and pass the bound."""
    values = torch.rand(200_000, generator=torch.Generator().manual_seed(1))
    shares = {
        NoisyShare(3.0).release(values[torch.randperm(len(values))], Known(0.3, 0.7))
        for _ in range(5)
    }
    assert len(shares) == 1


def test_counts_are_integers_of_a_grid_and_a_record_moves_one() -> None:
    class Fixed(NoiseSource):
        def normal(self, shape: tuple[int, ...], std: float) -> Tensor:
            generator = torch.Generator().manual_seed(3)
            return std * torch.randn(shape, generator=generator)

    cells = torch.tensor([0, 3, 3, 1, -1, 4])  # two of them in no cell
    release = partial(NoisyCounts(3.0).release, size=4, noise=Fixed())
    found = torch.tensor(release(cells), dtype=torch.float64)
    assert (found * 2**20 == (found * 2**20).round()).all()
    without = torch.tensor(release(cells[1:]), dtype=torch.float64)
    assert (found - without).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert (found - torch.tensor([1.0, 1.0, 0.0, 2.0])).abs().max() > 0
    with pytest.raises(PrivacyError, match="at most"):
        NoisyCounts(2.0**29)
