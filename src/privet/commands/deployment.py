"""The server, and the command behind a kit's check.sh and a container's HEALTHCHECK."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Kit = Annotated[Path, typer.Argument(metavar="KIT", help="Folder of the startup kit.")]
PIECE = 2 << 20
"""Bytes of the pieces that Flower sends large arrays in. Its own 5 MiB cost the server five copies
of each for every silo that uploads, which together were as much as a model."""

JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Log a JSON object a line.")]


def server(kit: Kit = Path(), json_logs: JsonLogs = False) -> None:
    """Coordinate a project: serve its silos and its administrators."""
    send_small_pieces()
    from privet.deployment.monitoring import log_to_stderr
    from privet.deployment.parties import ServerKit
    from privet.deployment.server import serve

    config = ServerKit.from_folder(kit)
    log_to_stderr(as_json=json_logs)
    serve(config, ready=lambda: typer.echo(f"Serving {config.project} at {config.listen}"))


def send_small_pieces() -> None:
    """Before Flower is imported, which reads its setting once."""
    os.environ.setdefault("FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", str(PIECE))


def health(
    address: Annotated[
        str, typer.Argument(help="host:port, as in the kit's health.", show_default=False)
    ],
) -> None:
    """Ask a server or a silo whether it is well: exit 0 when it is serving, else 1."""
    from privet.deployment.monitoring import health_fault, parts_at

    fault, parts = health_fault(address), parts_at(address)
    if fault is not None:
        ill = ", ".join(part for part, well in parts.items() if not well)
        typer.secho(f"privet: {address}: {fault}{ill and ': '}{ill}", err=True, fg="red")
        raise typer.Exit(1)
    typer.echo(f"serving{': ' if parts else ''}{', '.join(parts)}")
