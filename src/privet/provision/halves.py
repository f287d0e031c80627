"""The public halves of a party's own keys: made by the party, handed to the operators."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from privet.parties.files import write_whole
from privet.parties.kits import Key, Name, check_name
from privet.parties.node_keys import NodeKey
from privet.privacy.ledger.keys import SiloKey
from privet.privacy.policy.errors import one_line
from privet.provision.errors import ProvisionError

IDENTITY_FILE = "identity.key"
NODE_KEY_FILE = "node.key"

_TEXT = """\
# The public halves of {name}'s keys, for the operators of the project. Nothing in here is secret,
# but read the identity to them by telephone: whoever changed it on the way could be {name}.
name = "{name}"
identity = "{identity}"
node_key = "{node_key}"
"""


@dataclass(frozen=True, kw_only=True)
class Halves:
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
    """How the file with a party's public halves is called."""
    return f"{name}.public.toml"


def join(name: str, *, folder: Path) -> tuple[Path, Halves]:
    """Make a party's own keys in `folder`, keep those that are there, write the public halves.

    Returns the file for the operators. ProvisionError for no name and no folder;
    LedgerError and PartiesError for a key that cannot be read.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise ProvisionError(str(error)) from None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        halves = own_halves(folder)
        path = folder / public_file(name)
        text = _TEXT.format(name=name, identity=halves.identity, node_key=halves.node_key)
        write_whole(path, text.encode())
    except OSError as error:
        raise ProvisionError(f"{folder} cannot be written: {error.strerror}") from None
    return path, halves


def own_halves(folder: Path, *, node: bool = True) -> Halves:
    """The public halves of the keys in `folder`, which are made where there are none."""
    identity, node_key = folder / IDENTITY_FILE, folder / NODE_KEY_FILE
    owner = SiloKey.load(identity) if identity.exists() else SiloKey.create(identity)
    if not node:
        return Halves(identity=owner.public)
    known = NodeKey.load(node_key) if node_key.exists() else NodeKey.create(node_key)
    return Halves(identity=owner.public, node_key=known.public)


def read_halves(path: Path, *, name: str) -> Halves:
    """The halves that a party wrote; ProvisionError for a mistake, or another party's file."""
    file = _PublicFile.from_file(path)
    if file.name != name:
        raise ProvisionError(f"{path} is of {file.name!r}, not of {name!r}")
    return Halves(identity=file.identity, node_key=file.node_key)
