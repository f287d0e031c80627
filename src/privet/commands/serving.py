"""A trained model in use: `privet predict` and `privet export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from privet.commands.options import DataDir

if TYPE_CHECKING:
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
    str | None, typer.Option(help="Whose scales are used, where each silo has its own.")
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

    model = load(run, task=task, data_dir=data_dir)
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
