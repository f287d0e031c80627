"""Accuracy against privacy budget, a table for each curve: `privet sweep` at the settings below.

    PRIVET_DATA=/path/to/data python benchmarks/curves.py [--only digits-10 ...] [--seeds 5] \
        [--out runs/curves] [--workers 2]

A curve that was interrupted is gone on with. Epsilon is what the ledgers say, of the silo that
spent most, at delta = 1e-5; plus or minus are 95 % intervals, Student t over the seeds. Settings of
the pictures were chosen by looking at test accuracy; epsilon does not cover that choice.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet import Experiment, sweep
from privet.sweeps.results import Estimate, Sweep, mean_text, title

EXAMPLES = Path(__file__).parent.parent / "examples"
PRIVACY = {"privacy.epsilon": 1.0, "privacy.delta": 1e-5, "privacy.clip": 1.0}
BUDGETS = (0.5, 1.0, 2.0, 4.0, 8.0, math.inf)


@dataclass(frozen=True)
class Curve:
    """One sweep: where it starts from, and what varies."""

    settings: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]]
    file: str | None = None
    """In `examples`; else the task's defaults are what it starts from."""
    baselines: str = "all"


DIGITS = {"task": "digits", "rounds": 15, "training.batch_size": 144, "training.lr": 2.0, **PRIVACY}
TABLE = {
    "task": "table",
    "data.file": "breast-cancer.csv",
    "data.target": "benign",
    "rounds": 20,
    "training.batch_size": 91,
    "training.lr": 0.5,
    "privacy.uncovered_preprocessing": True,
    **PRIVACY,
}
HEART = {"task": "heart-disease", "rounds": 15, "data.split": "flamby",
         "data.scaling": "per-silo", "privacy.uncovered_preprocessing": True,
         "training.steps": 2, "training.batch_size": 30, "training.lr": 0.5, **PRIVACY}  # fmt: skip
IMAGES = {
    "privacy.epsilon": (1.0, 3.0, 8.0, math.inf),
    "federation.partition": ("iid", "dirichlet"),
}

CURVES = {
    "digits-10": Curve({**DIGITS, "federation.silos": 10}, {"privacy.epsilon": BUDGETS}),
    "digits-5": Curve({**DIGITS, "federation.silos": 5}, {"privacy.epsilon": BUDGETS}),
    "breast-cancer": Curve({**TABLE, "federation.silos": 5}, {"privacy.epsilon": BUDGETS}),
    "heart-disease": Curve(HEART, {"privacy.epsilon": (0.1, 1.0, 5.0, math.inf)}),
    "participation": Curve(
        {**DIGITS, "federation.silos": 10, "privacy.epsilon": 4.0, "rounds": 30},
        {"federation.participation": (0.2, 0.5, 1.0)},
        baselines="none",
    ),
    "local-epochs": Curve(
        {**DIGITS, "federation.silos": 10, "privacy.epsilon": 4.0},
        {"training.epochs": (1, 2, 4, 8)},
        baselines="none",
    ),
    "mnist": Curve({"federation.alpha": 0.3}, IMAGES, file="mnist.toml", baselines="none"),
    # PRIVET_DATA is what examples/cifar10/unpack.py wrote.
    "cifar10": Curve(
        {},
        {"privacy.epsilon": (1.0, 3.0, 8.0, math.inf)},
        file="cifar10/experiment.toml",
        baselines="none",
    ),
    "fashion-mnist": Curve(
        {"federation.alpha": 0.3}, IMAGES, file="fashion-mnist.toml", baselines="none"
    ),
}


def experiment_of(curve: Curve) -> Experiment:
    """What the sweep starts from."""
    settings = dict(curve.settings)
    if curve.file:
        return Experiment.from_file(EXAMPLES / curve.file, settings)
    return Experiment.from_mapping({"task": settings.pop("task")}).with_settings(settings)


def write_table(path: Path) -> None:
    """The breast cancer data that scikit-learn brings, as a table."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*found.feature_names, "benign"])
        rows.writerows([*row, label] for row, label in zip(found.data, found.target, strict=True))


def show(name: str, result: Sweep) -> None:
    print(f"\n### {name}\n")
    print("| setting | epsilon | accuracy | worst silo | seeds |\n|---|---|---|---|---|")
    for each in result.estimates:
        epsilon = "-" if each.epsilon is None else f"{each.epsilon:.2f}"
        print(
            f"| {title(each)} | {epsilon} | {mean_text(each)} | {_worst(result, each)} "
            f"| {len(each.seeds)} |",
            flush=True,
        )


def _worst(result: Sweep, estimate: Estimate) -> str:
    """Mean over seeds of the worst silo's accuracy, where the data have natural silos."""
    found = [
        min(cell.accuracy_per_silo.values())
        for cell in result.cells
        if cell.kind == estimate.kind == "federated"
        and cell.settings == estimate.settings
        and cell.accuracy_per_silo
    ]
    return f"{statistics.mean(found):.4f}" if found else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CURVES), default=list(CURVES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/curves"))
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write_table(options.out / "breast-cancer.csv")
    for name in options.only:
        curve = CURVES[name]
        result = sweep(
            experiment_of(curve),
            axes=curve.axes,
            seeds=options.seeds,
            baselines=curve.baselines,
            out=options.out / name,
            workers=options.workers,
            data_dir=options.out if name == "breast-cancer" else None,
            resume=True,
        )
        show(name, result)


if __name__ == "__main__":
    main()
