"""`privet silo`: the silo itself, and what its holder asks and decides on the silo's machine."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import typer
import typer.core

from privet.commands.datasets import check
from privet.commands.deployment import JsonLogs, Kit, send_small_pieces


class _Group(typer.core.TyperGroup):
    """A first argument that names no sub-command is the kit of a silo that is to serve."""

    # Of typer's or of click's: newer versions of typer have a copy of their own.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = ["serve", *args]
        return super().parse_args(ctx, args)


silo_cli = typer.Typer(
    name="silo",
    cls=_Group,
    help="Take part in a project with the data of this machine: privet silo KIT.",
)
silo_cli.command()(check)


@silo_cli.command()
def serve(kit: Kit = Path(), json_logs: JsonLogs = False) -> None:
    """Answer the project's jobs until a signal ends it; the same as privet silo KIT."""
    send_small_pieces()
    from privet.deployment.monitoring import log_to_stderr
    from privet.deployment.parties import SiloKit
    from privet.deployment.silo import serve

    config = SiloKit.from_folder(kit)
    log_to_stderr(as_json=json_logs)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Nothing more in a handler: it may interrupt the ledger in the middle of an entry.
        signal.signal(number, lambda *_: stop.set())
    serve(config, stop=stop, ready=lambda: typer.echo(f"Silo {config.name} is online"))
