"""The configuration file of a kit: what `privet server`, `silo` and `submit` start from.

A kit is one folder that belongs to one party: its configuration, its keys, the project's
certificate authority and the signed list of parties. Paths in the file are relative to the folder.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from privet.deployment.parties.addresses import host_port
from privet.deployment.parties.errors import PartiesError
from privet.deployment.parties.parties import identity_fault
from privet.devices import Precision, check_device
from privet.experiment import Experiment
from privet.privacy.encryption.keys.roster import name_like
from privet.privacy.policy.rules import one_line
from privet.tasks.datasets import DatasetDescription
from privet.tasks.registry import DATASET

LARGEST_MESSAGE_MB = 2000
"""A protobuf message must have less than 2 GiB."""


def check_name(text: str) -> str:
    """`text`, when it can be a name; ValueError else."""
    if not name_like(text):
        raise ValueError(
            f"{text[:64]!r} is no name: up to 64 letters, digits, '.', '_' and '-', beginning "
            "with a letter or a digit"
        )
    return text


def check_share(text: str) -> str:
    """`text`, when it is "I/N" with I from 0 to N - 1; ValueError else."""
    found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
    if not (found and int(found[1]) < int(found[2])):
        raise ValueError(f'{text!r} is no share; write "0/3" for the first of three')
    return text


def check_address(text: str) -> str:
    """`text`, when it is "host:port"; ValueError else."""
    host_port(text)
    return text


def _check_key(text: str) -> str:
    if fault := identity_fault(text):
        raise ValueError(f"it {fault}")
    return text


def _check_url(text: str) -> str:
    if not text.startswith("https://"):
        raise ValueError(f'{text!r}: write "https://host:port"; nothing else is spoken to')
    host_port(text.removeprefix("https://"))
    return text


def _inside(path: object, info: ValidationInfo) -> object:
    """A path of the file in the folder that validation is told about; others pass, to fail."""
    folder = info.context
    return folder / path if isinstance(path, str | Path) and isinstance(folder, Path) else path


def _or_none(text: object) -> object:
    return None if text == "" else text


Name = Annotated[str, AfterValidator(check_name)]
Address = Annotated[str, AfterValidator(check_address)]
Key = Annotated[str, AfterValidator(_check_key)]
Url = Annotated[str, AfterValidator(_check_url)]
Share = Annotated[str, AfterValidator(check_share)]
DeviceName = Annotated[str, AfterValidator(check_device)]
FilePath = Annotated[Path, BeforeValidator(_inside)]
OptionalAddress = Annotated[Address | None, BeforeValidator(_or_none)]
"""An address, or "": not served."""


class _Kit(BaseModel):
    # Defaults are validated so that they too become paths in the kit's folder.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)
    file_name: ClassVar[str]

    project: Name
    """Name of the project."""
    project_key: Key
    """The operators' Ed25519 public key: who may say who belongs to the project."""
    name: Name
    """Of this party."""
    ca: FilePath = Path("ca.pem")
    """The project's certificate authority."""
    parties: FilePath = Path("parties.json")
    """The signed list of parties."""

    @classmethod
    def from_folder(cls, path: Path) -> Self:
        """The kit in a folder, or in the configuration file itself.

        PartiesError with one line for a file that is absent or no TOML, an unknown key (with the
        nearest known one), and a value that cannot be. Whether keys and certificates are there and
        fit is for those to find out who load them.
        """
        file = path / cls.file_name if path.is_dir() else path
        try:
            return cls.model_validate(_read(file), context=file.absolute().parent)
        except ValidationError as error:
            raise PartiesError(
                f"{file}: {one_line(error, known=lambda _: [*cls.model_fields])}"
            ) from None


class ServerKit(_Kit):
    """What the server starts from: `server.toml`."""

    file_name = "server.toml"

    listen: Address = "0.0.0.0:8443"
    """Where silos and administrators reach it."""
    certificate: FilePath = Path("server.pem")
    """Of the server, for TLS."""
    certificate_key: FilePath = Path("server.key")
    """Of that certificate."""
    state: FilePath = Path("state")
    """Folder of what the server must remember."""
    # TOML has lists, which a strict tuple would refuse.
    tasks: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Tasks beyond those that come with privet, "package.module:Class"."""
    health: OptionalAddress = "127.0.0.1:9400"
    """Of the gRPC health service; "" serves none."""
    metrics: OptionalAddress = "127.0.0.1:9401"
    """Of the Prometheus metrics; "" serves none."""
    patience: Annotated[float, Field(ge=0)] = 60.0
    """Seconds that a job waits for silos that are away before it begins without them."""
    longest_job_hours: Annotated[float, Field(ge=0)] = 0.0
    """Hours from its beginning after which a job is stopped; 0: when its order ends."""
    max_connections: Annotated[int, Field(ge=32, le=100_000)] = 1000
    """Connections in all; fewer where the system's limit of open files asks for it."""
    max_connections_by_address: Annotated[int, Field(ge=8, le=100_000)] = 200
    """Connections from one address: more for many silos behind one."""
    least_disk_mb: Annotated[int, Field(ge=0)] = 500
    """Megabytes free on the disk of `state` below which the server says that it is not well."""
    max_message_mb: Annotated[int, Field(ge=1, le=LARGEST_MESSAGE_MB)] = LARGEST_MESSAGE_MB
    """Megabytes of the largest message."""


class SiloKit(_Kit):
    """What a silo starts from: `silo.toml`."""

    file_name = "silo.toml"

    server: Url
    """Of the project, https."""
    identity: FilePath = Path("identity.key")
    """The silo's private key, by which others know it."""
    node_key: FilePath = Path("node.key")
    """The key of its connection."""
    policy: FilePath = Path("policy.toml")
    """What the data holder allows."""
    ledger: FilePath = Path("ledger.sqlite")
    """What was spent, signed."""
    dataset: Name
    """Name, in ledger and policy, of the data set of jobs that name none; unset: the only one of
    `datasets`, or the silo's own name."""
    datasets: Mapping[Name, DatasetDescription] = {}
    """What the data sets are; without, tasks are served whose records need no description."""
    data_dir: FilePath | None = None
    """Where the records lie; unset: $PRIVET_DATA. No file outside is opened."""
    keys: FilePath = Path("keys")
    """Folder of keys between silos, with [encryption]."""
    models: FilePath = Path("models")
    """Folder of models of encrypted jobs."""
    state: FilePath = Path("state")
    """Folder of what the silo must remember besides its ledger."""
    canaries: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Coordinates for canaries beside every model that is trained with DP-SGD, for the audit."""
    share: Share | None = None
    """"0/3": the first third of a public data set, for trying out."""
    device: DeviceName = "cpu"
    """What it trains and measures on; no job has a say in it."""
    precision: Precision = "float32"
    """Of forward and backward passes."""
    health: OptionalAddress = "127.0.0.1:9402"
    """Of the gRPC health service; "" serves none."""
    metrics: OptionalAddress = "127.0.0.1:9403"
    """Of the Prometheus metrics; "" serves none."""

    @model_validator(mode="before")
    @classmethod
    def _named_alike(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        described = raw.get("datasets")
        only = [*described] if isinstance(described, Mapping) and len(described) == 1 else []
        names = only or [raw[key] for key in ("name",) if key in raw]
        return {"dataset": names[0], **raw} if names else raw

    @model_validator(mode="after")
    def _described(self) -> Self:
        if self.datasets and self.dataset not in self.datasets:
            raise ValueError(
                f"dataset = {self.dataset!r}: the data set of jobs that name none is one of "
                f"[datasets]: {', '.join(self.datasets)}"
            )
        return self

    def meant(self, job: Experiment) -> tuple[str, DatasetDescription | None]:
        """The data set that a job names, and what it is; the default one's for an unknown name."""
        asked = job.data.get(DATASET)
        name = asked if asked in [*self.datasets] else self.dataset
        return name, self.datasets.get(name)

    def data_settings(self, job: Experiment) -> dict[str, Any]:
        """What the ClientApp is told of the records that a job means."""
        name, description = self.meant(job)
        told: dict[str, Any] = {"dataset": name}
        if description is not None:
            told["description"] = description.model_dump_json()
        if self.data_dir is not None:
            told["data-dir"] = str(self.data_dir)
        return told

    @property
    def part(self) -> tuple[int, int] | None:
        """`share` in numbers: which part, of how many."""
        if self.share is None:
            return None
        which, _, parts = self.share.partition("/")
        return int(which), int(parts)


class AdminKit(_Kit):
    """What an administrator's commands start from: `admin.toml`."""

    file_name = "admin.toml"

    server: Url
    """Of the project, https."""
    identity: FilePath = Path("identity.key")
    """The administrator's private key, which signs orders."""


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PartiesError(f"no kit at {file}; privet provision makes one") from None
    except OSError as error:
        raise PartiesError(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PartiesError(f"{file} is not a TOML file: {error}") from None
