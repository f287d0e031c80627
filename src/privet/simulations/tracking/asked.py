"""Which tracker is asked for, and whether it can be had."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Self

from privet.errors import ExperimentError, nearest

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
        kind, _, place = text.partition(":")
        if kind not in _KINDS:
            known = ", ".join(_KINDS)
            raise ExperimentError(f"track = '{text}': one of {known}.{nearest(kind, _KINDS)}")
        if find_spec(kind) is None:
            raise ExperimentError(
                f"track = '{kind}' needs its package: pip install 'privet[{kind}]'"
            )
        return cls(kind, place or None)
