"""Metadata that pyproject.toml cannot say: what needs the public address of the repository.

The address is in the environment variable PRIVET_REPOSITORY, and only there: an address that nobody
owns yet could be taken by somebody else. With it, README's relative links and pictures become
absolute, to the files of this version's tag, and the project has links to its source, documents,
changelog and issues. Without it both are left as they are. A source distribution remembers the
address that it was made with.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from email.parser import HeaderParser
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
SETTING = "PRIVET_REPOSITORY"
_ADDRESS = re.compile(r"https://[a-z0-9][a-z0-9.-]*(:\d+)?(/[A-Za-z0-9._~-]+)+")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")


def repository() -> str | None:
    """The address in the environment, else the one that this source distribution was made with."""
    said = os.environ.get(SETTING, "")
    if not said:
        return _remembered(ROOT / "PKG-INFO")
    if not _ADDRESS.fullmatch(said) or said.endswith(".git"):
        sys.exit(
            f"{SETTING} is {said!r}; it must be the address of the repository's page,"
            " https://HOST/PATH, without slash, .git, user, query or fragment at its end"
        )
    return said


def _remembered(path: Path) -> str | None:
    if not path.is_file():
        return None
    written = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
    urls = dict(url.split(", ", 1) for url in written.get_all("Project-URL", []))
    return urls.get("Source")


def project_urls(address: str, tag: str) -> dict[str, str]:
    """The links that a package index shows beside the text."""
    return {
        "Source": address,
        "Documentation": f"{address}/tree/{tag}/docs",
        "Changelog": f"{address}/blob/{tag}/CHANGELOG.md",
        "Security": f"{address}/blob/{tag}/SECURITY.md",
        "Issues": f"{address}/issues",
    }


def absolute(markdown: str, address: str, tag: str) -> str:
    """Markdown of a file at the root, with its relative links leading to files of that tag."""
    fenced = False
    lines = []
    for line in markdown.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        if not fenced and not line.startswith("    "):
            line = _LINK.sub(lambda found: _absolute(found, address, tag), line)
        lines.append(line)
    return "\n".join(lines)


def _absolute(found: re.Match[str], address: str, tag: str) -> str:
    picture, text, link = found.groups()
    if link.startswith(("#", "/")) or re.match(r"[a-z][a-z0-9+.-]*:", link):
        return found[0]
    path = link.partition("#")[0]
    kind = "raw" if picture else "tree" if (ROOT / path).is_dir() else "blob"
    return f"{picture}[{text}]({address}/{kind}/{tag}/{link})"


def metadata() -> dict[str, object]:
    """What is handed to setuptools."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    address = repository()
    urls: dict[str, str] = {}
    if address:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        tag = f"v{project['version']}"
        readme, urls = absolute(readme, address, tag), project_urls(address, tag)
    return {
        "long_description": readme,
        "long_description_content_type": "text/markdown",
        "project_urls": urls,
    }


if __name__ == "__main__":
    setup(**metadata())
