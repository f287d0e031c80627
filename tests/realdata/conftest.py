"""Tests that read real files; they are skipped unless PRIVET_DATA names the folder with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets."""
    folder = os.environ.get("PRIVET_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PRIVET_DATA is not set to a folder with the real data sets")
    return Path(folder)
