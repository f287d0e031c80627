"""Neighbours stay neighbours: a record less changes nothing for any other.

Not its inputs, and not whether it trains, is held out or is tested on: what epsilon is about is one
record and nothing else. On a real silo, with every built-in task that reads a data holder's files.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privet import Examples, Experiment
from privet.client.silo import open_silo
from silo_holder import describing, holder

ADULT = (
    "{age}, Private, {weight}, Bachelors, 13, Never-married, Sales, Unmarried, White, Female, "
    "0, 0, {hours}, Cuba, {income}"
)
TABLE = {
    "file": "ward.csv",
    "target": "ill",
    "numeric": ["age"],
    "categorical": ["kind"],
    "categories": {"kind": ["a", "b", "c"]},
    "classes": ["no", "yes"],
    "ranges": {"age": [0, 100]},
}
SCHEMA = {key: value for key, value in TABLE.items() if key != "file"}
_runs = count(1)


def written(folder: Path, task: str) -> Path:
    """A small file of the task's, with equal records in it; its path."""
    rng = np.random.default_rng(4)
    if task == "table":
        path = folder / "ward.csv"
        rows = [f"{20 + i // 2},{'abc'[i % 3]},{'yes' if i % 5 else 'no'}" for i in range(60)]
        path.write_text("\n".join(["age,kind,ill", *rows, *rows[:9]]) + "\n")
        return path
    if task == "adult":
        (folder / "adult").mkdir()
        rows = [
            ADULT.format(
                age=20 + i, weight=20_000 + i, hours=40, income="<=50K" if i % 3 else ">50K"
            )
            for i in range(60)
        ]
        for name in ("adult.data", "adult.test"):
            (folder / "adult" / name).write_text("\n".join([*rows, *rows[:9]]) + "\n")
        return folder / "adult" / "adult.data"
    for hospital in ("cleveland", "hungarian", "switzerland", "va"):
        rows = [
            f"{rng.integers(30, 80)},1,{1 + i % 4},120,{200 + i},0,{i % 3},150,0,1.5,2,0,3,{i % 2}"
            for i in range(20)
        ]
        (folder / f"processed.{hospital}.data").write_text("\n".join([*rows, *rows[:3]]) + "\n")
    return folder / "processed.va.data"


def parts(task: str, node: dict[str, Any]) -> dict[str, Counter[bytes]]:
    """What the silo trains on, holds out and tests on."""
    experiment = Experiment.from_mapping(
        {"task": task, "evaluation": {"holdout": 0.3}, "data": SCHEMA if task == "table" else {}}
    )
    silo = open_silo(experiment, Context(next(_runs), 2, node, RecordDict(), {}))
    found = {"training": silo.examples, "held out": silo.held_out(), "test": silo.task.test_data()}
    return {name: contents(examples) for name, examples in found.items() if examples is not None}


def contents(examples: Examples) -> Counter[bytes]:
    rows = zip(examples.inputs, examples.targets, strict=True)
    return Counter(x.numpy().tobytes() + bytes(str(int(y)), "ascii") for x, y in rows)


@pytest.mark.parametrize("task", ["table", "adult", "heart-disease"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_record_less_changes_nothing_for_any_other(
    tmp_path_factory: pytest.TempPathFactory, task: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp(task)
    path = written(folder, task)
    node = {**holder(folder), "data-dir": str(folder)}
    if task == "table":
        node = describing(node, "table", **TABLE)
    before = parts(task, node)
    assert all(before.values())
    header, *rows = path.read_text().splitlines() if task == "table" else ["", *_lines(path)]
    del rows[data.draw(st.integers(0, len(rows) - 1))]
    path.write_text("\n".join([*([header] if header else []), *rows]) + "\n")
    after = parts(task, node)
    assert sum(sum((before[name] - after[name]).values()) for name in before) == 1
    assert not any(after[name] - before[name] for name in before)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
