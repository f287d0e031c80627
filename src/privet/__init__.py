"""Federated training over data that may not be shared, with privacy that is measured.

    from privet import Experiment, simulate

    summary = simulate(Experiment.from_file(Path("experiment.toml")), out=Path("runs/first"))

Names are loaded when they are first used, so `import privet` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privet.errors import PrivetError
    from privet.experiment import Experiment
    from privet.simulations.run import Execution, simulate
    from privet.sweeps.run import sweep
    from privet.tasks import Examples, Task

__version__ = "0.1.0"
__all__ = ["Examples", "Execution", "Experiment", "PrivetError", "Task", "simulate", "sweep"]

_HOMES = {
    "Examples": "privet.tasks",
    "Execution": "privet.simulations.run",
    "Experiment": "privet.experiment",
    "PrivetError": "privet.errors",
    "Task": "privet.tasks",
    "simulate": "privet.simulations.run",
    "sweep": "privet.sweeps.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'privet' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
