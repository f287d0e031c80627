"""`privet sweep`: how good, against privacy budget or any other setting, in one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.commands.options import (
    DataDir,
    DeviceName,
    ExperimentFile,
    PassPrecision,
    Quiet,
    Settings,
    ShownMetric,
    Track,
    TrainingEngine,
    Unset,
    read_experiment,
)
from privet.devices import options
from privet.errors import ExperimentError

if TYPE_CHECKING:
    from privet.metrics import Metric
    from privet.sweeps.results import Sweep

Epsilon = Annotated[
    str | None,
    typer.Option(metavar="E,E,...", help="Privacy budgets; inf: no differential privacy."),
]
Axes = Annotated[
    list[str] | None, typer.Option(metavar="KEY=V,V,...", help="Another setting and its values.")
]
Seeds = Annotated[
    str | None, typer.Option(help="How many, or which (3,7,9). [default: the file's, else 5]")
]
Baselines = Annotated[
    str | None,
    typer.Option(help="all, none, or of no-dp,alone,pooled. [default: the file's, else all]"),
]
PrivateTuning = Annotated[
    str | None,
    typer.Option(
        metavar="LAW:MEAN",
        help="Draw settings for a random number of runs (geometric:10) and pay for the best.",
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="Sweep folder. [default: runs/<name of the file>-sweep]")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Cells at a time. [default: the cores, or devices]")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Keep the cells that are done, run the others.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON line for each cell.")]


def sweep(
    file: ExperimentFile,
    settings: Settings = None,
    unset: Unset = None,
    epsilon: Epsilon = None,
    axis: Axes = None,
    seeds: Seeds = None,
    baselines: Baselines = None,
    private_tuning: PrivateTuning = None,
    out: Out = None,
    workers: Workers = None,
    engine: TrainingEngine = "auto",
    device: DeviceName = "cpu",
    precision: PassPrecision = "float32",
    data_dir: DataDir = None,
    resume: Resume = False,
    track: Track = None,
    metric: ShownMetric = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run an experiment at many settings and seeds, with baselines, and say what differs."""
    from privet import api
    from privet.commands.progress import choose_mode
    from privet.commands.sweep_progress import cell_progress
    from privet.experiment import SWEEP, read_toml
    from privet.sweeps.request import SweepRequest, runs_of

    experiment = read_experiment(file, settings, unset)
    request = SweepRequest.from_table(read_toml(file).get(SWEEP, {})).with_options(
        axes=axis or [], epsilon=epsilon, seeds=seeds, baselines=baselines
    )
    if not request.axes and not request.cells:
        raise ExperimentError("nothing to sweep: give --epsilon, --axis or a table [sweep]")
    folder = out or Path("runs") / f"{file.stem}-sweep"
    mode = choose_mode(quiet=quiet, as_json=as_json)
    with _interruptible(folder), cell_progress(mode) as watch:
        result = api.sweep(
            experiment,
            axes=request.axes,
            cells=request.cells,
            seeds=request.seeds,
            baselines=request.baselines,
            out=folder,
            workers=workers,
            engine=engine,
            device=device,
            precision=precision,
            data_dir=data_dir,
            resume=resume,
            private_tuning=None if private_tuning is None else runs_of(private_tuning),
            watch=watch,
            track=track,
        )
    if metric is not None:
        from privet.sweeps.cells import showing

        result = showing(result, metric, folder)
        api.report(folder, metric=metric)
    if not (quiet or as_json):
        _conclude(result, folder)
        if where := options(result.device, result.precision):
            typer.echo(f"Computed with {' '.join(where)}")
        typer.echo(f"Report: {folder / 'report.html'}")
    # The others are results all the same: they are told before the exit code says that some are
    # missing.
    if result.failed:
        raise typer.Exit(1)


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Say how to go on when the sweep is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        from privet.sweeps.store import SWEEP, read_sweep

        if (folder / SWEEP).exists():
            cells = read_sweep(folder).cells
            done = sum(cell.status == "done" for cell in cells)
            typer.secho(
                f"Interrupted: {done} of {len(cells)} cells are done. Go on with the same command "
                "and --resume.",
                err=True,
            )
        raise


def _heading(metric: Metric) -> str:
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label


def _conclude(result: Sweep, folder: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from privet.sweeps.results import findings, mean_text, title

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", overflow="fold")
    metric = result.metric
    for heading in ("seeds", "epsilon", _heading(metric)):
        table.add_column(heading, justify="right", overflow="fold")
    for each in result.estimates:
        spent = "-" if each.epsilon is None else f"{each.epsilon:.3f}"
        table.add_row(escape(title(each)), str(len(each.seeds)), spent, mean_text(each, metric))
    Console().print(table)
    for line in findings(result):
        typer.echo(line)
    typer.echo(f"\nResults: {folder}/sweep.json, cells.csv, cells.parquet")
