"""A page: one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from privet.charts import formatting, looks, svg

_HERE = Path(__file__).parent

CHARTS = _HERE / "charts.js"
"""Reads values out of charts, by pointer, finger or arrow keys."""


_FILTERS = (
    formatting.bound,
    formatting.counted,
    formatting.decimal,
    formatting.duration,
    formatting.left,
    formatting.listed,
    formatting.plus_minus,
    formatting.scientific,
    formatting.shortened,
    formatting.size,
)
_ELEMENTS = (svg.axis, svg.figure, svg.frame, svg.legend, svg.sample, svg.track)


@dataclass(frozen=True)
class Page:
    """A kind of page: a template that extends page.html.jinja, and what it has besides page.css."""

    template: Path
    styles: tuple[Path, ...] = ()
    scripts: tuple[Path, ...] = ()
    filters: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    """By name, beside those of `formatting`."""
    allows: str = ""
    """Directives that its content security policy has besides."""

    def render(self, *, style: str = "", **content: object) -> str:
        """The whole page; every text of `content` is escaped.

        `style` comes behind the style sheets and must be of the caller's own making. A content
        security policy names style and script by their hashes, so that even markup that slipped
        through could neither run nor load anything.
        """
        return self._compiled.render(
            content,
            style=Markup(self._style + style),  # noqa: S704 - our own files
            script=Markup(self._script),  # noqa: S704 - our own files
            policy=self.policy(style),
        )

    def policy(self, style: str = "") -> str:
        """What the page may do, as a content security policy."""
        # The hash is of the exact text between the tags: a blank more, and browsers refuse it.
        script = f"script-src {_hash(self._script)}; " if self._script else ""
        return (
            f"default-src 'none'; {script}style-src {_hash(self._style + style)}; img-src data:; "
            f"base-uri 'none'; form-action 'none'{self.allows}"
        )

    @cached_property
    def _style(self) -> str:
        return _text((looks.SHEET,)) + looks.style_sheet() + _text(self.styles)

    @cached_property
    def _script(self) -> str:
        return _text(self.scripts)

    @cached_property
    def _compiled(self) -> Template:
        environment = Environment(
            loader=FileSystemLoader([self.template.parent, _HERE]),
            autoescape=True,
            # A misspelt name would be an empty place on a page that somebody relies on.
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {each.__name__: each for each in _FILTERS} | dict(self.filters)
        environment.filters |= {each.__name__: _marked_up(each) for each in _ELEMENTS}
        return environment.get_template(self.template.name)


def _text(files: Iterable[Path]) -> str:
    return "".join(file.read_text(encoding="utf-8") for file in files)


def _marked_up(make: Callable[..., svg.Element]) -> Callable[..., Markup]:
    return lambda *given, **more: svg.markup(make(*given, **more))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
