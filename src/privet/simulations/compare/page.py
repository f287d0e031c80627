"""A comparison as one HTML page, and as a table of plain numbers."""

from __future__ import annotations

from pathlib import Path

from privet.errors import PrivetError
from privet.simulations.compare.comparison import Comparison
from privet.simulations.compare.points import curves, points
from privet.simulations.compare.rows import figures, headings, legend, settings, to_csv
from privet.simulations.pages.charts import silo_style
from privet.simulations.pages.page import CHARTS, Page
from privet.whole_file import replace_file

PAGE = "compare.html"
TABLE = "compare.csv"

_HERE = Path(__file__).parent
_PAGE = Page(_HERE / "compare.html.jinja", styles=(_HERE / "compare.css",), scripts=(CHARTS,))


def write(comparison: Comparison, folder: Path) -> Path:
    """Write compare.html and compare.csv into `folder`; return the path of the page."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / TABLE, to_csv(comparison).encode())
        replace_file(folder / PAGE, render(comparison).encode())
    except OSError as error:
        raise PrivetError(f"--out {folder}: cannot be written: {error.strerror}") from None
    return folder / PAGE


def render(comparison: Comparison) -> str:
    """The whole page."""
    entries = comparison.entries
    return _PAGE.render(
        comparison=comparison,
        tasks=", ".join(dict.fromkeys(entry.task for entry in entries)),
        folders=len({entry.source for entry in entries}),
        headings=headings(comparison),
        rows=[
            (entry.name, silo_style(place), figures(comparison, entry))
            for place, entry in enumerate(entries)
        ],
        reading=tuple(legend(comparison)),
        settings=[(entry.name, settings(comparison, entry)) for entry in entries],
        curves=curves(entries),
        points=points(entries),
    )
