"""Commands of the person who keeps a silo's ledger: look at it, verify it, export it.

`privet ledger what-if`: would this experiment fit, and what would it leave?
"""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.commands.options import ExperimentFile, Settings, read_experiment
from privet.errors import PrivetError
from privet.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from privet.client.guard import Prospect
    from privet.client.training import LocalPlan
    from privet.experiment import Experiment
    from privet.privacy.ledger import Entry, History
    from privet.privacy.policy import Policy


def what_if(
    file: ExperimentFile,
    settings: Settings = None,
    ledger: Annotated[Path, typer.Option(help="The silo's ledger.")] = Path("ledger.sqlite"),
    policy: Annotated[Path, typer.Option(help="The data holder's policy.")] = Path("policy.toml"),
    dataset: Annotated[
        str | None, typer.Option(help="Name of the data set. [default: the only one]")
    ] = None,
    records: Annotated[
        int | None, typer.Option(min=1, help="Number of records. [default: count them]")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data, to count them. [default: $PRIVET_DATA]")
    ] = None,
    requester: Annotated[str, typer.Option(help="Who would ask.")] = "unknown",
) -> None:
    """Say whether an experiment would fit the budget, and what it would leave. Charges nothing."""
    from rich.console import Console

    from privet.client.guard import RequestOrigin, what_if
    from privet.client.training import plan_round
    from privet.privacy.ledger import read_history
    from privet.privacy.policy import Policy

    experiment = read_experiment(file, settings)
    rules, history = Policy.from_file(policy), read_history(ledger)
    count = records or _count(experiment, data_dir)
    origin = RequestOrigin(
        dataset=dataset or _only(history, rules),
        requester=requester,
        job="what if: a job not yet begun",
    )
    asked = plan_round(experiment, n_records=count)
    prospect = what_if(
        experiment,
        asked,
        policy=rules,
        history=history,
        origin=origin,
        month=datetime.now(UTC).strftime("%Y-%m"),
    )
    for line in _job(experiment, asked, prospect.plan, origin.dataset, count):
        typer.echo(line)
    if prospect.outlook.whole:
        Console().print(_table_of_silos(prospect, experiment.rounds))
    typer.echo(_verdict(prospect, experiment.rounds))
    if not prospect.outlook.fits:
        raise typer.Exit(1)


def _count(experiment: Experiment, data_dir: Path | None) -> int:
    from privet.client.silo import load_local_data
    from privet.tasks.files import data_folder

    place = load_local_data(experiment, data_dir=data_folder(data_dir), run_id=0, divided=False)
    return len(place.silos[0])


def _only(history: History, policy: Policy) -> str:
    """The one data set that the ledger knows, or that the policy names."""
    from privet.errors import PrivetError

    known = history.datasets or tuple(name for name in policy.data if name != "*")
    if len(known) != 1:
        raise PrivetError(f"--dataset: name the data set ({', '.join(known) or 'none is known'})")
    return known[0]


def _job(
    experiment: Experiment, asked: LocalPlan, runs: LocalPlan, dataset: str, count: int
) -> Iterator[str]:
    yield (
        f"{experiment.task} on {dataset}: {experiment.rounds} rounds of {runs.steps} steps, "
        f"{count:,} records"
    )
    if runs.mechanism is None or asked.mechanism is None:
        yield "Without differential privacy: the loss has no bound."
        return
    yield (
        f"Noise multiplier {runs.mechanism.noise_multiplier:.4g}, sampling rate "
        f"{runs.mechanism.sampling_rate:.4g}, clip norm {runs.mechanism.clip:g}"
    )
    if runs.mechanism.noise_multiplier > asked.mechanism.noise_multiplier:
        yield (
            f"The noise would be raised from {asked.mechanism.noise_multiplier:.4g} so that all "
            "rounds fit (privacy.on_budget)."
        )


def _table_of_silos(prospect: Prospect, rounds: int) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("limit", overflow="fold")
    for title in ("spent", "after 1 round", f"after {rounds}", "left"):
        table.add_column(title, justify="right", no_wrap=True)
    outlook = prospect.outlook
    for coming, whole in zip(outlook.coming, outlook.whole, strict=True):
        left = whole.limit.epsilon - whole.projected
        table.add_row(
            str(whole.limit),
            f"{whole.spent:.3f}",
            f"{coming.projected:.3f}",
            f"{whole.projected:.3f}",
            f"{left:.3f}" if whole.fits else "over",
        )
    return table


def _verdict(prospect: Prospect, rounds: int) -> str:
    outlook = prospect.outlook
    if not outlook.whole:
        return "It fits: the policy sets no limit that could be reached."
    if outlook.fits:
        return "It fits: every limit would hold after the last round."
    if outlook.rounds == 0:
        return "It does not fit: not one round would be allowed."
    return f"It does not fit: {outlook.rounds} of {rounds} rounds would be allowed, then refused."


ledger_cli = typer.Typer(
    name="ledger",
    no_args_is_help=True,
    help="What a silo's data sets have spent: show, verify, export, and what a job would cost.",
)

_REMARKS = 20

_POINTS = 60
"""Points of a curve: each costs one composition."""

LedgerFile = Annotated[Path, typer.Argument(help="Ledger (SQLite file).", show_default=False)]
KeyFile = Annotated[Path, typer.Option(help="The silo's private key.", show_default=False)]
DatasetName = Annotated[str, typer.Argument(help="Name of the data set.", show_default=False)]
Delta = Annotated[float, typer.Option(help="Delta at which epsilon is told.")]


@ledger_cli.command()
def init(
    file: LedgerFile,
    key: Annotated[Path, typer.Option(help="The silo's key; made when there is none.")],
) -> None:
    """Begin a ledger, signed with the silo's key; never overwrites one."""
    from privet.privacy.ledger import Ledger, SiloKey

    silo_key = SiloKey.load(key) if key.exists() else SiloKey.create(key)
    Ledger.create(file, silo_key).close()
    typer.echo(f"Ledger: {file}")
    typer.echo(f"Public key: {silo_key.public}")
    typer.echo(f"Keep a copy of {key} where this machine's backups are not: it signs the ledger.")


@ledger_cli.command()
def show(
    file: LedgerFile,
    delta: Delta = 1e-5,
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="Epsilon that is allowed: remainder and line.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write epsilon over time, per data set and job (PNG).")
    ] = None,
) -> None:
    """Show what each data set has spent, by job. Read-only; needs no key, checks no signature."""
    from rich.console import Console

    from privet.privacy.ledger import read_history

    history = read_history(file)
    datasets = _chosen(history, dataset)
    Console().print(_table(history, datasets, delta, budget))
    for line in _remarks(history, datasets):
        typer.echo(line)
    if plot is not None:
        _plot(history, datasets, delta=delta, budget=budget, path=plot)
        typer.echo(f"Plot: {plot}")


@ledger_cli.command()
def verify(
    file: LedgerFile,
    public_key: Annotated[
        str | None, typer.Option(help="The silo's public key (64 hexadecimal digits).")
    ] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="An earlier export that must still be contained.")
    ] = None,
) -> None:
    """Check every hash and every signature of a ledger or an export; exit 1 when one is wrong."""
    from privet.privacy.ledger import verify as verify_ledger
    from privet.privacy.ledger import verify_bundle

    bundle = _is_text(file)
    if bundle:
        findings = verify_bundle(file, public_key)
    else:
        findings = verify_ledger(file, public_key, exports=against or [])
    for finding in findings:
        typer.secho(f"{file}: {finding}", fg="red")
    if findings:
        raise typer.Exit(1)
    whose = "signed by this key" if public_key else "whole; give --public-key to know who signed it"
    typer.echo(f"{file}: every entry is in place and {whose}.")


@ledger_cli.command()
def export(
    file: LedgerFile,
    out: Annotated[Path, typer.Argument(help="Where to write (JSON).", show_default=False)],
    key: KeyFile,
) -> None:
    """Write a signed copy of all entries, without data, to be kept elsewhere."""
    from privet.privacy.ledger import Ledger, SiloKey
    from privet.privacy.ledger import export as export_ledger

    with Ledger.open(file, SiloKey.load(key)) as ledger:
        export_ledger(ledger, out)
        typer.echo(f"Export: {out}, signed by {ledger.public_key}")


@ledger_cli.command()
def grown(file: LedgerFile, dataset: DatasetName, key: KeyFile) -> None:
    """Say that a data set has grown or was corrected; all that was spent stays charged."""
    from privet.privacy.ledger import Ledger, SiloKey

    with Ledger.open(file, SiloKey.load(key)) as ledger:
        ledger.let_grow(dataset)
    typer.echo(f"{dataset}: the next job may bring changed records, once. What was spent stays.")


@ledger_cli.command()
def note(
    file: LedgerFile,
    text: Annotated[str, typer.Argument(help="What to record.", show_default=False)],
    key: KeyFile,
    clock_set_back: Annotated[
        bool,
        typer.Option("--clock-set-back", help="Vouch that the clock, which ran ahead, is right."),
    ] = False,
) -> None:
    """Record a remark; the way out when the clock had run ahead and was put right."""
    from privet.privacy.ledger import Ledger, SiloKey

    with Ledger.open(file, SiloKey.load(key)) as ledger:
        ledger.note(text, who="operator", clock_set_back=clock_set_back)
    typer.echo("Recorded.")


ledger_cli.command("what-if")(what_if)


def _is_text(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(1) == b"{"


def _chosen(history: History, dataset: str | None) -> tuple[str, ...]:
    from privet.errors import nearest

    if dataset is None:
        return history.datasets
    if dataset not in history.datasets:
        hint = nearest(dataset, history.datasets)
        raise PrivetError(f"--dataset {dataset}: the ledger has no such data set.{hint}")
    return (dataset,)


def _table(history: History, datasets: Sequence[str], delta: float, budget: float | None) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD,  # borders and padding would take the width that names need
        pad_edge=False,
        collapse_padding=True,
        caption=(
            f"Epsilon at delta = {delta:g}, add-or-remove one record; open: reserved rounds that "
            "were never committed, charged in full."
        ),
    )
    for title in ("data set", "job"):
        table.add_column(title, overflow="fold")
    for title in ("last", "rounds", "open", "committed", "epsilon", "left"):
        table.add_column(title, justify="right", no_wrap=True)
    for dataset in datasets:
        for job in _jobs(history, dataset):
            table.add_row("", *_row(history, dataset, delta, job=job), "")
        total = _row(history, dataset, delta)
        table.add_row(dataset, *total, _left(total[-1], budget), style="bold", end_section=True)
    return table


def _remarks(history: History, datasets: Sequence[str]) -> Iterator[str]:
    """What was noted about jobs, refusals above all, the newest last."""
    notes = [
        (entry, json.loads(entry.detail or "{}").get("text"))
        for entry in history.entries
        if entry.kind == "note" and entry.job and entry.dataset in datasets
    ]
    if len(notes) > _REMARKS:
        yield f"The last {_REMARKS} of {len(notes)} remarks about jobs:"
    for entry, text in notes[-_REMARKS:]:
        yield f"{entry.time[:16]}  {entry.dataset}, job {entry.job} of {entry.who}: {text}"


def _jobs(history: History, dataset: str) -> list[str]:
    jobs = (charge.reserve.job for charge in history.charged(dataset))
    return list(dict.fromkeys(job for job in jobs if job))


def _row(
    history: History, dataset: str, delta: float, *, job: str | None = None
) -> tuple[str, ...]:
    """Job, last entry, rounds, reservations that stand, epsilon without them and with them."""
    from privet.privacy.ledger.costs import epsilon_of

    charges = list(history.charged(dataset, job=job))
    standing = sum(charge.open for charge in charges)
    done = [part for charge in charges if not charge.open for part in charge.parts]
    times = [
        entry.time
        for entry in history.entries
        if entry.dataset == dataset and (job is None or entry.job == job)
    ]
    return (
        job or "all jobs",
        times[-1][:10] if times else "",
        str(len(charges)),
        str(standing),
        f"{epsilon_of(done, delta=delta):.3f}",
        f"{history.spent(dataset, delta=delta, job=job):.3f}",
    )


def _left(spent: str, budget: float | None) -> str:
    return "" if budget is None else f"{max(0.0, budget - float(spent)):.3f}"


def _plot(
    history: History, datasets: Sequence[str], *, delta: float, budget: float | None, path: Path
) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = max(1, len(datasets))
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 3.2 * rows), layout="constrained")
        axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for axis, dataset in zip(axes, datasets, strict=False):
        for job in (None, *_jobs(history, dataset)):
            times, reserved, committed = zip(*_curve(history, dataset, delta, job), strict=True)
            width = 2.0 if job is None else 1.0
            (line,) = axis.step(
                times, reserved, where="post", lw=width, label=job or "all, with reservations"
            )
            if job is None:
                axis.step(
                    times,
                    committed,
                    where="post",
                    ls=":",
                    color=line.get_color(),
                    label="all, committed",
                )
        if budget is not None:
            axis.axhline(budget, color="crimson", ls="--", lw=1, label=f"budget {budget:g}")
        axis.set(title=dataset, ylabel=f"epsilon at delta = {delta:g}")
        axis.tick_params(axis="x", rotation=20)
        axis.legend(fontsize=8, framealpha=0.8, edgecolor="none")
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.removeprefix(".") or "png", dpi=130)
    try:
        write_whole(path, picture.getvalue())
    except OSError as error:
        raise PrivetError(f"--plot {path}: it cannot be written ({error.strerror})") from None


def _curve(
    history: History, dataset: str, delta: float, job: str | None
) -> Iterator[tuple[object, float, float]]:
    """Time, epsilon with the reservations of that time, and epsilon of what was committed."""
    from privet.privacy.ledger import History
    from privet.privacy.ledger.costs import epsilon_of
    from privet.privacy.ledger.history import moment

    entries = [entry for entry in history.entries if _concerns(entry, dataset, job)]
    wanted = {round(i * (len(entries) - 1) / _POINTS) for i in range(_POINTS + 1)}
    so_far = History()
    for number, entry in enumerate(entries):
        so_far.add(entry)
        if number in wanted:
            charges = list(so_far.charged(dataset))
            whole, done = (
                [
                    part
                    for charge in charges
                    if everything or not charge.open
                    for part in charge.parts
                ]
                for everything in (True, False)
            )
            yield moment(entry.time), epsilon_of(whole, delta=delta), epsilon_of(done, delta=delta)


def _concerns(entry: Entry, dataset: str, job: str | None) -> bool:
    return entry.dataset == dataset and (job is None or entry.job == job)
