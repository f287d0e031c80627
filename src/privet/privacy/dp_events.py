"""dp-accounting's events without its accountants, which take a second to import (SciPy)."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dp_accounting import dp_event as dpa
    from dp_accounting.dp_event import DpEvent

__all__ = ["DpEvent", "dpa"]

_NAME = "dp_accounting.dp_event"


def _events() -> ModuleType:
    """The package's own module of events: whoever imports the package later finds this very one."""
    if _NAME not in sys.modules:
        package = find_spec("dp_accounting")
        if package is None or package.origin is None:
            raise ModuleNotFoundError("No module named 'dp_accounting'", name="dp_accounting")
        spec = spec_from_file_location(_NAME, Path(package.origin).with_name("dp_event.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[_NAME] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[_NAME])
    return sys.modules[_NAME]


if not TYPE_CHECKING:
    dpa = _events()
    DpEvent = dpa.DpEvent
