"""What an experiment file may name: `privet tasks`, `privet strategies`, `privet task hash`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.errors import PrivetError

if TYPE_CHECKING:
    from privet.client.task_code import CodeCover

task_cli = typer.Typer(name="task", no_args_is_help=True, help="Tasks of someone's own.")


def tasks() -> None:
    """List the built-in tasks."""
    from privet.tasks.registry import TASKS

    _list({name: task.summary for name, task in TASKS.items()})
    typer.echo('\nYour own: task = "package.module:Class" (see examples/custom_task).')


def strategies() -> None:
    """List the aggregation strategies with their options."""
    from privet.strategies.registry import STRATEGIES

    _list({name: entry.summary for name, entry in STRATEGIES.items()})


def _list(lines: dict[str, str]) -> None:
    width = max(map(len, lines))
    for name, line in lines.items():
        typer.echo(f"{name:<{width}}  {line}")


@task_cli.command()
def hash(
    what: Annotated[
        str, typer.Argument(metavar="TASK", help='"package.module:Class", a folder or a file.')
    ],
) -> None:
    """Print the hash by which a policy approves a task's code, and what it covers."""
    from privet.client.task_code import code_cover, cover

    found = code_cover(what) if ":" in what else cover(Path(what)) if Path(what).exists() else None
    if found is None:
        raise PrivetError(f"{what!r} is neither a task of someone's own nor a folder or file here")
    typer.echo(found.hash)
    _show(found, indent="  ")


def _show(cover: CodeCover, *, indent: str) -> None:
    typer.echo(f"{indent}of {cover.root}")
    for name, digest in sorted(cover.files.items()):
        typer.echo(f"{indent}  file    {digest[:16]}  {name or cover.root.name}")
    for name, target in sorted(cover.links.items()):
        typer.echo(f"{indent}  link    {name} -> {target}")
    for name, version in sorted(cover.versions.items()):
        typer.echo(f"{indent}  needs   {name} {version}")
    for name, module in sorted(cover.modules.items()):
        typer.echo(f"{indent}  module  {name}{'' if module else ' (not found here)'}")
        if module:
            _show(module, indent=f"{indent}    ")
