"""The curves of a job by round, as far as its history has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_MOST_POINTS = 400

Entry = Mapping[str, Any]
Points = list[tuple[int, float]]
Value = Callable[[Entry], Any]


def charts(history: Sequence[Entry]) -> list[dict[str, Any]]:
    """Accuracy, loss and epsilon, each with its curves; what has no finite value is left out.

    At most 400 points a curve, the last one always among them.
    """
    wanted: Mapping[str, Mapping[str, Value]] = {
        "accuracy": {"test records": _told("accuracy"), "silos' records": _measured("accuracy")},
        "loss": {"test records": _told("loss"), "silos' records": _measured("loss")},
        "epsilon": {"silo that spent most": _epsilon},
    }
    found = ((title, _curves(history, curves)) for title, curves in wanted.items())
    return [{"title": title, "curves": curves} for title, curves in found if curves]


def _curves(history: Sequence[Entry], wanted: Mapping[str, Value]) -> list[Any]:
    found = ((name, _thinned(_points(history, value))) for name, value in wanted.items())
    return [{"name": name, "points": points} for name, points in found if points]


def _points(history: Iterable[Entry], value: Value) -> Points:
    pairs = ((entry["round"], value(entry)) for entry in history)
    return [(round_, y) for round_, y in pairs if isinstance(y, int | float) and math.isfinite(y)]


def _thinned(points: Points) -> Points:
    step = math.ceil(len(points) / _MOST_POINTS)
    return points[::-1][::step][::-1] if step > 1 else points


def _told(name: str) -> Value:
    return lambda entry: entry.get(name)


def _measured(name: str) -> Value:
    return lambda entry: (entry.get("evaluation") or {}).get("metrics", {}).get(name)


def _epsilon(entry: Entry) -> Any:
    return (entry.get("epsilon") or {}).get("max")
