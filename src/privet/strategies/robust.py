"""Strategies that look at the updates one beside the other, to outvote silos that lie.

They keep every update until the round closes, and cannot work under encryption. Flower's take whole
messages with whole models; the rules themselves are shorter than that wrapping, and
`privet.strategies.robust_rules` says where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from privet.strategies.strategy import Round, State, Strategy, Update, Vector

Rule = Callable[[Sequence[Vector]], Vector]


class Robust(Strategy):
    """Moves by `rule` of the round's updates; a round with less than `fewest` is skipped."""

    def __init__(self, *, name: str, rule: Rule, fewest: int = 1) -> None:
        super().__init__()
        self.name = name
        self.rule = rule
        self.fewest = fewest

    def _round(self, weights: Vector, lr: float | None) -> Round:  # noqa: ARG002
        return _WholeRound(self, weights)


class _WholeRound(Round):
    strategy: Robust

    def __init__(self, strategy: Robust, weights: Vector) -> None:
        super().__init__(strategy, weights)
        self._vectors: list[Vector] = []

    def _take(self, update: Update) -> None:
        self._vectors.append(update.vector)

    def _combine(self, silos: int) -> tuple[Vector, State]:  # noqa: ARG002
        return self._moved(self.strategy.rule(self._vectors)), {}
