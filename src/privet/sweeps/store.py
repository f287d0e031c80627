"""A sweep's folder.

sweep.toml               the request, as an experiment file that makes the same sweep again
sweep.json               the results, rewritten as a whole as cells are done
cells.csv, cells.parquet the same cells as a table, when the command ends
cells/<address>/         a run folder for each cell that is done
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from privet.errors import DataError, ExperimentError
from privet.files import read_file, replacing, write_whole
from privet.sweeps.results import Sweep, from_plain, to_plain

SWEEP = "sweep.json"
REQUEST = "sweep.toml"
CELLS = "cells"
LOCK = ".lock"

_REWRITING_SHARE = 0.01
"""Of the time, at most, that goes into rewriting the results between cells: the file holds all
cells, so that rewriting it after each would take time that grows with their square."""


def read_sweep(folder: Path) -> Sweep:
    """The results in a sweep's folder; DataError when there are none that can be read."""
    path = folder / SWEEP
    try:
        return from_plain(json.loads(read_file(path)))
    except FileNotFoundError:
        raise DataError(f"{folder} is not a sweep's folder: it has no {SWEEP}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


class Store:
    """Writes a sweep's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._next = 0.0

    def open(self, *, resume: bool) -> Sweep | None:
        """Make the folder, or find what it holds; ExperimentError when that may not go on."""
        held = (self.folder / SWEEP).exists()
        if held and not resume:
            raise ExperimentError(
                f"{self.folder} holds a sweep already; choose another --out, or go on with --resume"
            )
        try:
            (self.folder / CELLS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExperimentError(f"cannot write to {self.folder}: {error.strerror}") from None
        return read_sweep(self.folder) if held else None

    def clear_away(self) -> None:
        """Remove what was left of cells that were cut off; nobody else may be at work here."""
        for part in (self.folder / CELLS).glob(".*.part"):
            shutil.rmtree(part, ignore_errors=True)

    def save_request(self, text: str) -> None:
        """Replace the request."""
        write_whole(self.folder / REQUEST, text.encode())

    def save(self, sweep: Sweep) -> None:
        """Replace the results."""
        start = time.monotonic()
        # What is not finite was made plain before; NaN is no JSON, and other programs read this.
        text = json.dumps(to_plain(sweep), indent=1, allow_nan=False) + "\n"
        write_whole(self.folder / SWEEP, text.encode())
        end = time.monotonic()
        self._next = end + (end - start) / _REWRITING_SHARE

    @property
    def due(self) -> bool:
        """Whether results may be replaced again without taking more time than they are worth."""
        return time.monotonic() >= self._next

    def save_tables(self, sweep: Sweep) -> None:
        """Replace the tables."""
        table = sweep.table()
        write_whole(self.folder / "cells.csv", table.to_csv(index=False).encode())
        # Parquet has one type a column: an axis of numbers and texts becomes texts.
        mixed = table.select_dtypes("object").columns
        with replacing(self.folder / "cells.parquet") as part:
            table.astype(dict.fromkeys(mixed, "string")).to_parquet(part, index=False)
