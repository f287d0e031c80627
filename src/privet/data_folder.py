"""Where this machine keeps data sets."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "PRIVET_DATA"


def data_folder(configured: object | None = None) -> Path | None:
    """The folder that was configured, else the one in PRIVET_DATA, else none."""
    folder = configured or os.environ.get(VARIABLE)
    return Path(str(folder)).expanduser() if folder else None
