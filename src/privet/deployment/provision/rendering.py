"""A kit: what its files say, and how it lies on disk: a folder, and an archive to hand over."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
import tomli_w

import privet
from privet.deployment.parties.addresses import joined
from privet.deployment.parties.parties import Role
from privet.deployment.provision.project import (
    IDENTITY_FILE,
    NODE_KEY_FILE,
    Entry,
    Project,
    ProjectSilo,
)
from privet.files import sync, write_whole
from privet.privacy.policy import starting_policy

CA_FILE = "ca.pem"
PARTIES_FILE = "parties.json"
SERVER_CERTIFICATE = "server.pem"
SERVER_KEY = "server.key"

SHARED = (CA_FILE, PARTIES_FILE, SERVER_CERTIFICATE)
"""Files that provision brings up to date; every other file of a kit is written once."""

SECRET = (IDENTITY_FILE, NODE_KEY_FILE, SERVER_KEY)
"""Private keys."""

_SCRIPTS = ("start.sh", "check.sh", "stop.sh")


@dataclass(frozen=True, kw_only=True)
class Content:
    """One file of a kit."""

    data: bytes
    mode: int = 0o644


def kit_files(
    project: Project, *, name: str, role: Role, own_key: bool, project_key: str
) -> dict[str, Content]:
    """The files of a kit that are written once, by name: all but keys and those in `SHARED`."""
    facts = _facts(project, name, role) | {"own_key": own_key, "project_key": project_key}
    files = {f"{role}.toml": f"{role}.toml.jinja", "README.md": f"{role}.md.jinja"}
    if role != "admin":
        files |= {script: f"{script}.jinja" for script in _SCRIPTS}
        files |= {"Dockerfile": "Dockerfile.jinja", str(facts["unit"]): "service.jinja"}
    made = {file: _content(file, template, facts) for file, template in files.items()}
    if role == "silo":
        made["policy.toml"] = Content(data=starting_policy().encode())
    return made


def kit_names(project: str, name: str) -> tuple[str, ...]:
    """Every file that provision may have put into a kit, in the order of the archive."""
    tables = ("server.toml", "silo.toml", "admin.toml", "policy.toml")
    others = ("README.md", "Dockerfile", _unit(project, name))
    return (*others, *tables, *_SCRIPTS, *SHARED, *SECRET)


def _facts(project: Project, name: str, role: Role) -> dict[str, object]:
    entry: Entry | None = project.silos.get(name) or project.admins.get(name)
    silo = entry if isinstance(entry, ProjectSilo) else ProjectSilo()
    listener = project.server if role == "server" else silo
    return {
        "project": project.name,
        "name": name,
        "role": role,
        "who": f"{role if name == role else f'{role} {name}'} of {project.name}",
        "server": project.server.url,
        "hosts": project.server.hosts,
        "port": project.server.port,
        "listen": joined("0.0.0.0", project.server.port),  # noqa: S104
        "health": listener.health or "",
        "metrics": listener.metrics or "",
        "dataset": silo.dataset or name,
        "data_dir": silo.data_dir,
        "share": silo.share,
        "home": f"/opt/privet/{project.name}-{name}",
        "unit": _unit(project.name, name),
        "version": privet.__version__,
    }


def _unit(project: str, name: str) -> str:
    return f"privet-{project}-{name}.service"


def _content(file: str, template: str, facts: dict[str, object]) -> Content:
    text = _templates().get_template(template).render(facts)
    return Content(data=text.encode(), mode=0o755 if file in _SCRIPTS else 0o644)


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("privet.deployment.provision"),
        autoescape=False,  # noqa: S701 - nothing here is HTML
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters["toml"] = _toml
    return environment


def _toml(text: str) -> str:
    # The library writes whole tables only, and its quoting is not to be written a second time.
    return tomli_w.dumps({"text": text}).removeprefix("text = ").rstrip("\n")


_EPOCH = (1980, 1, 1, 0, 0, 0)
"""One date for all, so that the same files make the same archive."""


@contextmanager
def folder_made_whole(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end, or nothing at all after an exception."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    try:
        yield unfinished
        sync(unfinished)
        unfinished.rename(path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def put(folder: Path, files: Mapping[str, Content]) -> tuple[str, ...]:
    """Write those files that are absent or differ; returns their names."""
    stale = tuple(name for name, file in files.items() if _held(folder / name) != file.data)
    for name in stale:
        write_whole(folder / name, files[name].data, mode=files[name].mode, durable=True)
    return stale


def archive(folder: Path, names: Sequence[str]) -> None:
    """Bring the archive beside a kit up to date: those of `names` that are in the folder.

    It is for its owner alone, as it may hold keys.
    """
    path = folder.with_name(f"{folder.name}.zip")
    content = _zipped(folder, [name for name in names if (folder / name).is_file()])
    if _held(path) != content:
        write_whole(path, content, mode=0o600, durable=True)


def _zipped(folder: Path, names: Sequence[str]) -> bytes:
    whole = io.BytesIO()
    # Stored and not deflated: another zlib would make other bytes of the same files.
    with zipfile.ZipFile(whole, "w") as target:
        for name in names:
            file = folder / name
            entry = zipfile.ZipInfo(f"{folder.name}/{name}", date_time=_EPOCH)
            entry.create_system = 3  # Unix, where the upper half of the attributes is the mode
            entry.external_attr = (0o100000 | _mode(file)) << 16
            target.writestr(entry, file.read_bytes())
    return whole.getvalue()


def _mode(file: Path) -> int:
    # By name and not from the disk: operators may work where files have no modes.
    if file.name in SECRET:
        return 0o600
    return 0o755 if file.suffix == ".sh" else 0o644


def _held(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
