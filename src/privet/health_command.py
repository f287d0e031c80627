"""The command behind a kit's check.sh and a container's HEALTHCHECK."""

from __future__ import annotations

from typing import Annotated

import typer


def health(
    address: Annotated[
        str, typer.Argument(help="host:port, as in the kit's health.", show_default=False)
    ],
) -> None:
    """Ask a server or a silo whether it is well: exit 0 when it is serving, else 1."""
    from privet.health import health_fault

    fault = health_fault(address)
    if fault is not None:
        typer.secho(f"privet: {address}: {fault}", err=True, fg="red")
        raise typer.Exit(1)
    typer.echo("serving")
