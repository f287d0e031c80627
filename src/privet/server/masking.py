"""A masked round, as the server relays it: shares before training, and unmasking at the end.

The server learns the survivors' sum of masks and takes it out of a sum that is encrypted all the
same. What silos that side with it could see is in `privet.privacy.encryption.masks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from privet.errors import PrivetError
from privet.experiment import EncryptionSettings
from privet.privacy.encryption import Adder
from privet.privacy.encryption.keys import Session
from privet.privacy.encryption.masks import MaskError, MaskPlan, correction, least_threshold
from privet.server.cohort import Cohort
from privet.wire import ADVERT, CONSENT, MASKS, REVEAL, SHARE, Failure, MaskAnswer, MaskRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Relay:
    """A grid with the names of its nodes."""

    grid: Grid
    cohort: Cohort
    timeout: float

    def replies(
        self, messages: Iterable[Message], failures: list[Failure]
    ) -> Iterator[tuple[str, RecordDict]]:
        """What each silo answered; those that did not are added to `failures`."""
        messages = list(messages)
        if not messages:  # Flower's own grid does not take an empty list
            return
        for reply in self.grid.send_and_receive(messages, timeout=self.timeout):
            silo = self.cohort.name(reply.metadata.src_node_id)
            if reply.has_error():
                failures.append(Failure.parse(reply.error.reason, silo=silo))
            else:
                yield silo, reply.content


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


class MaskedRound:
    """One round's masks, between the silos that were asked."""

    def __init__(
        self,
        relay: Relay,
        *,
        encryption: EncryptionSettings,
        session: Session,
        round_: int,
        count: int,
        modulus: int,
    ) -> None:
        self._relay, self._encryption = relay, encryption
        self._session, self._round, self._count = session, round_, count
        self._modulus = modulus
        self._nodes: dict[str, int] = {}
        self._adverts: tuple[bytes, ...] = ()
        self._encrypted_shares: dict[str, Mapping[str, bytes]] = {}
        self._threshold = 0

    def deal(self, asked: list[int], failures: list[Failure]) -> list[int]:
        """Have shares dealt between the nodes in `asked`: those between whom it came through.

        A silo that falls out meanwhile makes the others begin again without it. None when too few
        are left to mask.
        """
        nodes = {self._relay.cohort.name(node): node for node in asked}
        while True:
            before = len(failures)
            if not self._try_to_deal(nodes, failures):
                return []
            # Begun anew without them: adverts and shares are bound to who takes part.
            lost = {failure.silo for failure in failures[before:]}
            if not lost:
                return list(self._nodes.values())
            nodes = {name: node for name, node in nodes.items() if name not in lost}

    def record_for(self, silo: str) -> ConfigRecord:
        """What goes to `silo` with its train message."""
        encrypted_shares = {
            sender: dealt[silo] for sender, dealt in self._encrypted_shares.items() if silo in dealt
        }
        return replace(self._request(), encrypted_shares=encrypted_shares).record()

    def unmask(self, total: Adder, failures: list[Failure]) -> str | None:
        """Take the masks out of the sum; the reason when that cannot be done."""
        # Those whose upload is in the sum, not those that answered: only their masks are in it.
        survivors = total.clients
        if len(survivors) < self._threshold:
            return f"updates came: {len(survivors)}; the masks need {self._threshold}"
        request = replace(self._request(), survivors=survivors)
        consents = self._ask(CONSENT, request, survivors, failures)
        request = replace(request, messages=_messages(consents))
        reveals = self._ask(REVEAL, request, tuple(consents), failures)
        try:
            _, masks = correction(
                plan=self._plan(), adverts=self._adverts, reveals=_messages(reveals)
            )
        except PrivetError as error:
            return f"the masks could not be taken out: {error}"
        total.correct(masks, plain_modulus=self._modulus)
        return None

    def _try_to_deal(self, nodes: dict[str, int], failures: list[Failure]) -> bool:
        colluding = self._encryption.colluding
        try:
            least = least_threshold(len(nodes), colluding=colluding)
        except MaskError:
            return False
        # The setting can only raise what is safe.
        self._nodes, self._threshold = nodes, max(least, self._encryption.threshold or 0)
        if self._threshold > len(nodes):
            return False
        before, names = len(failures), tuple(nodes)
        adverts = self._ask(ADVERT, self._request(), names, failures)
        if len(failures) > before:
            # Not False: `deal` finds the failures, and begins again without those silos.
            return True
        self._adverts = _messages(adverts)
        request = replace(self._request(), messages=self._adverts)
        dealt = self._ask(SHARE, request, names, failures)
        self._encrypted_shares = {name: answer.encrypted_shares for name, answer in dealt.items()}
        return True

    def _ask(
        self, kind: str, request: MaskRequest, names: tuple[str, ...], failures: list[Failure]
    ) -> dict[str, MaskAnswer]:
        content = RecordDict({MASKS: request.record()})
        messages = [Message(content, self._nodes[name], kind) for name in names]
        replies = self._relay.replies(messages, failures)
        return dict(read_all(replies, MaskAnswer.from_records, failures))

    def _request(self) -> MaskRequest:
        return MaskRequest(
            run=self._session.run,
            epoch=self._session.epoch,
            round=self._round,
            threshold=self._threshold,
            count=self._count,
            # The modulus is a power of two in the one layout that takes masks.
            bits=self._modulus.bit_length() - 1,
            colluding=self._encryption.colluding,
        )

    def _plan(self) -> MaskPlan:
        request = self._request()
        return MaskPlan(
            session=self._session,
            round=self._round,
            threshold=request.threshold,
            count=request.count,
            bits=request.bits,
            colluding=request.colluding,
        )


def _messages(answers: Mapping[str, MaskAnswer]) -> tuple[bytes, ...]:
    return tuple(answer.message for answer in answers.values() if answer.message is not None)
