"""`privet silo`: the silo itself, and what its holder asks and decides on the silo's machine."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from privet.commands.datasets import check
from privet.commands.deployment import JsonLogs, Kit, send_small_pieces
from privet.commands.options import AsJson

if TYPE_CHECKING:
    from privet.deployment.parties import SiloKit


class _Group(typer.core.TyperGroup):
    """A first argument that names no sub-command is the kit of a silo that is to serve."""

    # Of typer's or of click's: newer versions of typer have a copy of their own.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = ["serve", *args]
        return super().parse_args(ctx, args)


JobName = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or its beginning.")]
By = Annotated[str, typer.Option("--as", help="Who decides, beside the user of this machine.")]

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


@silo_cli.command()
def pending(kit: Kit = Path(), as_json: AsJson = False) -> None:
    """Show the jobs that wait for approval here (policy: approval = "each-job")."""
    from privet.deployment.silo import approvals

    orders = approvals.pending(_kit(kit))
    if as_json:
        typer.echo(json.dumps([asdict(order) for order in orders]))
    for order in () if as_json else orders:
        typer.echo(f"{order.job}  by {order.requester}, ends {order.end:%Y-%m-%d}")
        for line in json.dumps(dict(order.experiment), indent=2).splitlines()[1:-1]:
            typer.echo(line)
    if not orders and not as_json:
        typer.echo("No job waits for approval")


@silo_cli.command()
def status(kit: Kit = Path(), as_json: AsJson = False) -> None:
    """Show whether the silo of this machine is at its server, and why not."""
    from privet.deployment.silo.serving import standing

    told = standing(_kit(kit))
    if as_json:
        typer.echo(json.dumps(told))
    else:
        why = f": {told['why']}" if told["why"] else ""
        typer.echo(f"{told['state']} since {told['since']}{why}")


@silo_cli.command()
def approve(job: JobName, kit: Kit = Path(), by: By = "") -> None:
    """Let a job in that waits; it goes on by itself."""
    from privet.deployment.silo import approvals

    typer.echo(f"Job {approvals.approve(_kit(kit), job, name=by).job} is approved")


@silo_cli.command()
def refuse(job: JobName, kit: Kit = Path(), by: By = "") -> None:
    """End a job here, for good, whether it waits or runs."""
    from privet.deployment.silo import approvals

    typer.echo(f"Job {approvals.refuse(_kit(kit), job, name=by)} is refused")


def _kit(folder: Path) -> SiloKit:
    from privet.deployment.parties import SiloKit

    return SiloKit.from_folder(folder)
