"""Commands that begin a project: kits for its parties, and keys that a party makes itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from privet.provision import Provisioned

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

    from privet.provision import Project
    from privet.provision import provision as provision_project

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
    """Make your keys, and the file with their public halves for the project's operators."""
    from privet.provision import join

    path, halves = join(name, folder=out)
    typer.echo(f"Identity: {halves.identity}")
    typer.echo(f"Node key: {halves.node_key}")
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
