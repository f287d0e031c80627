"""`summary.json` is a contract: its keys, and what is refused and mended in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privet.errors import DataError
from privet.record.summary import RunSummary, problems_in, read_summary, seconds_in
from rounds_written import QUIET, a_round

SUMMARY: dict[str, Any] = {
    "schema": 2,
    "task": "digits",
    "rounds": 3,
    "seed": 7,
    "start": {"sha256": "ab", "seen": "ImageNet"},
    "validation": {
        "records": 30,
        "round": 2,
        "loss": 0.4,
        "accuracy": 0.8,
        "metrics": {"accuracy": 0.8},
    },
    "accuracy": 0.9,
    "loss": 0.3,
    "metrics": {"accuracy": 0.9},
    "evaluation": None,
    "stopped": None,
    "epsilon": {
        "unit": "record",
        "max": 1.0,
        "per_silo": {"north": 1.0},
        "delta": 1e-5,
        "accountant": "PLD",
        "cross_checks": None,
    },
    "encryption": None,
    "model": {
        "trained": 10,
        "sent": 10,
        "base": 5,
        "base_digest": "ab",
        "local": None,
        "still": [],
        "nothing_trained": None,
    },
    "computed": None,
    "seconds": {"total": 3.0, "training": 2.0, "aggregation": 0.5, "encryption": None},
    "client_updates": 3,
    "client_updates_per_second": 1.0,
    "problems": [],
    "declared": [{"name": "accuracy", "higher_is_better": True, "unit": ""}],
    "baselines": {"accuracy": 0.5},
    "pictures": {
        "scores": [{"name": "1", "of_class": [1], "of_others": [2]}],
        "confusion": {"classes": ["0", "1"], "counts": [[1, 0], [2, 0]]},
        "against": None,
    },
}


def written(folder: Path, content: object) -> Path:
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


def test_the_keys_of_the_contract() -> None:
    assert list(RunSummary.model_fields) == list(SUMMARY)[1:]
    schema = RunSummary.model_json_schema()
    optional = {"start", "validation", "model", "problems", "declared"}
    optional |= {"baselines", "pictures", "computed"}
    assert {*SUMMARY} - {*schema["required"]} == {"schema", *optional}
    assert not schema["additionalProperties"]


@pytest.mark.parametrize("version", [1, 2])
def test_it_is_read_as_it_was_written(version: int, tmp_path: Path) -> None:
    found = read_summary(written(tmp_path, {**SUMMARY, "schema": version}))
    assert found is not None
    assert found.plain() == SUMMARY
    assert list(found.plain()) == list(SUMMARY)


def test_of_an_earlier_version_it_began_from_the_seed(tmp_path: Path) -> None:
    earlier = {key: value for key, value in SUMMARY.items() if key not in ("start", "validation")}
    found = read_summary(written(tmp_path, earlier))
    assert found is not None
    assert found.plain() == {**SUMMARY, "start": None, "validation": None}


def test_problems_are_said_once_with_the_round_that_they_were_first_in() -> None:
    said = [["loss is not finite"], [], ["loss is not finite", "nobody trained"]]
    rounds = [a_round(number, problems=each) for number, each in enumerate(said)]
    assert problems_in(rounds) == [
        "round 0 and 1 more: loss is not finite",
        "round 2: nobody trained",
    ]


def test_of_an_earlier_version_it_says_nothing_of_what_trained(tmp_path: Path) -> None:
    earlier = {key: value for key, value in SUMMARY.items() if key != "model"}
    found = read_summary(written(tmp_path, earlier))
    assert found is not None
    assert found.plain() == {**SUMMARY, "model": None}


def test_there_is_none_before_the_end(tmp_path: Path) -> None:
    assert read_summary(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told.pop("seed"), "seed"),
        (lambda told: told.update(more=1), "more"),
        (lambda told: told["epsilon"].update(max="1"), "epsilon.max"),
        (lambda told: told["seconds"].pop("encryption"), "seconds.encryption"),
        (lambda told: told.update(schema=3), "a known schema"),
        (lambda told: told.pop("schema"), "a known schema"),
    ],
)
def test_anything_else_is_a_fault(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    told = json.loads(json.dumps(SUMMARY))
    change(told)
    with pytest.raises(DataError, match=rf"summary\.json: .*{said}"):
        read_summary(written(tmp_path, told))


def test_seconds_are_summed_over_the_rounds_that_have_them() -> None:
    spent = {**QUIET["seconds"], "encryption": 0.25}
    rounds = [a_round(0), a_round(1, seconds=spent), a_round(2, seconds=spent)]
    assert seconds_in("encryption", rounds) == 0.5
    assert seconds_in("encryption", rounds[:1]) is None
