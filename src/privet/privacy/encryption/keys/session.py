"""What every message is bound to: the run, the epoch of its key, and the roster."""

from __future__ import annotations

from dataclasses import dataclass

from privet.privacy.encryption.keys.errors import KeysError, RosterError
from privet.privacy.encryption.keys.fields import Field, Fields, check_numbers, name_like
from privet.privacy.encryption.keys.roster import Roster
from privet.privacy.ledger.keys import SiloKey


@dataclass(frozen=True, kw_only=True)
class Session:
    """One epoch of one run, between the silos of one roster; all of it may be published.

    A message of another session is refused as a replay. The run's name should be new for each run,
    but secrecy does not hang on it (the server may be the one who chose it): what a key is wrapped
    to is a fresh key of each silo.
    """

    run: str
    epoch: int
    roster: Roster

    def __post_init__(self) -> None:
        check_numbers(epoch=self.epoch)
        if not name_like(self.run):
            raise KeysError(
                f"run {self.run[:64]!r}: its name may have up to 64 letters, digits, '.', '_', '-'"
            )

    @property
    def facts(self) -> tuple[Field, Field, Field]:
        """The fields with which a message says where it belongs."""
        return self.run, self.epoch, self.roster.digest

    def check(self, fields: Fields) -> None:
        """Read `facts` and insist that they are these; MessageError says which one is not."""
        run, epoch, roster = fields.name(), fields.number(), fields.blob(size=32)
        if run != self.run:
            raise fields.fault(f"it is from run {run!r}, not {self.run!r}")
        if epoch != self.epoch:
            raise fields.fault(f"it is from epoch {epoch}, not {self.epoch}")
        if roster != self.roster.digest:
            raise fields.fault("its maker has another roster")

    def check_identity(self, name: str, identity: SiloKey) -> None:
        """RosterError unless the roster lists `identity` as the key of silo `name`."""
        if self.roster.identity(name) != identity.public:
            raise RosterError(f"the roster lists another identity key for silo {name!r}")
