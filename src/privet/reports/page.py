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

from privet.charts import formatting

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


@dataclass(frozen=True)
class Page:
    """A kind of page: a template that extends page.html.jinja, and what it has besides page.css."""

    template: Path
    styles: tuple[Path, ...] = ()
    scripts: tuple[Path, ...] = ()
    filters: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    """By name, beside those of `formatting`."""

    def render(self, *, style: str = "", **content: object) -> str:
        """The whole page; every text of `content` is escaped.

        `style` comes behind the style sheets and must be of the caller's own making. A content
        security policy names the script by its hash, so that even markup that slipped through
        could neither run nor load anything.
        """
        styles, script = _text((_HERE / "page.css", *self.styles)) + style, _text(self.scripts)
        return self._compiled.render(
            content,
            style=Markup(styles),  # noqa: S704 - our own files
            script=Markup(script),  # noqa: S704 - our own files
            policy=_policy(styles, script),
        )

    @cached_property
    def _compiled(self) -> Template:
        environment = Environment(
            loader=FileSystemLoader([self.template.parent, _HERE]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {each.__name__: each for each in _FILTERS} | dict(self.filters)
        return environment.get_template(self.template.name)


def _text(files: Iterable[Path]) -> str:
    return "".join(file.read_text(encoding="utf-8") for file in files)


def _policy(style: str, script: str) -> str:
    """Charts place ticks by style attributes, which no hash can name; they come with a script."""
    styles = "'unsafe-inline'" if script else _hash(style)
    scripts = f"script-src {_hash(script)}; " if script else ""
    return (
        f"default-src 'none'; {scripts}style-src {styles}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
