"""Federated training over data that may not be shared, with privacy that is measured.

    from privet import Experiment, simulate

    summary = simulate(Experiment.from_file(Path("experiment.toml")), out=Path("runs/first"))

Libraries are loaded when they are first needed, so `import privet` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from privet.api import audit, load, report, simulate, sweep

if TYPE_CHECKING:
    from privet.errors import PrivetError
    from privet.experiment import Experiment
    from privet.metrics import Metric
    from privet.simulations.run import Execution
    from privet.tasks import Examples, LazyExamples, Task

__version__ = "0.1.0"
__all__ = [
    "Examples",
    "Execution",
    "Experiment",
    "LazyExamples",
    "Metric",
    "PrivetError",
    "Task",
    "audit",
    "load",
    "report",
    "simulate",
    "sweep",
]

_HOMES = {
    "Examples": "privet.tasks",
    "Execution": "privet.simulations.run",
    "Experiment": "privet.experiment",
    "LazyExamples": "privet.tasks",
    "Metric": "privet.metrics",
    "PrivetError": "privet.errors",
    "Task": "privet.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'privet' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
