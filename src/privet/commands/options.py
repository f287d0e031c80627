"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.devices import Precision
from privet.simulations import Engine

if TYPE_CHECKING:
    from privet.experiment import Experiment

ExperimentFile = Annotated[Path, typer.Argument(help="Experiment file (TOML).", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting of the file."),
]
Unset = Annotated[
    list[str] | None,
    typer.Option("--unset", metavar="KEY", help="Take a setting, or a table, of the file out."),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the data sets. [default: $PRIVET_DATA]")
]
TrainingEngine = Annotated[
    Engine, typer.Option(help="What trains the silos; auto: small models many at once.")
]
DeviceName = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where silos train: auto (cuda, then mps, else cpu), cpu, cuda, cuda:N or mps.",
    ),
]
PassPrecision = Annotated[
    Precision, typer.Option("--precision", help="Of forward and backward passes.")
]
Track = Annotated[
    str | None,
    typer.Option(metavar="TRACKER", help="mlflow, mlflow:URI, tensorboard or wandb."),
]
ShownMetric = Annotated[
    str | None,
    typer.Option("--metric", metavar="NAME", help="Show this in the place of the headline."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_experiment(
    file: Path, settings: list[str] | None, unset: list[str] | None = None
) -> Experiment:
    """The experiment of a file with the settings of `--set` in place of the file's."""
    from privet.experiment import Experiment, assignments

    return Experiment.from_file(file, assignments(settings or []), unset=unset or [])
