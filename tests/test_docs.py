"""The documentation: links that lead somewhere, docstrings that are shown as they were meant."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
WRITTEN = sorted(
    [
        *ROOT.glob("*.md"),
        *(p for d in ("docs", "benchmarks", "examples") for p in ROOT.glob(f"{d}/**/*.md")),
    ]
)


def _loaded(name: str) -> ModuleType:
    """A module of docs/; skips where the extra `docs` is not installed."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_files(path: Path) -> None:
    for link in re.findall(r"\]\(([^()\s#]+)[^()\s]*\)", path.read_text(encoding="utf-8")):
        if ":" not in link:
            assert (path.parent / link).exists(), f"{path}: {link}"


def test_docstrings_become_markdown() -> None:
    assert doctest.testmod(_loaded("docstrings")) == (0, 5)


@pytest.mark.parametrize(
    ("source", "place", "link", "leads_to"),
    [
        ("README.md", "index.md", "docs/deploy.md", "deploy.md"),
        ("README.md", "index.md", "docs/deploy.md#x", "deploy.md#x"),
        ("README.md", "index.md", "docs/pictures/report.png", "pictures/report.png"),
        ("README.md", "index.md", "CONTRIBUTING.md", "contributing.md"),
        ("README.md", "index.md", "examples/custom_task", "examples/custom_task/index.md"),
        ("README.md", "index.md", "LICENSE", "files/LICENSE"),
        ("docs/scale.md", "scale.md", "deploy.md", "deploy.md"),
        ("docs/scale.md", "scale.md", "../benchmarks/README.md", "benchmarks/index.md"),
        ("docs/scale.md", "scale.md", "../benchmarks", "benchmarks/index.md"),
        ("docs/scale.md", "scale.md", "../src/privet/errors.py", "reference/privet/errors.md"),
        ("docs/scale.md", "scale.md", "../src/privet/tasks", "reference/privet/tasks/index.md"),
        ("benchmarks/README.md", "benchmarks/index.md", "../README.md", "../index.md"),
        ("README.md", "index.md", "https://flower.ai", "https://flower.ai"),
        ("README.md", "index.md", "#speed", "#speed"),
        ("README.md", "index.md", "docs/none.md", "docs/none.md"),
        ("README.md", "index.md", "../../etc/passwd", "../../etc/passwd"),
    ],
)
def test_a_link_to_a_file_becomes_one_to_its_page(
    source: str, place: str, link: str, leads_to: str
) -> None:
    shown = _loaded("pages").relinked(f"See [it]({link}).", ROOT / source, place)
    assert shown == f"See [it]({leads_to})."


def test_code_keeps_its_links() -> None:
    text = "    [it](LICENSE)\n\n```\n[it](LICENSE)\n```"
    assert _loaded("pages").relinked(text, ROOT / "README.md", "index.md") == text


def test_every_public_module_has_a_page() -> None:
    pages = _loaded("pages")
    found = {path.relative_to(pages.PACKAGE) for path in pages._modules(pages.PACKAGE)}
    assert Path("errors.py") in found
    assert Path("__init__.py") in found
    assert not any(part.startswith("_") for path in found for part in path.with_name("x").parts)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The documentation with a package of two modules."""
    _loaded("pages")
    for name in ("docs", "benchmarks", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for path in [*ROOT.glob("*.md"), *ROOT.glob("LICENSE"), ROOT / "mkdocs.yml"]:
        shutil.copy(path, tmp_path)
    package = tmp_path / "src" / "privet"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""A package."""\n')
    (package / "errors.py").write_text('"""Errors.\n\n>>> 1 + 1\n2\n"""\n\nLIMIT = 3\n')
    for guide in (tmp_path / "docs").glob("*.md"):
        text = guide.read_text(encoding="utf-8")
        text = re.sub(r"(?<=\]\()\.\./src/[^)]*", "../src/privet/errors.py", text)
        guide.write_text(text, encoding="utf-8")
    return tmp_path


def _built(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=folder,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(small: Path) -> None:
    built = _built(small)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "LIMIT" in (small / "site/reference/privet/errors.html").read_text(encoding="utf-8")
    for page in small.glob("site/**/*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|img)\b[^>]*src=\"(?:https?:)?//", text), page
        assert not re.search(r"<link\b[^>]*stylesheet[^>]*href=\"(?:https?:)?//", text), page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("[gone](nowhere.md)", "nowhere.md"),
        ("[gone](deploy.md#no-such-heading)", "no-such-heading"),
        ('<img src="https://example.org/x.png">', "example.org"),
    ],
)
def test_what_is_wrong_on_a_page_stops_the_build(small: Path, added: str, said: str) -> None:
    with (small / "docs" / "scale.md").open("a", encoding="utf-8") as file:
        file.write(f"\n{added}\n")
    built = _built(small)
    assert built.returncode != 0
    assert said in built.stdout + built.stderr
