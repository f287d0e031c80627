"""Docstrings as Markdown.

privet's docstrings are plain text: paragraphs, `code` in backticks, lists with hyphens, blocks that
are indented or in columns, and doctests. `markdown` makes of them what Markdown shows as it was
meant; mkdocstrings loads `PlainDocstrings` (see mkdocs.yml).
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
_SPECIAL = re.compile(r"([*\[\]\\]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_LEADING = re.compile(r"^(\s*)(?=[#+] )", re.MULTILINE)
_COLUMNS = re.compile(r"\S {3,}\S")
_ITEM = re.compile(r"- |\d+\. ")


def markdown(text: str) -> str:
    r"""Plain text as Markdown that shows it.

    >>> print(markdown("Shape (k, *shape), _none of <id>; `a * b`."))
    Shape (k, \*shape), \_none of &lt;id&gt;; `a * b`.
    >>> print(markdown("In a file:\n    a = 1\nor not."))
    In a file:
    <BLANKLINE>
        a = 1
    <BLANKLINE>
    or not.
    >>> markdown("Half.\n\n>>> half(4)\n2\n")
    'Half.\n\n```pycon\n>>> half(4)\n2\n```'
    >>> print(markdown("Files:\n\na.toml     what was asked\nb, c.json  the results"))
    Files:
    <BLANKLINE>
        a.toml     what was asked
        b, c.json  the results
    >>> print(markdown("Two:\n- a,\n  b\n- c"))
    Two:
    <BLANKLINE>
    - a,
      b
    - c
    """
    return "\n\n".join(_shown(kind, lines) for kind, lines in _blocks(text.strip("\n")))


def _blocks(text: str) -> list[tuple[str, list[str]]]:
    """The text's blocks with their kind: text, item (of a list), code or doctest."""
    found: list[tuple[str, list[str]]] = []
    after_blank = True
    for line in text.splitlines():
        if not line.strip():
            if found and found[-1][0] == "code":
                found[-1][1].append("")
            after_blank = True
            continue
        kind = _kind(line, found[-1][0] if found else "", after_blank)
        joins = found and found[-1][0] == kind
        if joins and (not after_blank or kind in ("code", "item")):
            found[-1][1].append(line)
        else:
            found.append((kind, [line]))
        after_blank = False
    return found


def _kind(line: str, before: str, after_blank: bool) -> str:
    if line.startswith(">>> ") or (before == "doctest" and not after_blank):
        return "doctest"
    if before == "item" and line.startswith(" "):
        return "item"
    if line.startswith("    "):
        return "code"
    if _ITEM.match(line) or (before == "item" and not after_blank):
        return "item"
    return "text"


def _shown(kind: str, lines: list[str]) -> str:
    text = "\n".join(lines).rstrip()
    if kind == "doctest":
        return f"```pycon\n{text}\n```"
    if kind == "code":
        return text
    if kind == "text" and _COLUMNS.search(text):
        return "\n".join(f"    {line}" for line in lines)
    parts = _CODE.split(text)
    return "".join(part if place % 2 else _escaped(part) for place, part in enumerate(parts))


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LEADING.sub(r"\1\\", _SPECIAL.sub(r"\\\1", text))


class PlainDocstrings(griffe.Extension):
    """Hands every docstring to mkdocstrings as Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
