"""Which settings differ, and what makes figures not comparable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from privet.simulations.compare.entry import Entry
from privet.simulations.pages.formatting import NOTHING, listed

_SPEAKS_FOR = {
    "privacy": ("privacy.epsilon", "privacy.noise_multiplier"),
    "encryption": ("encryption.scheme",),
    "evaluation": ("evaluation.every",),
}
"""The keys that stand for a whole table where some entries do not have it."""


def differing_keys(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The settings that are not the same in all federations, in the order of the file.

    Of a table that only some of them have, such as [privacy], the keys of the others say nothing:
    beside its first key only those differ that differ among the entries that have it. Silos alone
    and pooled data are not looked at: a sweep makes their settings.
    """
    entries = [entry for entry in entries if entry.kind == "federated"]
    keys = dict.fromkeys(key for entry in entries for key in entry.settings)
    return tuple(key for key in keys if _differs(key, entries))


def shown(entry: Entry, key: str) -> str:
    """The value of a setting in a table.

    A federation without the table says "none"; what a sweep does not give a baseline is absent.
    """
    if key in entry.settings and (entry.kind == "federated" or key in entry.swept):
        value = entry.settings[key]
        return f"{value:g}" if isinstance(value, float) else str(value)
    table = key.partition(".")[0]
    without = table in _SPEAKS_FOR and not _has(entry, table)
    return "none" if without and entry.kind == "federated" else NOTHING


def warnings(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Why entries cannot stand side by side, a line each."""
    return tuple(dict.fromkeys([*_of_each(entries), *_between(entries)]))


def _differs(key: str, entries: Sequence[Entry]) -> bool:
    table = key.partition(".")[0]
    if table in _SPEAKS_FOR and key not in _SPEAKS_FOR[table]:
        entries = [entry for entry in entries if _has(entry, table)]
    return len({entry.settings.get(key) for entry in entries}) > 1


def _has(entry: Entry, table: str) -> bool:
    return any(key.startswith(f"{table}.") for key in entry.settings)


def _of_each(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        for remark in entry.remarks:
            yield f"{entry.source}: {remark}"


def _between(entries: Sequence[Entry]) -> Iterator[str]:
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
        "records: accuracies", {str(e.measured_on) for e in entries if e.measured_on}
    )
    ways = {" and ".join(entry.evaluation) for entry in federated if entry.evaluation}
    yield from _spread("way out for accuracies of silos: they", ways)


def _other_records(entries: Sequence[Entry]) -> Iterator[str]:
    training = {entry.records.training for entry in entries} - {None}
    test = {entry.records.test for entry in entries} - {None}
    labels = {
        str(sorted(entry.records.labels.items())) for entry in entries if entry.records.labels
    }
    if len(training) > 1:
        yield f"not the same data: {_counts(training)} training records"
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
