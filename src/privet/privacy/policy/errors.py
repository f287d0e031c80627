"""Mistakes in a policy file, said in one line that names the key, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from privet.errors import PrivetError, nearest

Location = tuple[int | str, ...]


class PolicyError(PrivetError):
    """No policy, one that cannot be read, or one with a mistake: nothing may run."""


def one_line(error: ValidationError, *, known: Callable[[Location], Sequence[str]]) -> str:
    """The first mistake in `error`; `known` gives the keys that are possible at a location."""
    found = error.errors(include_url=False)
    # A misspelt key is often a missing one too; the spelling is what has to be mended.
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    if first["type"] == "extra_forbidden":
        return _unknown(first["loc"], known(first["loc"]))
    return _sentence(first)


def _unknown(location: Location, known: Sequence[str]) -> str:
    hint = nearest(str(location[-1]), known)
    return f"unknown key '{_dotted(location)}'.{hint} Known: {', '.join(known)}"


def _sentence(mistake: ErrorDetails) -> str:
    key, message = _dotted(mistake["loc"]), mistake["msg"]
    match mistake["type"]:
        case "missing":
            return f"'{key}' is missing"
        case "value_error":
            cause = message.removeprefix("Value error, ")
            return f"{key}: {cause}" if key else cause
        case "model_type" | "dict_type":
            message = "must be a table"
        case "tuple_type":
            message = 'must be a list, such as ["name"]'
    return f"{key} = {mistake['input']!r}: {message[0].lower()}{message[1:]}"


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))
