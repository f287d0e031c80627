"""A table of patients, and what an experiment may declare of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

DECLARED = {
    "numeric": ["age", "bmi"],
    "categorical": ["ward"],
    "ranges": {"age": [0, 110], "bmi": [10, 60]},
    "categories": {"ward": ["north", "süd", "east"]},
    "classes": ["no", "yes"],
}
Run = Callable[..., Path]


def patients(count: int = 600) -> pd.DataFrame:
    draw = np.random.default_rng(7)
    age = draw.integers(18, 91, count).astype(float)
    bmi = np.round(draw.normal(26, 4, count), 1)
    ward = draw.choice(["north", "süd", "east"], count).astype(object)
    risk = (age - 50) / 15 + (ward == "süd") - (bmi - 26) / 8 + draw.normal(0, 0.6, count)
    site = draw.choice(["a", "b"], count)
    rows = pd.DataFrame({"age": age, "ward": ward, "bmi": bmi, "site": site})
    rows["outcome"] = np.where(risk > 0, "yes", "no")
    rows.loc[draw.random(count) < 0.05, "bmi"] = np.nan
    rows.loc[draw.random(count) < 0.05, "ward"] = None
    return rows
