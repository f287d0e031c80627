"""What a sweep is requested to run: the table [sweep] of an experiment file, and what replaces it.

It is written back as such a file, by which `privet sweep` runs the same cells again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import tomli_w

from privet.errors import ExperimentError, nearest
from privet.experiment import Experiment, dotted, toml_value
from privet.privacy.accounting.tuning import Law, RandomRuns
from privet.sweeps.results import Settings, Value


@dataclass(frozen=True)
class SweepRequest:
    """Axes, listed cells, seeds and baselines, as `sweep` takes them.

    [sweep]
    seeds = 5                               # or [3, 7, 9]
    baselines = "all"                       # or ["no-dp", "alone"]
    axes.privacy.epsilon = [1, 8, inf]      # the grid of all axes ...
    cells = [{ training.lr = 0.1, rounds = 20 }]    # ... and any other settings
    """

    axes: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    cells: Sequence[Settings] = ()
    seeds: int | Sequence[int] | None = None
    baselines: str | Sequence[str] | None = None

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> SweepRequest:
        """Read the table; ExperimentError for a key or a value that it does not have."""
        for key in table:
            if key not in cls.__dataclass_fields__:
                known = list(cls.__dataclass_fields__)
                raise ExperimentError(
                    f"unknown key 'sweep.{key}'.{nearest(key, known)} Known: {', '.join(known)}"
                )
        # TOML reads an unquoted dotted key as tables.
        axes = dotted(_of("sweep.axes", table.get("axes", {}), dict))
        cells = [_cell(each) for each in _of("sweep.cells", table.get("cells", []), list)]
        seeds, baselines = table.get("seeds"), table.get("baselines")
        if baselines is not None:
            _of("sweep.baselines", baselines, str, list)
        listed = seeds if isinstance(seeds, list) else [seeds]
        if seeds is not None and not all(type(seed) is int for seed in listed):
            raise ExperimentError(f"sweep.seeds = {seeds!r}: a number of seeds, or a list of them")
        for key, values in axes.items():
            _values(f"sweep.axes.{key}", _of(f"sweep.axes.{key}", values, list))
        return cls(axes, cells, seeds, baselines)

    def with_options(
        self,
        *,
        axes: Sequence[str],
        epsilon: str | None,
        seeds: str | None,
        baselines: str | None,
    ) -> SweepRequest:
        """A copy with the command line's options, as typed, in place of what the table has."""
        pairs = [_pair(text) for text in axes]
        if epsilon is not None:
            pairs.insert(0, ("privacy.epsilon", epsilon))
        given = {key: _values(f"axis {key}", _listed(text)) for key, text in pairs}
        return replace(
            self,
            axes={**self.axes, **given},
            seeds=self.seeds if seeds is None else _seeds(seeds),
            baselines=self.baselines if baselines is None else baselines,
        )


def runs_of(text: str) -> RandomRuns:
    """The law of a number of runs, written as LAW:MEAN; PrivetError for what is none."""
    law, _, mean = text.partition(":")
    try:
        return RandomRuns(cast(Law, law), float(mean))
    except ValueError:
        raise ExperimentError(
            f"--private-tuning {text}: expected LAW:MEAN, such as geometric:10"
        ) from None


def _pair(text: str) -> tuple[str, str]:
    key, equals, values = text.partition("=")
    if not (key.strip() and equals):
        raise ExperimentError(f"--axis {text}: expected KEY=V,V,..., such as training.lr=0.1,0.3")
    return key.strip(), values


def _listed(text: str) -> list[Any]:
    return [toml_value(part.strip()) for part in text.split(",") if part.strip()]


def _seeds(text: str) -> int | list[int]:
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise ExperimentError(f"--seeds {text}: a number of seeds (5), or which ones (3,7,9)")
    return numbers if "," in text else numbers[0]


def _cell(raw: Any) -> Settings:
    settings = dotted(_of("sweep.cells", raw, dict))
    _values("sweep.cells", list(settings.values()))
    return settings


def _values(where: str, values: Sequence[Any]) -> Sequence[Value]:
    for value in values:
        _of(where, value, bool, int, float, str)
    return values


def _of(where: str, value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        allowed = " or ".join(_KINDS[kind] for kind in kinds)
        raise ExperimentError(f"{where} = {value!r}: it must be {allowed}")
    return value


_KINDS = {
    dict: "a table",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def sweep_toml(experiment: Experiment, request: SweepRequest) -> str:
    """The settings that were given, without defaults, and the table [sweep].

    Defaults stay out because some exclude what an axis may set: epochs and steps.
    """
    given = experiment.model_dump(exclude_unset=True, exclude_none=True)
    table = {
        "seeds": request.seeds,
        "baselines": request.baselines,
        "axes": {key: list(values) for key, values in request.axes.items()},
        "cells": [dict(cell) for cell in request.cells],
    }
    given["sweep"] = {key: value for key, value in table.items() if value}
    return tomli_w.dumps(given)
