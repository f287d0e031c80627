"""What a model's file says of itself: how to use it, and what was claimed for those it learned of.

It stands in the metadata of the safetensors file, so that the file alone can be used. Under
[privacy] nothing stands there that was taken from records: what the model's inputs need of that
kind is named, and found again only where the records are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt

import privet
from privet.errors import DataError
from privet.experiment import Experiment
from privet.record.schema import Recorded, parsed
from privet.tasks.task import Task, uncovered

CARD = "privet"
"""The key of the metadata."""
LONGEST = 2**24
"""Bytes of a card that is read."""

_COLUMNS = "columns and words that were read from records"
_SCALES = "means and deviations by which columns without a range are scaled"


class ModelClaim(Recorded):
    """What was claimed, in the silo that spent most, of the run that left the model."""

    simulated: bool
    """One machine had all records: nobody's data stayed with somebody else."""
    unit: str | None
    """Whose presence epsilon is about; null without a guarantee."""
    epsilon: float | None
    """Null without a guarantee, and where silos keep their accounts."""
    delta: float | None
    accountant: str | None
    charges: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    """SHA-256 over what each silo's ledger charged, as silos told it; null where they do not."""
    uncovered: list[str]
    """Preprocessing that epsilon says nothing of."""


class ModelCard(Recorded):
    """Metadata of `model.safetensors`."""

    card: Literal[1]
    privet: str
    """The version that wrote it."""
    task: str
    model: str | None
    seed: NonNegativeInt
    """From which a base that is drawn, and not read, follows."""
    data: dict[str, Any] | None
    """Options of the task that make model and inputs without a file; null where `withheld`."""
    scaling: dict[str, dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]]
    """By silo ("" for none) and column without a range: centre and spread of records."""
    withheld: list[str]
    """What would be needed beside and was taken from records, which the claim does not cover."""
    base: str | None
    claim: ModelClaim

    def line(self) -> str:
        """As it is written."""
        told = self.model_dump()
        # JSON has no infinity, and an epsilon without a bound guarantees nothing.
        if not math.isfinite(self.claim.epsilon or 0.0):
            told["claim"]["epsilon"] = None
        return json.dumps(told, ensure_ascii=False, allow_nan=False)


def card_of(
    task: Task, experiment: Experiment, *, base: str | None, claim: ModelClaim, learned: bool
) -> ModelCard:
    """The card of a model of `task`; `learned`: records are here that may be told of."""
    data, scaling, withheld = _use(task, experiment, learned=learned)
    return ModelCard(
        card=1,
        privet=privet.__version__,
        task=experiment.task,
        model=experiment.model,
        seed=experiment.seed,
        data=data,
        scaling=scaling,
        withheld=withheld,
        base=base,
        claim=claim,
    )


def claim_of(task: Task, experiment: Experiment, *, simulated: bool) -> ModelClaim:
    """The claim before anything is known of what was spent."""
    privacy = experiment.privacy
    return ModelClaim(
        simulated=simulated,
        unit=privacy.unit if privacy else None,
        epsilon=None,
        delta=privacy.delta if privacy else None,
        accountant=None,
        charges=None,
        uncovered=list(uncovered(task)),
    )


def read_card(metadata: Mapping[str, str] | None, *, name: str) -> ModelCard:
    """The card in the metadata of a file; DataError where there is none that can be one."""
    text = (metadata or {}).get(CARD)
    if text is None:
        raise DataError(
            f"{name} does not say how to use it: an older version of privet wrote it, or another "
            "program; run the experiment again"
        )
    try:
        if len(text) > LONGEST:
            raise DataError(f"its metadata are longer than {LONGEST} characters")
        return ModelCard.strictly(parsed(text))
    except (DataError, ValueError) as error:
        raise DataError(f"{name}: its metadata are no card of a model: {error}") from None


def _use(
    task: Task, experiment: Experiment, *, learned: bool
) -> tuple[dict[str, Any] | None, dict[str, dict[str, list[float]]], list[str]]:
    """Options, scales and what is withheld."""
    recipe = getattr(task, "recipe", None)
    if recipe is None:
        return dict(experiment.data), {}, []
    if not uncovered(task):
        return dict(recipe), {}, []
    if learned and experiment.privacy is None:
        encoding = getattr(task, "encoding", None)
        return dict(recipe), encoding.learned if encoding else {}, []
    if getattr(task, "declared", False):
        return dict(recipe), {}, [_SCALES]
    return None, {}, [_COLUMNS, _SCALES]
