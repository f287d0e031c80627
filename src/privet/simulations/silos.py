"""What a simulation knows of its silos, for the report: `silos.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from privet.client.plan import LocalPlan
from privet.client.silo import Place

SILOS = "silos.json"

_MOST_LABELS = 100


def describe_silos(place: Place, plans: Sequence[LocalPlan]) -> dict[str, Any]:
    """Sizes, labels and plans of the silos. Labels are left out when there are too many."""
    targets = torch.cat([silo.targets for silo in place.silos])
    labels = None if targets.is_floating_point() else torch.unique(targets).tolist()
    if labels is not None and len(labels) > _MOST_LABELS:
        labels = None
    test = place.task.test_data()
    return {
        "silos": [
            {
                "name": name,
                "records": len(silo),
                "labels": None if labels is None else _count(silo.targets, labels),
                **_describe_plan(plan),
            }
            for name, silo, plan in zip(place.names, place.silos, plans, strict=True)
        ],
        "labels": None if labels is None else [str(label) for label in labels],
        "test_records": None if test is None else len(test),
        "notes": list(getattr(place.task, "notes", ())),
    }


def _count(targets: Tensor, labels: Sequence[int]) -> dict[str, int]:
    return {str(label): int((targets == label).sum()) for label in labels}


def _describe_plan(plan: LocalPlan) -> dict[str, Any]:
    mechanism = plan.mechanism
    return {
        "sampling_rate": mechanism.sampling_rate if mechanism else None,
        "steps_per_round": plan.steps,
        "noise_multiplier": mechanism.noise_multiplier if mechanism else None,
    }
