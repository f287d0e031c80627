"""The global model sealed: the server adds what it cannot read, and relays the keys of others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import wraps
from time import perf_counter
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from privet.errors import ExperimentError, PrivetError
from privet.experiment import EncryptionSettings, Experiment
from privet.paged import paged_join
from privet.privacy.encryption import Adder, Cipher, Terms
from privet.privacy.encryption.keys import KeyAge, Roster, Session, elect, rotation, verify_upload
from privet.privacy.encryption.masks import (
    RoundPlan,
    read_confirmation,
    sum_label,
    upload_parameters,
)
from privet.record.summary import EncryptionFacts
from privet.server.cohort import PASSING, Absent, Cohort
from privet.server.masking import Answers, MaskedRound, Relay, read_all
from privet.server.models import Tensors
from privet.vectors import Vector
from privet.wire import (
    CONFIRM,
    KEEP,
    MAKE,
    OFFER,
    TAKE,
    EvaluateRequest,
    Failure,
    KeyAnswer,
    KeyRequest,
    MaskRequest,
    ModelState,
    Sealed,
    SumToOpen,
    TrainReply,
    job_digest,
    noise_text,
    put_model,
)

MOST_FAILED = 3
"""Rounds in which a silo may fail the others before it is asked no more."""

_Blob = bytes | memoryview | None
OpenModel = Callable[[bytes], Vector | None]
"""Reads the model with this digest, where this process hosts a key holder: a simulation."""


@dataclass(frozen=True, eq=False)
class _State:
    """What a checkpoint keeps of the keys and the model; none of it is secret."""

    age: KeyAge | None = None
    round: int = 0
    """That made the model."""
    confirmed_in: int = 0
    confirmations: tuple[bytes, ...] = ()
    """Of the model; none while it is the first one, which is public."""
    digest: bytes = b""
    """Of the model, as it was confirmed."""
    model: _Blob = None
    """For silos that do not keep it; under the key in use."""


_P = ParamSpec("_P")
_T = TypeVar("_T")
_Method = Callable[Concatenate["SealedModel", _P], _T]


def _timed(method: _Method[_P, _T]) -> _Method[_P, _T]:
    """`method`, which calls no other one that is timed, with its time added up in `seconds`."""

    @wraps(method)
    def timed(model: SealedModel, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        begun = perf_counter()
        try:
            return method(model, *args, **kwargs)
        finally:
            model.seconds += perf_counter() - begun

    return timed


class SealedModel:
    """The model as silos hold it, moved by encrypted sums that the server cannot open.

    Guarantee: the server holds no key, and takes only uploads that a silo of the roster signed for
    this run, epoch and round and for what all silos of the round agreed on. The model moves only
    when more silos than may side with the server have opened the sum and signed for the same model.
    """

    def __init__(
        self,
        grid: Grid,
        experiment: Experiment,
        weights: Vector,
        *,
        run: str,
        sizes: Sequence[int],
        cipher: Cipher,
        identities: Roster,
        base: str | None = None,
        two_models: bool = False,
        open_model: OpenModel | None = None,
    ) -> None:
        """`run` is what silos know the run as; `sizes` are those of the tensors in `weights`.

        `base`: the digest of what the model does not train. `two_models`: the rule remembers the
        model before the last one.
        """
        assert experiment.encryption is not None
        self._grid, self._experiment, self._run = grid, experiment, run
        self._encryption: EncryptionSettings = experiment.encryption
        self._cipher, self._identities = cipher, identities
        self._open_model, self.base = open_model, base
        self._first, self._sizes, self._two = weights, tuple(sizes), two_models
        self._size = weights.size
        self._state = _State()
        self._round = 0
        self._sum: Adder | None = None
        self._spoilt = False
        self._without_key: set[str] = set()
        self._failed: dict[str, list[int]] = {}
        """By silo the rounds whose sum it could not open, or in which its shares did not."""
        self._keeping: set[str] = set()
        """Silos that confirmed the model, and need not be sent it."""
        self._masked: MaskedRound | None = None
        self._relay = Relay(grid, Cohort(experiment, {}), experiment.round_timeout)
        self._upload_bytes = 0
        self.seconds = 0.0
        """Spent on encryption so far; not kept in a checkpoint."""

    @_timed
    def prepare(self, round_: int, cohort: Cohort) -> list[Failure]:
        """A new key where one is due; silos that could not be given it are named.

        Raises ExperimentError for more silos than one sum can hold, and for so few that one could
        work out another's update, before any of them trains.
        """
        if len(cohort) < self._encryption.colluding + 2:
            raise ExperimentError(
                f"encryption.colluding = {self._encryption.colluding} with {len(cohort)} silos: "
                "one could work out another's update from the sum; 0 says that all are trusted"
            )
        most = self._cipher.facts.max_clients
        if len(cohort) > most:
            raise ExperimentError(
                f"encryption.profile = '{self._encryption.profile}' adds up at most {most} silos; "
                f"the federation has {len(cohort)}"
            )
        self._relay.cohort = cohort
        due = rotation(
            self._state.age,
            round=round_,
            present=[
                name
                for name in cohort.willing
                if name not in self._without_key and not self._out(name, round_)
            ],
            tags_failed=self._spoilt,
            # More rounds than a header can number stand for never.
            every=self._encryption.rotate_every or 2**40,
        )
        if due is None:
            return []
        failures = self._distribute(due.epoch, round_, cohort)
        self._spoilt = False
        return failures

    @_timed
    def open(
        self, round_: int, *, asked: list[int], cohort: Cohort, failures: list[Failure]
    ) -> list[int]:
        """Begin a round with an empty sum, after the silos have agreed on it."""
        self._round, self._sum = round_, None
        noise = cohort.noise_floor()
        plan = RoundPlan(
            session=self._session,
            round=round_,
            job=job_digest(self._experiment, self.base),
            model=self._digest(),
            noise=noise_text(noise),
            threshold=self._encryption.least_sum,
            colluding=self._encryption.colluding,
            masked=self._encryption.masked,
        )
        self._masked = MaskedRound(self._relay, plan, noise, self._model_for)
        agreed = self._masked.deal(asked, failures)
        if self._masked.divided and self._state.age:
            self._spoilt = True
            # The elected silo, which is the first of them.
            self._leave_out(self._state.age.members[:1])
        return agreed

    def record_for(self, silo: str) -> ConfigRecord | None:
        """The others' encrypted shares for this silo."""
        return self._masked.record_for(silo) if self._masked else None

    @_timed
    def add(self, silo: str, reply: TrainReply) -> None:
        """Add an upload that `silo` has signed for this round."""
        adverts = self._masked.adverts if self._masked else None
        if reply.sealed is None or adverts is None:
            raise ValueError("the update did not come sealed")
        upload = reply.sealed.upload
        stated = verify_upload(
            reply.sealed.statement,
            upload,
            session=self._session,
            round=self._round,
            parameters=upload_parameters(adverts, self._cipher.digest),
        )
        # Signed by a silo of the roster, but by the one that the transport says it came from?
        if stated.name != silo:
            raise ValueError(f"it is signed by silo {stated.name!r}")
        if self._sum is None:
            terms = Terms(run=sum_label(adverts), round=self._round, size=self._size, clamp=1.0)
            self._sum = self._cipher.adder(terms)
        self._sum.add(upload, client=silo)
        self._upload_bytes = max(self._upload_bytes, len(upload))

    @_timed
    def close(self, round_: int, *, silos: int, failures: list[Failure]) -> str | None:  # noqa: ARG002
        """Silos open the sum and move the model, unless too few are in it or can open it."""
        self._leave_out(disputed(failures))
        total, self._sum = self._sum, None
        if total is None or self._masked is None:
            return (self._masked and self._masked.reason) or "no update came"
        if reason := self._masked.unmask(total, failures):
            self._leave_out(filter(None, [self._masked.misdealt]))
            return reason
        return self._confirm(self._masked, total, failures)

    def admits(self, silo: str) -> bool:
        """Whether the silo has the key in use."""
        age = self._state.age
        return age is not None and silo in age.members and not self._out(silo, self._round + 1)

    @property
    def weights(self) -> Vector | None:
        """None: the model comes before a round is agreed on, and silos keep it."""
        return None

    def evaluation(self, round_: int, silo: str) -> RecordDict:
        """The message that has this silo measure the model; it may have to be sent it."""
        public = None if self._state.confirmations else self._first
        return EvaluateRequest(round_, public, self._sealed_for(silo), base=self.base).to_records()

    def traffic(self) -> tuple[int, int]:
        """Bytes of models and sums down and up since it was last asked."""
        passed = self._relay.down, self._relay.up
        self._relay.down = self._relay.up = 0
        return passed

    @_timed
    def readable(self) -> Vector | None:
        """The model where this process may open it: the first one, or as a key holder."""
        if not self._state.confirmations:
            return self._first
        return self._open_model(self._state.digest) if self._open_model else None

    def finish(self, cohort: Cohort) -> list[Failure]:
        """Have the silos write the final model down, and forget their keys."""
        if not self._state.confirmations or self._state.age is None:
            return []
        holders = [node for node in cohort.nodes if self.admits(cohort.name(node))]
        requests = {
            node: KeyRequest(
                self._state.age.epoch, self._round, carried=self._sealed_for(cohort.name(node))
            )
            for node in holders
        }
        return self._ask(holders, requests, KEEP)[1]

    def tensors(self) -> dict[str, np.ndarray]:
        """The sealed model, and what is public about it and the key."""
        state = self._state
        facts: dict[str, Any] = {
            "run": self._run,
            "keeping": sorted(self._keeping),
            "round": self._round,
            "made": state.round,
            "confirmed_in": state.confirmed_in,
            "digest": state.digest.hex(),
            "confirmations": [each.hex() for each in state.confirmations],
        }
        if state.age:
            facts |= {"epoch": state.age.epoch, "since": state.age.since}
            facts["members"] = list(state.age.members)
        kept = {"sealed.facts": json.dumps(facts).encode(), "sealed.model": state.model or b""}
        tensors = {name: np.frombuffer(value, np.uint8) for name, value in kept.items()}
        return tensors if state.confirmations else tensors | {"weights": self._first}

    def restore(self, tensors: Tensors) -> None:
        """Go on from what `tensors` gave."""
        facts: Mapping[str, Any] = json.loads(tensors["sealed.facts"].tobytes())
        if "confirmations" not in facts:
            raise ExperimentError(
                "the run was begun by a version of privet that encrypted otherwise: begin it anew"
            )
        age = None
        if "epoch" in facts:
            age = KeyAge(
                epoch=facts["epoch"], since=facts["since"], members=tuple(facts["members"])
            )
        self._state = _State(
            age=age,
            round=facts["made"],
            confirmed_in=facts["confirmed_in"],
            confirmations=tuple(map(bytes.fromhex, facts["confirmations"])),
            digest=bytes.fromhex(facts["digest"]),
            model=_kept(tensors["sealed.model"].tobytes()),
        )
        self._round, self._keeping = facts["round"], set(facts["keeping"])
        # Silos upload once in a round of an epoch, and the round after the last one may have begun.
        self._spoilt = age is not None

    def describe(self) -> EncryptionFacts | None:
        """What a reader should know: parameters, size, and who can read the model."""
        facts = self._cipher.facts
        return EncryptionFacts(
            scheme=facts.scheme,
            profile=facts.profile,
            ring_degree=facts.degree,
            modulus_bits=facts.modulus_bits,
            security_bits=facts.security_bits,
            most_silos=facts.max_clients,
            upload_bytes_per_parameter=self._upload_bytes / self._size,
            smallest_sum=self._encryption.smallest_sum,
            pairwise_masks=self._encryption.masked,
            epochs=self._state.age.epoch if self._state.age else 0,
            model_held_by="every silo that holds the key"
            + (", and the host of this simulation" if self._open_model else ""),
        )

    @property
    def _session(self) -> Session:
        epoch = self._state.age.epoch if self._state.age else 0
        return Session(run=self._run, epoch=epoch, roster=self._identities)

    def _digest(self) -> bytes:
        """Of the model, as the silos that confirmed it signed; of the first one by ourselves."""
        if self._state.confirmations:
            return self._state.digest
        return ModelState.first(self._first, self._sizes, momentum=self._two).digest

    def _sealed_for(self, silo: str) -> Sealed:
        state = self._state
        epoch = state.age.epoch if state.age else 0
        if not state.confirmations:
            return Sealed(epoch, sizes=self._sizes)
        # A copy for every sending: Flower's arrays hold `bytes` and nothing else.
        model = None if silo in self._keeping or state.model is None else bytes(state.model)
        return Sealed(epoch, state.confirmed_in, state.confirmations, model=model)

    def _model_for(self, silo: str) -> RecordDict:
        """What tells a silo the model that a round begins with."""
        records = RecordDict()
        if not self._state.confirmations:
            put_model(records, self._first, {})
        self._sealed_for(silo).put(records)
        return records

    def _confirm(self, masked: MaskedRound, total: Adder, failures: list[Failure]) -> str | None:
        """Have the silos of the sum open it; the model is what enough of them sign for."""
        data, survivors, before = total.to_bytes(), total.clients, len(failures)
        # Two, since one may not do its part; only where a silo will have to be sent the model.
        carriers = () if set(self._relay.cohort.willing) <= {*survivors} else survivors[:2]

        def sum_for(silo: str) -> RecordDict:
            records = RecordDict()
            SumToOpen(data, carry=silo in carriers).put(records)
            return records

        request = MaskRequest(self._session.epoch, self._round)
        answers = masked.ask(CONFIRM, request, survivors, failures, sum_for)
        signed, digest = self._agreed(answers)
        least = self._encryption.least_confirmations
        if len(signed) < least:
            self._spoilt = True
            return (
                f"{len(signed)} silos opened the sum to one model, and {least} must: the round is "
                "void, and the key is changed"
            )
        self._leave_out(failure.silo for failure in failures[before:])
        # Who has another model, or none, is sent this one; if nobody sealed it, with the next key.
        self._keeping = set(signed)
        models = [answers[name].model for name in signed]
        model = next((each for each in models if each is not None), None)
        self._spoilt = model is None and not set(self._relay.cohort.willing) <= self._keeping
        self._state = replace(
            self._state,
            round=self._round,
            confirmed_in=self._session.epoch,
            confirmations=tuple(signed.values()),
            digest=digest,
            model=_kept(model),
        )
        return None

    def _agreed(self, answers: Answers) -> tuple[dict[str, bytes], bytes]:
        """By silo the confirmations of the model that most have, and its digest."""
        found: dict[bytes, dict[str, bytes]] = {}
        for silo, answer in answers.items():
            with suppress(PrivetError):
                name, (round_, digest) = read_confirmation(
                    answer.message or b"", session=self._session
                )
                if (name, round_) == (silo, self._round):
                    found.setdefault(digest, {})[silo] = answer.message or b""
        digest = max(found, key=lambda each: len(found[each]), default=b"")
        return found.get(digest, {}), digest

    def _distribute(self, epoch: int, round_: int, cohort: Cohort) -> list[Failure]:
        """Relay offers to the elected silo and its wrapped keys to the others."""
        request = KeyRequest(epoch, round_)
        nodes = {
            name: node
            for node in cohort.nodes
            if (name := cohort.name(node)) in cohort.willing and not self._out(name, round_)
        }
        asked = dict.fromkeys(nodes.values(), request)
        offers, failures = self._ask(list(asked), asked, OFFER)
        offers = {name: answer for name, answer in offers.items() if answer.offer}
        carried = bool(self._state.confirmations)
        # Only who has the model, or the key that it is sealed under, can carry it over.
        old = self._state.age.members if self._state.age and self._state.model else ()
        holders = {*self._keeping, *old} if carried else set(nodes)
        able = [name for name in offers if name in holders]
        if not able:
            gone = {each.silo for each in failures if each.stage not in PASSING}
            gone |= set(cohort.names) - set(cohort.willing)
            # Whoever is merely away, or left out of this round, may come back with the model.
            kind = Absent if holders - gone else ExperimentError
            raise kind("no silo is there that could make a key and has the model")
        elected = elect(self._identities, able)
        # Silos elect for themselves, among all offers: only holders of the model may precede.
        gathered = [o.offer for n, o in offers.items() if self._may_offer(n, elected) and o.offer]
        request = replace(request, offers=tuple(gathered))
        asks = replace(request, carried=self._sealed_for(elected) if carried else None)
        made, refused = self._ask([nodes[elected]], {nodes[elected]: asks}, MAKE)
        if elected not in made:
            raise ExperimentError(f"no key could be made: {refused[0].reason}")
        wraps = {n: w for n, w in made[elected].wraps.items() if n in nodes}
        requests = {nodes[name]: replace(request, wrapped=wrap) for name, wrap in wraps.items()}
        not_taken = self._ask(list(requests), requests, TAKE)[1]
        # One of them may lie; of more, the elected silo does, and makes no key in this round.
        if sum(each.stage == "keys" for each in not_taken) > self._encryption.colluding:
            self._failed.setdefault(elected, []).append(round_ - 1)
            return [*failures, *not_taken, *self._distribute(epoch + 1, round_, cohort)]
        lost = {failure.silo for failure in not_taken}
        members = self._identities.ordered([elected, *(name for name in wraps if name not in lost)])
        # Else the rule would find other silos than have the key, and ask for a new one in every
        # round.
        self._without_key = set(nodes) - set(members)
        age = KeyAge(epoch=epoch, since=round_, members=members)
        model = _kept(made[elected].model) or self._state.model
        self._state = replace(self._state, age=age, model=model)
        return [*failures, *not_taken]

    def _may_offer(self, name: str, elected: str) -> bool:
        return self._identities.place(name) >= self._identities.place(elected)

    def _leave_out(self, silos: Iterable[str]) -> None:
        for silo in silos:
            self._failed.setdefault(silo, []).append(self._round)

    def _out(self, name: str, round_: int) -> bool:
        """Whether the silo sits out: it failed the others in the last round, or in too many."""
        failed = self._failed.get(name, ())
        return len(failed) >= MOST_FAILED or (round_ - 1) in failed

    def _ask(
        self, nodes: list[int], requests: Mapping[int, KeyRequest], kind: str
    ) -> tuple[dict[str, KeyAnswer], list[Failure]]:
        """Answers by silo, and who failed."""
        messages = [Message(requests[node].to_records(), node, kind) for node in nodes]
        failures: list[Failure] = []
        replies = self._relay.replies(messages, failures)
        return dict(read_all(replies, KeyAnswer.from_records, failures)), failures


def disputed(failures: Iterable[Failure]) -> list[str]:
    """Who is taken out so that nobody is left who says that another one's shares do not open.

    The server cannot open them: it takes whoever is in the most disputes first. Of two that differ
    with nobody else either may lie, and both go.
    """
    pairs = {frozenset((each.silo, each.about)) for each in failures if each.about}
    out: list[str] = []
    while pairs:
        disputes = Counter(name for pair in pairs for name in pair)
        most = max(disputes.values())
        worst = {name for name in disputes if disputes[name] == most}
        out += sorted(worst)
        pairs = {pair for pair in pairs if not pair & worst}
    return out


def _kept(model: bytes | None) -> _Blob:
    return paged_join([model]) if model else None
