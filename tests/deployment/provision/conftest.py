"""A project of two silos and an administrator, and its kits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from privet.deployment.parties import Parties, load_parties
from privet.deployment.provision import Project, Provisioned, provision

START = datetime(2026, 6, 1, 12, tzinfo=UTC)

TEXT = """\
name = "lungs"
[server]
hosts = ["localhost", "127.0.0.1"]
[silos.north]
[silos.south]
[admins.ana]
"""


@dataclass
class Operators:
    """Who writes the project file and runs provision."""

    folder: Path
    text: str = TEXT

    @property
    def file(self) -> Path:
        return self.folder / "project.toml"

    @property
    def out(self) -> Path:
        return self.folder / "kits"

    def run(self, *, days_later: float = 0, **options: Any) -> Provisioned:
        self.file.write_text(self.text)
        project = Project.from_file(self.file)
        at = START + timedelta(days=days_later)
        return provision(project, out=self.out, at=at, **options)

    def parties(self, where: str = ".") -> Parties:
        key = self.project_key()
        return load_parties(self.out / where / "parties.json", project_key=key)

    def project_key(self) -> str:
        from privet.privacy.ledger.keys import SiloKey

        return SiloKey.load(self.out / "project.key").public

    def outcomes(self, done: Provisioned) -> dict[str, str]:
        return {row.name: row.outcome for row in done.rows}


@pytest.fixture
def operators(tmp_path: Path) -> Operators:
    return Operators(tmp_path)


@pytest.fixture
def contents() -> Callable[[Path], dict[str, tuple[bytes, int]]]:
    """Content and mode of every file below a folder, by name."""

    def read(folder: Path) -> dict[str, tuple[bytes, int]]:
        return {
            path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mode & 0o777)
            for path in folder.rglob("*")
            if path.is_file()
        }

    return read
