"""Commands that begin a project: kits for its parties, and keys that a party makes itself.

`privet try`: a whole project on this machine, from its keys to its report, in one command.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.errors import PrivetError

if TYPE_CHECKING:
    from rich.table import Table

    from privet.deployment.provision import Provisioned

join_cli = typer.Typer(
    name="join",
    no_args_is_help=True,
    help="Take part in a project with keys that nobody else has ever had.",
)


def provision(
    file: Annotated[Path, typer.Argument(help="Project file (TOML).", show_default=False)],
    out: Annotated[Path, typer.Option(help="The operators' folder.")] = Path("kits"),
    bring_your_own_key: Annotated[
        bool,
        typer.Option("--bring-your-own-key", help="Make no private key for a new party."),
    ] = False,
    revoke: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A party that may do nothing any more."),
    ] = None,
) -> None:
    """Make a startup kit for every party, or bring kits up to date; keeps every key there is."""
    from rich.console import Console

    from privet.deployment.provision import Project
    from privet.deployment.provision import provision as provision_project

    project = Project.from_file(file)
    done = provision_project(project, out=out, own_keys=bring_your_own_key, revoke=revoke or [])
    Console().print(_table(done))
    typer.echo(f"Kits: {out}, list of parties: version {done.version}")
    for note in done.notes:
        typer.echo(f"- {note}")


@join_cli.command()
def init(
    name: Annotated[str, typer.Argument(help="Your name in the project.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where the keys go.")] = Path(),
) -> None:
    """Make your keys, and the file with their public keys for the project's operators."""
    from privet.deployment.provision import join

    path, public_keys = join(name, folder=out)
    typer.echo(f"Identity: {public_keys.identity}")
    typer.echo(f"Node key: {public_keys.node_key}")
    typer.echo(
        f"Send {path} to the project's operators and read the identity to them by telephone. "
        "The .key files stay with you: put them into the kit that you get."
    )


def _table(done: Provisioned) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("party", "role", "kit"):
        table.add_column(title, overflow="fold")
    table.add_column("", overflow="fold")
    for row in done.rows:
        table.add_row(row.name, row.role, row.outcome, row.detail)
    return table


EXPERIMENT = """\
task = "digits"
rounds = 10

[federation]
silos = 3
min_silos = 3

[training]
batch_size = 72
lr = 1.0

[privacy]
epsilon = 4.0
delta = 1e-5
clip = 1.0

[encryption]
scheme = "bfv"

[evaluation]
every = 10
"""


def try_(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/try"),
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep kits, ledgers and logs in this folder. [default: removed]"),
    ] = None,
) -> None:
    """Try a real project on this machine: server and three silos over TLS, and a job on them."""
    if out.exists() and any(out.iterdir()):
        raise PrivetError(f"{out} is not empty; choose another --out")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the processes, then this one
    folder = keep or Path(tempfile.mkdtemp(prefix="privet-try-"))
    try:
        _try(folder, out)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _try(folder: Path, out: Path) -> None:
    # The commands themselves and not what is below them: a trial is what a person would type.
    from privet.commands.jobs import submit
    from privet.commands.ledger import show
    from privet.deployment.trial import ADMIN, BUDGET, Trial

    typer.echo("Provisioning: an authority, a server, three silos, an administrator ...")
    with Trial.create(folder) as trial:
        typer.echo("Starting the server and the silos north, south and west ...")
        trial.start()
        trial.wait_until_online()
        file = folder / "experiment.toml"
        file.write_text(EXPERIMENT, encoding="utf-8")
        submit(file, kit=trial.kit(ADMIN), out=out)
        typer.echo("\nWhat the silos' own ledgers say:")
        for name in trial.silos:
            show(trial.kit(name) / "ledger.sqlite", budget=BUDGET)
        typer.echo("Ending them ...")
