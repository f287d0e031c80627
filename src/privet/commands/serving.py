"""A trained model in use: `privet predict` and `privet export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from privet.commands.options import DataDir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from privet.serving.export import Exported
    from privet.serving.model import TrainedModel
    from privet.tasks.text_tables import TextFormat

Run = Annotated[
    Path,
    typer.Argument(help="Folder of a run or a fetched job, or a model's file.", show_default=False),
]
OwnTask = Annotated[
    str | None,
    typer.Option(
        "--task", help='Allow this code of someone\'s own to run: "package.module:Class".'
    ),
]
Silo = Annotated[
    str | None,
    typer.Option(help="Whose scales or parts, where each silo has its own."),
]


def predict(
    run: Run,
    new: Annotated[
        Path, typer.Argument(help="Table (CSV, Parquet), array, pictures; - for standard input.")
    ],
    out: Annotated[
        Path, typer.Option(help="CSV or Parquet file of the answers; - for standard output.")
    ] = Path("-"),
    unfit: Annotated[
        Literal["refuse", "missing", "skip"],
        typer.Option(
            help="What becomes of a word that the model does not know, text among numbers or a "
            "column that is not there: refuse the file, take it as missing, or skip the row."
        ),
    ] = "refuse",
    silo: Silo = None,
    encoding: Annotated[str | None, typer.Option(help="Of a text file: latin-1, cp1252.")] = None,
    separator: Annotated[str | None, typer.Option(help="Of a text file's cells.")] = None,
    decimal: Annotated[str | None, typer.Option(help="Of its numbers: . or ,")] = None,
    thousands: Annotated[str | None, typer.Option(help="What groups their digits.")] = None,
    task: OwnTask = None,
    data_dir: DataDir = None,
) -> None:
    """Answer new records with the model of a run: each row with a class and its probabilities."""
    from privet.api import load
    from privet.files import write_whole
    from privet.serving.files import STDIN, read_records, scored, written

    model = load(run, task=task, data_dir=data_dir, silo=silo)
    said = {
        "encoding": encoding,
        "separator": separator,
        "decimal": decimal,
        "thousands": thousands,
    }
    source = STDIN if str(new) == "-" else new
    records = read_records(source, model, _format(model, said))
    answers = model.predict(records, unfit=unfit, silo=silo)
    content = written(
        scored(records, answers), records, parquet=out.suffix.lower() in (".parquet", ".pq")
    )
    if str(out) == "-":
        sys.stdout.buffer.write(content)
    else:
        write_whole(out, content)
    _tell(len(answers), int(answers.isna().all(axis=1).sum()), out)


def _format(model: TrainedModel, said: dict[str, str | None]) -> TextFormat | None:
    """How the new file is written: as the training's, but for what is said."""
    from privet.errors import DataError, ExperimentError
    from privet.tasks.table_layout import TableOptions

    given = {key: value for key, value in said.items() if value is not None}
    if not given:
        return None
    if model.encoding is None:
        raise DataError(f"--{min(given)}: the model takes no text file")
    options = model.encoding.layout.options.model_dump(exclude_unset=True)
    try:
        return TableOptions.of({**options, **given}).text_format
    except ExperimentError as error:
        raise DataError(str(error).replace("data.", "--")) from None


def _tell(rows: int, without: int, out: Path) -> None:
    where = "" if str(out) == "-" else f": {out}"
    less = f", {without:,} of them without an answer" if without else ""
    typer.echo(f"{rows:,} rows{less}{where}", err=True)


def export(
    run: Run,
    format_: Annotated[
        Literal["onnx", "torchscript", "state-dict"], typer.Option("--format", help="Of the file.")
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="The file. [default: model.onnx, .ts or .pt in the run]")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="ONNX with weights of 8 bits, a quarter of the size.")
    ] = False,
    silo: Silo = None,
    task: OwnTask = None,
    data_dir: DataDir = None,
) -> None:
    """Write the model of a run for other programs, once it was held against torch."""
    from privet.api import load
    from privet.files import write_whole
    from privet.record.folder import MODEL
    from privet.serving.export import SUFFIXES, export, probe_of

    model = load(run, task=task, data_dir=data_dir, silo=silo)
    folder = run if run.is_dir() else run.parent
    probe = probe_of(model, folder, data_dir, silo)
    found = export(model, probe, to=format_, int8=int8, silo=silo)
    name = f"model{'.int8' if int8 else ''}{SUFFIXES[format_]}"
    path = out or folder / name
    write_whole(path, found.content)
    typer.echo(f"{path}: {_size(len(found.content))}")
    before = run / MODEL if run.is_dir() else run
    for line in _comparison(found, before.stat().st_size):
        typer.echo(line)


def _comparison(found: Exported, before: int) -> Iterator[str]:
    """How an export compares with torch."""
    what = "made-up" if found.made_up else "test"
    yield f"model.safetensors   {_size(before)}"
    yield (
        f"against torch       largest difference {found.difference:.2g} on {found.records:,} "
        f"{what} records"
    )
    yield f"other answers       {found.changed:.2%}"
    for name, (torch, exported) in found.figures.items():
        yield f"{name:<18}  {exported:.4f}, by torch {torch:.4f}"


def _size(count: int) -> str:
    return f"{count / 1000:,.1f} kB"
