"""A table on four real silos, as processes: files of their own, and a server that has none."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.numpy import load_file

import privet
from privet import Experiment
from privet.deployment.trial import SERVER, Trial
from privet.privacy.ledger import read_history
from trials import OVER, history

pytestmark = pytest.mark.slow

PATIENT = "Jane-Doe-1961-canary"
WARDS = {
    "north": ("acute", "surgery"),
    "south": ("acute",),
    "west": ("hospice", "surgery", PATIENT),
    "east": ("acute", "hospice"),
}
ROWS = {"north": 400, "south": 90, "west": 150, "east": 1000}
SCHEMA = {
    "target": "outcome",
    "numeric": ["age"],
    "categorical": ["ward"],
    "missing": "impute",
    "classes": ["home", "died"],
    "ranges": {"age": [0, 110]},
    "categories": {"ward": ["acute", "surgery", "hospice", "maternity"]},
}
RECORDS, FILE = f"records of {PATIENT}", f"{PATIENT}.csv"
DESCRIPTION = f"""
[datasets.stays]
task = "table"
file = "{FILE}"
target = "outcome"
numeric = ["age"]
categorical = ["ward"]
missing = "impute"
classes = ["home", "died"]
ranges.age = [0, 110]
categories.ward = ["acute", "surgery", "hospice", "maternity"]
"""


def holds_a_table(trial: Trial, name: str) -> None:
    """The silo's kit as its holder leaves it, with nothing that another silo has."""
    kit = trial.kit(name)
    (kit / RECORDS).mkdir()
    lines = ["id,ward,age,outcome", f"{PATIENT},acute,4{PATIENT},{PATIENT}", '9,"acute,50,home']
    for i in range(ROWS[name]):
        age = (i * 37) % 100
        ward = WARDS[name][i % len(WARDS[name])]
        lines.append(f"{i},{ward},{age},{'died' if age > 60 else 'home'}")
    (kit / RECORDS / FILE).write_text("\n".join(lines) + "\n")
    settings = [
        line
        for line in (kit / "silo.toml").read_text().splitlines()
        if not line.startswith(("share =", "dataset ="))
    ]
    text = "\n".join([f'data_dir = "{RECORDS}"', *settings]) + DESCRIPTION
    (kit / "silo.toml").write_text(text)
    policy = (kit / "policy.toml").read_text()
    policy = policy.replace(f"data.{name}", "data.stays").replace('["digits"]', '["table"]')
    policy = policy.replace("records_public = true", "records_public = false")
    (kit / "policy.toml").write_text(policy)


def finished(trial: Trial, data: dict[str, Any]) -> tuple[str, dict[str, Any], str]:
    """A job over these data: its number, what became of it, and its log."""
    settings = {
        "task": "table",
        "rounds": 4,
        "data": {"dataset": "stays", **data},
        "federation": {"min_silos": 4},
        "training": {"steps": 5, "batch_size": 32, "lr": 1.0},
        "strategy": {"name": "fedavg", "weighting": "uniform"},
        "privacy": {"noise_multiplier": 1.5},
    }
    with trial.client() as client:
        job = client.submit(Experiment.from_mapping(settings))
        end = time.monotonic() + 180
        while client.job(job)["state"] not in OVER:
            assert time.monotonic() < end, client.log(job, start=0)
            time.sleep(0.2)
        return job, client.job(job), str(client.log(job, start=0))


def test_a_table_trains_on_four_silos_with_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRIVET_DATA", raising=False)
    with Trial.create(tmp_path / "trial", silos=tuple(WARDS)) as trial:
        for name in trial.silos:
            holds_a_table(trial, name)
        trial.start()
        trial.wait_until_online()
        job, became, log = finished(trial, SCHEMA)
        assert became["state"] == "finished", log
        asking = {**SCHEMA, "categories": {"ward": ["acute", "surgery", "hospice"]}}
        _, refused, said = finished(trial, asking)
        (trial.kit("east") / RECORDS / FILE).write_text(f"{PATIENT}\n")
        _, unread, why = finished(trial, SCHEMA)
    entries = history(trial, job)
    assert [sorted(entry["participants"]) for entry in entries[1:]] == [sorted(WARDS)] * 4
    run = trial.kit(SERVER) / "state/jobs" / job / "run"
    weights = load_file(run / "model.safetensors")
    assert sorted(weight.shape for weight in weights.values()) == [(2,), (2, 2 + 5)]
    rows = pd.DataFrame({"ward": ["acute", None], "age": [80, 20]})
    assert privet.load(run).predict(rows)["prediction"].isin(["home", "died"]).all()
    claim = privet.load(run).card.claim
    assert (claim.simulated, claim.unit) == (False, "record")
    for name in trial.silos:
        spent = read_history(trial.kit(name) / "ledger.sqlite")
        assert spent.datasets == ("stays",)
        assert spent.spent("stays", delta=1e-5) > 0
    assert refused["state"] == "failed"
    assert "the data set is not as the job expects it: data.categories" in said
    assert unread["state"] == "failed"
    assert "the silo's records could not be used" in why
    # The holder's own log has what nobody else is told, beside the same eight digits.
    own = trial.log("east").read_text()
    assert PATIENT in own
    assert not any(str(rows) in said for rows in (*ROWS.values(), *(n + 2 for n in ROWS.values())))
    # What no record of the description has is nowhere but at its holder's.
    for folder in (trial.kit(SERVER), trial.log(SERVER)):
        files = [folder] if folder.is_file() else [*folder.rglob("*")]
        found = [path for path in files if path.is_file() and PATIENT.encode() in path.read_bytes()]
        assert found == []
    assert PATIENT not in json.dumps([became, log, refused, said, unread, why])
    assert not list(trial.kit(SERVER).rglob("*.csv"))
    assert "PRIVET_DATA" not in os.environ
