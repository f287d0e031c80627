"""A sweep as an experiment file, by which `privet sweep` runs the same cells again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from privet.experiment import Experiment
from privet.simulations.sweep.asked import Asked


def sweep_toml(experiment: Experiment, asked: Asked) -> str:
    """The settings that were given, without defaults, and the table [sweep].

    Defaults stay out because some exclude what an axis may set: epochs and steps.
    """
    given = experiment.model_dump(exclude_unset=True, exclude_none=True)
    wanted = {
        "seeds": asked.seeds,
        "baselines": asked.baselines,
        "axes": {key: list(values) for key, values in asked.axes.items()},
        "cells": [dict(cell) for cell in asked.cells],
    }
    given["sweep"] = {key: value for key, value in wanted.items() if value}
    return "\n".join(_lines(given)) + "\n"


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    """Scalars, then a heading for each table; what is nested deeper stands in a line."""
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    yield from (_pair(key, value) for key, value in values.items() if key not in tables)
    for key, table in tables.items():
        yield f"\n[{_key(key)}]"
        yield from (_pair(*entry) for entry in table.items())


def _pair(key: str, value: Any) -> str:
    return f"{_key(key)} = {_text(value)}"


def _key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "")
    return key if bare.isascii() and bare.isalnum() else _text(key)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_pair(*entry) for entry in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
