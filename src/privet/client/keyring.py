"""A silo's keys of encrypted runs: its identity, the roster it trusts, and the key of each epoch.

The node's configuration names them: `roster` (the file that the operators agreed on), `name` (the
silo's on the roster), `identity` (its signing key; unset: `key`, which signs the ledger) and `keys`
(a folder for keys that come and go, mode 0700).

What a run has come to is remembered beside the keys, so that a server can turn nothing back: the
epoch, the last model, the last round whose sum this silo let be unmasked, and how many openings
failed. Keys of an epoch go when the next one begins, when a sum did not open, and when the job is
over.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import Context

from privet.client.silo import is_simulated
from privet.errors import PrivetError
from privet.experiment import EncryptionSettings
from privet.files import write_whole
from privet.privacy.encryption import Cipher, EncryptionError, SecretKey, make_cipher
from privet.privacy.encryption.errors import KeyFileError, KeysError
from privet.privacy.encryption.keys import (
    Roster,
    RunKey,
    Secret,
    Session,
    alone_in,
    forget_key,
    gather,
    load_roster,
    make_offer,
    read_agreement,
    write_agreement,
)
from privet.privacy.encryption.masks import RoundPlan
from privet.privacy.ledger import SiloKey
from privet.wire import ModelState

_SETTINGS = ("roster", "identity", "keys")
SIMULATED_RUN = "simulation"
MOST_FAILED_OPENINGS = 3
"""After so many a silo takes no part in the run any more."""


class NoKeys(PrivetError):  # noqa: N818 - says what the silo lacks
    """A silo that is asked to encrypt and has not been given what it needs for that."""


class OutOfOrder(KeysError):  # noqa: N818 - of the server
    """A message that would turn back what this silo has seen of the run."""


@dataclass(frozen=True)
class RunMemory:
    """What a silo knows of a run, whatever a server says; its numbers only rise."""

    epoch: int = 0
    """The last that it has or had a key of."""
    model: int = 0
    """The round whose model it last trained from, measured or confirmed."""
    unmasked: int = 0
    """The last round whose sum it helped to unmask, or opened where nothing is masked."""
    failed: int = 0
    """Openings that failed."""
    until: int = 0
    """When the order of the job ends, in seconds since 1970; 0: nobody has said."""
    summed: str = ""
    """Digest of the model whose updates were last in such a sum, hexadecimal."""
    base: int = 0
    """The round that made it."""
    survivors: tuple[str, ...] = ()
    """Whose updates they were."""
    made_in: int = 0
    """The last round whose model it has seen, made by its own opening or told of."""
    made: str = ""
    """Digest of that model."""

    def demand_newest(self, model: ModelState) -> None:
        """OutOfOrder for a model that updates may not be summed from any more.

        That is an older one than was gone on with, or a second one of its round: else a server
        could have the sums of two rounds from models that are as good as the same.
        """
        if self.summed and model.digest.hex() != self.summed and model.round <= self.base:
            raise OutOfOrder(f"a sum of updates of another model of round {self.base} was unmasked")


@dataclass(frozen=True)
class Keyring:
    """What one silo needs to take part in one encrypted run."""

    name: str
    run: str
    roster: Roster
    identity: Path
    folder: Path
    simulated: bool = False
    until: int = 0
    """See `RunMemory.until`."""

    def offer(self, epoch: int) -> bytes:
        """A fresh public key for the epoch, signed; its private key waits in the folder."""
        self._demand_later(epoch)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        session = self.session(epoch)
        agreement, offer = make_offer(session=session, name=self.name, identity=self.signer())
        # Before the offer leaves: the answer may come to a process that was started anew.
        write_agreement(self._file(epoch, "offer"), agreement, session=session)
        return offer

    def make(
        self, epoch: int, offers: Sequence[bytes], *, cipher: Cipher, since: int
    ) -> tuple[RunKey, dict[str, bytes]]:
        """The key of the epoch, and wrapped for each other silo by name; to be kept by `keep`."""
        self._demand_later(epoch)
        session = self.session(epoch)
        gathered = gather(offers, session=session)
        agreement = read_agreement(self._file(epoch, "offer"), session=session)
        container = Secret(cipher.generate().to_bytes())
        key = RunKey.create(offers=gathered, since=since, container=container)
        wraps = key.wrapped(
            offers=gathered, name=self.name, identity=self.signer(), agreement=agreement
        )
        return key, dict(wraps)

    def take(self, epoch: int, offers: Sequence[bytes], wrapped: bytes, *, cipher: Cipher) -> None:
        """Unwrap the key that the elected silo made and keep it in the folder.

        EncryptionError for one that nothing can be encrypted with: in a round it would be found
        after the training, when it is charged.
        """
        self._demand_later(epoch)
        session = self.session(epoch)
        agreement = read_agreement(self._file(epoch, "offer"), session=session)
        gathered = gather(offers, session=session)
        key = RunKey.unwrapped(wrapped, offers=gathered, name=self.name, agreement=agreement)
        cipher.check_key(secret_of(key))
        self.keep(key)

    def keep(self, key: RunKey) -> None:
        """Keep the key of an epoch, and none from before."""
        epoch = key.session.epoch
        key.save(self._file(epoch, "key"))
        self.remember(epoch=epoch, until=max(self.until, self.memory().until))
        # The offer too, now that the key is kept: who finds it later could open the wrapped key.
        self.forget(lambda of, what: of < epoch or what == "offer")

    def key(self, epoch: int) -> RunKey:
        """The key of the epoch in use; KeysError when this silo has none or it is an older one."""
        memory = self.memory()
        if memory.failed >= MOST_FAILED_OPENINGS:
            raise OutOfOrder(f"{memory.failed} openings failed: this silo has left the run")
        if epoch < memory.epoch:
            raise OutOfOrder(f"epoch {epoch} is over: the last one is {memory.epoch}")
        return RunKey.load(self._file(epoch, "key"), session=self.session(epoch))

    @contextmanager
    def opening(self, epoch: int) -> Iterator[None]:
        """Whatever fails inside ends the epoch's key here: nobody gets a second answer from it."""
        try:
            yield
        except EncryptionError:
            self.forget(lambda of, _: of <= epoch)
            self.remember(failed=self.memory().failed + 1)
            raise

    @contextmanager
    def promising(
        self, plan: RoundPlan, model: ModelState, survivors: tuple[str, ...], *, exact: bool
    ) -> Iterator[None]:
        """Around the step after which a sum can be seen: no other one of the round, in any epoch.

        `model` is the one that the round began with. `exact`: updates have no noise. OutOfOrder
        where the sum would tell what another one hides.
        """
        survivors = tuple(sorted(survivors))
        self._check_promise(plan, model, survivors, exact)
        yield
        # Before an answer leaves: an update of this round may be in one sum, whatever the epoch.
        with self._alone():
            # Again, since another process may have been quicker.
            self._check_promise(plan, model, survivors, exact)
            kept = {"summed": plan.model.hex(), "base": model.round, "survivors": survivors}
            self._write(self.memory(), unmasked=plan.round, **kept)
        # Others' shares of a round before, which ended without this silo: nobody may ask for them
        # now, and whoever had enough silos' files could unmask single updates.
        self.forget(lambda _, kind: _before(kind, plan.round))

    def remember_model(self, model: ModelState) -> None:
        """Write down that the silo has seen this model; OutOfOrder for a second one of its round.

        Else a server could have some silos open one sum and others another, and show each both.
        """
        # A simulation may be gone on with from an older checkpoint; a public model is the server's.
        if self.simulated or not model.round:
            return
        digest = model.digest.hex()
        with self._alone():
            memory = self.memory()
            if memory.made_in == model.round and memory.made != digest:
                raise OutOfOrder(f"this silo knows another model of round {model.round}")
            if memory.made_in < model.round:
                self._write(memory, made_in=model.round, made=digest)

    def _check_promise(
        self, plan: RoundPlan, model: ModelState, survivors: tuple[str, ...], exact: bool
    ) -> None:
        memory = self.memory()
        memory.demand_newest(model)
        same_model = memory.summed == plan.model.hex()
        again = same_model and memory.survivors == survivors
        once = memory.unmasked == plan.round and not self.simulated
        # Without noise two rounds from one model may have the same updates, and the sums of other
        # silos differ by single ones. A round that could not be opened may be tried again.
        if not again and (once or (exact and same_model)):
            raise OutOfOrder("a sum of other silos' updates was seen before")

    def forget(self, which: Callable[[int, str], bool] = lambda *_: True) -> None:
        """Remove the run's files of which this is true, by epoch and kind; all but its memory."""
        # With what a process that died has left half written, also where it never got a name.
        name = re.compile(
            rf"\.?{re.escape(self.run)}-(\d+)\.(key|offer|[0-9]+\.masks)(\.[0-9a-f]+\.part)?"
        )
        for path in self.folder.iterdir() if self.folder.exists() else ():
            found = name.fullmatch(path.name)
            if found and which(int(found[1]), found[2]):
                forget_key(path)

    def ended(self, now: float) -> Iterator[Keyring]:
        """Those of other runs in this folder whose jobs' orders ended before `now`."""
        for path in self.folder.glob("*.memory"):
            other = replace(self, run=path.stem)
            with suppress(KeyFileError):
                if other.run != self.run and 0 < other.memory().until < now:
                    yield other

    def mask_file(self, epoch: int, round_: int) -> Path:
        """Where a round waits between its messages, and is remembered."""
        return self._file(epoch, f"{round_}.masks")

    def session(self, epoch: int) -> Session:
        """An epoch of the run, between the silos of this silo's own roster."""
        return Session(run=self.run, epoch=epoch, roster=self.roster)

    def signer(self) -> SiloKey:
        """What this silo signs with."""
        return SiloKey.load(self.identity)

    def memory(self) -> RunMemory:
        """What is remembered of the run; KeyFileError for a file that holds something else."""
        try:
            kept = json.loads(self._memory_file.read_bytes())
            return RunMemory(**kept | {"survivors": tuple(kept["survivors"])})
        except FileNotFoundError:
            return RunMemory()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise KeyFileError(f"{self._memory_file}: {error}") from None

    def remember(self, **changes: Any) -> None:
        """Write down, durably, what is new; OutOfOrder for a number that would fall."""
        if replace(old := self.memory(), **changes) == old:
            return
        with self._alone():
            self._write(self.memory(), **changes)

    def _write(self, old: RunMemory, **changes: Any) -> None:
        new = replace(old, **changes)
        for name, before in vars(old).items():
            if isinstance(before, int) and getattr(new, name) < before:
                raise OutOfOrder(f"{name} {getattr(new, name)} is over: the last one is {before}")
        write_whole(self._memory_file, json.dumps(asdict(new)).encode(), mode=0o600, durable=True)

    def _alone(self) -> AbstractContextManager[int]:
        """Keep other processes out, which would write over what this one adds to its memory."""
        return alone_in(self.folder)

    def _demand_later(self, epoch: int) -> None:
        if epoch <= (last := self.memory().epoch):
            raise OutOfOrder(f"epoch {epoch} is no new one: the last one is {last}")

    @property
    def _memory_file(self) -> Path:
        return self.folder / f"{self.run}.memory"

    def _file(self, epoch: int, kind: str) -> Path:
        return self.folder / f"{self.run}-{epoch}.{kind}"


def _before(kind: str, round_: int) -> bool:
    """Whether a file of this kind is of a round of masks before that one."""
    number, _, masks = kind.partition(".")
    return masks == "masks" and int(number) < round_


def run_of(context: Context) -> str:
    """What keys of the run are for: the job that the requester signed, or the run of Flower's.

    The silo finds it by itself, so a server cannot give one job two runs.
    """
    if is_simulated(context):
        return SIMULATED_RUN
    return str(context.node_config.get("job", f"run-{context.run_id}"))


def open_keyring(context: Context) -> Keyring:
    """The keyring that the node's configuration names; NoKeys when it is incomplete."""
    node = dict(context.node_config)
    if "identity" not in node and "key" in node:
        node["identity"] = node["key"]
    missing = [name for name in _SETTINGS if name not in node]
    if missing:
        raise NoKeys(
            f"this silo has no {', '.join(missing)} in its node configuration, so it cannot "
            "take part in encrypted runs"
        )
    name = str(node.get("name", node.get("dataset", "")))
    roster, identity, folder = (Path(str(node[setting])) for setting in _SETTINGS)
    return Keyring(
        name,
        run_of(context),
        roster_at(roster),
        identity,
        folder,
        simulated=is_simulated(context),
        until=math.ceil(float(node.get("until", 0))),
    )


def cipher_of(encryption: EncryptionSettings) -> Cipher:
    """The cipher that the settings name."""
    return _cipher(encryption.scheme, encryption.profile)


def secret_of(key: RunKey) -> SecretKey:
    """The part of the key that opens sums."""
    return SecretKey.from_bytes(key.container.reveal())


@lru_cache(maxsize=4)
def _cipher(scheme: str, profile: str) -> Cipher:
    return make_cipher(scheme, profile=profile)


def roster_at(path: Path) -> Roster:
    """The roster in this file, read anew when the file changes."""
    try:
        facts = path.stat()
    except OSError:
        return load_roster(path)  # which says what is the matter
    return _roster(path, facts.st_ino, facts.st_mtime_ns)


@lru_cache(maxsize=4)
def _roster(path: Path, _inode: int, _changed: int) -> Roster:
    return load_roster(path)
