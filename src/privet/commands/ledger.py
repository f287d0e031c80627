"""Commands of the person who keeps a silo's ledger: look at it, verify it, export it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.commands.what_if import what_if
from privet.errors import PrivetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from privet.privacy.ledger import History

ledger_cli = typer.Typer(
    name="ledger",
    no_args_is_help=True,
    help="What a silo's data sets have spent: show, verify, export, and what a job would cost.",
)

_REMARKS = 20

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
        from privet.reports.ledger import write_plot

        write_plot(history, datasets, delta=delta, budget=budget, path=plot)
        typer.echo(f"Plot: {plot}")


@ledger_cli.command()
def forgive(
    file: LedgerFile,
    dataset: DatasetName,
    requester: Annotated[str, typer.Argument(help="Who asked.", show_default=False)],
    key: KeyFile,
    who: Annotated[str, typer.Option(help="Who decides, for the ledger.")] = "operator",
) -> None:
    """Count a requester's failures from zero again (sending.most_failures of the policy).

    Look into the silo's log first: each failure may have told something of the records.
    """
    from privet.privacy.ledger import Ledger, SiloKey

    with Ledger.open(file, SiloKey.load(key)) as ledger:
        found = ledger.forgive(dataset=dataset, requester=requester, who=who)
    typer.echo(f"{requester}: {found} failures with {dataset} are forgiven")


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
        # An export is a JSON object; a ledger begins with the name of SQLite.
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
    from rich.markup import escape
    from rich.table import Table

    from privet.reports.ledger import jobs_of

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
        for job in jobs_of(history, dataset):
            table.add_row("", *map(escape, _row(history, dataset, delta, job=job)), "")
        total = _row(history, dataset, delta)
        table.add_row(
            escape(dataset), *total, _left(total[-1], budget), style="bold", end_section=True
        )
    return table


def _remarks(history: History, datasets: Sequence[str]) -> Iterator[str]:
    """What was noted about jobs, refusals and decisions above all, the newest last."""
    notes = [
        (entry, json.loads(entry.detail or "{}").get("text"))
        for entry in history.entries
        if entry.kind == "note" and entry.job and entry.dataset in (None, *datasets)
    ]
    if len(notes) > _REMARKS:
        yield f"The last {_REMARKS} of {len(notes)} remarks about jobs:"
    for entry, text in notes[-_REMARKS:]:
        # A decision is about a job, whatever data it uses, and says itself whose it is.
        about = (
            f"{entry.dataset}, job {entry.job} of {entry.who}"
            if entry.dataset
            else f"job {entry.job}"
        )
        yield f"{entry.time[:16]}  {about}: {text}"


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
