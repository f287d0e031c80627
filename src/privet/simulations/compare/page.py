"""A comparison as one HTML page that loads nothing, and as a table of plain numbers."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from privet.errors import PrivetError
from privet.simulations import report
from privet.simulations.compare.comparison import Comparison
from privet.simulations.compare.points import curves, points
from privet.simulations.compare.rows import figures, headings, legend, settings, to_csv
from privet.simulations.report.charts import silo_style
from privet.whole_file import replace_file

PAGE = "compare.html"
TABLE = "compare.csv"

_HERE = Path(__file__).parent
_REPORT = Path(report.__file__).parent


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
    """The whole page, with the style and the script of a run's report."""
    script = (_REPORT / "report.js").read_text(encoding="utf-8")
    style = "".join(
        path.read_text(encoding="utf-8") for path in (_REPORT / "report.css", _HERE / "compare.css")
    )
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    entries = comparison.entries
    return environment.get_template("compare.html.jinja").render(
        comparison=comparison,
        policy=_policy(script),
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704 - our own file
        tasks=", ".join(dict.fromkeys(entry.task for entry in entries)),
        folders=len({entry.source for entry in entries}),
        headings=headings(comparison),
        rows=[
            (entry.name, silo_style(place), figures(comparison, entry))
            for place, entry in enumerate(entries)
        ],
        legend=tuple(legend(comparison)),
        settings=[(entry.name, settings(comparison, entry)) for entry in entries],
        curves=curves(entries),
        points=points(entries),
    )


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
