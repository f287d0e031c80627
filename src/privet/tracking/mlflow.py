"""MLflow: a run, and for a sweep a run with one nested in it for each cell."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privet.tracking.tracker import About, Status

EXPERIMENT = "privet"
"""Unless MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID says otherwise."""
# What MLflow takes in one batch, and what older servers take of a value (newer ones: 6000).
_MOST_PARAMS = 100
_LONGEST = 500


def open_tracker(place: str | None, folder: Path) -> _MLflow:  # noqa: ARG001
    """`place` is a tracking URI; None: MLFLOW_TRACKING_URI, else MLflow's own default."""
    # By default MLflow reports its use, tries a server that is away for minutes, and has GitPython
    # complain where there is no git.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    return _MLflow(MlflowClient(tracking_uri=place))


class _MLflow:
    """By the client: MLflow's fluent functions would add user, command and git commit."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._experiment = _experiment(client)
        self._runs: dict[str, str] = {}

    def begin(self, key: str, about: About) -> None:
        tags = {"mlflow.parentRunId": self._runs[about.parent]} if about.parent else {}
        run = self._client.create_run(self._experiment, run_name=about.name, tags=tags)
        self._runs[key] = run.info.run_id
        from mlflow.entities import Param

        params = [Param(name, str(value)[:_LONGEST]) for name, value in about.settings.items()]
        for start in range(0, len(params), _MOST_PARAMS):
            some = params[start : start + _MOST_PARAMS]
            self._client.log_batch(self._runs[key], params=some)

    def round(self, key: str, number: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, number) for name, value in figures.items()]
        self._client.log_batch(self._runs[key], metrics=metrics)

    def end(self, key: str, status: Status, files: Sequence[Path]) -> None:
        run = self._runs.pop(key)
        for file in files:
            self._client.log_artifact(run, str(file))
        self._client.set_terminated(run, status)


def _experiment(client: Any) -> str:
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))
