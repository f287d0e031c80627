"""Commands of a data holder about the records: what jobs see of them, and a first description."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.commands.deployment import Kit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from privet.deployment.silo.checking import CheckedDataset
    from privet.tasks.held_table import Coverage

_MOST_WORDS = 8


def check(kit: Kit = Path()) -> None:
    """Show what a job sees of each data set, and what only its holder may; exit 1 for faults."""
    from privet.deployment.parties import SiloKit
    from privet.deployment.silo.checking import check as check_kit

    checked = check_kit(SiloKit.from_folder(kit))
    for dataset in checked:
        for line in _lines(dataset):
            typer.echo(line)
    if any(dataset.faults for dataset in checked):
        raise typer.Exit(1)


def schema(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet file.", show_default=False)],
    target: Annotated[
        str | None, typer.Option(help="The column to predict. [default: the last]")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the data set. [default: the file's]")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of a text file: latin-1, cp1252.")] = None,
    separator: Annotated[str | None, typer.Option(help="Of a text file's cells.")] = None,
    decimal: Annotated[str | None, typer.Option(help="Of its numbers: . or ,")] = None,
    thousands: Annotated[str | None, typer.Option(help="What groups their digits.")] = None,
    missing_mark: Annotated[
        list[str] | None, typer.Option(help="A text that stands for no value; may be repeated.")
    ] = None,
) -> None:
    """Write a first description of a table for silo.toml, and mark what it tells of the records."""
    from privet.tasks.describing import describe

    said = {
        "encoding": encoding,
        "separator": separator,
        "decimal": decimal,
        "thousands": thousands,
        "missing_marks": missing_mark,
    }
    written = {key: value for key, value in said.items() if value}
    name = name or file.name.split(".")[0]
    typer.echo(describe(file, name=name, target=target, written=written), nl=False)


def _lines(dataset: CheckedDataset) -> Iterator[str]:
    from privet.tasks.describing import settings

    yield f"Data set {dataset.name}{', of jobs that name none' if dataset.default else ''}"
    yield ""
    if (description := dataset.description) is None:
        yield "  It is not described in silo.toml: jobs may use it for tasks without options, such"
        yield "  as digits, but for no table."
    else:
        yield "  What a job has to say, and can learn by guessing:"
        yield ""
        yield from (f"    {line}" for line in settings({"task": description.task}))
        yield "    [data]"
        data = {"dataset": dataset.name, **description.expected}
        yield from (f"    {line}" for line in settings(data))
    if dataset.coverage is not None:
        yield ""
        yield "  For your eyes only:"
        yield ""
        yield from (f"    {line}" for line in _private(dataset.coverage))
    for fault in dataset.faults:
        yield ""
        yield f"  FAULT: {fault}"
    yield ""


def _private(coverage: Coverage) -> Iterator[str]:
    yield f"{coverage.records:,} records to train on"
    if coverage.left_out:
        yield f"{coverage.left_out:,} records are left out: no class that is listed, or a gap"
    if coverage.repeated:
        yield f"{coverage.repeated:,} records are left out: the person has another, or is nobody"
    if coverage.broken:
        yield f"{coverage.broken:,} lines are left out: not as many cells as the header has"
    for column, words in coverage.uncovered.items():
        common = ", ".join(f"{word[:40]!r} ({n:,})" for word, n in words.most_common(_MOST_WORDS))
        more = f" and {len(words) - _MOST_WORDS:,} others" if len(words) > _MOST_WORDS else ""
        yield f"{column}: {words.total():,} values are not covered: {common}{more}"
