"""The global model sealed: the server adds what it cannot read, and relays the keys of others."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from time import perf_counter
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from privet.errors import ExperimentError
from privet.experiment import EncryptionSettings, Experiment
from privet.paged import paged_join
from privet.privacy.encryption import Adder, Cipher, read_header
from privet.privacy.encryption.keys import KeyAge, Roster, Session, elect, rotation, verify_upload
from privet.record.history import DECRYPT_STAGE
from privet.record.summary import EncryptionFacts
from privet.server.cohort import Cohort
from privet.server.masking import MaskedRound, Relay, read_all
from privet.server.models import Tensors
from privet.vectors import Vector
from privet.wire import KEEP, MAKE, OFFER, TAKE, Failure, KeyAnswer, KeyRequest, Sealed, TrainReply

# Each costs the memory of a whole sum.
MOST_CLAMPS = 3
"""Different scales that the uploads of one round may have before one is refused."""

_Sum = bytes | memoryview | None
OpenModel = Callable[[Sealed], Vector]
"""Reads a sealed model where this process is a key holder's too: in a simulation."""


@dataclass(frozen=True, eq=False)
class _State:
    """What a checkpoint keeps of the keys and sums; none of it is secret."""

    run: str
    age: KeyAge | None = None
    now: _Sum = None
    before: _Sum = None


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
    """The model as an encrypted sum of the silos' proposals, which the server cannot open.

    Guarantee: the server holds no key, and takes only uploads that a silo of the roster signed for
    this run, epoch and round. What it sends out is the sum itself, so a silo needs no memory but
    the epoch's key.
    """

    def __init__(
        self,
        grid: Grid,
        experiment: Experiment,
        weights: Vector,
        *,
        cipher: Cipher,
        identities: Roster,
        two_models: bool = False,
        open_model: OpenModel | None = None,
    ) -> None:
        """`two_models`: send the model before the last one as well, for a rule with momentum."""
        assert experiment.encryption is not None
        self._grid, self._experiment = grid, experiment
        self._encryption: EncryptionSettings = experiment.encryption
        self._cipher, self._identities = cipher, identities
        self._open_model = open_model
        self._public: Vector | None = weights
        """The first model, which everybody may see; kept until a second sum is there."""
        self._size = weights.size
        # A name that no run had before: what silos signed for another one is refused as a replay.
        self._state = _State(run=f"run-{secrets.token_hex(8)}")
        self._fallback = self._state
        self._round = 0
        self._sums: dict[float, Adder] = {}
        self._unit = 1.0
        self._spoilt = False
        self._two = two_models
        self._without_key: set[str] = set()
        self._masked: MaskedRound | None = None
        self._upload_bytes = 0
        self.seconds = 0.0
        """Spent on encryption so far; not kept in a checkpoint."""

    @_timed
    def prepare(self, round_: int, cohort: Cohort) -> list[Failure]:
        """A new key where one is due; silos that could not be given it are named.

        Raises ExperimentError for more silos than one sum can hold, before any of them trains.
        """
        most = self._cipher.facts.max_clients
        if len(cohort) > most:
            raise ExperimentError(
                f"encryption.profile = '{self._encryption.profile}' adds up at most {most} silos; "
                f"the federation has {len(cohort)}"
            )
        self._unit = _weight_unit(cohort)
        due = rotation(
            self._state.age,
            round=round_,
            present=[name for name in cohort.willing if name not in self._without_key],
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
        self,
        round_: int,
        *,
        lr: float,  # noqa: ARG002 - silos know it
        asked: list[int],
        cohort: Cohort,
        failures: list[Failure],
    ) -> list[int]:
        """Begin a round with an empty sum; with masks, after shares were dealt."""
        self._round, self._sums, self._masked = round_, {}, None
        if not self._encryption.pairwise_masks:
            return asked
        self._masked = MaskedRound(
            self._relay(cohort),
            encryption=self._encryption,
            session=self._session,
            round_=round_,
            count=self._cipher.coefficients(self._size),
            modulus=self._cipher.mask_modulus or 0,
        )
        return self._masked.deal(asked, failures)

    def record_for(self, silo: str) -> ConfigRecord | None:
        """The others' encrypted shares for this silo, with masks."""
        return self._masked.record_for(silo) if self._masked else None

    @_timed
    def add(self, silo: str, reply: TrainReply) -> None:
        """Add an upload that `silo` has signed for this round."""
        if reply.sealed is None:
            raise ValueError("the update did not come sealed")
        upload = reply.sealed.upload
        stated = verify_upload(
            reply.sealed.statement,
            upload,
            session=self._session,
            round=self._round,
            parameters=hashlib.sha256(self._cipher.digest).digest(),
        )
        # Signed by a silo of the roster, but by the one that the transport says it came from?
        if stated.name != silo:
            raise ValueError(f"it is signed by silo {stated.name!r}")
        self._sum_for(upload).add(upload, client=silo)
        self._upload_bytes = max(self._upload_bytes, len(upload))

    @_timed
    def close(self, round_: int, *, silos: int, failures: list[Failure]) -> str | None:  # noqa: ARG002
        """The sum becomes the model, unless silos could not open the last one or too few are in."""
        # One silo's word is enough: a server cannot open the model to see who is right.
        if any(failure.stage == DECRYPT_STAGE for failure in failures):
            self._spoilt, self._state = True, replace(self._fallback, age=self._state.age)
            return "silos could not open the model: the round is void, and the key is changed"
        # Sums of different clamps cannot be joined; that of most silos is the round's.
        total = max(self._sums.values(), key=lambda each: len(each.clients), default=None)
        if total is None or len(total.clients) < self._encryption.smallest_sum:
            found, least = len(total.clients) if total else 0, self._encryption.smallest_sum
            return f"updates came: {found}; encryption.smallest_sum = {least}"
        if self._masked and (reason := self._masked.unmask(total, failures)):
            return reason
        # Until silos have opened the new sum, nobody knows that it can be opened.
        self._fallback = self._state
        before = self._state.now if self._two else None
        self._state = replace(self._state, now=paged_join([total.to_bytes()]), before=before)
        self._sums = {}  # they take memory
        self._public = self._first_model()
        return None

    def admits(self, silo: str) -> bool:
        """Whether the silo was given the key in use."""
        return self._state.age is not None and silo in self._state.age.members

    @property
    def weights(self) -> Vector | None:
        """The first model, which is public; None once neither it nor what came of it needs it."""
        return self._public if self._begins_with(self._state) else None

    @property
    def sealed(self) -> Sealed | None:
        """The last sum, and how answers to it are sealed."""
        state = self._state
        epoch = state.age.epoch if state.age else 0
        now, before = _sent(state.now), _sent(state.before)
        return Sealed(state.run, epoch, self._unit, now, before)

    @_timed
    def readable(self) -> Vector | None:
        """The model where this process may open it: the first one, or as a key holder."""
        if self._state.now is None:
            return self._public
        sealed = self.sealed
        return self._open_model(sealed) if self._open_model and sealed else None

    def finish(self, cohort: Cohort) -> list[Failure]:
        """Have the silos write the final model down; those that could not are named."""
        sealed = self.sealed
        if sealed is None or sealed.now is None:
            return []
        request = KeyRequest(sealed.run, sealed.epoch, self._round, carried=sealed)
        holders = [node for node in cohort.nodes if self.admits(cohort.name(node))]
        return self._ask(holders, dict.fromkeys(holders, request), KEEP, cohort)[1]

    def tensors(self) -> dict[str, np.ndarray]:
        """The sums, as bytes, and what is public about the key."""
        state = self._state
        facts = {"run": state.run, "round": self._round}
        if state.age:
            facts |= {"epoch": state.age.epoch, "since": state.age.since}
            facts["members"] = list(state.age.members)
        kept = {"sealed.facts": json.dumps(facts).encode(), "sealed.now": state.now or b""}
        kept["sealed.before"] = state.before or b""
        tensors = {name: np.frombuffer(value, np.uint8) for name, value in kept.items()}
        public = self._first_model()
        return tensors | ({} if public is None else {"weights": public})

    def _first_model(self) -> Vector | None:
        """The public model, as long as this round or the one that it may fall back to needs it."""
        needed = any(self._begins_with(each) for each in (self._state, self._fallback))
        return self._public if needed else None

    def _begins_with(self, state: _State) -> bool:
        """Whether the first model is the state's own or the one before it."""
        return state.now is None or (self._two and state.before is None)

    def restore(self, tensors: Tensors) -> None:
        """Go on from what `tensors` gave."""
        facts: Mapping[str, Any] = json.loads(tensors["sealed.facts"].tobytes())
        age = None
        if "epoch" in facts:
            age = KeyAge(
                epoch=facts["epoch"], since=facts["since"], members=tuple(facts["members"])
            )
        now, before = (_kept(tensors[f"sealed.{name}"].tobytes()) for name in ("now", "before"))
        self._state = _State(facts["run"], age, now, before)
        self._fallback, self._round = self._state, facts["round"]
        # Silos mask a round of an epoch once, and the round after the last one may have begun.
        self._spoilt = self._encryption.pairwise_masks
        self._public = tensors.get("weights")

    def describe(self) -> EncryptionFacts | None:
        """What a reader should know: parameters, size, and who can read the model."""
        facts = self._cipher.facts
        return EncryptionFacts(
            scheme=facts.scheme,
            profile=facts.profile,
            layout=facts.layout,
            ring_degree=facts.degree,
            modulus_bits=facts.modulus_bits,
            security_bits=facts.security_bits,
            most_silos=facts.max_clients,
            upload_bytes_per_parameter=self._upload_bytes / self._size,
            smallest_sum=self._encryption.smallest_sum,
            pairwise_masks=self._encryption.pairwise_masks,
            epochs=self._state.age.epoch if self._state.age else 0,
            model_held_by="every silo that holds the key"
            + (", and the host of this simulation" if self._open_model else ""),
        )

    @property
    def _session(self) -> Session:
        epoch = self._state.age.epoch if self._state.age else 0
        return Session(run=self._state.run, epoch=epoch, roster=self._identities)

    def _sum_for(self, upload: bytes) -> Adder:
        """The sum of the upload's scale: a silo cannot make the others' uploads unusable."""
        terms = read_header(upload)[0].terms
        expected = (f"{self._state.run}/{self._session.epoch}/update", self._round, self._size)
        if (terms.run, terms.round, terms.size) != expected:
            raise ValueError(f"it is for {terms.run}, round {terms.round}, {terms.size} values")
        if terms.clamp not in self._sums:
            if len(self._sums) >= MOST_CLAMPS:
                raise ValueError("too many different scales in one round")
            self._sums[terms.clamp] = self._cipher.adder(terms)
        return self._sums[terms.clamp]

    def _distribute(self, epoch: int, round_: int, cohort: Cohort) -> list[Failure]:
        """Relay offers to the elected silo and its wrapped keys to the others."""
        request = KeyRequest(self._state.run, epoch, round_)
        nodes = {
            name: node for node in cohort.nodes if (name := cohort.name(node)) in cohort.willing
        }
        asked = dict.fromkeys(nodes.values(), request)
        offers, failures = self._ask(list(asked), asked, OFFER, cohort)
        carried = None if self._state.now is None else self.sealed
        # Only who holds the old key can carry the model over to the new one.
        holders = self._state.age.members if carried and self._state.age else tuple(offers)
        offers = {name: answer for name, answer in offers.items() if answer.offer}
        elected = elect(self._identities, [name for name in offers if name in holders])
        # Silos elect for themselves, among all offers: only holders of the old model may precede.
        gathered = [o.offer for n, o in offers.items() if self._may_offer(n, elected) and o.offer]
        request = replace(request, offers=tuple(gathered))
        made, refused = self._ask(
            [nodes[elected]], {nodes[elected]: replace(request, carried=carried)}, MAKE, cohort
        )
        if elected not in made:
            raise ExperimentError(f"no key could be made: {refused[0].reason}")
        wraps = {n: w for n, w in made[elected].wraps.items() if n in nodes}
        requests = {nodes[name]: replace(request, wrapped=wrap) for name, wrap in wraps.items()}
        not_taken = self._ask(list(requests), requests, TAKE, cohort)[1]
        lost = {failure.silo for failure in not_taken}
        members = self._identities.ordered([elected, *(name for name in wraps if name not in lost)])
        # Else the rule would find other silos than have the key, and ask for a new one in every
        # round.
        self._without_key = set(nodes) - set(members)
        now, before = _kept(made[elected].now), _kept(made[elected].before)
        now = now or self._state.now
        age = KeyAge(epoch=epoch, since=round_, members=members)
        self._state = replace(self._state, age=age, now=now, before=before)
        # Also what is fallen back on must open under the key in use.
        self._fallback = self._state
        return [*failures, *not_taken]

    def _may_offer(self, name: str, elected: str) -> bool:
        return self._identities.place(name) >= self._identities.place(elected)

    def _ask(
        self, nodes: list[int], requests: Mapping[int, KeyRequest], kind: str, cohort: Cohort
    ) -> tuple[dict[str, KeyAnswer], list[Failure]]:
        """Answers by silo, and who failed."""
        messages = [Message(requests[node].to_records(), node, kind) for node in nodes]
        failures: list[Failure] = []
        replies = self._relay(cohort).replies(messages, failures)
        return dict(read_all(replies, KeyAnswer.from_records, failures)), failures

    def _relay(self, cohort: Cohort) -> Relay:
        return Relay(self._grid, cohort, self._experiment.round_timeout)


def _kept(sum_: bytes | None) -> _Sum:
    return paged_join([sum_]) if sum_ else None


def _sent(sum_: _Sum) -> bytes | None:
    # A copy for every sending: Flower's arrays hold `bytes` and nothing else.
    return None if sum_ is None else bytes(sum_)


def _weight_unit(cohort: Cohort) -> float:
    """One over the records of the largest silo; 1 where silos all count the same."""
    counts = [silo.records for silo in cohort if silo.records]
    return 1.0 / max(counts) if counts else 1.0
