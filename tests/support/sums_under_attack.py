"""Encrypted rounds with a server, or a silo, that changes what it likes, and who keeps the score.

The silos are real in what their keyrings remember and forget, and simulated in their randomness, so
that a run can be repeated. `Score` knows what every silo sealed, and holds each opened sum against
it: whatever was changed on the way, an accepted model is the mean of what its silos have trained.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MessageType, RecordDict

from privet import Experiment, PrivetError
from privet.client import app, keyring, masked, sealed, task_code
from privet.client.keyring import Keyring
from privet.client.training import LocalTraining, Trained
from privet.privacy.encryption import SecretKey, Tampered, Terms, read_header
from privet.privacy.encryption.masks import (
    MaskRound,
    RoundPlan,
    correction,
    gather_adverts,
    sum_label,
)
from privet.privacy.ledger import read_history
from privet.record.history import look_away
from privet.server.app import Hosting, initial_model, server_app
from privet.simulations.apps import SimulatedKeys, SimulatedSilos, simulated_client_app
from privet.simulations.grid import SERVER_NODE, InProcessGrid, Sequential, contexts
from privet.simulations.ledger import LEDGER, simulated_ledger
from privet.tasks.registry import load_task
from privet.vectors import FlatModel
from privet.wire import (
    ADVERT,
    CONFIRM,
    CONSENT,
    MAKE,
    MASKS,
    OFFER,
    REVEAL,
    SHARE,
    TAKE,
    KeyAnswer,
    KeyRequest,
    MaskAnswer,
    MaskRequest,
    Sealed,
    SumToOpen,
    TrainReply,
    TrainRequest,
    put_model,
)
from rounds_written import history

NAMES = ("a", "b", "c", "d")
RUN_ID = 5
Meddle = Callable[[Message], None]
Deliver = Callable[[list[Message]], list[list[Message]]]
"""The messages of a batch as batches: only replies of the first one reach the server."""
Arrive = Callable[[list[Message]], list[Message]]
"""The replies of a batch as they reach the server: none twice, and none that nobody asked for."""

TINY: dict[str, Any] = {
    "task": "toy_tasks:Tiny",
    "rounds": 3,
    "seed": 2,
    "federation": {"silos": len(NAMES)},
    "training": {"lr": 0.5, "steps": 1},
    "encryption": {"rotate_every": 2},
    "evaluation": {"every": 1},
}


def job(**changes: Any) -> Experiment:
    return Experiment.from_mapping(TINY).with_settings(
        {name.replace("__", "."): value for name, value in changes.items()}
    )


JOB = job()


def nothing(message: Message) -> None:
    """Honest."""


def at_once(messages: list[Message]) -> list[list[Message]]:
    """Everything in its order."""
    return [messages]


def as_they_came(replies: list[Message]) -> list[Message]:
    """All of them, once."""
    return replies


def kind_of(message: Message) -> str:
    return str(message.metadata.message_type)


def name_of(message: Message, *, reply: bool = False) -> str:
    meta = message.metadata
    return NAMES_LONG[(meta.src_node_id if reply else meta.dst_node_id) - 2]


NAMES_LONG = tuple("abcdefghij")


@dataclass
class Score:
    """What the silos of a run have done, in order, whatever the server believes."""

    seals: list[dict[str, Any]] = field(default_factory=list)
    opened: list[dict[str, Any]] = field(default_factory=list)
    consents: list[tuple[str, int, int, tuple[str, ...]]] = field(default_factory=list)
    reveals: list[tuple[str, int, int, tuple[str, ...]]] = field(default_factory=list)
    left: list[tuple[str, str, RecordDict]] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    spoilt: list[tuple[str, int]] = field(default_factory=list)
    """Who ended the key of which epoch."""
    entries: list[dict[str, Any]] = field(default_factory=list)
    charged: Counter[str] = field(default_factory=Counter)
    """By silo: the trainings that its ledger has."""
    error: str = ""
    beside: frozenset[str] = frozenset()
    """Records that may leave beside a sealed update."""

    def wrong(self, *, liars: frozenset[str] = frozenset(), threshold: int = 3) -> list[str]:
        """What must never be; empty when the promises held."""
        return [
            *self._wrong_models(liars),
            *self._wrong_sums(liars, threshold),
            *self._wrong_uploads(),
            *self._wrong_charges(),
        ]

    def _wrong_models(self, liars: frozenset[str]) -> Iterator[str]:
        models: dict[int, set[bytes]] = {}
        for each in self.opened:
            if each["silo"] not in liars:
                models.setdefault(each["round"], set()).add(each["state"].digest)
                # What a liar has trained nobody knows; what it may do is another test's.
                if not (liars and liars & set(each["survivors"])):
                    yield from self._not_the_mean(each)
        yield from (f"two models of round {each}" for each in models if len(models[each]) > 1)

    def _not_the_mean(self, opened: dict[str, Any]) -> Iterator[str]:
        parts = [each for each in self.seals if each["digest"] == opened["digest"]]
        parts = [each for each in parts if each["silo"] in opened["survivors"]]
        if {each["silo"] for each in parts} != set(opened["survivors"]):
            yield f"round {opened['round']}: a sum of others than uploaded for it"
            return
        if {each["model"] for each in parts} != {opened["before"].digest}:
            yield f"round {opened['round']}: updates of another model"
        weights = np.array([each["weight"] for each in parts])
        mean = np.average([each["update"] for each in parts], axis=0, weights=weights)
        moved = opened["state"].weights - opened["before"].weights
        if not np.allclose(moved, mean, atol=float(opened["before"].clamps.max()) * 2.0**-10):
            yield f"round {opened['round']}: not the mean of what was trained"

    def _wrong_sums(self, liars: frozenset[str], threshold: int) -> Iterator[str]:
        sums: dict[tuple[str, int], set[bytes]] = {}
        for each in self.opened:
            if len(each["survivors"]) < threshold:
                yield f"a sum of {each['survivors']}"
            if each["silo"] not in each["survivors"]:
                yield f"{each['silo']} opened a sum that it is not in"
            if each["silo"] not in liars:
                sums.setdefault((each["silo"], each["round"]), set()).add(each["total"])
        yield from (f"{each} opened twice" for each in sums if len(sums[each]) > 1)
        consented = [(silo, round_) for silo, _, round_, _ in self.consents if silo not in liars]
        if len(set(consented)) < len(consented):
            yield "a silo consented twice to a round"
        lists: dict[int, set[tuple[str, ...]]] = {}
        for silo, _, round_, survivors in self.reveals:
            if silo not in liars:
                lists.setdefault(round_, set()).add(survivors)
        yield from (
            f"round {each} unmasked for two lists" for each in lists if len(lists[each]) > 1
        )

    def _wrong_uploads(self) -> Iterator[str]:
        sealed_in = [(each["silo"], each["epoch"], each["round"]) for each in self.seals]
        if len(set(sealed_in)) < len(sealed_in):
            yield "a silo uploaded twice in a round"
        for each in self.seals:
            if any((each["silo"], epoch) in each["after"] for epoch in range(each["epoch"], 99)):
                yield f"{each['silo']} uploaded under a key that it had ended"
        known = {"sealed", "sealed-update", *self.beside}
        for kind, silo, content in self.left:
            if kind == MessageType.TRAIN and not set(content) <= known:
                yield f"{silo} sent {sorted(content)}"

    def _wrong_charges(self) -> Iterator[str]:
        trained = Counter(each["silo"] for each in self.seals)
        for silo, times in self.charged.items():
            if times > trained[silo]:
                yield f"{silo} was charged for {times} trainings and uploaded {trained[silo]}"


class Meddler(InProcessGrid):
    """Passes everything on, and may change it on the way."""

    def __init__(
        self,
        executor: Sequential,
        silos: int,
        *,
        down: Meddle,
        up: Meddle,
        deliver: Deliver,
        score: Score,
        arrive: Arrive = as_they_came,
    ) -> None:
        super().__init__(executor, silos=silos, run_id=RUN_ID)
        self._down, self._up, self._deliver, self._score = down, up, deliver, score
        self._arrive = arrive

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        first, *others = self._deliver([self._changed(each) for each in messages])
        yield from self._arrive([*self._replies(first, timeout)])
        for more in others:
            list(self._replies(more, timeout))

    def _replies(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        for reply in super().send_and_receive(messages, timeout=timeout):
            silo = name_of(reply, reply=True)
            if reply.has_content():
                self._score.left.append((kind_of(reply), silo, reply.content))
                self._up(reply)
            else:
                self._score.refused.append((kind_of(reply), silo, reply.error.reason))
            yield reply

    def _changed(self, message: Message) -> Message:
        # Copies, because the messages of a round share their records.
        message.content = RecordDict(
            {name: copy.deepcopy(record) for name, record in message.content.items()}
        )
        self._down(message)
        return message


def run(
    out: Path,
    *,
    down: Meddle = nothing,
    up: Meddle = nothing,
    deliver: Deliver = at_once,
    arrive: Arrive = as_they_came,
    experiment: Experiment = JOB,
    names: tuple[str, ...] = NAMES,
) -> Score:
    """A whole run; a PrivetError that ends it is in the score."""
    score = Score(beside=frozenset({"privacy"} if experiment.privacy else ()))
    with silos_of(out, experiment=experiment, names=names, score=score) as (executor, keys):
        grid = Meddler(
            executor,
            len(names),
            down=down,
            up=up,
            deliver=deliver,
            score=score,
            arrive=arrive,
        )
        hosting = Hosting(folder=out, watch=look_away, roster=keys.roster)
        context = Context(RUN_ID, SERVER_NODE, {}, RecordDict(), {**experiment.to_run_config()})
        try:
            server_app(hosting)(grid=grid, context=context)
        except PrivetError as error:
            score.error = str(error)
    score.entries = history(out)
    charges = read_history(out / LEDGER).charges.values()
    score.charged = Counter(
        str(each.reserve.dataset) for each in charges if each.use == "training" and each.event
    )
    return score


@contextmanager
def silos_of(
    out: Path, *, experiment: Experiment, names: tuple[str, ...], score: Score
) -> Iterator[tuple[Sequential, SimulatedKeys]]:
    """The silos of a run, with the score being kept."""
    out.mkdir(exist_ok=True)
    keys = SimulatedKeys(out / "keys", names)
    keys.make()
    with simulated_ledger(out) as books, pytest.MonkeyPatch.context() as patch:
        keep_score(score, patch)
        house = SimulatedSilos(names=names, ledger=books.ledger, key=books.key, keys=keys)
        silos = contexts(len(names), run_id=RUN_ID, run_config={}, node_config={})
        yield Sequential(simulated_client_app(experiment, house), silos), keys


def _some_update(work: LocalTraining) -> Trained:
    """Of a silo's own, drawn from its stream."""
    return Trained(work.draws.normal(0, 0.05, work.weights.size).astype(np.float32), 1, 0.5)


def keep_score(score: Score, patch: pytest.MonkeyPatch) -> None:
    """Write down what silos do, and have their keyrings be those of real ones."""
    patch.setattr(keyring, "is_simulated", lambda _context: False)
    # What has nothing to do with sums, and would take most of the time of a run.
    patch.setattr(task_code, "code_cover", lru_cache(task_code.code_cover))
    patch.setattr(app, "train", _some_update)
    sealed._last.clear()
    seal, opened = masked.SealedRound.seal, sealed._state_after
    consent, reveal = MaskRound.consent, MaskRound.reveal
    opening = keyring.Keyring.opening

    def seals(self: masked.SealedRound, update: Any, *, silo: Any) -> Any:
        adverts, name = self.round.adverts, self.holder.keyring.name
        score.seals.append(
            {
                "silo": name,
                "epoch": adverts.plan.session.epoch,
                "round": adverts.plan.round,
                "model": adverts.plan.model,
                "digest": adverts.digest,
                "weight": adverts.weight(name),
                "update": update.copy(),
                "after": tuple(score.spoilt),
                "state": self.state,
            }
        )
        return seal(self, update, silo=silo)

    def opens(total: bytes, key: Any, ended: Any, before: Any, holder: Any) -> Any:
        state = opened(total, key, ended, before, holder)
        score.opened.append(
            {
                "silo": holder.keyring.name,
                "round": ended.adverts.plan.round,
                "digest": ended.adverts.digest,
                "survivors": read_header(total)[0].clients,
                "total": total,
                "before": before,
                "state": state,
            }
        )
        return state

    def consents(self: MaskRound, survivors: Iterable[str]) -> bytes:
        survivors = tuple(survivors)
        said = consent(self, survivors)
        session, name = self.plan.session, self._name
        score.consents.append((name, session.epoch, self.plan.round, survivors))
        return said

    def reveals(self: MaskRound, messages: Iterable[bytes]) -> bytes:
        said = reveal(self, messages)
        phase: Any = self._phase
        session, name = self.plan.session, self._name
        score.reveals.append((name, session.epoch, self.plan.round, phase.survivors))
        return said

    @contextmanager
    def ends(self: keyring.Keyring, epoch: int) -> Iterator[None]:
        failed = self.memory().failed
        try:
            with opening(self, epoch):
                yield
        finally:
            if self.memory().failed > failed:
                score.spoilt.append((self.name, epoch))

    patch.setattr(masked.SealedRound, "seal", seals)
    patch.setattr(sealed, "_state_after", opens)
    patch.setattr(MaskRound, "consent", consents)
    patch.setattr(MaskRound, "reveal", reveals)
    patch.setattr(keyring.Keyring, "opening", ends)


Answers = dict[str, Any]
"""By silo: the content of its answer, or the reason that it gave."""


class MaliciousServer:
    """Asks silos whatever it likes, step by step; with the secrets of those that side with it."""

    def __init__(self, executor: Sequential, keys: SimulatedKeys, experiment: Experiment) -> None:
        names = keys.names
        self.score = Score()
        self.grid = Meddler(
            executor, len(names), down=nothing, up=nothing, deliver=at_once, score=self.score
        )
        self.keys, self.experiment, self.names = keys, experiment, names
        assert experiment.encryption is not None
        self.masked = experiment.encryption.masked
        self.cipher = keyring.cipher_of(experiment.encryption)
        self.flat = FlatModel(initial_model(load_task(experiment.task), experiment))
        self.first = self.flat.vector()
        self.epoch = 0
        self.confirmed: tuple[int, tuple[bytes, ...]] = (0, ())
        self.carried: bytes | None = None

    def ask(self, kind: str, contents: dict[str, RecordDict]) -> Answers:
        messages = [
            Message(content, self.names.index(name) + 2, kind, group_id="1")
            for name, content in contents.items()
        ]
        return {
            name_of(each, reply=True): each.content if each.has_content() else each.error.reason
            for each in self.grid.send_and_receive(messages)
        }

    def distribute(
        self, epoch: int, members: Iterable[str] | None = None, *, since: int = 1
    ) -> Answers:
        """The epoch's key for all, as an honest server would."""
        members = tuple(members or self.names)
        asks = {name: KeyRequest(epoch, since).to_records() for name in members}
        offers = self.ask(OFFER, asks)
        assert not any(isinstance(each, str) for each in offers.values()), offers
        told = tuple(KeyAnswer.from_records(each).offer or b"" for each in offers.values())
        first = members[0]
        sealed_model = self.sealed(epoch - 1) if self.confirmed[1] else None
        request = KeyRequest(epoch, since, offers=told, carried=sealed_model)
        made = self.ask(MAKE, {first: request.to_records()})
        answer = KeyAnswer.from_records(made[first])
        self.carried = answer.model or self.carried
        self.epoch = epoch
        takes = {
            name: KeyRequest(epoch, since, offers=told, wrapped=wrap).to_records()
            for name, wrap in answer.wraps.items()
        }
        return self.ask(TAKE, takes)

    def sealed(self, epoch: int | None = None) -> Sealed:
        """The model that it tells silos of."""
        epoch = self.epoch if epoch is None else epoch
        if not self.confirmed[1]:
            return Sealed(epoch, sizes=self.flat.sizes)
        return Sealed(epoch, *self.confirmed, model=self.carried)

    def advert(
        self,
        round_: Any,
        members: Iterable[str] | None = None,
        *,
        epoch: Any = None,
        noise: dict[str, Any] | None = None,
        weights: dict[str, Any] | None = None,
        sealed: Sealed | None = None,
    ) -> Answers:
        """Adverts; another noise multiplier or public model for some silos, if asked for."""
        contents = {}
        for name in members or self.names:
            content = RecordDict()
            told = sealed or self.sealed()
            if not told.confirmations:
                put_model(content, (weights or {}).get(name, self.first), {})
            told.put(content)
            request = MaskRequest(
                self.epoch if epoch is None else epoch,
                round_,
                noise_multiplier=(noise or {}).get(name),
            )
            content[MASKS] = request.record()
            contents[name] = content
        return self.ask(ADVERT, contents)

    def step(
        self, kind: str, round_: Any, members: Iterable[str], epoch: Any = None, **told: Any
    ) -> Answers:
        """Share, consent or reveal: the same to all members."""
        request = MaskRequest(self.epoch if epoch is None else epoch, round_, **told)
        return self.ask(kind, {name: RecordDict({MASKS: request.record()}) for name in members})

    def agree(self, round_: Any, members: Iterable[str] | None = None, **told: Any) -> Agreed:
        """A round as far as the training, which may begin."""
        members = tuple(members or self.names)
        adverts = self.advert(round_, members, **told)
        assert not any(isinstance(each, str) for each in adverts.values()), adverts
        shares = self.step(SHARE, round_, members, messages=messages_of(adverts))
        assert not any(isinstance(each, str) for each in shares.values()), shares
        dealt = {n: MaskAnswer.from_records(each).encrypted_shares for n, each in shares.items()}
        return Agreed(round_, members, messages_of(adverts), dealt)

    def train(self, agreed: Agreed, members: Iterable[str] | None = None, **more: Any) -> Answers:
        """Train messages; `more` goes into the settings of the task."""
        contents = {}
        for name in members or agreed.members:
            content = TrainRequest(agreed.round, None).to_records()
            content["task"].update(more)
            shares = {n: each[name] for n, each in agreed.shares.items() if name in each}
            request = MaskRequest(self.epoch, agreed.round, encrypted_shares=shares)
            content[MASKS] = request.record()
            contents[name] = content
        return self.ask(MessageType.TRAIN, contents)

    def unmask(self, agreed: Agreed, survivors: Iterable[str]) -> tuple[Answers, Answers]:
        """Consents and reveals of the survivors."""
        survivors = tuple(survivors)
        consents = self.step(CONSENT, agreed.round, survivors, survivors=survivors)
        told = messages_of(consents)
        return consents, self.step(REVEAL, agreed.round, survivors, messages=told)

    def total(self, agreed: Agreed, uploads: Answers, reveals: Answers | None = None) -> bytes:
        """The sum of uploads; unmasked with the reveals."""
        plan = self.plan(agreed)
        adder = self.cipher.adder(self.terms(agreed))
        for name, content in uploads.items():
            reply = TrainReply.from_records(content)
            assert reply.sealed is not None
            adder.add(reply.sealed.upload, client=name)
        if reveals is not None:
            told = messages_of(reveals)
            _, masks = correction(plan=plan, adverts=agreed.adverts, reveals=told)
            adder.unmask(masks)
        return adder.to_bytes()

    def terms(self, agreed: Agreed) -> Terms:
        """What uploads of the round are made under."""
        adverts = gather_adverts(agreed.adverts, plan=self.plan(agreed))
        return Terms(run=sum_label(adverts), round=agreed.round, size=self.first.size, clamp=1.0)

    def plan(self, agreed: Agreed) -> RoundPlan:
        """As the silo's own file of the round has it: nothing in it is secret."""
        name = agreed.members[0]
        ring = self.ring(name)
        return MaskRound.resume(
            session=ring.session(self.epoch),
            name=name,
            identity=ring.signer(),
            keep=ring.mask_file(self.epoch, agreed.round),
        ).plan

    def confirm(self, agreed: Agreed, total: Any, members: Iterable[str], **more: Any) -> Answers:
        """What they make of the sum; `total` may be one for each."""
        contents = {}
        for name in members:
            content = RecordDict()
            own = total[name] if isinstance(total, dict) else total
            SumToOpen(own, **more).put(content)
            content[MASKS] = MaskRequest(self.epoch, agreed.round).record()
            contents[name] = content
        return self.ask(CONFIRM, contents)

    def whole_round(self, round_: int, members: Iterable[str] | None = None) -> Agreed:
        """An honest one; the model that it makes is told from then on."""
        agreed = self.agree(round_, members)
        uploads = self.train(agreed)
        reveals = self.unmask(agreed, agreed.members)[1] if self.masked else None
        total = self.total(agreed, uploads, reveals)
        answers = self.confirm(agreed, total, agreed.members, carry=True)
        assert not any(isinstance(each, str) for each in answers.values()), answers
        self.confirmed = self.epoch, messages_of(answers)
        model = MaskAnswer.from_records(answers[agreed.members[0]]).model
        self.carried = model or self.carried
        return agreed

    def ring(self, name: str) -> Keyring:
        """The keyring of a silo that sides with the server, or is looked at by a test."""
        place = self.names.index(name)
        node = self.keys.node_config(place)
        context = Context(RUN_ID, place + 2, dict(node), RecordDict(), {})
        return keyring.open_keyring(context)

    def opened(
        self, name: str, total: bytes, *, at_least: int = 1, key: SecretKey | None = None
    ) -> np.ndarray | None:
        """What silo `name`, siding with the server, makes of a sum; None if it is noise."""
        header, _ = read_header(total)
        key = key or keyring.secret_of(self.ring(name).key(self.epoch))
        try:
            return self.cipher.decrypt(
                total, key=key, run=header.terms.run, round=header.terms.round, at_least=at_least
            ).mean
        except Tampered:
            return None


@dataclass(frozen=True)
class Agreed:
    """What the silos said before the training of a round."""

    round: int
    members: tuple[str, ...]
    adverts: tuple[bytes, ...]
    shares: dict[str, Any]


def messages_of(answers: Answers) -> tuple[bytes, ...]:
    return tuple(
        MaskAnswer.from_records(each).message or b""
        for each in answers.values()
        if not isinstance(each, str)
    )


@contextmanager
def malicious_server(
    out: Path, *, experiment: Experiment = JOB, names: tuple[str, ...] = NAMES
) -> Iterator[MaliciousServer]:
    """A server with silos that have never been asked anything."""
    score = Score()
    with silos_of(out, experiment=experiment, names=names, score=score) as (executor, keys):
        server = MaliciousServer(executor, keys, experiment)
        server.score = server.grid._score = score
        yield server


def refusals(answers: Answers) -> dict[str, str]:
    """Those that refused, with what they said."""
    return {name: each for name, each in answers.items() if isinstance(each, str)}
