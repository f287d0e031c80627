"""The look of a page's charts as pictures, for papers and slides.

Matplotlib is imported where something is drawn, and not before.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED = "#1a211d", "#59645d"
COLOURS = ("#0067a3", "#c04a08", "#7d46a8", "#8f6a00", "#b8336f", "#55626d")
"""Of the styles s0 to s5 of the style sheet."""

_LOOK: dict[Any, Any] = {
    "text.parse_math": False,  # names may hold $ signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e9e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "privet",  # the same results give the same bytes
}


@contextmanager
def drawing() -> Iterator[None]:
    """Figures that are made and saved in this context have the look."""
    import matplotlib as mpl

    with mpl.rc_context(_LOOK), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the font lacks
        yield


def saved(figure: Figure, kind: Literal["png", "svg"], *, dpi: int) -> bytes:
    """The figure as a file; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    into = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(into, format=kind, dpi=dpi, metadata=metadata)
    return into.getvalue()


def in_legend(name: str, *, most: int) -> str:
    """The name, cut to `most` characters; matplotlib leaves out one that begins with "_"."""
    shown = name if len(name) <= most else f"{name[:most]}…"
    return f" {shown}" if shown.startswith("_") else shown
