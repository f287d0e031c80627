"""What a tracker is told: settings, and of a round's entry in the history the figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class About:
    """What a run is called, what it was set to, and whose cell it is."""

    name: str
    settings: Mapping[str, Any]
    parent: str | None = None
    """The key of the sweep's own run, of a cell."""
    cells: bool = False
    """Whether it is the sweep's own."""


def figures(entry: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a round: none of a single silo, and nothing that is not in the entry."""
    return {name: float(value) for name, value in _found(entry) if value is not None}


def _found(entry: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    yield "accuracy", entry["accuracy"]
    yield "loss", entry["loss"]
    yield "epsilon", (entry["epsilon"] or {}).get("max")
    for name, value in ((entry["evaluation"] or {}).get("metrics") or {}).items():
        yield f"own_records/{name}", value
    yield "bytes/up", entry["bytes"]["up"]
    yield "bytes/down", entry["bytes"]["down"]
    for name, value in entry["seconds"].items():
        yield f"seconds/{name}", value
    for name in ("participants", "refused", "failures", "dropped"):
        yield f"silos/{name}", len(entry[name])
