"""Runs and sweeps side by side: what they were, what came out, and what may be said of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.errors import PrivetError
from privet.simulations.compare.differences import differing_keys, warnings
from privet.simulations.compare.entry import Entry
from privet.simulations.compare.groups import Pair, groups_of, pairs_of, together
from privet.simulations.compare.read import read_entries
from privet.simulations.sweep.results import to_plain

SCHEMA = 1
_FEW = 3
"""Pairs up to which each has its sentence though nothing can be said."""


@dataclass(frozen=True)
class Comparison:
    """`privet compare --json` is this record, field for field; absent parts are null."""

    schema: int
    target: float | None
    entries: tuple[Entry, ...]
    differs: tuple[str, ...]
    """The settings that are not the same in all federations."""
    warnings: tuple[str, ...]
    """Why entries cannot stand side by side."""
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    """Entries that are one setting with several seeds."""

    def to_plain(self) -> dict[str, Any]:
        """As what JSON knows."""
        return dict(to_plain(self))

    @property
    def findings(self) -> tuple[str, ...]:
        """What may be said of differences in accuracy, a sentence each."""
        tested = [pair.words for pair in self.pairs if pair.seeds > 1]
        others = [pair.words for pair in self.pairs if pair.seeds <= 1]
        if len(others) > _FEW:
            others = [f"{len(others)} pairs have at most one seed in common: no claim"]
        return (*self.notes, *tested, *others)


def compare(folders: Sequence[Path], *, target: float | None = None) -> Comparison:
    """Read the folders of runs and sweeps, at least two, and put them side by side.

    `target`: an accuracy; entries then say in which round they had it first.

    Raises:
        PrivetError: fewer than two folders, or one twice.
        DataError: a folder is neither a run's nor a sweep's, or cannot be read.
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
        for entry in read_entries(folder, name=name, target=target)
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
