"""Randomness by name: coins are fair, and no two names share one."""

from __future__ import annotations

import math

from privet.randomness import coin

RATE, COINS = 0.01, 20_000


def test_coins_fall_below_a_rate_as_often_as_it_says() -> None:
    """Within 4 standard deviations, which fair coins leave for one seed in 15,000."""
    drawn = sum(coin(7, "participation", silo, 3) < RATE for silo in range(COINS))
    assert abs(drawn - RATE * COINS) < 4 * math.sqrt(COINS * RATE * (1 - RATE))


def test_a_coin_belongs_to_its_names_alone() -> None:
    names = [("a", 11), ("a1", 1), ("a", "11"), ("a", 1, 1)]
    coins = [coin(seed, *each) for seed in (0, 1) for each in names]
    assert len(set(coins)) == len(coins)
    assert coins == [coin(seed, *each) for seed in (0, 1) for each in names]
    assert all(0 <= each < 1 for each in coins)
