"""A table and runs over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privet import Experiment, simulate
from served_tables import Run, patients


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rows = tmp_path_factory.mktemp("patients"), patients()
    rows[:450].to_csv(folder / "train.csv", index=False)
    rows[450:].to_csv(folder / "new.csv", index=False)
    return folder


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    """Trains on the table and gives the run's folder; tables of settings as keywords."""

    def trained(name: str = "run", **tables: Any) -> Path:
        said = tables.pop("data", {})
        options = {"file": "train.csv", "test_file": "new.csv", "target": "outcome"}
        columns = {} if "numeric" in said else {"exclude": ["site"]}
        given = {**columns, **options, **said}
        settings = {
            "task": "table",
            "rounds": 2,
            "data": {key: value for key, value in given.items() if value is not None},
            "federation": {"silos": 2},
            **tables,
        }
        simulate(Experiment.from_mapping(settings), out=tmp_path / name, data_dir=data)
        return tmp_path / name

    return trained
