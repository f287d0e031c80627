"""What a tracker is told of a round: figures of the history, and of no silo by itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import report_samples as samples
from privet.errors import ExperimentError
from privet.record.history import RoundRecord, mended_rounds
from privet.tracking.tracker import Tracking, figures

MAKERS = [samples.with_privacy, samples.without_privacy, samples.kept, samples.void_rounds]


def _entries(make: Any, folder: Path) -> tuple[RoundRecord, ...]:
    return mended_rounds(make().write(folder))


def _numbers(value: Any) -> set[float]:
    """Every number in an entry, and every length: what there is to be told."""
    if isinstance(value, dict):
        return {float(len(value))}.union(*map(_numbers, value.values()))
    if isinstance(value, list):
        return {float(len(value))}.union(*map(_numbers, value))
    return {float(value)} if isinstance(value, int | float) else set()


@pytest.mark.parametrize("make", MAKERS)
def test_every_figure_is_in_the_history(make: Any, tmp_path: Path) -> None:
    for entry in _entries(make, tmp_path):
        assert set(figures(entry).values()) <= _numbers(entry.model_dump())


@pytest.mark.parametrize("make", MAKERS)
def test_no_silo_is_told_of_by_itself(make: Any, tmp_path: Path) -> None:
    for entry in _entries(make, tmp_path):
        names = {*entry.participants, *entry.silo_epsilon, *entry.kept}
        assert not any(silo in figure for figure in figures(entry) for silo in names)
        changed = json.loads(entry.line())
        for told in (changed["epsilon"] or {}, changed["evaluation"] or {}):
            told["per_silo"] = {"silo-0": 0.123}
        changed["per_silo"] = {"silo-0": {"accuracy": 0.123}}
        assert figures(RoundRecord.mended(changed)) == figures(entry)


def test_every_figure_is_told_by_a_name_that_trackers_take(tmp_path: Path) -> None:
    last = _entries(samples.kept, tmp_path / "kept")[-1]
    own = {"auc": 0.75, "recall_<=50K": 0.5, "recall_>50K": 0.25}
    told = figures(last.model_copy(update={"metrics": own}))
    assert (told["auc"], told["recall_--50K"], told["recall_-50K"]) == (0.75, 0.5, 0.25)


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    last = _entries(samples.kept, tmp_path / "kept")[-1]
    assert "epsilon" not in figures(last)
    told = figures(last.model_copy(update={"accuracy": None, "loss": math.nan}))
    assert "accuracy" not in told
    assert math.isnan(told["loss"])


@pytest.mark.parametrize(
    ("text", "kind", "place"),
    [
        ("mlflow", "mlflow", None),
        ("mlflow:http://localhost:5000", "mlflow", "http://localhost:5000"),
        ("tensorboard:some/where", "tensorboard", "some/where"),
        ("wandb:", "wandb", None),
    ],
)
def test_a_tracker_and_its_place(text: str, kind: str, place: str | None) -> None:
    assert Tracking.parse(text) == Tracking(kind, place)


def test_another_tracker_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"track = 'mlfow': one of mlflow.*'mlflow'"):
        Tracking.parse("mlfow")
