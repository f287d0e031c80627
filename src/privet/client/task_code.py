"""The code of a task "module:Class", as a data holder approves it: what is read is what runs.

Approved is a hash. It covers every file of the top-level package that the task lies in, whatever
its kind, or the one file of a module outside packages; of other modules that the code imports by
name the same where they belong to no installed distribution or to the package's own, or lie
elsewhere than theirs, else name and version, but for those that privet itself needs. Left out is
what Python makes by itself, `__pycache__`; approved code is imported without it, and only while
each file is what was hashed. Nothing of the code is run to find out. What it imports by computed
names, or from compiled modules, is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.abc
import importlib.metadata
import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from privet.errors import PrivetError

_CACHE = "__pycache__"
_SETTLED = 5.0
"""Seconds after which the time of a file's last change tells it from the next one."""
_known: dict[tuple[Path, int, int, int, int], str] = {}
_imported: dict[str, frozenset[str]] = {}
"""By a source's SHA-256, the top-level modules that it imports."""


class CodeRefused(PrivetError):  # noqa: N818 - it is the answer, not a fault
    """Code that cannot be approved or is not what was approved; says why."""


@dataclass(frozen=True)
class CodeCover:
    """What a hash covers."""

    root: Path
    """The package's folder, or the module's file."""
    files: Mapping[str, str]
    """SHA-256 by name within the package, or of the one file."""
    links: Mapping[str, str]
    """Where a link leads within the package."""
    versions: Mapping[str, str]
    """Of distributions that are imported beyond those that privet needs."""
    modules: Mapping[str, CodeCover | None]
    """Imported modules of no distribution; None: not found here."""

    @property
    def hash(self) -> str:
        """ "sha256:" and 64 hexadecimal digits."""
        return f"sha256:{self._digest()}"

    def _digest(self) -> str:
        modules = {name: cover and cover._digest() for name, cover in self.modules.items()}
        content = [dict(each) for each in (self.files, self.links, self.versions, modules)]
        text = json.dumps(["privet code 2", *content], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def digest(self, path: Path) -> str | None:
        """SHA-256 of this module's own file there, free of links; None: it is not covered."""
        if path == self.root:
            return self.files.get("")
        inside = path.is_relative_to(self.root)
        return self.files.get(path.relative_to(self.root).as_posix()) if inside else None

    def tops(self, name: str) -> dict[str, CodeCover]:
        """This one as `name`, and every other top-level module that is covered."""
        found = {name: self}
        for other, cover in self.modules.items():
            if cover is not None:
                found = cover.tops(other) | found
        return found


def top_level(task: str) -> str | None:
    """The top-level module of a task of someone's own; None for a built-in one."""
    module, colon, _ = task.partition(":")
    return module.partition(".")[0] if colon else None


def code_cover(task: str) -> CodeCover | None:
    """What the hash of the task's code covers; None for a built-in task or no such module.

    CodeRefused for code with links that lead out of its package, with what is no file, and for a
    folder without __init__.py: files from anywhere may join it.
    """
    name = top_level(task)
    root = _root(name) if name else None
    return cover(root) if root else None


def code_hash(task: str) -> str | None:
    """SHA-256 over the task's code; None for a built-in task, and for what cannot be approved."""
    try:
        found = code_cover(task)
    except CodeRefused:
        return None
    return found.hash if found else None


def cover(root: Path) -> CodeCover:
    """What the hash of this package's folder, or of this one file, covers."""
    return _cover(root.resolve(), frozenset())


def _root(name: str) -> Path | None:
    """Where a top-level module lies: a package's folder or one file."""
    spec = _spec(name)
    if spec is None:
        return None
    if spec.origin is None:
        raise CodeRefused(f"{name} is a folder without __init__.py, which cannot be covered")
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations is not None else origin


def _spec(name: str) -> ModuleSpec | None:
    # The top level only: to find a submodule Python would run the package's code. The current
    # folder last, as where tasks are looked for.
    return PathFinder.find_spec(name, [*sys.path, str(Path.cwd())])


def _installed(name: str, distributions: Sequence[str]) -> bool:
    """Whether a module is where its distributions are, and nowhere else (or not here at all).

    A folder of its name in another place would come before it, or join it.
    """
    spec = _spec(name)
    places = [] if spec is None else spec.submodule_search_locations or [spec.origin or ""]
    homes = {_home(each) for each in distributions}
    return all(Path(place).resolve().parent in homes for place in places)


def _cover(root: Path, within: frozenset[Path]) -> CodeCover:
    files: dict[str, str] = {}
    links: dict[str, str] = {}
    for path in _walk(root):
        name = path.relative_to(root).as_posix() if path != root else ""
        if path.is_symlink():
            links[name] = _target(path, root)
        else:
            files[name] = _hashed(path)
    versions: dict[str, str] = {}
    modules: dict[str, CodeCover | None] = {}
    its = _distributions().get(root.stem, ())
    for imported in sorted(_imports(root, files) - {root.stem}):
        distributions = _distributions().get(imported, ())
        # What came in one distribution with the task is as much the task's.
        own = {*its} & {*distributions}
        if not distributions or own or not _installed(imported, distributions):
            place = _root(imported)
            here = place.resolve() if place else None
            # One that imports this one back is covered where it began.
            if here is None or here not in within | {root}:
                modules[imported] = _cover(here, within | {root}) if here else None
        else:
            versions |= {each: _version(each) for each in distributions if each not in _own()}
    return CodeCover(root, files, links, versions, modules)


def _walk(root: Path) -> Iterator[Path]:
    """The files and links below a package's folder, in the order of their names."""
    if not root.is_dir():
        yield root
        return
    for folder, folders, names in os.walk(root, onerror=_unreadable):
        folders[:] = sorted(each for each in folders if each != _CACHE)
        linked = [each for each in folders if (Path(folder) / each).is_symlink()]
        yield from (Path(folder) / each for each in sorted([*names, *linked]))


def _unreadable(error: OSError) -> None:
    raise CodeRefused(f"{error.filename} cannot be read ({error.strerror})")


def _target(link: Path, root: Path) -> str:
    target = link.resolve()
    if not target.is_relative_to(root):
        raise CodeRefused(f"{link} is a link that leads out of the package")
    return target.relative_to(root).as_posix()


def _hashed(path: Path) -> str:
    try:
        # Not followed, and not waited for: a link may be put there now, and a pipe has no end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise CodeRefused(f"{path} is no file")
            # Every message asks again, and a package may bring much data. Nobody sets the time of a
            # change as they like; one of just now might be followed by another at the same time.
            stamp = path, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
            if stamp not in _known or time.time() - facts.st_ctime < _SETTLED:
                _known[stamp] = hashlib.file_digest(file, "sha256").hexdigest()
            return _known[stamp]
    except OSError as error:
        raise CodeRefused(f"{path} cannot be read ({error.strerror})") from None


def _imports(root: Path, files: Mapping[str, str]) -> set[str]:
    """The top-level modules that sources among `files` import by name, without Python's own and
    privet."""
    found: set[str] = set()
    for name, digest in files.items():
        if not name or name.endswith(".py"):
            found |= _imported_by(root / name if name else root, digest)
    return found - sys.stdlib_module_names - {"privet"}


def _imported_by(path: Path, digest: str) -> frozenset[str]:
    # Every message asks again, and to parse a package takes seconds.
    if digest not in _imported:
        try:
            source = path.read_bytes()
        except OSError:
            return frozenset()  # it cannot be imported either
        found = frozenset(_named_in(source))
        if hashlib.sha256(source).hexdigest() != digest:
            return found  # of what came in its place meanwhile
        _imported[digest] = found
    return _imported[digest]


def _named_in(source: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


@cache
def _distributions() -> Mapping[str, list[str]]:
    return {
        name: sorted({_normal(each) for each in found})
        for name, found in importlib.metadata.packages_distributions().items()
    }


@cache
def _own() -> frozenset[str]:
    """privet and all that it needs, by normal names."""
    found: set[str] = set()
    left = ["privet"]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        matches = (re.match(r"[A-Za-z0-9._-]+", each) for each in needed if "extra ==" not in each)
        left += [_normal(match.group()) for match in matches if match]
    return frozenset(found)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@cache
def _home(distribution: str) -> Path | None:
    try:
        return Path(str(importlib.metadata.distribution(distribution).locate_file(""))).resolve()
    except importlib.metadata.PackageNotFoundError:
        return None


class _Checked(importlib.abc.Loader):
    """A loader of approved files, each looked at once more, and no cache of compiled code."""

    def __init__(self, inner: Any, path: Path, digest: str | None) -> None:
        self._inner, self._path, self._digest = inner, path, digest

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        # Compiled code runs from here on; of source, what is compiled is looked at.
        if not isinstance(self._inner, SourceFileLoader):
            self._demand(_hashed(self._path))
        return self._inner.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        if isinstance(self._inner, SourceFileLoader):
            source = self._path.read_bytes()
            self._demand(hashlib.sha256(source).hexdigest())
            exec(compile(source, self._path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
        else:
            self._inner.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _demand(self, digest: str) -> None:
        if digest != self._digest:
            raise ImportError(f"{self._path} is not the code that was approved")


class _ApprovedFinder(importlib.abc.MetaPathFinder):
    """Finds approved modules, and their submodules, only where and as they were hashed."""

    def __init__(self) -> None:
        self.approved: dict[str, CodeCover] = {}
        """By top-level module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = self.approved.get(fullname.partition(".")[0])
        if known is None:
            return None
        spec = PathFinder.find_spec(fullname, path or [*sys.path, str(Path.cwd())], target)
        if spec is None or spec.origin is None:
            return spec
        place = Path(spec.origin).resolve()
        spec.loader = _Checked(spec.loader, place, known.digest(place))
        spec.cached = None
        return spec


_finder = _ApprovedFinder()


def import_only(task: str, approved: str) -> None:
    """Have the task's code imported only as it was approved, from now on in this process.

    CodeRefused when it is something else by now, or when other code of it was imported before: that
    would go on running.
    """
    name, found = top_level(task), code_cover(task)
    if name is None or found is None or found.hash != approved:
        raise CodeRefused(f"the code of {task!r} is not what was approved")
    covers = found.tops(name)
    for top, each in covers.items():
        before = _finder.approved.get(top, each)
        if top in sys.modules and (before.files, before.versions) != (each.files, each.versions):
            raise CodeRefused(f"the code of {task!r} has changed since it was loaded: start anew")
    _finder.approved |= covers
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
