"""How a run was encrypted: what its settings asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privet.simulations.pages.formatting import shortened
from privet.simulations.report.values import clean, count, number

LENGTH = 120


@dataclass(frozen=True)
class Outcome:
    """What `summary.json` says; None for what it does not say."""

    degree: int | None
    modulus_bits: int | None
    security_bits: int | None
    upload_bytes: float | None
    """The largest upload, for each parameter of the model."""
    epochs: int | None
    clipped: int | None
    """Values that silos cut off because the encoding has no room for them."""
    held_by: str | None
    """Who can read the model."""


@dataclass(frozen=True)
class Sealing:
    """The settings of `[encryption]`, and how silos weigh."""

    scheme: str
    profile: str
    smallest_sum: int
    masks: bool
    colluding: int
    """Silos on the server's side that masks withstand."""
    rotate_every: int | None
    by_records: bool
    """Silos count by their numbers of records, which they tell at enrolment."""
    outcome: Outcome | None
    """None until the run ends."""

    @property
    def exact(self) -> bool:
        """Whether a decrypted sum is what was added, to the bit."""
        return self.scheme == "bfv"


def read_sealing(settings: Mapping[str, Any], described: object) -> Sealing | None:
    """`described` is what the summary says of it; None for a run without encryption."""
    asked = _section(settings, "encryption")
    told = described if isinstance(described, Mapping) else {}
    if not (asked or told) or asked.get("scheme") == "none":
        return None
    merged = {**asked, **told}
    return Sealing(
        scheme=shortened(clean(merged.get("scheme", "bfv")).lower(), LENGTH),
        profile=clean(merged.get("profile", "default")),
        smallest_sum=count(merged.get("smallest_sum")) or 2,
        masks=merged.get("pairwise_masks") is True,
        colluding=count(asked.get("colluding")) or 1,
        rotate_every=count(asked.get("rotate_every")),
        by_records=_section(settings, "strategy").get("weighting", "examples") != "uniform",
        outcome=_outcome(told) if told else None,
    )


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name)
    return found if isinstance(found, Mapping) else {}


def _outcome(told: Mapping[str, Any]) -> Outcome:
    holders = told.get("model_held_by")
    return Outcome(
        degree=count(told.get("ring_degree")),
        modulus_bits=count(told.get("modulus_bits")),
        security_bits=count(told.get("security_bits")),
        upload_bytes=number(told.get("upload_bytes_per_parameter")),
        epochs=count(told.get("epochs")),
        clipped=count(told.get("clipped")),
        held_by=shortened(clean(holders), LENGTH) if holders else None,
    )
