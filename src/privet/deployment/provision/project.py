"""The project file: who takes part, and where the server is.

name = "lungs"
days = 365
[server]
hosts = ["train.example.org", "10.0.0.4"]
port = 8443
[silos.north]
[silos.south]
own_key = true
[admins.ana]

A party that makes its own keys (`own_key`) hands their public halves to the operators.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from privet.deployment.parties.addresses import host_fault, joined
from privet.deployment.parties.kits import Key, Name, OptionalAddress, Share, check_name
from privet.deployment.parties.node_keys import NodeKey
from privet.deployment.parties.parties import Role
from privet.deployment.provision.errors import ProvisionError
from privet.files import write_whole
from privet.privacy.ledger.keys import SiloKey
from privet.privacy.policy.rules import Location, one_line

IDENTITY_FILE = "identity.key"
NODE_KEY_FILE = "node.key"

_TEXT = """\
# The public keys of {name}'s keys, for the operators of the project. Nothing in here is secret,
# but read the identity to them by telephone: whoever changed it on the way could be {name}.
name = "{name}"
identity = "{identity}"
node_key = "{node_key}"
"""


@dataclass(frozen=True, kw_only=True)
class PartyKeys:
    """Who a party is (Ed25519) and what Flower knows its node by (P-384; "" for no node)."""

    identity: str
    node_key: str = ""


class _PublicFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Name
    identity: Key
    node_key: str

    @classmethod
    def from_file(cls, path: Path) -> Self:
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ProvisionError(f"cannot read {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ProvisionError(f"{path} is not a TOML file: {error}") from None
        except ValidationError as error:
            known = [*cls.model_fields]
            raise ProvisionError(f"{path}: {one_line(error, known=lambda _: known)}") from None


def public_file(name: str) -> str:
    """How the file with a party's public keys is called."""
    return f"{name}.public.toml"


def join(name: str, *, folder: Path) -> tuple[Path, PartyKeys]:
    """Make a party's own keys in `folder`, keep those that are there, write the public keys.

    Returns the file for the operators. ProvisionError for no name and no folder;
    LedgerError and PartiesError for a key that cannot be read.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise ProvisionError(str(error)) from None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        public_keys = own_public_keys(folder)
        path = folder / public_file(name)
        text = _TEXT.format(name=name, identity=public_keys.identity, node_key=public_keys.node_key)
        write_whole(path, text.encode(), mode=0o644, durable=True)
    except OSError as error:
        raise ProvisionError(f"{folder} cannot be written: {error.strerror}") from None
    return path, public_keys


def own_public_keys(folder: Path, *, node: bool = True) -> PartyKeys:
    """The public keys of the keys in `folder`, which are made where there are none."""
    identity, node_key = folder / IDENTITY_FILE, folder / NODE_KEY_FILE
    owner = SiloKey.load(identity) if identity.exists() else SiloKey.create(identity)
    if not node:
        return PartyKeys(identity=owner.public)
    known = NodeKey.load(node_key) if node_key.exists() else NodeKey.create(node_key)
    return PartyKeys(identity=owner.public, node_key=known.public)


def read_public_keys(path: Path, *, name: str) -> PartyKeys:
    """The public_keys that a party wrote; ProvisionError for a mistake, or another party's file."""
    file = _PublicFile.from_file(path)
    if file.name != name:
        raise ProvisionError(f"{path} is of {file.name!r}, not of {name!r}")
    return PartyKeys(identity=file.identity, node_key=file.node_key)


LONGEST_DAYS = 3650

SERVER = "server"
"""The server's name, and that of its kit."""


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        if fault := host_fault(host):
            raise ValueError(f"{host!r} {fault}")
    return hosts


def _moment(value: object) -> object:
    """A day begins at midnight UTC, and so does a time without a zone belong to UTC."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC)
    raise ValueError("must be a day, such as 2027-01-01 (without quotes)")


def _unique(names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in seen:
            raise ValueError(f"{seen[name.casefold()]!r} and {name!r} are two parties of one name")
        seen[name.casefold()] = name


Hosts = Annotated[
    tuple[str, ...], Field(strict=False, min_length=1, max_length=100), AfterValidator(_check_hosts)
]
Moment = Annotated[datetime | None, BeforeValidator(_moment)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Server(_Table):
    """Where the server is."""

    hosts: Hosts
    """Names and addresses in its certificate; silos connect to the first."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8443
    health: OptionalAddress = "127.0.0.1:9400"
    metrics: OptionalAddress = "127.0.0.1:9401"

    @property
    def url(self) -> str:
        """What silos connect to."""
        return f"https://{joined(self.hosts[0], self.port)}"


class Admin(_Table):
    """Somebody who may start and stop runs; every key is optional."""

    expires: Moment = None
    """Unset: `days` from when the party is added, and prolonged when provision is run later."""
    own_key: bool = False
    """The party makes its keys itself: `privet join init NAME`."""
    public: str | None = None
    """File with the public keys, beside the project file; unset: NAME.public.toml, if there."""
    identity: Key | None = None
    """The public half itself, in the place of that file."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.public and self.identity:
            raise ValueError("'public' and 'identity' exclude each other; keep one")
        return self

    def public_keys(self) -> PartyKeys | None:
        """The public keys in the project file itself."""
        return PartyKeys(identity=self.identity) if self.identity else None


class ProjectSilo(Admin):
    """Somebody who holds records; every key is optional."""

    node_key: str | None = None
    dataset: Name | None = None
    data_dir: str | None = None
    share: Share | None = None
    health: OptionalAddress = "127.0.0.1:9402"
    metrics: OptionalAddress = "127.0.0.1:9403"

    @model_validator(mode="after")
    def _both_halves(self) -> Self:
        if (self.identity is None) != (self.node_key is None):
            raise ValueError("'identity' and 'node_key' are needed together")
        return self

    def public_keys(self) -> PartyKeys | None:
        """The public keys in the project file itself."""
        if self.identity is None or self.node_key is None:
            return None
        return PartyKeys(identity=self.identity, node_key=self.node_key)


Entry = Admin | ProjectSilo


class Project(_Table):
    """Who takes part in a project. Frozen; made by `from_file`."""

    name: Name
    days: Annotated[int, Field(ge=1, le=LONGEST_DAYS)] = 365
    """How long certificates and memberships last."""
    server: Server
    silos: dict[str, ProjectSilo] = Field(default_factory=dict)
    admins: dict[str, Admin] = Field(default_factory=dict)
    _file: Path = PrivateAttr(Path("project.toml"))

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [*self.silos, *self.admins]
        for name in names:
            check_name(name)
            # Kits and their archives lie beside ca.key, project.key and parties.json, in one
            # folder.
            if Path(name).suffix.lower() in (".zip", ".key", ".pem", ".json"):
                raise ValueError(f"{name!r}: a party's name cannot end like a file's")
        _unique([SERVER, *names])
        return self

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The project in a TOML file.

        ProvisionError with one line for a file that is absent or no TOML, an unknown key (with the
        nearest known one), a value out of range and names that cannot be or are taken.
        """
        try:
            project = cls.model_validate(_read(path))
        except ValidationError as error:
            raise ProvisionError(f"{path}: {one_line(error, known=_known)}") from None
        project._file = path
        return project

    def entries(self) -> Iterator[tuple[str, Role, Entry]]:
        """Silos, then administrators, in the order of the file."""
        for name, silo in self.silos.items():
            yield name, "silo", silo
        for name, admin in self.admins.items():
            yield name, "admin", admin

    def brought(self, name: str, entry: Entry) -> PartyKeys | None:
        """The public keys of keys that the party made itself; None when there are none yet.

        ProvisionError when the file that `public` names is absent, or a file has a mistake.
        """
        path = self._file.parent / (entry.public or public_file(name))
        if public_keys := entry.public_keys():
            return public_keys
        if entry.public is None and not path.exists():
            return None
        public_keys = read_public_keys(path, name=name)
        return (
            public_keys
            if isinstance(entry, ProjectSilo)
            else PartyKeys(identity=public_keys.identity)
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProvisionError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProvisionError(f"{path} is not a TOML file: {error}") from None


def _known(location: Location) -> list[str]:
    table: type[BaseModel] = Project
    match location:
        case ("server", _):
            table = Server
        case ("silos", _, _):
            table = ProjectSilo
        case ("admins", _, _):
            table = Admin
    return list(table.model_fields)
