"""What `make docs` shows beside the guides in docs/: a hook of MkDocs (see mkdocs.yml).

    README.md                       the front page
    CHANGELOG.md, CONTRIBUTING.md   and other Markdown at the root: a page each
    benchmarks/, examples/          their Markdown; a folder of an example with its files
    src/privet/                     the reference: a page for every public module, found in the tree

Pages link to each other as the files in the repository do: a relative link to a file or a folder
becomes one to its page. A file that has none (a notebook, a script) is copied and can be opened. A
link that leads nowhere is a warning, which `--strict` makes an error, and so is whatever a page
would load from another host.
"""

from __future__ import annotations

import ast
import json
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "privet"
LONGEST_SHOWN = 16_384
"""Bytes of a file that an example's page still shows; a longer one is linked to."""

_log = logging.getLogger("mkdocs.hooks.privet")
_LINK = re.compile(r"(?<=\]\()([^()\s]+)(?=\))")
_FENCE = re.compile(r"\s*(```|~~~)")
_LOADED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^\s\"'>]*"
)
_LANGUAGES = {".py": "python", ".toml": "toml", ".sh": "bash", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/, and the navigation over all of them."""
    guides = sorted(ROOT.glob("docs/*.md"))
    meta = sorted(path for path in ROOT.glob("*.md") if path.name != "README.md")
    benchmarks = sorted(ROOT.glob("benchmarks/**/*.md"), key=_readme_first)
    examples = [path for path in sorted(ROOT.glob("examples/*")) if _is_example(path)]
    for path in [ROOT / "README.md", *meta, *benchmarks]:
        _add(files, config, _place(path), path.read_text())
    _add(files, config, "examples/index.md", _examples(examples))
    for path in examples:
        _add(files, config, _place(path), _example(path))
    for path in _modules(PACKAGE):
        _add(files, config, _place(path), _module_page(path))
    for path in _linked_files([ROOT / "README.md", *guides, *meta, *benchmarks]):
        if files.get_file_from_path(_place(path)) is None:
            files.append(File.generated(config, _place(path), abs_src_path=str(path)))
    config.nav = [
        {"Home": "index.md"},
        {"Guides": [_place(path) for path in guides]},
        {"Examples": ["examples/index.md", *({path.stem: _place(path)} for path in examples)]},
        {"Benchmarks": [_place(path) for path in benchmarks]},
        {"Reference": _reference(PACKAGE)},
        {"Project": [_place(path) for path in meta]},
    ]
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """The page with its links to files of the repository turned into links to their pages."""
    source = _source_of(page.file.src_uri)
    return markdown if source is None else relinked(markdown, source, page.file.src_uri)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Warns of what the page would load from elsewhere."""
    if found := _LOADED.search(output):
        _log.warning("%s loads from another host: %s", page.file.src_uri, found[0])
    return output


def relinked(markdown: str, source: Path, place: str) -> str:
    """The Markdown of the file `source`, shown at `place`, with the links it then needs."""
    fenced = False
    lines = []
    for line in markdown.split("\n"):
        fenced ^= bool(_FENCE.match(line))
        if not fenced and not line.startswith("    "):
            line = _LINK.sub(lambda found: _relinked(found[1], source, place), line)
        lines.append(line)
    return "\n".join(lines)


def _relinked(link: str, source: Path, place: str) -> str:
    target = _target(link, source)
    if target is None:
        return link
    fragment = urlsplit(link).fragment
    relative = posixpath.relpath(_place(target), posixpath.dirname(place) or ".")
    return f"{relative}#{fragment}" if fragment else relative


def _target(link: str, source: Path) -> Path | None:
    """The file or folder of the repository that a link in `source` leads to; None for others."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
        return None
    target = (source.parent / parts.path).resolve()
    return target if target.exists() and target.is_relative_to(ROOT) else None


def _place(path: Path) -> str:
    """Where the site has the page (or the copy) of a file or folder of the repository."""
    inside = path.relative_to(ROOT)
    if path == ROOT / "README.md":
        return "index.md"
    if path.suffix == ".md" and path.name != "README.md" and path.parent == ROOT:
        return inside.name.lower()
    if inside.parts[0] == "docs" and len(inside.parts) > 1:
        return inside.relative_to("docs").as_posix()
    if path.name == "README.md":
        return (inside.parent / "index.md").as_posix()
    if path.is_relative_to(PACKAGE) and (path.is_dir() or path.suffix == ".py"):
        dotted = path.relative_to(PACKAGE.parent)
        index = path.is_dir() or path.name == "__init__.py"
        folder = dotted if path.is_dir() else dotted.parent
        return (
            "reference" / (folder / "index.md" if index else dotted.with_suffix(".md"))
        ).as_posix()
    if path.is_dir():
        return (inside / "index.md").as_posix()
    if _is_example(path):
        return inside.with_suffix(".md").as_posix()
    return ("files" / inside).as_posix()


def _source_of(place: str) -> Path | None:
    """The file whose Markdown the page at `place` shows; None for a page that has none."""
    if place == "index.md":
        return ROOT / "README.md"
    for path in (ROOT / place, ROOT / "docs" / place, ROOT / place.upper().replace(".MD", ".md")):
        if path.is_file():
            return path
    readme = ROOT / posixpath.dirname(place) / "README.md"
    return readme if place.endswith("/index.md") and readme.is_file() else None


def _add(files: Files, config: MkDocsConfig, place: str, text: str) -> None:
    files.append(File.generated(config, place, content=text))


def _readme_first(path: Path) -> tuple[Path, bool, str]:
    return path.parent, path.name != "README.md", path.name


def _linked_files(pages: list[Path]) -> Iterator[Path]:
    """Files that the pages link to and that are no pages themselves."""
    seen = set()
    for page in pages:
        for found in _LINK.finditer(page.read_text()):
            target = _target(found[1], page)
            if target and target.is_file() and not _place(target).endswith(".md"):
                seen.add(target)
    yield from sorted(seen)


def _is_example(path: Path) -> bool:
    if path.parent != ROOT / "examples":
        return False
    return path.is_dir() or path.suffix in (".toml", ".ipynb")


def _examples(paths: list[Path]) -> str:
    """The page that lists the examples."""
    lines = [f"- [{path.name}]({posixpath.relpath(_place(path), 'examples')})" for path in paths]
    return "# Examples\n\n" + "\n".join(lines) + "\n"


def _example(path: Path) -> str:
    """The page of an example: its README, then its files; of a notebook: its cells."""
    if path.suffix == ".ipynb":
        return _notebook(path)
    if path.is_file():
        return f"# {path.name}\n\n{_fenced(path)}"
    readme = path / "README.md"
    text = readme.read_text() if readme.exists() else f"# {path.name}\n"
    for each in sorted(path.rglob("*")):
        if each.is_file() and each.suffix in _LANGUAGES and each.stat().st_size <= LONGEST_SHOWN:
            text += f"\n## {each.relative_to(path).as_posix()}\n\n{_fenced(each)}"
    return text


def _notebook(path: Path) -> str:
    """The text and the code of a notebook, without what it printed."""
    text = ""
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        text += (
            f"``````python\n{source}\n``````\n\n"
            if cell["cell_type"] == "code"
            else f"{source}\n\n"
        )
    return text


def _fenced(path: Path) -> str:
    return f"``````{_LANGUAGES.get(path.suffix, 'text')}\n{path.read_text().rstrip()}\n``````\n"


def _public(path: Path) -> bool:
    return not any(
        part.startswith("_") and part not in ("__init__.py",)
        for part in path.relative_to(PACKAGE).parts
    )


def _modules(package: Path) -> list[Path]:
    return [path for path in sorted(package.rglob("*.py")) if _public(path)]


def _parts(package: Path) -> list[Path]:
    """The public modules and packages right in a package: first modules, then packages."""
    inside = [path for path in sorted(package.iterdir()) if _public(path)]
    modules = [path for path in inside if path.suffix == ".py" and path.name != "__init__.py"]
    return modules + [path for path in inside if (path / "__init__.py").is_file()]


def _reference(package: Path) -> list[Any]:
    """The navigation of a package: its own page, its modules, its packages."""
    return [
        _place(package),
        *(
            {path.name: _reference(path)} if path.is_dir() else {path.stem: _place(path)}
            for path in _parts(package)
        ),
    ]


def _module_page(path: Path) -> str:
    """The page of a module, and for a package a table of what is in it."""
    package = path.parent if path.name == "__init__.py" else None
    dotted = ".".join((package or path.with_suffix("")).relative_to(PACKAGE.parent).parts)
    text = f"---\ntitle: {dotted}\n---\n\n::: {dotted}\n"
    if package and (parts := _parts(package)):
        text += f"\n## In this package {{ #{dotted}--modules }}\n\n| module | |\n|---|---|\n"
        for each in parts:
            link = posixpath.relpath(_place(each), posixpath.dirname(_place(path)))
            text += f"| [{each.stem}]({link}) | {_summary(each)} |\n"
    return text


def _summary(path: Path) -> str:
    """The first line of a module's docstring."""
    source = path / "__init__.py" if path.is_dir() else path
    docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
