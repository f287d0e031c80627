"""Each rule on numbers that can be followed by hand."""

import numpy as np
import pytest

from privet.strategies import RoundSkipped, load_strategy

CLOSE = {"rtol": 1e-6, "atol": 0}


def test_fedavg_weighs_by_records(run_round):
    # (1 * 1 + 3 * 4) / 4, (1 * 2 + 3 * 5) / 4
    moved = run_round(load_strategy("fedavg", {}), [[1, 2], [4, 5]], start=[10, 0], counts=[1, 3])
    assert moved.tolist() == [13.25, 4.25]
    assert moved.dtype == np.float32


def test_fedavg_can_count_every_silo_the_same(run_round):
    strategy = load_strategy("fedavg", {"weighting": "uniform"})
    assert run_round(strategy, [[1, 2], [4, 5]], counts=[1, 3]).tolist() == [2.5, 3.5]


def test_fedavgm_gathers_momentum(run_round):
    strategy = load_strategy("fedavgm", {"server_lr": 0.5, "server_momentum": 0.9})
    first = run_round(strategy, [[1]])
    second = run_round(strategy, [[1]], start=first)
    assert first.tolist() == [0.5]
    np.testing.assert_allclose(second, [0.5 + 0.5 * 1.9], **CLOSE)


@pytest.mark.parametrize(
    ("name", "options", "first", "second"),
    [
        # m = 0.1; v = 0.01000099; 0.1 * 0.1 / (0.10000495 + 0.001); then m = 0.19, v = 0.01990098
        ("fedadam", {"server_lr": 0.1}, 0.0990050487, 0.1337361055),
        # v = 1e-6 + 0.01, then 0.020001
        ("fedyogi", {"server_lr": 0.1}, 0.0990049997, 0.1334036471),
        # m = 1; v = 1e-6 + 1, then 2.000001
        ("fedadagrad", {}, 0.0999000500, 0.0706606958),
    ],
)
def test_adaptive_steps_follow_algorithm_2(run_round, name, options, first, second):
    strategy = load_strategy(name, options)
    one = run_round(strategy, [[1]])
    two = run_round(strategy, [[1]], start=[0])
    np.testing.assert_allclose([one[0], two[0]], [first, second], rtol=1e-6)


def test_yogi_lets_the_second_moment_fall_slowly(run_round):
    strategy = load_strategy("fedyogi", {"tau": 1.0, "beta_2": 0.9})
    run_round(strategy, [[0.5]])
    # v = 1 - 0.1 * 0.25 * sign(1 - 0.25), where Adam would have 0.9 + 0.025
    np.testing.assert_allclose(strategy.state()["v"], [0.975], **CLOSE)


def test_qfedavg_favours_the_silo_with_the_larger_loss(run_round):
    # lr = 0.5, q = 1: (1 * 1 + 4 * 2) / ((1 + 4) + (1 + 4) / 0.5)
    moved = run_round(load_strategy("qfedavg", {"q": 1}), [[1], [2]], losses=[1, 4])
    np.testing.assert_allclose(moved, [0.6], **CLOSE)


def test_qfedavg_without_q_is_the_plain_mean(run_round):
    strategy = load_strategy("qfedavg", {"q": 0})
    moved = run_round(strategy, [[1], [4]], losses=[0, 9], counts=[1, 100])
    np.testing.assert_allclose(moved, [2.5], **CLOSE)


def test_qfedavg_survives_silos_without_loss_and_updates_without_length(run_round):
    moved = run_round(load_strategy("qfedavg", {"q": 2}), [[0, 0], [0, 0]], losses=[0, 0])
    assert moved.tolist() == [0, 0]


def test_qfedavg_skips_a_round_whose_powers_leave_the_range_of_numbers(run_round):
    strategy = load_strategy("qfedavg", {"q": 100})
    for loss in (0.0, 1e9):
        with pytest.raises(RoundSkipped, match="power of q"):
            run_round(strategy, [[1]], losses=[loss])


def test_qfedavg_needs_the_learning_rate_of_the_silos():
    with pytest.raises(ValueError, match="learning rate"):
        load_strategy("qfedavg", {}).open(np.zeros(1, np.float32))


def test_the_median_of_an_even_count_is_the_mean_of_the_middle_two(run_round):
    strategy = load_strategy("fedmedian", {})
    assert run_round(strategy, [[1, 9], [2, 8], [100, 7]]).tolist() == [2, 8]
    assert run_round(strategy, [[1], [2], [4], [100]], counts=[1, 1, 1, 1e6]).tolist() == [3]


@pytest.mark.parametrize(
    ("fraction", "values", "mean"),
    [
        (0.0, [1, 2, 6], 3),
        (0.2, [9, 1, 2, 3, -50], 2),
        (0.2, [0, 1, 2, 100], 1.5),  # one from each end: rounded up, a liar among four is cut
        (0.4, [0, 1, 3, 100], 2),  # two from each end would leave nothing
        (0.2, [5, 7], 6),
        (0.2, [5], 5),
    ],
)
def test_the_trimmed_mean_cuts_from_both_ends(run_round, fraction, values, mean):
    strategy = load_strategy("trimmed-mean", {"fraction": fraction})
    np.testing.assert_allclose(run_round(strategy, [[v] for v in values]), [mean], **CLOSE)


@pytest.mark.parametrize(
    ("fraction", "count", "cut"), [(1 / 49, 49, 1), (1 / 49, 50, 2), (0.07, 100, 7), (0.3, 10, 3)]
)
def test_the_cut_is_not_at_the_mercy_of_rounding(run_round, fraction, count, cut):
    # 1 / 49 * 49 is just below 1, and 0.07 * 100 just above 7
    strategy = load_strategy("trimmed-mean", {"fraction": fraction})
    values = np.arange(count, dtype=np.float32) ** 2
    expected = values[cut : count - cut].mean()
    np.testing.assert_allclose(run_round(strategy, values[:, None]), [expected], **CLOSE)


POINTS = [[0], [1], [3], [4.5], [100]]  # squared distances to the nearest two: 10, 5, 6.25, 14.5


def test_krum_takes_the_update_nearest_to_its_neighbours(run_round):
    assert run_round(load_strategy("krum", {"byzantine": 1}), POINTS).tolist() == [1]


def test_multikrum_takes_the_plain_mean_of_the_best(run_round):
    counts = [1, 1, 9, 1, 1e6]
    chosen = load_strategy("multikrum", {"byzantine": 1, "keep": 2})
    assert run_round(chosen, POINTS, counts=counts).tolist() == [2]
    default = load_strategy("multikrum", {"byzantine": 1})  # 5 - 1 - 2 = 2 of them
    assert run_round(default, POINTS, counts=counts).tolist() == [2]


def test_krum_tells_updates_apart_that_differ_in_the_last_digits(run_round):
    # In float32, ||x||^2 + ||y||^2 - 2xy would see nothing but rounding here.
    step = np.float32(2**-10)
    points = [[4096, 4096 + k * step] for k in (0, 1, 3, 4.5, 100)]
    moved = run_round(load_strategy("krum", {"byzantine": 1}), points)
    assert moved.tolist() == [4096, 4096 + step]


def test_bulyan_averages_around_the_median_of_krums_choice(run_round):
    # Krum takes 2.1, 3.3, 1, 4.6, 6 in turn (then 6 and 0 are each other's neighbour, and 6 is
    # nearer to the next); of these the three closest to their median 3.3 are averaged.
    points = [[0], [1], [2.1], [3.3], [4.6], [6], [100]]
    moved = run_round(load_strategy("bulyan", {"byzantine": 1}), points)
    np.testing.assert_allclose(moved, [(2.1 + 3.3 + 4.6) / 3], **CLOSE)


def test_bulyan_without_liars_is_the_plain_mean(run_round):
    strategy = load_strategy("bulyan", {"byzantine": 0})
    np.testing.assert_allclose(run_round(strategy, [[1], [2], [6]]), [3], **CLOSE)


def _krum_scores(points, left, closest):
    """For each of `left`, the sum over its `closest` nearest others, then over one more, ..."""
    scores = {}
    for i in left:
        apart = sorted(float(np.sum((points[i] - points[j]) ** 2)) for j in left if j != i)
        scores[i] = [sum(apart[:k]) for k in range(closest, len(left))]
    return scores


@pytest.mark.parametrize("seed", range(10))
def test_krum_and_bulyan_equal_their_definitions(run_round, seed):
    f, n = 2, 12
    points = np.random.default_rng(seed).standard_t(2, size=(n, 3))
    points = points.astype(np.float32).astype(np.float64)
    first = _krum_scores(points, range(n), n - f - 2)
    np.testing.assert_array_equal(
        run_round(load_strategy("krum", {"byzantine": f}), points),
        points[min(first, key=first.__getitem__)],
    )
    left, picked = list(range(n)), []
    while len(picked) < n - 2 * f:
        scores = _krum_scores(points, left, max(1, len(left) - f - 2))
        picked.append(min(scores, key=scores.__getitem__))
        left.remove(picked[-1])
    expected = []
    for column in points[picked].T:
        middle = np.median(column)
        near = sorted(column, key=lambda value, middle=middle: abs(value - middle))
        expected.append(np.mean(near[: n - 4 * f]))
    moved = run_round(load_strategy("bulyan", {"byzantine": f}), points)
    np.testing.assert_allclose(moved, expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "enough"), [("krum", 7), ("multikrum", 7), ("bulyan", 11)])
def test_a_round_with_too_few_updates_is_skipped_with_the_reason(run_round, name, enough):
    strategy = load_strategy(name, {"byzantine": 2})
    with pytest.raises(RoundSkipped, match=f"{name} needs {enough} updates, {enough - 1} arrived"):
        run_round(strategy, np.eye(enough - 1))
    assert run_round(strategy, np.eye(enough)).shape == (enough,)
