"""Which Pythons of this machine the suite is to run on: prints a path a line, for `make versions`.

    python tests/pythons.py             the oldest and the newest that are found
    python tests/pythons.py 3.12 3.13   these, where they are found

Looked for are python3.11 and so on in PATH, and pyenv's versions. What is not found is told on the
standard error and left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

KNOWN = ("3.11", "3.12", "3.13", "3.14")


def found(version: str) -> str | None:
    """A Python of that version that runs; one of pyenv's in PATH may be there and not run."""
    for path in _candidates(version):
        asked = subprocess.run(
            [path, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
        )
        if asked.returncode == 0 and asked.stdout.strip() == version:
            return path
    return None


def _candidates(version: str) -> Iterator[str]:
    if path := shutil.which(f"python{version}"):
        yield path
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(map(str, root.glob(f"versions/{version}.*/bin/python")), reverse=True)


def chosen(asked: list[str]) -> list[str]:
    """The Pythons that were asked for, else the oldest and the newest of the known ones."""
    paths = {version: found(version) for version in asked or KNOWN}
    for version, path in paths.items():
        if path is None:
            print(
                f"Python {version}: not found in PATH or among pyenv's, left out", file=sys.stderr
            )
    here = [path for path in paths.values() if path]
    return here if asked else [*here[:1], *here[1:][-1:]]


if __name__ == "__main__":
    if wrong := [version for version in sys.argv[1:] if version not in KNOWN]:
        sys.exit(f"PYTHONS names {wrong[0]!r}; known are {', '.join(KNOWN)}")
    if not (pythons := chosen(sys.argv[1:])):
        sys.exit(f"none of the Pythons {', '.join(sys.argv[1:] or KNOWN)} is on this machine")
    print("\n".join(pythons))
