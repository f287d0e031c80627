"""What a tracker can do, and the three that there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol, cast

from privet.simulations.tracking.asked import Tracking
from privet.simulations.tracking.figures import About

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
    """The tracker that was asked for, for what is written to `folder`."""
    module = import_module(f"privet.simulations.tracking.{tracking.kind}")
    return cast(Tracker, module.open_tracker(tracking.place, folder))
