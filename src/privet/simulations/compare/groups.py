"""Which settings differ in accuracy, as far as their seeds can say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from privet.simulations.compare.entry import Entry
from privet.simulations.pages.formatting import listed
from privet.simulations.sweep.statistics import Paired, half_width, holm, outcome_of, paired


@dataclass(frozen=True)
class Group:
    """Finished federations that differ in their seeds alone."""

    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """Of its entries, the first three."""
        return listed([entry.name for entry in self.entries], most=3)

    @property
    def sources(self) -> frozenset[str]:
        """The folders that it is out of."""
        return frozenset(entry.source for entry in self.entries)

    @property
    def by_seed(self) -> dict[int, float]:
        """Accuracies; of a seed that was run twice, the first."""
        found: dict[int, float] = {}
        for entry in self.entries:
            found = {**entry.accuracies, **found}
        return dict(sorted(found.items()))

    @property
    def swept(self) -> frozenset[str]:
        """The keys that any of its sweeps varied."""
        return frozenset(key for entry in self.entries for key in entry.swept)


@dataclass(frozen=True)
class Pair:
    """Two groups on the same seeds: a paired t test, corrected for the number of them."""

    first: str
    second: str
    seeds: int
    difference: float | None
    """Mean of second minus first, paired by seed; None where no seed is common."""
    half_width: float | None
    p: float | None
    p_holm: float | None
    words: str
    """The outcome as a sentence; a difference is claimed where `p_holm` is below 0.05."""


def groups_of(entries: Sequence[Entry]) -> list[Group]:
    """Finished federations by their settings, in the order of the entries."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.kind == "federated" and entry.accuracies:
            key = repr((sorted(entry.settings.items()), entry.records, entry.measured_on))
            found.setdefault(key, []).append(entry)
    return [Group(tuple(members)) for members in found.values()]


def pairs_of(groups: Sequence[Group]) -> tuple[Pair, ...]:
    """Groups out of different folders, where what a sweep varied is the same in both.

    Differences are paired by seed; p values of two-sided paired t tests are corrected by Holm's
    method over all pairs. Groups of another task, or measured on other records, are not compared,
    nor are those of one sweep: it compares them itself.
    """
    pairs = [pair for pair in combinations(groups, 2) if _comparable(*pair)]
    tests = [paired(first.by_seed, second.by_seed) for first, second in pairs]
    corrected = holm([test.p for test in tests])
    family = sum(p is not None for p in corrected)
    return tuple(
        Pair(
            first.name,
            second.name,
            test.seeds,
            test.difference,
            test.half_width,
            test.p,
            p,
            words=_words(first, second, test, p, family),
        )
        for (first, second), test, p in zip(pairs, tests, corrected, strict=True)
    )


def together(groups: Sequence[Group]) -> Iterator[str]:
    """What entries amount to that are one setting with several seeds, a line each."""
    for group in groups:
        values = list(group.by_seed.values())
        if len(group.entries) == 1:
            continue
        if len(values) == 1:
            yield f"{group.name}: the same settings and seed"
            continue
        mean, width = fmean(values), half_width(values) or 0.0
        yield (
            f"{group.name}: the same settings but for the seed, together {mean:.4f} +- {width:.4f} "
            f"over {len(values)} seeds"
        )


def _comparable(first: Group, second: Group) -> bool:
    one, other = first.entries[0], second.entries[0]
    if first.sources == second.sources:
        return False
    if (one.task, one.measured_on) != (other.task, other.measured_on):
        return False
    return all(
        one.settings.get(key) == other.settings.get(key) for key in first.swept | second.swept
    )


def _words(first: Group, second: Group, test: Paired, p_holm: float | None, family: int) -> str:
    pair = f"{first.name} against {second.name}"
    if test.difference is None:
        return f"{pair}: no seed in common, so no claim"
    if test.seeds == 1:
        return f"{pair}: {test.difference:+.4f} with one seed, which shows nothing: no claim"
    if p_holm is None:
        return f"{pair}: {test.difference:+.4f} with each of {test.seeds} seeds: no test fits"
    return outcome_of(first.name, second.name, test, p_holm, family=family)
