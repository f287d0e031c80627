"""Tasks whose data a process reads once, for as long as many runs share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from privet.tasks.task import Examples, Task

_kept: dict[str, Task] | None = None


@contextmanager
def kept_tasks() -> Iterator[None]:
    """Within it `load_task` gives the same task to all who ask for the same, with data kept.

    Processes that are forked within it begin with what is there.
    """
    global _kept
    before, _kept = _kept, _kept or {}
    try:
        yield
    finally:
        _kept = before


def kept(key: str, make: Callable[[], Task]) -> Task:
    """What `make` gives, or gave before under this `key` if tasks are kept."""
    if _kept is None:
        return make()
    if key not in _kept:
        _kept[key] = cast("Task", _Kept(make()))
    return _kept[key]


class _Kept:
    """A task that is asked for its data once."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def train_data(self) -> Examples:
        return self._train

    def test_data(self) -> Examples | None:
        return self._test

    @cached_property
    def _train(self) -> Examples:
        return self._task.train_data()

    @cached_property
    def _test(self) -> Examples | None:
        return self._task.test_data()
