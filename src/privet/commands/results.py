"""Results that stand in folders: `privet report` draws one, `privet compare` several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from privet.commands.options import ShownMetric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privet.reports.compare import Comparison

_MOST_COLUMNS = 5
"""Settings up to which each has a column; of more, each has a row."""


def report(
    folder: Annotated[Path, typer.Argument(help="Run or sweep folder.", show_default=False)],
    metric: ShownMetric = None,
) -> None:
    """Write report.html and plots for the folder of a run or a sweep, finished or not."""
    from privet import api

    typer.echo(f"Report: {api.report(folder, metric=metric)}")


def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Run folders and sweep folders.", show_default=False)
    ],
    target: Annotated[
        float | None,
        typer.Option(help="A value of the metric: say in which round each had it first."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write compare.html and compare.csv here.", show_default=False),
    ] = None,
    metric: ShownMetric = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the comparison as JSON instead of tables.")
    ] = False,
) -> None:
    """Put runs and sweeps side by side: settings, results, epsilon, cost, and what differs."""
    from privet.reports import compare as comparing

    found = comparing.compare(folders, target=target, metric=metric)
    if as_json:
        typer.echo(json.dumps(found.to_plain(), allow_nan=False))
    else:
        _show(found)
    if out is None:
        return
    from privet.reports.compare.page import write

    page = write(found, out)
    if not as_json:
        typer.echo(f"\nPage: {page}")


def _show(found: Comparison) -> None:
    from privet.reports.compare.rows import figures, headings, legend

    # Entries become columns then, and columns have room for numbers only.
    many = len(found.differs) > _MOST_COLUMNS
    names = [f"{i} {e.name}" if many else e.name for i, e in enumerate(found.entries, 1)]
    rows = [(name, *figures(found, e)) for name, e in zip(names, found.entries, strict=True)]
    _table(headings(found), rows, numbers=True)
    for line in legend(found):
        typer.echo(line)
    _settings(found, names, across=many)
    for finding in found.findings:
        typer.echo(finding)
    for warning in found.warnings:
        typer.secho(f"warning: {warning}", err=True, fg="yellow")


def _settings(found: Comparison, names: Sequence[str], *, across: bool) -> None:
    """A column for each setting, or a row for each and the numbers of the entries `across`."""
    from privet.reports.compare.rows import settings

    if not found.differs:
        typer.echo("The settings are the same, but for seeds.")
        return
    values = [settings(found, entry) for entry in found.entries]
    if across:
        numbers = [str(number) for number in range(1, len(values) + 1)]
        _table(numbers, list(zip(found.differs, *values, strict=True)), numbers=False)
    else:
        rows = [(name, *row) for name, row in zip(names, values, strict=True)]
        _table(found.differs, rows, numbers=False)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", overflow="fold")
    for column in columns:
        # "rounds to 0.9" is the one heading that is wider than its figures.
        heading = column.replace(" to ", "\nto ")
        justify: Literal["left", "right"] = "right" if numbers else "left"
        table.add_column(heading, justify=justify, no_wrap=numbers, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # not markup: names and settings may hold brackets
    Console().print(table)
