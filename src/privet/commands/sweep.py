"""`privet sweep`: accuracy against privacy budget, or against any setting, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from privet.errors import ExperimentError

if TYPE_CHECKING:
    from privet.sweeps.results import Sweep


def sweep_(
    file: Annotated[Path, typer.Argument(help="Experiment file (TOML).", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting of the file."),
    ] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(metavar="E,E,...", help="Privacy budgets; inf: no differential privacy."),
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V,V,...", help="Another setting and its values."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="How many, or which (3,7,9). [default: the file's, else 5]")
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(help="all, none, or of no-dp,alone,pooled. [default: the file's, else all]"),
    ] = None,
    private_tuning: Annotated[
        str | None,
        typer.Option(
            metavar="LAW:MEAN",
            help="Draw settings for a random number of runs (geometric:10) and pay for the best.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Sweep folder. [default: runs/<name of the file>-sweep]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time. [default: the cores]")
    ] = None,
    engine: Annotated[
        Literal["auto", "in-process", "vectorised", "ray"],
        typer.Option(help="What trains the silos; auto: small models many at once."),
    ] = "auto",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data sets. [default: $PRIVET_DATA]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the cells that are done, run the others.")
    ] = False,
    track: Annotated[
        str | None,
        typer.Option(metavar="TRACKER", help="mlflow, mlflow:URI, tensorboard or wandb."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON line for each cell.")
    ] = False,
) -> None:
    """Run an experiment at many settings and seeds, with baselines, and say what differs."""
    from privet.experiment import SWEEP, Experiment, assignments, read_toml
    from privet.progress import choose_mode
    from privet.reports.sweep import write_report
    from privet.sweeps.cells import tracked_sweep
    from privet.sweeps.progress import cell_progress
    from privet.sweeps.request import SweepRequest, runs_of
    from privet.sweeps.run import sweep

    experiment = Experiment.from_file(file, assignments(settings or []))
    asked = SweepRequest.from_table(read_toml(file).get(SWEEP, {})).with_options(
        axes=axis or [], epsilon=epsilon, seeds=seeds, baselines=baselines
    )
    if not asked.axes and not asked.cells:
        raise ExperimentError("nothing to sweep: give --epsilon, --axis or a table [sweep]")
    folder = out or Path("runs") / f"{file.stem}-sweep"
    with tracked_sweep(track, folder=folder) as tracking:
        try:
            with cell_progress(choose_mode(quiet=quiet, as_json=as_json)) as watch:
                result = sweep(
                    experiment,
                    axes=asked.axes,
                    cells=asked.cells,
                    seeds=asked.seeds,
                    baselines=asked.baselines,
                    out=folder,
                    workers=workers,
                    engine=engine,
                    data_dir=data_dir,
                    resume=resume,
                    private_tuning=None if private_tuning is None else runs_of(private_tuning),
                    watch=watch,
                    track=tracking,
                )
        except KeyboardInterrupt:
            _interrupted(folder)
            raise
        page = write_report(folder)
    if not (quiet or as_json):
        _conclude(result, folder)
        typer.echo(f"Report: {page}")
    if result.failed:
        raise typer.Exit(1)


def _interrupted(folder: Path) -> None:
    from privet.reports.sweep import write_report
    from privet.sweeps.store import SWEEP, read_sweep

    if (folder / SWEEP).exists():
        write_report(folder)
        cells = read_sweep(folder).cells
        done = sum(cell.status == "done" for cell in cells)
        typer.secho(
            f"Interrupted: {done} of {len(cells)} cells are done. Go on with the same command and "
            "--resume.",
            err=True,
        )


def _conclude(result: Sweep, folder: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from privet.sweeps.results import accuracy_text, findings, title

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", overflow="fold")
    for heading in ("seeds", "epsilon", "accuracy"):
        table.add_column(heading, justify="right", overflow="fold")
    for each in result.estimates:
        spent = "-" if each.epsilon is None else f"{each.epsilon:.3f}"
        table.add_row(title(each), str(len(each.seeds)), spent, accuracy_text(each))
    Console().print(table)
    for line in findings(result):
        typer.echo(line)
    typer.echo(f"\nResults: {folder}/sweep.json, cells.csv, cells.parquet")
