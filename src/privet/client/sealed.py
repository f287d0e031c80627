"""The global model where the server may not see it: kept by silos, moved by sums that they open.

A silo keeps the model that it last opened. A round adds up the silos' updates; each of them opens
the sum, moves its model by the mean, and confirms by a signature which model it has now, before
anybody trains from it. A silo that was not there is sent the model by the others, encrypted, and
takes it for what enough of them have confirmed.

    offer     answered with a fresh public key
    make      (the elected silo) with the key, wrapped for every other, and the model under it
    take      with nothing; the silo keeps the key that came for it
    confirm   with the signed digest of the model that the opened sum makes
    keep      with nothing; the silo writes the final model where its node says and drops its keys
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from numpy.typing import NDArray

from privet.client.keyring import Keyring, OutOfOrder, cipher_of, open_keyring, secret_of
from privet.errors import ExperimentError
from privet.experiment import EncryptionSettings, Experiment
from privet.files import replacing
from privet.privacy.encryption import Malformed, OpenedSum, Tampered, read_header
from privet.privacy.encryption.errors import MessageError
from privet.privacy.encryption.keys import Secret
from privet.privacy.encryption.keys.agreement import decrypt, derive, encrypt
from privet.privacy.encryption.keys.roster import Fields, check_numbers, pack
from privet.privacy.encryption.keys.runkey import RunKey
from privet.privacy.encryption.masks import (
    Closed,
    MaskRound,
    RoundPlan,
    check_confirmations,
    sum_label,
    write_confirmation,
)
from privet.record.folder import model_metadata, save_tensors
from privet.strategies import Strategy, load_strategy
from privet.vectors import Vector
from privet.wire import (
    KeyAnswer,
    KeyRequest,
    MaskAnswer,
    MaskRequest,
    ModelState,
    Sealed,
    SumToOpen,
)

log = logging.getLogger("privet.silo")

_BLOB_TITLE = "privet sealed model 1"


_ROOM, _ROOM_FOR_NOISE = 6.0, 4.0
"""What an update has room for, over the largest value of the last mean; noise of one silo is larger
than that of the mean by the root of their number."""
_MOST_GROWTH = 4.0
_SMALLEST_CLAMP, _LARGEST_CLAMP = 2.0**-30, 2.0**30


def state_after(
    state: ModelState,
    round_: int,
    mean: Vector,
    *,
    silos: int,
    strategy: Strategy,
    salt: bytes,
) -> ModelState:
    """The model that the mean of a round's updates makes, of so many silos."""
    before = state.before if state.before.size else state.weights
    moved = strategy.proposal(state.weights + mean, now=state.weights, before=before)
    return replace(
        state,
        round=round_,
        weights=moved,
        before=state.weights if state.before.size else state.before,
        clamps=_next_clamps(state, mean, silos),
        salt=salt,
    )


def _next_clamps(state: ModelState, mean: Vector, silos: int) -> NDArray[np.float64]:
    """By what the mean was, within what one round may change: one silo could inflate it."""
    room = max(_ROOM, _ROOM_FOR_NOISE * math.sqrt(silos))
    parts = np.split(mean, np.cumsum(state.sizes)[:-1])
    largest = (float(np.abs(part).max(initial=0.0)) for part in parts)
    wanted = [2.0 ** math.ceil(math.log2(room * each)) if each else 0.0 for each in largest]
    low, high = state.clamps / _MOST_GROWTH, state.clamps * _MOST_GROWTH
    clamps: NDArray[np.float64] = np.clip(wanted, low, high)
    return clamps.clip(_SMALLEST_CLAMP, _LARGEST_CLAMP)


@dataclass(frozen=True)
class ModelStore:
    """Where a silo keeps the models of a run: by round and digest, readable by its owner alone."""

    keyring: Keyring

    def find(self, digest: bytes) -> ModelState | None:
        """The model with this digest, if it is kept here."""
        for path in self._folder.glob(f"*-{digest.hex()}.model"):
            return _load(path, digest)
        return None

    def put(self, *states: ModelState) -> None:
        """Keep these models and no other of the run."""
        kept = {self._put(state) for state in states}
        for each in self._kept():
            if each not in kept:
                each.unlink(missing_ok=True)

    def _put(self, state: ModelState) -> Path:
        path = self._folder / f"{self.keyring.run}-{state.round}-{state.digest.hex()}.model"
        if not path.exists():
            with replacing(path, mode=0o600) as part:
                part.write_bytes(state.to_bytes())
        return path

    def forget(self) -> None:
        """Remove all of them, and what a process that died has left half written."""
        parts = self._folder.glob(f".{self.keyring.run}-*.model.*.part")
        for each in (*self._kept(), *parts):
            each.unlink(missing_ok=True)

    @property
    def _folder(self) -> Path:
        # Simulated silos have the same models: one copy is enough for all of them.
        folder = self.keyring.folder
        return folder.parent if self.keyring.simulated else folder

    def _kept(self) -> list[Path]:
        return [
            path
            for path in self._folder.glob(f"{self.keyring.run}-*.model")
            if path.stem.rpartition("-")[0].rpartition("-")[0] == self.keyring.run
        ]


@lru_cache(maxsize=2)
def _load(path: Path, digest: bytes) -> ModelState:
    content = path.read_bytes()
    if hashlib.sha256(content).digest() != digest:
        raise MessageError(f"{path} does not hold the model that its name says")
    return ModelState.from_bytes(content)


@dataclass(frozen=True)
class ModelHolder:
    """A silo's side of one encrypted job: its key of the epoch in use, and its models."""

    keyring: Keyring
    encryption: EncryptionSettings
    strategy: Strategy

    @classmethod
    def of(cls, context: Context, experiment: Experiment) -> ModelHolder:
        """Raises ExperimentError for a job without [encryption], and what `open_keyring` does."""
        if experiment.encryption is None:
            raise ExperimentError("the job has no [encryption], so there is no key to make")
        strategy = load_strategy(experiment.strategy.name, experiment.strategy.options)
        return cls(open_keyring(context), experiment.encryption, strategy)

    @property
    def models(self) -> ModelStore:
        """The models that it keeps."""
        return ModelStore(self.keyring)

    def base_of(self, plan: RoundPlan) -> ModelState:
        """The model that a round began with; OutOfOrder when it is not kept here any more."""
        found = self.models.find(plan.model)
        if found is None:
            raise OutOfOrder("the model that this round began with is not kept here")
        return found

    def receive(self, sealed: Sealed | None, public: Vector | None = None) -> ModelState:
        """The global model that a message is about.

        A public one only before any was confirmed; another only as enough silos have confirmed it,
        kept here or sent along under the epoch's key. Never an older one than before.
        """
        if sealed is None:
            raise ExperimentError(
                "the job has [encryption], and the server does not say how to seal"
            )
        if not sealed.confirmations:
            if public is None or sum(sealed.sizes) != public.size:
                raise Malformed("neither a sealed nor a public model came")
            momentum = self.strategy.has_momentum
            state = ModelState.first(public, sealed.sizes, momentum=momentum)
        else:
            round_, digest = check_confirmations(
                sealed.confirmations,
                session=self.keyring.session(sealed.confirmed_in),
                least=self.encryption.least_confirmations,
            )
            found = self.models.find(digest)
            state = found or self._opened(sealed, digest)
            if state.round != round_:
                raise OutOfOrder(f"the model is of round {state.round}, confirmed is {round_}")
        # A simulation may be gone on with from an older checkpoint; a server that does is refused.
        if not self.keyring.simulated:
            self.keyring.remember(model=state.round)
        self.keyring.remember_model(state)
        self.models.put(state)
        return state

    def carry(self, state: ModelState, key: RunKey) -> bytes:
        """The model for holders of the epoch's key."""
        return encrypt(state.to_bytes(), key=_model_key(key), bound=_blob_facts(key, state.digest))

    def _opened(self, sealed: Sealed, digest: bytes) -> ModelState:
        if sealed.model is None:
            raise OutOfOrder("the confirmed model is not kept here, and none came")
        key = self.keyring.key(sealed.epoch)
        fields = Fields(pack(_BLOB_TITLE), _BLOB_TITLE)
        content = decrypt(
            sealed.model, key=_model_key(key), bound=_blob_facts(key, digest), fields=fields
        )
        state = ModelState.from_bytes(content)
        if state.digest != digest:
            raise Tampered
        return state


def _model_key(key: RunKey) -> Secret:
    return derive(key.transport, info=pack("privet model key 1", *key.session.facts))


def _blob_facts(key: RunKey, digest: bytes) -> bytes:
    return pack(_BLOB_TITLE, *key.session.facts, digest)


def offer(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """A fresh public key for the epoch that the server names."""
    request, holder = _opened(message, context, experiment)
    if not holder.keyring.simulated:
        # A server need not say that a job is over: at the next one, those whose time is past go.
        for ended in holder.keyring.ended(time.time()):
            ended.forget()
            ModelStore(ended).forget()
    return KeyAnswer(offer=holder.keyring.offer(request.epoch)).to_records()


def make(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """The epoch's key, by the silo that all offers elect; the model is carried over into it."""
    request, holder = _opened(message, context, experiment)
    keyring = holder.keyring
    # Under the key before, which goes when the new one is kept.
    carried = request.carried
    state = None
    if carried is not None and carried.confirmations:
        state = holder.receive(carried)
    key, wraps = keyring.make(
        request.epoch, request.offers, cipher=cipher_of(holder.encryption), since=request.since
    )
    keyring.keep(key)
    model = None if state is None else holder.carry(state, key)
    return KeyAnswer(wraps=wraps, model=model).to_records()


def take(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Keep the key that the elected silo wrapped for this one."""
    request, holder = _opened(message, context, experiment)
    if request.wrapped is None:
        raise ExperimentError("no wrapped key came")
    cipher = cipher_of(holder.encryption)
    holder.keyring.take(request.epoch, request.offers, request.wrapped, cipher=cipher)
    return KeyAnswer().to_records()


def confirm(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Open the sum of a round, keep the model that it makes, and say by a signature which it is."""
    holder = ModelHolder.of(context, experiment)
    request, asked = MaskRequest.from_records(message.content), SumToOpen.of(message.content)
    keyring = holder.keyring
    key, round_ = keyring.key(request.epoch), resumed(keyring, request)
    before, exact = holder.base_of(round_.plan), experiment.privacy is None
    with keyring.opening(request.epoch):
        ended = _ended(round_, asked.total, keyring, before, exact=exact)
        ended.adverts.demand_weight(ended.survivors)
        state = _state_after(asked.total, key, ended, before, holder)
    keyring.remember_model(state)
    # Beside the one before it, which is gone on with if too few silos open this sum.
    holder.models.put(state, before)
    confirmation = write_confirmation(
        state.round,
        state.digest,
        session=key.session,
        name=keyring.name,
        identity=keyring.signer(),
    )
    model = holder.carry(state, key) if asked.carry else None
    return MaskAnswer(confirmation, model=model).to_records()


def _ended(
    round_: MaskRound, total: bytes, keyring: Keyring, model: ModelState, *, exact: bool
) -> Closed:
    """The round, bound to this sum before anything of it is opened."""
    names, digest = read_header(total)[0].clients, hashlib.sha256(total).digest()
    if round_.plan.masked:  # promised when this silo consented
        return round_.open(digest, names)
    with keyring.promising(round_.plan, model, names, exact=exact):
        return round_.open(digest, names)


def resumed(keyring: Keyring, request: MaskRequest) -> MaskRound:
    """The round that a message is about, as this silo left it."""
    # Before a file is named by it: "1" would find the round 1 as well.
    check_numbers(round=request.round)
    return MaskRound.resume(
        session=keyring.key(request.epoch).session,
        name=keyring.name,
        identity=keyring.signer(),
        keep=keyring.mask_file(request.epoch, request.round),
    )


_last: dict[tuple[str, bytes, bytes, bytes], ModelState] = {}


def _state_after(
    total: bytes, key: RunKey, ended: Closed, before: ModelState, holder: ModelHolder
) -> ModelState:
    """The model that a sum makes; Tampered for anything but what the round's silos sent."""
    # Simulated silos open one sum in one process: the first does it for all that have its key.
    same = (key.id, hashlib.sha256(total).digest(), ended.adverts.digest, before.digest)
    if same not in _last:
        state = _opened_state(total, key, ended, before, holder)
        _last.clear()
        _last[same] = state
    return _last[same]


def _opened_state(
    total: bytes, key: RunKey, ended: Closed, before: ModelState, holder: ModelHolder
) -> ModelState:
    adverts = ended.adverts
    opened = cipher_of(holder.encryption).decrypt(
        total,
        key=secret_of(key),
        run=sum_label(adverts),
        round=adverts.plan.round,
        at_least=adverts.threshold,
    )
    if opened.mean.shape != before.weights.shape:
        raise Tampered
    _check(opened, ended)
    salt = derive(key.transport, info=pack("privet model salt 1", adverts.digest)).reveal()
    mean = (opened.mean * before.scale).astype(np.float32)
    state = state_after(
        before,
        adverts.plan.round,
        mean,
        silos=len(opened.clients),
        strategy=holder.strategy,
        salt=salt,
    )
    if not np.isfinite(state.weights).all():
        raise Tampered
    return state


_SAME_WEIGHT = 2.0**-20
_ROUNDING = 2.0**-10
"""More than one upload's rounding in any profile, over the clamp."""


def _check(opened: OpenedSum, ended: Closed) -> None:
    """What one silo may do to the mean: its weight as it said before, values within the clamp."""
    weight = math.fsum(ended.adverts.weight(client) for client in opened.clients)
    most = 1.0 + _ROUNDING * len(opened.clients) / weight
    if (
        opened.clients != tuple(sorted(ended.survivors))
        or ended.name not in opened.clients
        or abs(opened.weight - weight) > _SAME_WEIGHT * weight
        or not np.abs(opened.mean).max(initial=0.0) <= most  # false for NaN as well
    ):
        raise Tampered


def keep(message: Message, context: Context, experiment: Experiment) -> RecordDict:
    """Write the final model down, where this silo keeps models, and forget the run's keys."""
    request, holder = _opened(message, context, experiment)
    folder = context.node_config.get("models")
    state = holder.receive(request.carried)
    if folder is not None:
        path = Path(str(folder)) / f"{holder.keyring.run}.safetensors"
        _write_model(path, state.weights, context, experiment)
    holder.keyring.forget()
    if not holder.keyring.simulated:
        holder.models.forget()
    return KeyAnswer().to_records()


def _write_model(path: Path, vector: Vector, context: Context, experiment: Experiment) -> None:
    # Late: who only passes keys on is spared torch.
    from privet.client import own_part
    from privet.client.silo import is_simulated, open_silo
    from privet.record.card import card_of, claim_of

    silo = open_silo(experiment, context)
    flat, task, own = silo.model(), silo.task, own_part.recall(silo, context)
    flat.load(flat.joined(vector, own))
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = own_part.whole_state(flat, own)
    claim = claim_of(task, experiment, simulated=is_simulated(context))
    card = card_of(task, experiment, base=flat.base.digest, claim=claim, learned=False)
    save_tensors(path, tensors, model_metadata(card))


def _opened(
    message: Message, context: Context, experiment: Experiment
) -> tuple[KeyRequest, ModelHolder]:
    return KeyRequest.from_records(message.content), ModelHolder.of(context, experiment)
