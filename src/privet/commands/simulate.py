"""`privet simulate`: a whole federation on this machine, from its file to its page."""

from __future__ import annotations

import gc
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privet.commands.options import (
    DataDir,
    DeviceName,
    ExperimentFile,
    PassPrecision,
    Quiet,
    Settings,
    Track,
    TrainingEngine,
    Unset,
    read_experiment,
)
from privet.devices import options
from privet.metrics import ACCURACY, LOSS, Metric, metric_named

if TYPE_CHECKING:
    from privet.experiment import Experiment
    from privet.simulations.prepare import Prepared

_MOST_COLUMNS = 40

Out = Annotated[Path | None, typer.Option(help="Run folder. [default: runs/<name of the file>]")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that silos share.")]
Policy = Annotated[
    Path | None, typer.Option(help="A policy that every silo keeps to. [default: none]")
]
Requester = Annotated[str, typer.Option(help="Who asks, in the policy's eyes.")]
Isolate = Annotated[
    bool, typer.Option("--isolate", help="Serialise every message as the wire does.")
]
Canaries = Annotated[
    int, typer.Option(min=0, help="Coordinates a silo by which `privet audit` tests DP-SGD.")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on from the last whole round in the run folder, also to more rounds than it had.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print a JSON line a round, then the summary.")
]


def simulate(
    file: ExperimentFile,
    settings: Settings = None,
    unset: Unset = None,
    out: Out = None,
    workers: Workers = 1,
    engine: TrainingEngine = "auto",
    device: DeviceName = "cpu",
    precision: PassPrecision = "float32",
    policy: Policy = None,
    requester: Requester = "simulation",
    isolate: Isolate = False,
    canaries: Canaries = 0,
    data_dir: DataDir = None,
    resume: Resume = False,
    track: Track = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a whole federation on this machine."""
    # A mistake is told before seconds of imports.
    experiment = read_experiment(file, settings, unset)
    with _importing("privet.simulations.run"):
        from privet.api import simulate_prepared
        from privet.commands.progress import choose_mode, progress, spinner
        from privet.simulations.prepare import prepare
        from privet.simulations.run import Execution, engine_warnings
        from privet.tracking.tracker import Tracking

    execution = Execution(
        workers=workers,
        engine=engine,
        isolate=isolate,
        canaries=canaries,
        device=device,
        precision=precision,
    )
    # Before the data are read: a device that is not here, or a tracker, is told at once.
    where = execution.chosen_device()
    tracking = None if track is None else Tracking.parse(track)
    folder = out or Path("runs") / file.stem
    loud = not (quiet or as_json)
    if loud:
        _ignored(file)
    mode = choose_mode(quiet=quiet, as_json=as_json)
    with spinner(mode, f"preparing {experiment.task}"):
        prepared = prepare(experiment, data_dir=data_dir, policy=policy, requester=requester)
    if not quiet:
        _warn([*prepared.warnings, *engine_warnings(prepared, engine)])
    if loud:
        _introduce(prepared)
        if options(device, precision):
            typer.echo(f"Computed on {where}")
        _tell_of_more_rounds(prepared, folder, resume=resume)
    with _interruptible(folder), progress(mode, rounds=prepared.experiment.rounds) as watch:
        summary = simulate_prepared(
            prepared,
            out=folder,
            execution=execution,
            resume=resume,
            watch=watch,
            tracking=tracking,
        )
    if as_json:
        typer.echo(json.dumps(summary))
    elif loud:
        _conclude(summary, folder)
    # Last, so that the figures and the report are there to look at; but no script takes it for
    # success.
    _demand_agreement(summary)
    _demand_training(summary, quiet=quiet)


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
        # Before it is switched on again: what is there now is not looked at any more.
        gc.freeze()
        gc.enable()


def _ignored(file: Path) -> None:
    from privet.experiment import SWEEP, read_toml

    if SWEEP in read_toml(file):
        typer.echo("The table [sweep] is for privet sweep: this is one run.")


def _tell_of_more_rounds(prepared: Prepared, folder: Path, *, resume: bool) -> None:
    from privet.record.folder import RunFolder

    held, experiment = RunFolder(folder), prepared.experiment
    if not (resume and held.holds_a_run() and held.check_settings(experiment)):
        return
    ran = held.last_whole()
    spent = "" if experiment.privacy is None else "; epsilon grows with them"
    typer.echo(
        f"The run here ended after round {ran}: rounds {ran + 1} to {experiment.rounds}{spent}."
    )


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Say how to go on when the run is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        from privet.record.folder import RunFolder

        rounds = RunFolder(folder).rounds()
        if rounds:
            typer.secho(
                f"Interrupted after round {rounds[-1].round}. Go on with the same command "
                f"and --resume. Report so far: {folder / 'report.html'}",
                err=True,
            )
        raise


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        typer.secho(f"warning: {warning}", err=True, fg="yellow")


def _introduce(prepared: Prepared) -> None:
    experiment, sizes = prepared.experiment, prepared.place.sizes
    typer.echo(
        f"{experiment.task}: {sum(sizes):,} records in {len(sizes)} silos, "
        f"{experiment.rounds} rounds of {experiment.strategy.name}"
    )
    if prepared.by_rule:
        typer.echo(f"{prepared.by_rule}.")
    if (start := experiment.start) is not None:
        seen = f", said to have seen: {start.seen}" if start.seen else ""
        typer.echo(f"It begins from {start.file} (SHA-256 {start.sha256}){seen}.")
    for line in _columns(getattr(prepared.place.task, "described", ())):
        typer.echo(f"  {line}")
    model = prepared.place.model_cache.model()
    if len(model.base):
        typer.echo(
            f"{sum(model.shared_sizes):,} numbers of the model travel; {len(model.base):,} are its "
            "base and stay as the task loads them."
        )
    if model.local:
        own = sum(model.sizes) - sum(model.shared_sizes)
        typer.echo(
            f"{own:,} numbers stay in each silo, which has its own: {', '.join(model.local)}"
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


def _columns(lines: Sequence[str]) -> Sequence[str]:
    more = len(lines) - _MOST_COLUMNS
    return [*lines[:_MOST_COLUMNS], f"and {more} more"] if more > 0 else lines


def _sealing(experiment: Experiment) -> str:
    """What encryption adds, in a line; nothing without."""
    if experiment.encryption is None:
        return ""
    encryption = experiment.encryption
    told = f"Updates are encrypted ({encryption.scheme}): the server cannot read them or their sum"
    if encryption.masked and encryption.colluding:
        more = encryption.colluding
        many = "one silo" if more == 1 else f"{more} silos"
        return f"{told}; with {many} on its side it reads the sum, and no single update."
    return f"{told}. One silo that sides with it would read every single update with it."


def _clip(experiment: Experiment) -> str:
    return f"{experiment.privacy.clip:g}" if experiment.privacy else ""


def _conclude(summary: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _figures(summary):
        table.add_row(escape(name), escape(value))
    console = Console()
    console.print()
    console.print(table)
    console.print(f"\nReport: {folder / 'report.html'}", highlight=False, soft_wrap=True)


def _figures(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    declared = [Metric(**each) for each in summary["declared"]]
    first = declared[0] if declared else ACCURACY
    if summary["stopped"]:
        yield (
            "stopped",
            f"after round {summary['stopped']['round']}: {summary['stopped']['reason']}",
        )
    if (chosen := summary["validation"]) is not None:
        by = first if first.name in chosen["metrics"] else LOSS
        value = {"loss": chosen["loss"], **chosen["metrics"]}.get(by.name)
        said = by.text(math.nan if value is None else value)
        told = f"{by.label} {said} on {chosen['records']:,} records for validation"
        yield "best round", f"{chosen['round']}: {told}; what follows is on test records"
    yield from _measured(summary, first, declared)
    if summary["evaluation"]:
        for name, value in summary["evaluation"]["metrics"].items():
            yield f"{name}, silos", f"{value:.4f} (mean over records that silos held out)"
        scored = summary["evaluation"]["scored"] or {"figures": {}}
        for name, (value, low, high) in scored["figures"].items():
            told = f"{value:.4f}, 95 %: {low:.4f} to {high:.4f}, from counts of scores"
            yield f"{metric_named(name).label}, silos", told
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
    for problem in summary["problems"]:
        yield "problem", problem


def _measured(
    summary: dict[str, Any], first: Metric, declared: Sequence[Metric]
) -> Iterator[tuple[str, str]]:
    """The headline and the loss, then every other figure on test records."""
    found, without = summary["metrics"], summary["baselines"]
    if first.name in found:
        yield first.label, first.text(found[first.name]) + _beside(first, without)
    if summary["loss"] is not None:
        yield "loss", f"{summary['loss']:.4f}" + _beside(LOSS, without)
    for name, value in found.items():
        if name != first.name:
            metric = metric_named(name, declared)
            told = f"{value:.4g} {metric.unit}".rstrip()
            yield metric.label, told + _beside(metric, without)
    if without:
        yield "baseline", "one answer for everybody: the test records' commonest class or mean"


def _beside(metric: Metric, baselines: dict[str, float]) -> str:
    value = baselines.get(metric.name)
    return "" if value is None else f" (baseline {value:.4g})"


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


def _demand_training(summary: dict[str, Any], *, quiet: bool) -> None:
    if not summary["client_updates"]:
        typer.secho("privet: nobody trained: the model is as it was made", err=True, fg="red")
        raise typer.Exit(1)
    model = summary["model"]
    if said := model["nothing_trained"]:
        typer.secho(f"privet: {said}", err=True, fg="red")
        raise typer.Exit(1)
    if model["still"] and not quiet:
        named = ", ".join(model["still"])
        _warn([f"{named}: every number is where it started: no gradient reached them"])
