"""What a data holder says of a data set, and whether it is what a job expects.

    [datasets.stays]
    task = "table"
    file = "stays.csv"
    target = "outcome"
    numeric = ["age"]
    categorical = ["ward"]
    classes = ["home", "died"]
    ranges.age = [0, 110]
    categories.ward = ["north", "south"]

A job is compared with this text and never with records, so that its answer tells nothing of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from privet.errors import ExperimentError, PrivetError
from privet.tasks.registry import DATASET
from privet.tasks.table_layout import TableOptions

TABLE = "table"
_SCHEMA = (
    *("target", "numeric", "categorical", "missing", "classes", "ranges", "categories"),
    *("objective", "unit", "event", "intervals"),
)
"""What a job says of a table, in the order in which it is shown."""
_HOLDERS = ("silo", "test_file", "test_fraction")
"""Options of a table that have no sense where one holder describes one data set."""


class SchemaMismatch(PrivetError):  # noqa: N818 - an answer, not a fault
    """A job expects another data set than the holder describes; names settings of the job alone."""

    def __init__(self, text: str, *, setting: str) -> None:
        super().__init__(text)
        self.setting = setting


class DataUnavailable(PrivetError):  # noqa: N818 - the holder's log has the fault
    """The holder's files cannot be used; one text, whatever is wrong with them."""


class DatasetDescription(BaseModel):
    """A task, and its options as the holder of the records sets them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    task: str
    """One of `privet tasks`; its options stand beside it."""

    @classmethod
    def undescribed(cls, task: str) -> DatasetDescription:
        """What a silo without descriptions offers: a task's own records, without options."""
        return cls.model_construct(task=task)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.task == TABLE:
            try:
                _check_table(self.options)
            except ExperimentError as error:
                # The holder's file has these keys in a table of another name.
                raise ValueError(str(error).replace("data.", "")) from None
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Every key of the table but the task."""
        return dict(self.model_extra or {})

    @property
    def expected(self) -> dict[str, Any]:
        """What a job has to say under [data], besides the name of the data set."""
        if self.task == TABLE:
            return {key: value for key, value in _schema(self.options).items() if value}
        return self.options

    def demand(self, task: str, asked: Mapping[str, Any], *, name: str) -> None:
        """SchemaMismatch unless a job for `task` that says `asked` under [data] expects this."""
        if task != self.task:
            raise _mismatch("task", name)
        expected = {key: value for key, value in asked.items() if key != DATASET}
        held = self.options
        if task == TABLE and not held:
            raise _mismatch("task", name)
        if task == TABLE:
            expected, held = _schema(demand_schema(expected)), _schema(held)
        for key, value in expected.items():
            if key not in held or held[key] != value:
                raise _mismatch(_setting(key), name)


def demand_schema(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A job's [data] of the task `table` as it may be on real silos, or ExperimentError.

    It says everything that decides the model, and nothing of files but the server's own
    `test_file`.
    """
    for key in asked:
        if key not in (DATASET, "test_file", *_SCHEMA):
            raise ExperimentError(
                f"{_setting(key)}: a job on real silos names a data set (data.dataset) and what it "
                f"expects of it ({', '.join(_SCHEMA)}); its holder says where the records lie and "
                "how they are read"
            )
    told = {key: value for key, value in asked.items() if key in _SCHEMA}
    _demand_declared(told)
    return told


def _check_table(options: Mapping[str, Any]) -> None:
    for key in _HOLDERS:
        if key in options:
            raise ExperimentError(f"data.{key}: a holder's data set has no such setting")
    if not (options.get("file") or options.get("files")):
        raise ExperimentError("exactly one of data.file and data.files is needed")
    if options.get("missing") == "refuse":
        raise ExperimentError(
            "data.missing = 'refuse': at a silo no answer may depend on what a record lacks; "
            "allowed are 'impute' and 'drop'"
        )
    _demand_declared(options)


def _demand_declared(options: Mapping[str, Any]) -> None:
    # Whether files are named is another question, which the options would ask first.
    if not TableOptions.of({**options, "file": "any", "files": None}).declared:
        raise ExperimentError(
            "a table on real silos is described in full: data.numeric or data.categorical, "
            "data.categories of every categorical column, and data.classes"
        )


def _schema(options: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a table's options that decides what its model learns, in one form."""
    read = TableOptions.of(options)
    numeric, categorical = list(read.numeric or ()), list(read.categorical or ())
    scaled = [*numeric, *([] if read.has_classes else [read.target])]
    return {
        "target": read.target,
        "numeric": numeric,
        "categorical": categorical,
        "missing": read.missing,
        "classes": list(read.class_names() or ()),
        "ranges": {name: list(read.ranges[name]) for name in scaled if name in read.ranges},
        "categories": {name: list(read.vocabulary(name) or ()) for name in categorical},
        **_of_objective(read),
    }


def _of_objective(read: TableOptions) -> dict[str, Any]:
    """Nothing for classes, as jobs of older versions say it."""
    if read.objective == "classes":
        return {}
    told = {"objective": read.objective, "event": read.event, "intervals": read.intervals}
    return {key: value for key, value in told.items() if value}


def _setting(key: str) -> str:
    """A key of [data] as it can stand in a line, whatever a job calls its keys."""
    return f"data.{key[:64] if key.isprintable() else ascii(key[:64])}"


def _mismatch(setting: str, name: str) -> SchemaMismatch:
    text = f"{setting} is not what the holder of data set {name[:64]!r} describes"
    return SchemaMismatch(text, setting=setting)
