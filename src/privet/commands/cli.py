"""The command line, put together. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
import typer.core

import privet
from privet.commands.audit import audit
from privet.commands.datasets import schema
from privet.commands.deployment import health, server
from privet.commands.jobs import cancel, fetch, jobs_cli, logs, page, status, submit, watch
from privet.commands.ledger import ledger_cli
from privet.commands.lists import explain, strategies, task_cli, tasks
from privet.commands.new import new
from privet.commands.policy import policy_cli
from privet.commands.provision import join_cli, provision, try_
from privet.commands.results import compare, report
from privet.commands.serving import export, predict
from privet.commands.silo import silo_cli
from privet.commands.simulate import simulate
from privet.commands.sweep import sweep
from privet.errors import PrivetError, own_place, words_of

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

cli.add_typer(jobs_cli, name="jobs")
cli.add_typer(ledger_cli, name="ledger")
cli.add_typer(policy_cli, name="policy")
cli.add_typer(join_cli, name="join")
cli.add_typer(silo_cli, name="silo")
cli.add_typer(task_cli, name="task")
for command in (
    provision,
    server,
    health,
    submit,
    status,
    page,
    watch,
    logs,
    cancel,
    fetch,
    audit,
    try_,
    sweep,
    compare,
    simulate,
    report,
    predict,
    export,
    schema,
    new,
    tasks,
    explain,
    strategies,
):
    # `try` is a word of Python's, so its function has a trailing underscore.
    cli.command(name=command.__name__.rstrip("_"))(command)


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
    except Exception as error:
        # One line of a person's own code, which a task's is, and not fifteen of ours.
        if _State.debug or own_place(error) is None:
            raise
        typer.secho(f"privet: {words_of(error)}", err=True, fg="red")
        typer.echo("privet --debug shows the way there.", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        # As shells report a process that SIGINT ended.
        sys.exit(130)
