"""What a silo's holder can see of its data sets, and what jobs see of them. Opens no connection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from privet.deployment.parties import SiloKit
from privet.errors import PrivetError
from privet.privacy.policy import Policy
from privet.tasks import Task, load_task
from privet.tasks.datasets import TABLE, DatasetDescription
from privet.tasks.files import data_folder
from privet.tasks.held_table import Coverage, HeldTable


@dataclass(frozen=True, kw_only=True)
class CheckedDataset:
    """One data set; `description` is what jobs can learn of it, the rest is for its holder."""

    name: str
    default: bool
    """Jobs that name no data set mean it."""
    description: DatasetDescription | None
    coverage: Coverage | None
    faults: tuple[str, ...]


def check(kit: SiloKit) -> tuple[CheckedDataset, ...]:
    """Read every data set that the kit describes, as a job would have it read."""
    if not kit.datasets:
        return (_checked(kit, kit.dataset, None),)
    return tuple(_checked(kit, name, found) for name, found in kit.datasets.items())


def _checked(kit: SiloKit, name: str, description: DatasetDescription | None) -> CheckedDataset:
    faults, coverage = [*_policy_faults(kit, name, description)], None
    if description is not None:
        try:
            faults += _second_budgets(kit, name)
            coverage = _read(kit, description)
        except PrivetError as error:
            faults.append(str(error))
        except Exception as error:  # of anybody's task: the holder may see what a job may not
            faults.append(f"{type(error).__name__}: {error}")
    if coverage is not None and coverage.records == 0:
        faults.append("there are no records to train on")
    return CheckedDataset(
        name=name,
        default=name == kit.dataset,
        description=description,
        coverage=coverage,
        faults=tuple(faults),
    )


def _read(kit: SiloKit, description: DatasetDescription) -> Coverage:
    task = _task(kit, description)
    if isinstance(task, HeldTable):
        return task.coverage()
    return Coverage(len(task.train_data()), 0, 0)


def _task(kit: SiloKit, description: DatasetDescription) -> Task:
    return load_task(
        description.task,
        data_dir=data_folder(kit.data_dir),
        options=description.options,
        held=True,
    )


def _second_budgets(kit: SiloKit, name: str) -> Iterator[str]:
    """Data sets that share records, which the ledger cannot see where they are read otherwise."""
    mine = _sources(kit, kit.datasets[name])
    for other, description in kit.datasets.items():
        if other != name and mine & _sources(kit, description):
            yield f"data set {other} has the same records: they would have two budgets"


def _sources(kit: SiloKit, description: DatasetDescription) -> frozenset[object]:
    """The files of a table; of another task, which finds its own, its name."""
    if description.task != TABLE:
        return frozenset({description.task})
    task, folder = _task(kit, description), data_folder(kit.data_dir)
    names = task.file_names() if isinstance(task, HeldTable) else []
    return frozenset((folder / name).resolve() for name in names if folder)


def _policy_faults(
    kit: SiloKit, name: str, description: DatasetDescription | None
) -> Iterator[str]:
    try:
        rules = Policy.from_file(kit.policy).rules(name)
    except PrivetError as error:
        yield str(error)
        return
    if rules is None:
        yield f"{kit.policy.name} has no [data.{name}]: every job is refused"
    elif description and not {description.task, "*"} & {*rules.tasks}:
        yield f"{kit.policy.name} allows no task {description.task!r} on it: every job is refused"
