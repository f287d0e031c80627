"""Files of new records, and the same files with answers."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from privet.errors import DataError
from privet.files import demand_file
from privet.serving.model import TrainedModel
from privet.serving.pictures import SUFFIXES, Pictures
from privet.tasks.columns import Frame, read_frame
from privet.tasks.text_tables import UTF8, TextFormat

if TYPE_CHECKING:
    import pandas as pd

STDIN = Path("/dev/stdin")
Records = Frame | Pictures | npt.NDArray[np.generic]


def read_records(path: Path, model: TrainedModel, how: TextFormat | None) -> Records:
    """The records of a file, as `TrainedModel.predict` takes them.

    Of a table CSV or Parquet, written as the training's files were unless `how` says otherwise; of
    other tasks an array (.npy, or .npz with one array), a picture or a folder of pictures.
    DataError for what cannot be read.
    """
    if path != STDIN and not path.exists():
        raise DataError(f"{path}: there is no such file")
    if model.encoding is not None:
        frame = read_frame(path, how or model.text_format, keep_texts=True)
        return replace(frame, path=Path("standard input")) if path == STDIN else frame
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        return Pictures.at(path)
    return _array(path)


def scored(records: Records, answers: pd.DataFrame) -> pd.DataFrame:
    """Answers beside the rows of a table, names of pictures, or places in an array."""
    import pandas as pd

    if isinstance(records, Pictures):
        return pd.concat([pd.DataFrame({"file": records.names}), answers], axis=1)
    if not isinstance(records, Frame):
        return answers.rename_axis("row").reset_index()
    rows = records.rows if records.texts is None else records.texts
    if twice := set(rows.columns) & set(answers.columns):
        raise DataError(
            f"{records.path} has a column {min(twice)!r} already, which the answers would have; "
            "rename it"
        )
    return pd.concat([rows.reset_index(drop=True), answers], axis=1)


def written(table: pd.DataFrame, records: Records, *, parquet: bool) -> bytes:
    """`table` as a file: Parquet, or text written as the file of the records was.

    DataError for an answer that the file's encoding has no bytes for.
    """
    if parquet:
        stream = io.BytesIO()
        table.to_parquet(stream, index=False)
        return stream.getvalue()
    if not isinstance(records, Frame) or records.texts is None:
        return table.to_csv(index=False).encode()
    how = records.how
    text = table.to_csv(index=False, sep=records.separator, decimal=how.decimal)
    try:
        # A byte order mark is for files that had one.
        return text.encode("utf-8" if how.encoding == UTF8 else how.encoding)
    except UnicodeEncodeError as error:
        letter = text[error.start]
        raise DataError(f"{how.encoding} has no {letter!r}, which an answer has") from None


def _array(path: Path) -> npt.NDArray[np.generic]:
    try:
        # Pickles, which could run anything, are refused.
        found = np.load(demand_file(path) if path != STDIN else path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        if len(found.files) != 1:
            raise DataError(f"{path} has {len(found.files)} arrays; one is expected")
        return np.asarray(found[found.files[0]])
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} is no array that can be read (.npy, .npz), nor a picture: {error}"
        ) from None
