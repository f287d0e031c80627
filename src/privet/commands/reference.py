"""Every key of every file, read from the schemas: what it is, may be, and does to the claim."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any, get_args, get_origin

from privet.commands.claims import CLAIMS
from privet.errors import PrivetError, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class SettingKey:
    """One key of one kind of file."""

    file: str
    """What the file is called, as a heading."""
    name: str
    """Dotted, from the top of the file."""
    kind: str
    default: str
    """As TOML; "required" or "unset" without one."""
    allowed: str
    """Bounds or words; empty where the kind says it all."""
    meaning: str
    claim: str
    """What it does to what is promised of the records; "-" for nothing."""

    @property
    def section(self) -> str:
        """The table that it stands in, as TOML names it."""
        return self.name.rpartition(".")[0]


EXPERIMENT = "The experiment"
TABLE = 'The experiment, [data] with task = "table"'
IMAGES = 'The experiment, [data] with task = "images"'
TEXT = 'The experiment, [data] with task = "text"'
OPTIONS = "The experiment, options of [strategy]"
POLICY = "A data holder's policy (policy.toml)"
SILO = "A silo (silo.toml)"
SERVER = "The server (server.toml)"
ADMIN = "An administrator (admin.toml)"


def every_key() -> list[SettingKey]:
    """All of them, in the order of their files."""
    from privet.deployment.parties.kits import AdminKit, ServerKit, SiloKit
    from privet.experiment import Experiment
    from privet.privacy.policy.policy import Policy
    from privet.tasks.options import ImageOptions, TextOptions
    from privet.tasks.table_layout import TableOptions

    return [
        *_keys(EXPERIMENT, Experiment),
        *_keys(TABLE, TableOptions, prefix="data."),
        *_keys(IMAGES, ImageOptions, prefix="data."),
        *_keys(TEXT, TextOptions, prefix="data."),
        *_strategy_options(),
        *_keys(POLICY, Policy),
        *_keys(SILO, SiloKit),
        *_keys(SERVER, ServerKit),
        *_keys(ADMIN, AdminKit),
    ]


def found(name: str) -> list[SettingKey]:
    """The keys that are called so, or end so; PrivetError with the nearest for none."""
    every = every_key()
    for fits in (_same, _ends, _inside):
        if chosen := [key for key in every if fits(key.name, name)]:
            return chosen
    known = [key.name for key in every]
    close = nearest(name, [*known, *(each.rpartition(".")[2] for each in known)])
    raise PrivetError(f"no key is called {name!r}.{close} privet explain lists them all")


def _same(key: str, name: str) -> bool:
    return key == name


def _ends(key: str, name: str) -> bool:
    return key.endswith(f".{name}")


def _inside(key: str, name: str) -> bool:
    return f".{key}.".find(f".{name}.") >= 0


def _keys(file: str, schema: type[BaseModel], prefix: str = "") -> Iterator[SettingKey]:
    described = schema.model_json_schema()
    told = _docstrings(schema)
    for name, field in schema.model_fields.items():
        shape, meaning = described["properties"][name], " ".join(told.get(name, "").split())
        inner, each = _table_of(field)
        if inner is not None:
            yield from _keys(file, inner, f"{prefix}{name}.{'NAME.' if each else ''}")
            continue
        yield SettingKey(
            file=file,
            name=f"{prefix}{name}",
            kind=_kind(shape, described),
            default=_default(shape, required=field.is_required() and "unset:" not in meaning),
            allowed=_allowed(shape),
            meaning=meaning,
            claim=_claim(file, f"{prefix}{name}"),
        )


def _table_of(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """The schema of a key that is a table, and whether it is one for each name."""
    from pydantic import BaseModel

    kind = field.annotation
    for part in (kind, *get_args(kind)):
        if inspect.isclass(part) and issubclass(part, BaseModel):
            return part, get_origin(kind) in (dict, Mapping)
    return None, False


def _docstrings(schema: type[BaseModel]) -> dict[str, str]:
    """What stands below each field in the source, of the bases too."""
    told: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if not base.__module__.startswith("privet."):
            continue
        tree = ast.parse(inspect.getsource(base))
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                words = text.value if isinstance(text, ast.Expr) else None
                if isinstance(words, ast.Constant) and isinstance(words.value, str):
                    told[field.target.id] = words.value
    return told


_WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "table",
}


def _alternatives(shape: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in shape.get("anyOf", [shape]) if each.get("type") != "null"]


def _kind(shape: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    names = [_one_kind(each, whole) for each in _alternatives(shape)]
    return " or ".join(dict.fromkeys(names))


def _one_kind(shape: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    if "$ref" in shape:
        return _one_kind(whole["$defs"][shape["$ref"].rpartition("/")[2]], whole)
    if "enum" in shape or "const" in shape:
        return "word"
    if shape.get("type") == "array":
        if "prefixItems" in shape:
            parts = ", ".join(_kind(each, whole) for each in shape["prefixItems"])
            return f"list [{parts}]"
        return f"list of {_plural(_kind(shape.get('items', {}), whole))}"
    if shape.get("type") == "object" and isinstance(shape.get("additionalProperties"), dict):
        return f"table: {_kind(shape['additionalProperties'], whole)} by name"
    if shape.get("format") in ("path", "time"):
        return str(shape["format"])
    return _WORDS.get(str(shape.get("type")), "value")


def _plural(kind: str) -> str:
    words = [f"{word}s" for word in kind.replace("true or false", "truth value").split(" or ")]
    return " or ".join(words)


def _default(shape: Mapping[str, Any], *, required: bool) -> str:
    if required:
        return "required"
    if "default" not in shape:  # made by a factory, or filled in
        return "{}" if shape.get("type") == "object" else "unset"
    return "unset" if shape["default"] is None else _toml(shape["default"])


def _toml(value: Any) -> str:
    import tomli_w

    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


_BOUNDS = (
    ("exclusiveMinimum", "above {}"),
    ("minimum", "{} or more"),
    ("exclusiveMaximum", "below {}"),
    ("maximum", "up to {}"),
    ("minLength", "of {} or more characters"),
    ("maxLength", "up to {} characters"),
    ("pattern", "like {}"),
)


def _allowed(shape: Mapping[str, Any]) -> str:
    told = []
    for each in _alternatives(shape):
        inner = each.get("items") or {}
        words = [*each.get("enum", []), *inner.get("enum", [])]
        words += [each["const"]] if "const" in each else []
        bounds = {**inner, **each}
        told += [", ".join(map(_toml, words))] if words else []
        told += [text.format(f"{bounds[key]}") for key, text in _BOUNDS if key in bounds]
    return ", ".join(dict.fromkeys(told))


def _strategy_options() -> Iterator[SettingKey]:
    from privet.strategies.registry import STRATEGIES

    users: dict[tuple[str, str, str], list[str]] = {}
    for name, entry in STRATEGIES.items():
        for key, option in entry.options.items():
            default = "unset" if option.default is None else _toml(option.default)
            users.setdefault((key, default, option.allowed), []).append(name)
    for (key, default, allowed), names in users.items():
        kind = "text" if default.startswith('"') else "number"
        claim = _claim(OPTIONS, f"strategy.{key}")
        meaning = f"Of {', '.join(names)}."
        yield SettingKey(OPTIONS, f"strategy.{key}", kind, default, allowed, meaning, claim)


def _claim(file: str, name: str) -> str:
    """The words on a key, or on all of its table; KeyError, naming it, for one without any."""
    table = f"{name.rpartition('.')[0]}.*".removeprefix(".")
    words = CLAIMS[file]
    return words[name] if name in words else words[table]


def told(chosen: Sequence[SettingKey]) -> Iterator[str]:
    """What the terminal shows of some keys."""
    for place, key in enumerate(chosen):
        if place:
            yield ""
        yield key.name
        yield f"  in       {key.file}"
        yield f"  type     {key.kind}{f': {key.allowed}' if key.allowed else ''}"
        yield f"  default  {key.default}"
        if key.meaning:
            yield from _wrapped("  means    ", key.meaning)
        yield from _wrapped("  claim    ", key.claim)


def listing(every: Sequence[SettingKey]) -> Iterator[str]:
    """All keys by file, a line each."""
    for file in dict.fromkeys(key.file for key in every):
        own = [key for key in every if key.file == file]
        width = max(len(key.name) for key in own)
        yield file
        for key in own:
            yield f"  {key.name:<{width}}  {key.default}"
        yield ""
    yield "privet explain KEY says what one means, may be and does to the claim."


def _wrapped(head: str, text: str) -> list[str]:
    return wrap(text, 98, initial_indent=head, subsequent_indent=" " * len(head))


def markdown(every: Sequence[SettingKey]) -> str:
    """The reference page."""
    lines = [
        "# Every key",
        "",
        "Made from the schemas by `privet explain --markdown`; `privet explain KEY` shows one in "
        "the terminal. The last column says what a key does to what is promised of the records; "
        "`-` is nothing. `--set KEY=VALUE` replaces a key of an experiment and `--unset KEY` takes "
        "one out, or a whole table. In a policy NAME is a data set's name in the ledger, or `*`.",
    ]
    files = list(dict.fromkeys(key.file for key in every))
    for file in files:
        lines += ["", f"## {file}", "", "| key | type | default | allowed | | claim |"]
        lines.append("|---|---|---|---|---|---|")
        for key in every:
            if key.file == file:
                cells = (_code(key.name), key.kind, _code(key.default), key.allowed)
                lines.append(f"| {' | '.join(map(_cell, (*cells, key.meaning, key.claim)))} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return text if text in ("required", "unset") else f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
