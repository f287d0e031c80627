"""Nested settings by dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dotted(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Everything in the table and its tables, in order.

    >>> dotted({"rounds": 2, "training": {"lr": 0.5}})
    {'rounds': 2, 'training.lr': 0.5}
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= dotted(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
