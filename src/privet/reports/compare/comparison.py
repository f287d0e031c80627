"""Runs and sweeps side by side: what they were, what came out, and what may be said of it.

Which settings differ in the metric, as far as their seeds can say.

Which settings differ, and what makes figures not comparable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from privet.charts.formatting import NOTHING, listed
from privet.errors import PrivetError
from privet.metrics import ACCURACY, Metric
from privet.reports.compare.entries import ComparisonEntry, read_entries
from privet.sweeps.results import to_plain
from privet.sweeps.statistics import Paired, half_width, holm, outcome_of, paired


@dataclass(frozen=True)
class SeedGroup:
    """Finished federations that differ in their seeds alone."""

    entries: tuple[ComparisonEntry, ...]

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
        """Values; of a seed that was run twice, the first."""
        found: dict[int, float] = {}
        for entry in self.entries:
            found = {**entry.values, **found}
        return dict(sorted(found.items()))

    @property
    def swept(self) -> frozenset[str]:
        """The keys that any of its sweeps varied."""
        return frozenset(key for entry in self.entries for key in entry.swept)


@dataclass(frozen=True)
class PairedGroups:
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


def groups_of(entries: Sequence[ComparisonEntry]) -> list[SeedGroup]:
    """Finished federations by their settings, in the order of the entries."""
    found: dict[str, list[ComparisonEntry]] = {}
    for entry in entries:
        if entry.kind == "federated" and entry.values:
            # Records too: the same settings on other data are another experiment.
            key = repr(
                (
                    sorted(entry.settings.items()),
                    entry.records,
                    entry.measured_on,
                    entry.metric.name,
                )
            )
            found.setdefault(key, []).append(entry)
    return [SeedGroup(tuple(members)) for members in found.values()]


def pairs_of(groups: Sequence[SeedGroup]) -> tuple[PairedGroups, ...]:
    """Groups out of different folders, where what a sweep varied is the same in both.

    Differences are paired by seed; p values of two-sided paired t tests are corrected by Holm's
    method over all pairs. Groups of another task, or measured on other records, are not compared,
    nor are those of one sweep: it compares them itself.
    """
    pairs = [pair for pair in combinations(groups, 2) if _comparable(*pair)]
    tests = [paired(first.by_seed, second.by_seed) for first, second in pairs]
    # Over all pairs together: of many comparisons, some look large by chance.
    corrected = holm([test.p for test in tests])
    family = sum(p is not None for p in corrected)
    return tuple(
        PairedGroups(
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


def together(groups: Sequence[SeedGroup]) -> Iterator[str]:
    """What entries amount to that are one setting with several seeds, a line each."""
    for group in groups:
        values = list(group.by_seed.values())
        if len(group.entries) == 1:
            continue
        if len(values) == 1:
            yield f"{group.name}: the same settings and seed"
            continue
        of = group.entries[0].metric.number
        mean, width = of(fmean(values)), of(half_width(values) or 0.0)
        yield (
            f"{group.name}: the same settings but for the seed, together {mean} +- {width} "
            f"over {len(values)} seeds"
        )


def _comparable(first: SeedGroup, second: SeedGroup) -> bool:
    one, other = first.entries[0], second.entries[0]
    if first.sources == second.sources:
        return False
    if (one.task, one.measured_on) != (other.task, other.measured_on):
        return False
    if one.metric != other.metric:
        return False
    return all(
        one.settings.get(key) == other.settings.get(key) for key in first.swept | second.swept
    )


def _words(
    first: SeedGroup, second: SeedGroup, test: Paired, p_holm: float | None, family: int
) -> str:
    pair, metric = f"{first.name} against {second.name}", first.entries[0].metric
    if test.difference is None:
        return f"{pair}: no seed in common, so no claim"
    change = metric.change(test.difference)
    if test.seeds == 1:
        return f"{pair}: {change} with one seed, which shows nothing: no claim"
    if p_holm is None:
        return f"{pair}: {change} with each of {test.seeds} seeds: no test fits"
    return outcome_of(first.name, second.name, test, p_holm, family=family, metric=metric)


_SPEAKS_FOR = {
    "privacy": ("privacy.epsilon", "privacy.noise_multiplier"),
    "encryption": ("encryption.scheme",),
    "evaluation": ("evaluation.every",),
}
"""The keys that stand for a whole table where some entries do not have it."""


def differing_keys(entries: Sequence[ComparisonEntry]) -> tuple[str, ...]:
    """The settings that are not the same in all federations, in the order of the file.

    Of a table that only some of them have, such as [privacy], the keys of the others say nothing:
    beside its first key only those differ that differ among the entries that have it. Silos alone
    and pooled data are not looked at: a sweep makes their settings.
    """
    entries = [entry for entry in entries if entry.kind == "federated"]
    keys = dict.fromkeys(key for entry in entries for key in entry.settings)
    return tuple(key for key in keys if _differs(key, entries))


def shown(entry: ComparisonEntry, key: str) -> str:
    """The value of a setting in a table.

    A federation without the table says "none"; what a sweep does not give a baseline is absent.
    """
    if key in entry.settings and (entry.kind == "federated" or key in entry.swept):
        value = entry.settings[key]
        return f"{value:g}" if isinstance(value, float) else str(value)
    table = key.partition(".")[0]
    without = table in _SPEAKS_FOR and not _has(entry, table)
    return "none" if without and entry.kind == "federated" else NOTHING


def warnings(entries: Sequence[ComparisonEntry]) -> tuple[str, ...]:
    """Why entries cannot stand side by side, a line each."""
    return tuple(dict.fromkeys([*_of_each(entries), *_between(entries)]))


def _differs(key: str, entries: Sequence[ComparisonEntry]) -> bool:
    table = key.partition(".")[0]
    if table in _SPEAKS_FOR and key not in _SPEAKS_FOR[table]:
        entries = [entry for entry in entries if _has(entry, table)]
    return len({entry.settings.get(key) for entry in entries}) > 1


def _has(entry: ComparisonEntry, table: str) -> bool:
    return any(key.startswith(f"{table}.") for key in entry.settings)


def _of_each(entries: Sequence[ComparisonEntry]) -> Iterator[str]:
    for entry in entries:
        for remark in entry.remarks:
            yield f"{entry.source}: {remark}"


def _between(entries: Sequence[ComparisonEntry]) -> Iterator[str]:
    federated = [entry for entry in entries if entry.kind == "federated"]
    tasks = {entry.task for entry in federated}
    if len(tasks) > 1:
        yield f"not the same task: {_beside(tasks)}"
    else:
        yield from _other_records(federated)
    private = [entry for entry in federated if entry.private]
    yield from _spread("delta: epsilons", {f"{entry.delta:g}" for entry in private})
    yield from _spread("unit of privacy: epsilons", {str(entry.unit) for entry in private})
    yield from _spread(
        f"records: {_them(entries)}", {str(e.measured_on) for e in entries if e.measured_on}
    )
    ways = {" and ".join(entry.evaluation) for entry in federated if entry.evaluation}
    yield from _spread(f"way out for {_them(entries)} of silos: they", ways)
    yield from _spread("headline: its values", {entry.metric.name for entry in entries})


def _them(entries: Sequence[ComparisonEntry]) -> str:
    accuracy = all(entry.metric == ACCURACY for entry in entries)
    return "accuracies" if accuracy else "figures"


def _other_records(entries: Sequence[ComparisonEntry]) -> Iterator[str]:
    training = {entry.records.training for entry in entries} - {None}
    test = {entry.records.test for entry in entries} - {None}
    labels = {
        str(sorted(entry.records.labels.items())) for entry in entries if entry.records.labels
    }
    if len(training) > 1:
        yield f"not the same data: {_counts(training)} records"
    elif len(labels) > 1:
        yield "not the same data: other numbers of records by label"
    if len(test) > 1:
        yield f"not the same data: {_counts(test)} test records"


def _spread(what: str, values: set[str]) -> Iterator[str]:
    if len(values) > 1:
        yield f"not the same {what} cannot be compared ({_beside(values)})"


def _counts(values: set[int | None]) -> str:
    return " beside ".join(f"{value:,}" for value in sorted(v for v in values if v is not None))


def _beside(values: set[str]) -> str:
    return listed(sorted(values)).replace(", ", " beside ")


SCHEMA = 2
_FEW = 3
"""Pairs up to which each has its sentence though nothing can be said."""


@dataclass(frozen=True)
class Comparison:
    """`privet compare --json` is this record, field for field; absent parts are null."""

    schema: int
    target: float | None
    entries: tuple[ComparisonEntry, ...]
    differs: tuple[str, ...]
    """The settings that are not the same in all federations."""
    warnings: tuple[str, ...]
    """Why entries cannot stand side by side."""
    pairs: tuple[PairedGroups, ...]
    notes: tuple[str, ...]
    """Entries that are one setting with several seeds."""

    def to_plain(self) -> dict[str, Any]:
        """As what JSON knows."""
        return dict(to_plain(self))

    @property
    def metric(self) -> Metric:
        """Of the first entry; a warning says where others have another one."""
        return self.entries[0].metric

    @property
    def findings(self) -> tuple[str, ...]:
        """What may be said of differences, a sentence each."""
        tested = [pair.words for pair in self.pairs if pair.seeds > 1]
        others = [pair.words for pair in self.pairs if pair.seeds <= 1]
        if len(others) > _FEW:
            others = [f"{len(others)} pairs have at most one seed in common: no claim"]
        return (*self.notes, *tested, *others)


def compare(
    folders: Sequence[Path], *, target: float | None = None, metric: str | None = None
) -> Comparison:
    """Read the folders of runs and sweeps, at least two, and put them side by side.

    `target`: a value of the metric; entries then say in which round they had it first. `metric`:
    what to compare instead of the tasks' headlines.

    Raises:
        PrivetError: fewer than two folders, or one twice.
        DataError: a folder is neither a run's nor a sweep's, cannot be read, or has not measured
            `metric`.
    """
    if len(folders) < 2:
        raise PrivetError("privet compare needs at least two folders of runs or sweeps")
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise PrivetError(f"{folder} is named twice")
        seen.add(folder.resolve())
    entries = [
        entry
        for folder, name in zip(folders, _short(folders), strict=True)
        for entry in read_entries(folder, name=name, target=target, metric=metric)
    ]
    groups = groups_of(entries)
    return Comparison(
        SCHEMA,
        target,
        tuple(entries),
        differing_keys(entries),
        warnings(entries),
        pairs_of(groups),
        tuple(together(groups)),
    )


def _short(folders: Sequence[Path]) -> list[str]:
    """The paths without what they begin with in common."""
    whole = [folder.resolve() for folder in folders]
    common = os.path.commonpath([folder.parent for folder in whole])
    return [str(folder.relative_to(common)) for folder in whole]
