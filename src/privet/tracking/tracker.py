"""What a tracker is and is given: settings, and of a round's entry in the history the figures.

Which tracker was requested is parsed here, and whether its package is installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, Self, cast

from privet.errors import ExperimentError, nearest
from privet.record.history import RoundRecord

_KINDS = ("mlflow", "tensorboard", "wandb")
"""Each is the name of its package, too."""


@dataclass(frozen=True)
class Tracking:
    """A tracker and where it keeps things; None: where its own settings and variables say."""

    kind: str
    place: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read KIND or KIND:PLACE, such as mlflow:http://localhost:5000.

        Raises ExperimentError for another kind, and for one whose package is not installed.
        """
        # At the first colon only: addresses have more of them.
        kind, _, place = text.partition(":")
        if kind not in _KINDS:
            known = ", ".join(_KINDS)
            raise ExperimentError(f"track = '{text}': one of {known}.{nearest(kind, _KINDS)}")
        # Looked for and not imported: that takes long, and is for the tracker's process to do.
        if find_spec(kind) is None:
            raise ExperimentError(
                f"track = '{kind}' needs its package: pip install 'privet[{kind}]'"
            )
        return cls(kind, place or None)


@dataclass(frozen=True)
class About:
    """What a run is called, what it was set to, and whose cell it is."""

    name: str
    settings: Mapping[str, Any]
    parent: str | None = None
    """The key of the sweep's own run, of a cell."""
    cells: bool = False
    """Whether it is the sweep's own."""


def figures(entry: RoundRecord) -> dict[str, float]:
    """The figures of a round: none of a single silo, and nothing that is not in the entry."""
    return {_named(name): float(value) for name, value in _found(entry) if value is not None}


def _named(name: str) -> str:
    """What every tracker takes: names of classes, which stand in those of figures, may hold all."""
    return re.sub(r"[^\w\-. /:]", "-", name)


def _found(entry: RoundRecord) -> Iterator[tuple[str, float | None]]:
    yield from entry.figures.items()
    yield "epsilon", entry.epsilon.max if entry.epsilon else None
    for name, mean in (entry.evaluation.metrics if entry.evaluation else {}).items():
        yield f"own_records/{name}", mean
    yield "bytes/up", entry.bytes.up
    yield "bytes/down", entry.bytes.down
    for part, seconds in entry.seconds:
        yield f"seconds/{part}", seconds
    for what in ("participants", "refused", "failures", "dropped"):
        yield f"silos/{what}", len(getattr(entry, what))


Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """Keeps runs by keys of the caller's choice. Any method may raise anything."""

    def begin(self, key: str, about: About) -> None:
        """A run that starts now."""

    def round(self, key: str, number: int, figures: Mapping[str, float]) -> None:
        """The figures of one round; a round may come again."""

    def end(self, key: str, status: Status, files: Sequence[Path]) -> None:
        """A run that is over, and what is to be kept of it."""


def open_tracker(tracking: Tracking, folder: Path) -> Tracker:
    """The tracker of that kind, for what is written to `folder`."""
    module = import_module(f"privet.tracking.{tracking.kind}")
    return cast(Tracker, module.open_tracker(tracking.place, folder))
