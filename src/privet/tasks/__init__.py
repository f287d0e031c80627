"""Tasks: a model, the data it learns from, a loss and a measure of success.

`TASKS` lists the built-in ones and `load_task` makes one; importing this package loads neither
torch nor pandas. `privet.tasks.task` says what a task of your own must have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from privet.tasks.registry import TASKS, load_task

if TYPE_CHECKING:
    from privet.tasks.lazy import LazyExamples
    from privet.tasks.task import Examples, Task, check_examples

__all__ = ["TASKS", "Examples", "LazyExamples", "Task", "check_examples", "load_task"]


def __getattr__(name: str) -> Any:
    if name == "LazyExamples":
        from privet.tasks.lazy import LazyExamples

        return LazyExamples
    if name not in ("Examples", "Task", "check_examples"):
        raise AttributeError(f"module 'privet.tasks' has no attribute '{name}'")
    from privet.tasks import task

    return getattr(task, name)
