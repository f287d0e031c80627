"""How each style looks: one table for the style sheet of pages, for paper and for pictures.

Colours are names of the style sheet's custom properties, which have a light and a dark value; what
no style sheet reaches (a PDF, a picture) takes the light one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

SHEET = Path(__file__).with_name("page.css")


@dataclass(frozen=True)
class Look:
    """What a style says; None leaves it to the words before. Lengths are in pixels."""

    colour: str | None = None
    width: float | None = None
    dash: str | None = None
    opacity: float | None = None
    radius: float | None = None
    hollow: bool | None = None
    """An outline: without a filling."""


_DEFAULT = Look("s0", 1.5, "none", 1.0, 4.0, hollow=False)

_SHADES = (0.12, 0.3, 0.5, 0.75, 1.0)

# Of two words that are used together, the later one here wins, as it does in a style sheet.
LOOKS: Mapping[str, Look] = {
    # axes
    "grid": Look("grid", 1.0),
    "break": Look("muted", 1.5),
    # lines by round
    "total": Look("accent", 2.75),
    "edge": Look("accent", 1.0),
    "own": Look("ink", 2.0, "7 4"),
    "band": Look("accent", opacity=0.15),
    "target": Look("ink", 1.5, "6 4"),
    # who took part
    "took": Look("took"),
    "void": Look("took"),
    "failed": Look("failed"),
    "dropped": Look("dropped"),
    "absent": Look("absent"),
    "refused": Look("refused", 2.0, hollow=True),
    "out": Look("absent", 1.0, "3 3", hollow=True),
    # settings and runs
    "point": Look(radius=5.0),
    "cell": Look(radius=3.5, opacity=0.4),
    "silo": Look("s0", radius=3.0, opacity=0.45),
    "end": Look(radius=4.0, opacity=1.0),
    "mean": Look("ink", 2.5),
    "span": Look("s0", 1.25, opacity=0.5),
    "join": Look(width=1.25, opacity=0.55),
    "across": Look(width=1.25),
    "pooled": Look("ink", dash="7 4"),
    "alone": Look("muted", dash="2 4"),
    "interval": Look(width=2.0, dash="none"),
    **{f"s{index}": Look(f"s{index}") for index in range(6)},
    "dash1": Look(dash="6 4", hollow=True),
    "dash2": Look(dash="1.5 4", hollow=True, radius=3.5),
    # boxes, the darker the more
    **{f"shade{index + 1}": Look("accent", opacity=o) for index, o in enumerate(_SHADES)},
    # attacks and claims
    "link": Look("took", 2.0),
    "claim": Look("ink", 2.0),
    "limit": Look("ink", 1.2, "5 3"),
    "charged": Look("warn", 1.2, "1.5 3"),
    "chance": Look("absent", 1.2),
    "attack": Look("accent", 1.8),
    "good": Look("accent"),
    "bad": Look("stop"),
}


@cache
def look(style: str) -> Look:
    """What the words of a style say together."""
    if style.startswith("#"):
        return replace(_DEFAULT, colour=style)
    found, words = _DEFAULT, style.split()
    for said in (said for word, said in LOOKS.items() if word in words):
        given = {field.name: getattr(said, field.name) for field in fields(said)}
        found = replace(found, **{name: v for name, v in given.items() if v is not None})
    return found


@cache
def light() -> Mapping[str, str]:
    """By name, the colours of the style sheet on white."""
    # The first rule of the sheet has the light colours; those for dark screens come behind.
    first, _, _ = SHEET.read_text(encoding="utf-8").partition("}")
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", first))


def colour(of: Look) -> str:
    """As #rrggbb."""
    named = of.colour or ""
    return named if named.startswith("#") else light()[named]


@cache
def style_sheet() -> str:
    """The table as rules: a script that changes an element's class changes all of its look."""
    names = {"width": "w", "dash": "d", "opacity": "o", "radius": "r"}
    rules = []
    for word, said in LOOKS.items():
        given = [f"--c:var(--{said.colour})"] if said.colour else []
        given += [f"--{names[k]}:{v}" for k in names if (v := getattr(said, k)) is not None]
        given += ["--f:none", "--s:var(--c)"] if said.hollow else []
        rules.append(f".{word}{{{';'.join(given)}}}")
    return "\n".join(rules) + "\n"
