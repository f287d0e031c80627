"""The settings of a table task, checked before any file is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from privet.errors import ExperimentError, nearest
from privet.tasks.frames import label_text


class TableOptions(BaseModel):
    """The `[data]` table of an experiment with `task = "table"`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    """The column to predict."""
    file: str | None = None
    """One file with everybody's rows. Paths are relative to the data folder."""
    files: list[str] | str | None = None
    """Instead of `file`: one file for each silo, as a list or a pattern such as "wards/*.csv"."""
    silo: str | None = None
    """A column of `file` that says whose each row is."""
    test_file: str | None = None
    """Rows to test on; without it `test_fraction` of each silo's rows are kept for testing."""
    test_fraction: float = Field(default=0.2, ge=0, lt=1)
    numeric: list[str] | None = None
    """Columns to use as numbers. With `numeric` or `categorical` no other column is used."""
    categorical: list[str] | None = None
    missing: Literal["impute", "drop", "refuse"] = "impute"
    ranges: dict[str, tuple[float, float]] = {}
    """Public [lowest, highest] value of numeric columns."""
    categories: dict[str, list[str | int | float | bool]] = {}
    """Every value that a categorical column can have."""
    classes: list[str | int | float | bool] | None = None
    """Every value that the target can have."""

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> TableOptions:
        """Validate `raw`; raises ExperimentError in one line that names the key."""
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            raise ExperimentError(_one_line(error)) from None

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        if (self.file is None) == (not self.files):
            raise ValueError("exactly one of data.file and data.files is needed")
        if self.files and self.silo:
            raise ValueError("data.silo and data.files exclude each other: each file is a silo")
        if self.test_file and "test_fraction" in self.model_fields_set:
            raise ValueError("data.test_file and data.test_fraction exclude each other")
        for name in (self.target, self.silo):
            if name in (self.numeric or []) + (self.categorical or []):
                raise ValueError(f"column {name!r} cannot be a feature and the target or silo")
        both = set(self.numeric or []) & set(self.categorical or [])
        if both:
            raise ValueError(f"column {min(both)!r} is in data.numeric and in data.categorical")
        return self

    @model_validator(mode="after")
    def _sensible_values(self) -> Self:
        for name, (low, high) in self.ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"data.ranges.{name} = [{low}, {high}]: lowest, then highest")
        for name, words in {**self.categories, "classes": self.classes or [0, 1]}.items():
            if len({label_text(word) for word in words}) < (2 if name == "classes" else 1):
                raise ValueError(f"data {name!r} lists too few values")
        return self

    def vocabulary(self, column: str) -> tuple[str, ...] | None:
        """The public values of a categorical column, if they are given."""
        words = self.categories.get(column)
        return None if words is None else tuple(dict.fromkeys(map(label_text, words)))

    def class_names(self) -> tuple[str, ...] | None:
        """The public values of the target, if they are given."""
        return None if self.classes is None else tuple(dict.fromkeys(map(label_text, self.classes)))


def _one_line(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    known = list(TableOptions.model_fields)
    if first["type"] == "extra_forbidden":
        return f"unknown key 'data.{key}'.{nearest(key, known)} Known: {', '.join(known)}"
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"the task table needs 'data.{key}'"
    if first["type"] == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    return f"data.{key} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
