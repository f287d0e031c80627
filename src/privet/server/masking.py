"""An encrypted round, as the server relays it: the agreement before training, and the unmasking.

The server learns the survivors' sum of masks and takes it out of a sum that is encrypted all the
same. What silos that side with it could see is in `privet.privacy.encryption.masks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from privet.errors import PrivetError
from privet.privacy.encryption import Adder
from privet.privacy.encryption.backend import Mask
from privet.privacy.encryption.errors import MessageError, SharesRefused
from privet.privacy.encryption.masks import (
    Advert,
    Adverts,
    RoundPlan,
    correction,
    gather_adverts,
    read_advert,
    read_consent,
    read_reveal,
)
from privet.server.cohort import Cohort
from privet.wire import (
    ADVERT,
    CONSENT,
    MASKS,
    REVEAL,
    SHARE,
    Failure,
    MaskAnswer,
    MaskRequest,
    payload_bytes,
)

T = TypeVar("T")
Answers = dict[str, MaskAnswer]


@dataclass
class Relay:
    """A grid with the names of its nodes."""

    grid: Grid
    cohort: Cohort
    timeout: float
    down: int = 0
    """Bytes of what was sent, and came."""
    up: int = 0

    def replies(
        self, messages: Iterable[Message], failures: list[Failure]
    ) -> Iterator[tuple[str, RecordDict]]:
        """What each silo answered; those that did not are added to `failures`."""
        messages = list(messages)
        if not messages:  # Flower's own grid does not take an empty list
            return
        silent = {message.metadata.dst_node_id for message in messages}
        self.down += sum(payload_bytes(message.content) for message in messages)
        for reply in self.grid.send_and_receive(messages, timeout=self.timeout):
            silent.discard(reply.metadata.src_node_id)
            silo = self.cohort.name(reply.metadata.src_node_id)
            if reply.has_error():
                failures.append(Failure.parse(reply.error.reason, silo=silo))
            else:
                self.up += payload_bytes(reply.content)
                yield silo, reply.content
        late = "no reply within round_timeout"
        failures += [Failure(self.cohort.name(node), "transport", late) for node in sorted(silent)]


def read_all(
    replies: Iterable[tuple[str, RecordDict]],
    read: Callable[[RecordDict], T],
    failures: list[Failure],
) -> Iterator[tuple[str, T]]:
    """`replies` as `read` reads them; whatever a peer sends, the others go on."""
    for silo, content in replies:
        try:
            answer = read(content)
        except Exception as error:
            failures.append(Failure(silo, "keys", f"unusable reply: {error}"))
        else:
            yield silo, answer


@dataclass
class MaskedRound:
    """One round between the silos that were asked."""

    relay: Relay
    plan: RoundPlan
    noise: float | None
    model_for: Callable[[str], RecordDict]
    """What tells a silo the model that the round begins with."""
    adverts: Adverts | None = None
    reason: str | None = None
    """Why nobody trains."""
    misdealt: str = ""
    """The silo whose shares fit no secret, whoever of those that passed them on is left out."""
    divided: bool = False
    """Whether too few for a sum have the same key: it was not one that was made for all."""
    _nodes: dict[str, int] = field(default_factory=dict)
    _encrypted_shares: dict[str, Mapping[str, bytes]] = field(default_factory=dict)

    def deal(self, asked: list[int], failures: list[Failure]) -> list[int]:
        """Have the round agreed on by the nodes in `asked`: those between whom it came through.

        A silo that falls out meanwhile makes the others begin again without it. None when too few
        are left.
        """
        nodes = {self.relay.cohort.name(node): node for node in asked}
        while True:
            before = len(failures)
            try:
                self.plan.least(len(nodes))
                self._try_to_deal(nodes, failures)
            except PrivetError as error:
                if len(failures) == before:
                    self.reason = str(error)
                    return []
            # Begun anew without them: adverts and shares are bound to who takes part.
            lost = {failure.silo for failure in failures[before:]}
            if not lost:
                return list(self._nodes.values())
            nodes = {name: node for name, node in nodes.items() if name not in lost}

    def record_for(self, silo: str) -> ConfigRecord:
        """What goes to `silo` with its train message."""
        shares = {
            sender: dealt[silo] for sender, dealt in self._encrypted_shares.items() if silo in dealt
        }
        return self._request(encrypted_shares=shares).record()

    def unmask(self, total: Adder, failures: list[Failure]) -> str | None:
        """Take the masks out of the sum; the reason when that cannot be done."""
        assert self.adverts is not None
        # Those whose upload is in the sum, not those that answered: only their masks are in it.
        survivors = total.clients
        if len(survivors) < self.adverts.threshold:
            return f"updates came: {len(survivors)}; the round needs {self.adverts.threshold}"
        try:
            self.adverts.demand_weight(survivors)
        except PrivetError as error:
            return str(error)
        if not self.plan.masked:
            return None
        adverts = self.adverts
        consents = self.ask(CONSENT, self._request(survivors=survivors), survivors, failures)
        # One silo's nonsense would have all others refuse what they are shown together.
        read = partial(read_consent, adverts=adverts)
        consents = _sound(consents, lambda name: (name, survivors), read, failures)
        request = self._request(messages=_messages(consents))
        reveals = self.ask(REVEAL, request, tuple(consents), failures)

        def revealed(message: bytes) -> tuple[str, tuple[str, ...]]:
            reveal = read_reveal(message, adverts=adverts)
            return reveal.name, reveal.survivors

        reveals = _sound(reveals, lambda name: (name, survivors), revealed, failures)
        try:
            masks = self._correction(reveals, failures)
        except PrivetError as error:
            if isinstance(error, SharesRefused):
                self.misdealt = error.dealer
                failures.append(Failure(error.dealer, "keys", "shares of its mask fit no secret"))
            return f"the masks could not be taken out: {error}"
        total.unmask(masks)
        return None

    def _correction(self, reveals: Answers, failures: list[Failure]) -> Mask:
        """From all reveals; or without the one whose shares fit nothing, if they are enough."""
        assert self.adverts is not None
        messages = self.adverts.messages
        try:
            return correction(plan=self.plan, adverts=messages, reveals=_messages(reveals))[1]
        except MessageError:
            for name in reveals:
                others = {each: answer for each, answer in reveals.items() if each != name}
                with suppress(PrivetError):
                    found = correction(plan=self.plan, adverts=messages, reveals=_messages(others))
                    failures.append(Failure(name, "keys", "its shares fit no secret"))
                    return found[1]
            raise

    def ask(
        self,
        kind: str,
        request: MaskRequest,
        names: tuple[str, ...],
        failures: list[Failure],
        more: Callable[[str], RecordDict] = lambda _: RecordDict(),
    ) -> Answers:
        """Answers by silo, and who failed; `more` goes to each beside the request."""
        record = request.record()
        messages = [
            Message(RecordDict({**more(name), MASKS: record}), self._nodes[name], kind)
            for name in names
        ]
        replies = self.relay.replies(messages, failures)
        return dict(read_all(replies, MaskAnswer.from_records, failures))

    def _try_to_deal(self, nodes: dict[str, int], failures: list[Failure]) -> None:
        self._nodes, names = nodes, tuple(nodes)
        request = self._request(noise_multiplier=self.noise)
        before = len(failures)
        adverts = self.ask(ADVERT, request, names, failures, self.model_for)
        # One by one: who adverts another plan or key can be named, and the others go on.
        read = {name: self._read_advert(name, each, failures) for name, each in adverts.items()}
        self._demand_one_key([each for each in read.values() if each], failures)
        if len(failures) > before:
            return
        self.adverts = gather_adverts(_messages(adverts), plan=self.plan)
        request = self._request(messages=self.adverts.messages)
        dealt = self.ask(SHARE, request, names, failures)
        self._encrypted_shares = {name: answer.encrypted_shares for name, answer in dealt.items()}
        for name, shares in self._encrypted_shares.items():
            if self.plan.masked and {name, *shares} != set(names):
                failures.append(Failure(name, "keys", "it dealt shares to others than there are"))

    def _demand_one_key(self, adverts: list[Advert], failures: list[Failure]) -> None:
        """Go on with those whose key most have; the others are named."""
        if not (counted := Counter(advert.key for advert in adverts)):
            return
        ((key, most),) = counted.most_common(1)
        others = [advert.name for advert in adverts if advert.key != key]
        self.divided |= bool(others) and most < self.plan.least(len(adverts))
        failures += [Failure(name, "keys", "it has another key than most") for name in others]

    def _read_advert(self, name: str, answer: MaskAnswer, failures: list[Failure]) -> Advert | None:
        try:
            stated = read_advert(answer.message or b"", plan=self.plan)
        except PrivetError as error:
            failures.append(Failure(name, "keys", str(error)))
        else:
            if stated.name == name:
                return stated
            failures.append(Failure(name, "keys", f"it is signed by silo {stated.name!r}"))
        return None

    def _request(self, **more: Any) -> MaskRequest:
        return MaskRequest(self.plan.session.epoch, self.plan.round, **more)


def _sound(
    answers: Answers,
    expected: Callable[[str], T],
    read: Callable[[bytes], T],
    failures: list[Failure],
) -> Answers:
    """Those that say what is `expected` of the silo; the others are named."""
    sound: Answers = {}
    for name, answer in answers.items():
        try:
            said = read(answer.message or b"")
        except PrivetError as error:
            failures.append(Failure(name, "keys", str(error)))
        else:
            if said == expected(name):
                sound[name] = answer
            else:
                failures.append(Failure(name, "keys", "it speaks for others"))
    return sound


def _messages(answers: Mapping[str, MaskAnswer]) -> tuple[bytes, ...]:
    return tuple(answer.message for answer in answers.values() if answer.message is not None)
