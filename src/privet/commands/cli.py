"""The command line. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

import privet
from privet.commands.audit import audit
from privet.commands.compare import compare_
from privet.commands.deployment import health, server, silo
from privet.commands.jobs import cancel, fetch, logs, page, status, submit, watch
from privet.commands.ledger import ledger_cli
from privet.commands.policy import policy_cli
from privet.commands.provision import join_cli, provision, try_
from privet.commands.sweep import sweep_
from privet.errors import PrivetError

if TYPE_CHECKING:
    from privet.experiment import Experiment
    from privet.simulations.prepare import Prepared

typer.core.HAS_RICH = False  # else typer escapes brackets for Rich where Rich does not print

cli = typer.Typer(
    name="privet",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, as of git and pip, in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Federated training over data that may not be shared, with privacy that is measured.",
)


cli.add_typer(ledger_cli, name="ledger")
cli.add_typer(policy_cli, name="policy")
cli.add_typer(join_cli, name="join")
for command in (
    provision,
    server,
    silo,
    health,
    submit,
    status,
    page,
    watch,
    logs,
    cancel,
    fetch,
    audit,
):
    cli.command()(command)
cli.command(name="try")(try_)
cli.command(name="sweep")(sweep_)
cli.command(name="compare")(compare_)


class Engine(StrEnum):
    """What runs the silos."""

    auto = "auto"
    in_process = "in-process"
    vectorised = "vectorised"
    ray = "ray"


class _State:
    debug = False


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"privet {privet.__version__}")
        raise typer.Exit


@cli.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    _State.debug = debug


@cli.command()
def simulate(
    file: Annotated[Path, typer.Argument(help="Experiment file (TOML).", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting of the file."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. [default: runs/<name of the file>]")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that silos share.")] = 1,
    engine: Annotated[
        Engine, typer.Option(help="What trains the silos; auto: small models many at once.")
    ] = Engine.auto,
    policy: Annotated[
        Path | None, typer.Option(help="A policy that every silo keeps to. [default: none]")
    ] = None,
    requester: Annotated[str, typer.Option(help="Who asks, in the policy's eyes.")] = "simulation",
    isolate: Annotated[
        bool, typer.Option("--isolate", help="Serialise every message as the wire does.")
    ] = False,
    canaries: Annotated[
        int, typer.Option(min=0, help="Coordinates a silo by which `privet audit` tests DP-SGD.")
    ] = 0,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data sets. [default: $PRIVET_DATA]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last whole round in the run folder.")
    ] = False,
    track: Annotated[
        str | None,
        typer.Option(metavar="TRACKER", help="mlflow, mlflow:URI, tensorboard or wandb."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON line a round, then the summary.")
    ] = False,
) -> None:
    """Run a whole federation on this machine."""
    with _importing("privet.simulations.run"):
        from privet.experiment import SWEEP, Experiment, assignments, read_toml
        from privet.progress import choose_mode, progress, spinner
        from privet.simulations.prepare import prepare
        from privet.simulations.run import Execution, engine_warnings, run_prepared
        from privet.tracking.following import both, tracked_run
        from privet.tracking.tracker import Tracking

    tracking = None if track is None else Tracking.parse(track)
    experiment = Experiment.from_file(file, assignments(settings or []))
    folder = out or Path("runs") / file.stem
    loud = not (quiet or as_json)
    if loud and SWEEP in read_toml(file):
        typer.echo("The table [sweep] is for privet sweep: this is one run.")
    mode = choose_mode(quiet=quiet, as_json=as_json)
    with spinner(mode, f"preparing {experiment.task}"):
        prepared = prepare(experiment, data_dir=data_dir, policy=policy, requester=requester)
    if not quiet:
        _warn([*prepared.warnings, *engine_warnings(prepared, engine.value)])
    if loud:
        _introduce(prepared)
    execution = Execution(workers=workers, engine=engine.value, isolate=isolate, canaries=canaries)
    with (
        tracked_run(tracking, experiment, folder=folder) as follow,
        _reporting(folder),
        progress(mode, rounds=experiment.rounds) as watch,
    ):
        summary = run_prepared(
            prepared, out=folder, execution=execution, resume=resume, watch=both(watch, follow)
        )
    if as_json:
        typer.echo(json.dumps(summary))
    elif loud:
        _conclude(summary, folder)
    _demand_agreement(summary)


@cli.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Run or sweep folder.", show_default=False)],
) -> None:
    """Write report.html and plots for the folder of a run or a sweep, finished or not."""
    if (folder / "sweep.json").exists():
        from privet.reports import sweep as sweep_report

        page = sweep_report.write_report(folder)
    elif (folder / "experiment.toml").exists():
        from privet.reports import run as run_report

        page = run_report.write_report(folder, plots=True)
    else:
        raise PrivetError(f"{folder} is not a run folder: it has no experiment.toml")
    typer.echo(f"Report: {page}")


@cli.command()
def tasks() -> None:
    """List the built-in tasks."""
    from privet.tasks.registry import TASKS

    _list({name: task.summary for name, task in TASKS.items()})
    typer.echo('\nYour own: task = "package.module:Class" (see examples/custom_task).')


@cli.command()
def strategies() -> None:
    """List the aggregation strategies with their options."""
    from privet.strategies.registry import STRATEGIES

    _list({name: entry.summary for name, entry in STRATEGIES.items()})


@contextmanager
def _importing(module: str) -> Iterator[None]:
    """Import without looking for garbage, and never look at what was imported again.

    The libraries make a million objects, none of them garbage: looking at all of them time and
    again, as Python would, takes a second of a short run.
    """
    if module in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 2."""
    atexit.register(gc.freeze)  # when all memory goes, there is no garbage to look for
    try:
        cli(args=arguments, prog_name="privet")
    except PrivetError as error:
        if _State.debug:
            raise
        typer.secho(f"privet: {error}", err=True, fg="red")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def _reporting(folder: Path) -> Iterator[None]:
    """Leave a report behind, also when the run is interrupted."""
    from privet.record.folder import RunFolder
    from privet.reports.run import write_report
    from privet.simulations.ledger import settle

    try:
        yield
    except KeyboardInterrupt:
        history = RunFolder(folder).history()
        if history:
            write_report(folder)
            settle(folder)
            typer.secho(
                f"Interrupted after round {history[-1]['round']}. Go on with the same command "
                f"and --resume. Report so far: {folder / 'report.html'}",
                err=True,
            )
        raise
    write_report(folder)
    settle(folder)


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        typer.secho(f"warning: {warning}", err=True, fg="yellow")


def _introduce(prepared: Prepared) -> None:
    experiment, silos = prepared.experiment, prepared.place.silos
    records = sum(len(silo) for silo in silos)
    typer.echo(
        f"{experiment.task}: {records:,} records in {len(silos)} silos, "
        f"{experiment.rounds} rounds of {experiment.strategy.name}"
    )
    if sealing := _sealing(experiment):
        typer.echo(sealing)
    noise = [plan.mechanism.noise_multiplier for plan in prepared.plans if plan.mechanism]
    if not noise:
        what = "model" if experiment.encryption else "update of every silo"
        typer.echo(f"No [privacy]: the {what} can reveal records.")
        return
    low, high = min(noise), max(noise)
    spread = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
    typer.echo(f"DP-SGD in every silo: noise multiplier {spread}, clip norm {_clip(experiment)}")


def _sealing(experiment: Experiment) -> str:
    """What encryption adds, in a line; nothing without."""
    if experiment.encryption is None:
        return ""
    masks = ", with pairwise masks" if experiment.encryption.pairwise_masks else ""
    return (
        f"Updates are encrypted ({experiment.encryption.scheme}{masks}): the server sees sums only."
    )


def _clip(experiment: Experiment) -> str:
    return f"{experiment.privacy.clip:g}" if experiment.privacy else ""


def _conclude(summary: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _figures(summary):
        table.add_row(name, value)
    console = Console()
    console.print()
    console.print(table)
    console.print(f"\nReport: {folder / 'report.html'}", highlight=False, soft_wrap=True)


def _figures(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if summary["stopped"]:
        yield (
            "stopped",
            f"after round {summary['stopped']['round']}: {summary['stopped']['reason']}",
        )
    if summary["accuracy"] is not None:
        yield "accuracy", f"{summary['accuracy']:.4f}"
    if summary["loss"] is not None:
        yield "loss", f"{summary['loss']:.4f}"
    if summary["evaluation"]:
        for name, value in summary["evaluation"]["metrics"].items():
            yield f"{name}, silos", f"{value:.4f} (mean over records that silos held out)"
    epsilon = summary["epsilon"]
    if epsilon is None:
        yield "epsilon", "none: no privacy guarantee"
    else:
        yield (
            "epsilon",
            f"{epsilon['max']:.3f} at delta = {epsilon['delta']:g}, in the silo that spent most",
        )
        yield "cross-checks", _checks(epsilon)
    yield "time", f"{summary['seconds']['total']:.1f} s"


def _checks(epsilon: dict[str, Any]) -> str:
    checks = epsilon["cross_checks"]
    if checks is None:
        return "not made: silos keep their accounts" if epsilon["max"] else "nothing was spent"
    figures = ", ".join(
        f"{name.upper()} {checks[name]:.3f}" for name in ("rdp", "prv") if checks[name] is not None
    )
    return f"{figures} {'agree' if checks['agree'] else 'DO NOT AGREE'}"


def _demand_agreement(summary: dict[str, Any]) -> None:
    checks = summary["epsilon"] and summary["epsilon"]["cross_checks"]
    if checks and not checks["agree"]:
        for problem in checks["problems"]:
            typer.secho(f"privet: epsilon is not confirmed: {problem}", err=True, fg="red")
        raise typer.Exit(1)


def _list(lines: dict[str, str]) -> None:
    width = max(map(len, lines))
    for name, line in lines.items():
        typer.echo(f"{name:<{width}}  {line}")
