"""Identities, a roster and key folders for simulated silos, and the host as one more key holder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from privet.client.keyring import Keyring
from privet.client.sealed import KeyHolder
from privet.errors import ExperimentError
from privet.experiment import Encryption
from privet.privacy.encryption.keys import Member, Roster, load_roster
from privet.privacy.ledger import SiloKey
from privet.vectors import Vector
from privet.wire import Sealed

KEYS = "keys"


@dataclass(frozen=True)
class KeyHouse:
    """The folder in which every simulated silo has its keys, and the roster of them all."""

    folder: Path
    names: tuple[str, ...]

    @property
    def roster(self) -> Path:
        """The file that silos and server trust."""
        return self.folder / "roster.toml"

    def node_config(self, place: int) -> dict[str, str]:
        """What the node of the silo at `place` is told of its keys."""
        name = self.names[place]
        return {
            "name": name,
            "roster": str(self.roster),
            "identity": str(self._identity(name)),
            "keys": str(self.folder / name),
        }

    def opener(self, encryption: Encryption) -> Callable[[Sealed], Vector]:
        """Reads a sealed model with the keys of whichever silo holds the epoch's."""

        def opened(sealed: Sealed) -> Vector:
            for name in self.names:
                keyring = Keyring(
                    name, load_roster(self.roster), self._identity(name), self.folder / name
                )
                if keyring.holds(sealed.run, sealed.epoch):
                    return KeyHolder.of(keyring, encryption, sealed).models(sealed, None)[0]
            raise ExperimentError(f"no silo holds the key of epoch {sealed.epoch}")

        return opened

    def make(self) -> None:
        """Identities and roster, unless they are there already."""
        if self.roster.exists():
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        members = []
        for name in self.names:
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
            path = self._identity(name)
            identity = SiloKey.load(path) if path.exists() else SiloKey.create(path)
            members.append(Member(name, identity.public))
        self.roster.write_text(Roster(tuple(members)).to_toml(), encoding="utf-8")

    def _identity(self, name: str) -> Path:
        return self.folder / name / "identity.key"
