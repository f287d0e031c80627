"""Intervals and comparisons against scipy, and against sums done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from privet.sweeps.results import Axis, Cell, Kind, Settings
from privet.sweeps.statistics import compare, estimate, half_width, holm, paired

ACCURACY = st.integers(0, 360).map(lambda right: right / 360)
ACCURACIES = st.lists(ACCURACY, min_size=2, max_size=8)


def _cell(
    settings: Settings, seed: int, accuracy: float | None, kind: Kind = "federated", **more: object
) -> Cell:
    address = f"{kind} {settings} {seed} {more}"
    known = {"status": "done", "baseline": kind != "federated", **more}
    return Cell(address, kind, settings=settings, seed=seed, accuracy=accuracy, **known)


@given(ACCURACIES)
def test_the_interval_is_scipys(values: list[float]) -> None:
    width = half_width(values)
    assert width is not None
    assume(np.ptp(values) > 0)
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    assert width == pytest.approx((high - low) / 2, rel=1e-9)


def test_the_interval_by_hand() -> None:
    # Mean 0.5, standard deviation 0.1, three values: t(0.975, 2) = 4.302653 over the root of 3.
    assert half_width([0.4, 0.5, 0.6]) == pytest.approx(0.1 * 4.302653 / math.sqrt(3), rel=1e-6)
    assert half_width([0.5]) is None


@given(st.lists(st.tuples(ACCURACY, ACCURACY), min_size=2, max_size=8))
def test_the_test_is_scipys_paired_one(pairs: list[tuple[float, float]]) -> None:
    first, second = map(np.array, zip(*pairs, strict=True))
    assume(np.ptp(second - first) > 1e-9)
    found = paired(dict(enumerate(first)), {**dict(enumerate(second)), 99: 0.5})
    expected = stats.ttest_rel(second, first)
    assert found.seeds == len(pairs)  # a seed of one of them alone does not count
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.difference == pytest.approx(np.mean(second) - np.mean(first))


def test_what_no_test_can_say() -> None:
    assert paired({1: 0.5}, {2: 0.5}).difference is None
    assert paired({1: 0.5}, {1: 0.75}).p is None
    assert paired({1: 0.8, 2: 0.2}, {1: 0.9, 2: 0.3}).p is None  # the same difference, but rounded
    assert paired({1: 0.5, 2: 0.25}, {1: 0.5, 2: 0.25}).p == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis(values: list[float]) -> None:
    for p, corrected in zip(values, holm(values), strict=True):
        assert corrected is not None
        assert p <= corrected <= min(1.0, len(values) * p)
    order = np.argsort(values, kind="stable")
    sequence = np.array(holm(values), dtype=float)[order]
    assert (np.diff(sequence) >= 0).all()


AXES = (Axis("privacy.epsilon", (8, 4)), Axis("training.lr", (0.1, 0.5)))


def test_neighbours_along_each_axis_are_compared() -> None:
    cells = [
        _cell(
            {"privacy.epsilon": epsilon, "training.lr": lr}, seed, epsilon / 10 + lr / 100 + noise
        )
        for epsilon in (8, 4)
        for lr in (0.1, 0.5)
        for seed, noise in ((0, 0.0), (1, 0.01 * epsilon * lr), (2, 0.02 * lr))
    ]
    cells += [
        _cell({"privacy.epsilon": math.inf, "training.lr": 0.1}, seed, 0.95, baseline=True)
        for seed in range(3)
    ]
    estimates = estimate(cells)
    found = [
        (estimates[each.first].settings, estimates[each.second].settings, each.key)
        for each in compare(cells, estimates, AXES)
    ]
    assert len(estimates) == 5
    assert [(f["privacy.epsilon"], s["privacy.epsilon"]) for f, s, k in found if "eps" in k] == [
        (8, math.inf),  # no DP is the end of the axis, asked for or not
        (4, 8),
        (4, 8),
    ]
    assert [(f["training.lr"], s["training.lr"]) for f, s, k in found if "lr" in k] == [
        (0.1, 0.5)
    ] * 2


def test_silos_alone_count_by_seed_and_are_compared_with_the_federation() -> None:
    cells = [_cell({"privacy.epsilon": 4}, seed, 0.8 + seed / 100) for seed in range(3)]
    alone = {0: (0.4, 0.6), 1: (0.5, 0.7), 2: (0.3, None)}
    for seed, accuracies in alone.items():
        for place, accuracy in enumerate(accuracies):
            cells.append(_cell({}, seed, accuracy, "alone", silo=f"silo-{place}"))
    federated, silos = estimate(cells)
    assert silos.seeds == (0, 1)  # the third is not whole
    assert (silos.mean, silos.lowest, silos.highest) == pytest.approx((0.55, 0.45, 0.65))
    [comparison] = compare(cells, [federated, silos], AXES[:1])
    assert (comparison.first, comparison.second, comparison.seeds) == (1, 0, 2)
    assert comparison.difference == pytest.approx(0.805 - 0.55)


def _words(differences: tuple[float, ...]) -> str:
    cells = [_cell({"privacy.epsilon": 4}, seed, 0.5) for seed, _ in enumerate(differences)]
    cells += [
        _cell({"privacy.epsilon": 8}, seed, 0.5 + more) for seed, more in enumerate(differences)
    ]
    [comparison] = compare(cells, estimate(cells), (Axis("privacy.epsilon", (4, 8)),))
    return comparison.words


def test_words_count_the_comparisons_that_were_tested() -> None:
    cells = [
        _cell({"privacy.epsilon": budget}, seed, 0.5 + 0.01 * budget + 0.001 * seed * budget)
        for budget, seeds in ((4, 3), (8, 3), (16, 1))
        for seed in range(seeds)
    ]
    found = compare(cells, estimate(cells), (Axis("privacy.epsilon", (4, 8, 16)),))
    assert [each.p is None for each in found] == [False, True]
    assert "Holm over 1 comparison)" in found[0].words


def test_the_outcome_in_words() -> None:
    assert _words((0.01, 0.012, 0.011)).startswith(
        "epsilon 8 is better than epsilon 4 by 0.0110 +- 0.0025 over 3 seeds (paired t, p = 0.0027"
    )
    assert _words((-0.01, -0.012, -0.011)).startswith("epsilon 4 is better than epsilon 8")
    assert _words((0.01, 0.03)) == (  # t = 2 with one degree of freedom
        "epsilon 4 against epsilon 8: no difference shown over 2 seeds "
        "(paired t, p = 0.3, Holm over 1 comparison)"
    )
    assert _words((0.01,)) == (
        "epsilon 4 against epsilon 8: +0.0100 with one seed: no test is possible"
    )
