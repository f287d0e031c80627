"""What the server counts of the silos' messages: the fields as they came."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from privet.server.tally import fields_of

PARAMETERS = 8 * 8 * 10 + 10


def test_every_field_is_counted_with_its_values() -> None:
    records = RecordDict(
        {
            "update": ArrayRecord({"update": Array(np.zeros((2, 3), np.float32))}),
            "metrics": MetricRecord({"seconds": 1.0, "losses": [1.0, 2.0]}),
            "privacy": ConfigRecord({"event": "{}"}),
        }
    )
    assert fields_of(records) == {
        "update.update": 6,
        "metrics.seconds": 1,
        "metrics.losses": 2,
        "privacy.event": 1,
    }


@given(names=st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=300, unique=True))
def test_a_silo_cannot_flood_the_history(names: list[str]) -> None:
    told = fields_of(RecordDict({"metrics": MetricRecord(dict.fromkeys(names, 1.0))}))
    assert sum(told.values()) == len(names)
    assert len(told) <= 101
    assert all(name.isprintable() and len(name) <= 100 for name in told)


def test_a_run_counts_what_arrived_from_whom(golden: Path) -> None:
    clear, sealed = (
        [json.loads(line) for line in (golden / name / "history.jsonl").read_text().splitlines()]
        for name in ("clear", "sealed")
    )
    for line in (*clear[1:], *sealed[1:]):
        assert set(line["arrived"]) == set(line["participants"])
        assert set((line["evaluation"] or {}).get("arrived", {})) == set(
            (line["evaluation"] or {}).get("released", {})
        )
    assert clear[1]["arrived"]["silo-0"] == {
        "metrics.num-examples": 1,
        "update.update": PARAMETERS,
        "privacy.event": 1,
    }
    fields = set(sealed[1]["arrived"]["silo-0"])
    assert fields == {"privacy.event", "sealed.statement", "sealed-update.upload"}
    assert not any(field.startswith("update.") for field in fields)
