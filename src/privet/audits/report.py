"""The outcome of an audit as `audit.json`: a versioned contract, and its JSON Schema.

Absent parts are null; an epsilon without bound is the text "inf", as JSON has no infinity. Paths
are relative to the folder that the report lies in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, ValidationError

from privet.audits.claims import Claim, Outcome
from privet.audits.deep.record import Deep, DeepOptions
from privet.audits.leaks import ReleasedField
from privet.errors import DataError
from privet.files import write_whole

SCHEMA = 3
SCHEMA_FILE = Path(__file__).with_name("audit.schema.json")

_CLOSE = 1e-6


def _read(value: Any) -> Any:
    return math.inf if value == "inf" else value


def _written(value: float) -> float | str:
    return "inf" if math.isinf(value) else value


Epsilon = Annotated[
    float,
    BeforeValidator(_read, json_schema_input_type=float | Literal["inf"]),
    PlainSerializer(_written, return_type=float | Literal["inf"]),
]


@dataclass(frozen=True)
class File:
    """What was looked at, as it was then."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Options:
    """What the auditor brought along."""

    delta: float
    public_keys: Mapping[str, str]
    """By silo, 64 hexadecimal digits; that of "simulation" signs for all silos of one."""
    anchors: tuple[str, ...]
    """Public keys of projects, whose signed lists some of those were taken from."""
    policy: str | None
    """Path of the policy that was given in place of the runs' own."""
    deep: DeepOptions | None = None
    """Of a deep audit."""


@dataclass(frozen=True)
class Person:
    """Epsilon for a person who is `times` silos, or `times` records of one silo."""

    times: int
    epsilon: Epsilon
    method: Literal["composition", "mixture", "domination"]


@dataclass(frozen=True)
class Sum:
    """What one data set was charged: by one run's job, or over the life of its ledger."""

    subject: str
    """The run, or the ledger."""
    silo: str
    ledger: str
    job: str | None
    """None: all jobs."""
    epsilon: Epsilon
    """Of one record, at `delta`; interrupted rounds are counted in full."""
    delta: float
    interrupted: int
    """Reservations that were never committed."""
    by_delta: Mapping[str, Epsilon]
    segments: tuple[tuple[float, float, int], ...]
    """Noise multiplier, sampling rate and steps of every mechanism."""
    by_hand: str
    """A program over dp-accounting alone that prints the epsilon."""


@dataclass(frozen=True)
class Persons:
    """Of one run: what holds for somebody who is more than one record."""

    subject: str
    delta: float
    in_silos: tuple[Person, ...]
    """One record in each of the silos that spent most."""
    silo: str
    """The silo that spent most."""
    in_one_silo: tuple[Person, ...]
    """So many records of that silo."""


@dataclass(frozen=True)
class Report:
    """A whole audit. `verdict` is as `privet.audits.claims.outcome` says."""

    headline: str
    """The verdict, and what it leans on that could not be decided."""
    schema: Literal[3]
    privet: str
    """Version of the auditor."""
    audited_at: str
    """UTC; entries of a later time are faults."""
    options: Options
    paths: tuple[str, ...]
    verdict: Outcome
    files: tuple[File, ...]
    claims: tuple[Claim, ...]
    sums: tuple[Sum, ...]
    persons: tuple[Persons, ...]
    leaks: tuple[ReleasedField, ...]
    assumptions: tuple[str, ...]
    deep: tuple[Deep, ...] = ()
    """What a deep audit found, for each run that it could train again."""


_REPORT = TypeAdapter(Report)


def to_json(report: Report) -> str:
    """The text of `audit.json`."""
    return _REPORT.dump_json(report, indent=1).decode() + "\n"


def write(report: Report, path: Path) -> None:
    """Write `audit.json`, whole or not at all; DataError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_json(report).encode())
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror})") from None


def read(path: Path) -> Report:
    """The report in a file; DataError when it is none, or of another version."""
    try:
        return _REPORT.validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is no report of an audit: {key}: {first['msg']}") from None


def schema() -> dict[str, Any]:
    """The JSON Schema of `audit.json`, which lies beside this file."""
    found = _REPORT.json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def differences(one: object, other: object, place: str = "") -> Iterator[str]:
    """Where two reports differ; figures may by a millionth, the auditor's version as it likes."""
    if place == "privet":
        return
    if isinstance(one, float) and isinstance(other, float):
        if not (one == other or math.isclose(one, other, rel_tol=_CLOSE)):
            yield place
    elif is_dataclass(one) and type(one) is type(other):
        for each in fields_of(one):
            inner = f"{place}.{each.name}".removeprefix(".")
            yield from differences(getattr(one, each.name), getattr(other, each.name), inner)
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        for number, (mine, yours) in enumerate(zip(one, other, strict=True)):
            yield from differences(mine, yours, f"{place}[{number}]")
    elif isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{place}.{key}")
    elif one != other:
        yield place


def schema_text() -> str:
    """The schema as its file holds it."""
    return json.dumps(schema(), indent=1, sort_keys=True) + "\n"
