"""What an experiment file may name: `privet tasks`, `privet strategies`."""

from __future__ import annotations

import typer


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
