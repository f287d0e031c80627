"""Events as they stand in the ledger, and when one is provably no dearer than another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from privet.errors import PrivacyError
from privet.privacy.accounting import decode_event, encode_event
from privet.privacy.accounting.segments import Segment, merged
from privet.privacy.dp_events import DpEvent
from privet.privacy.ledger.entries import canonical


def event_text(event: DpEvent) -> str:
    """The text of `event` in an entry; PrivacyError for events that cannot be accounted."""
    merged([event])
    return canonical(encode_event(event)).decode()


def event_of(text: str) -> DpEvent:
    """The event that `event_text` wrote; PrivacyError for everything else."""
    try:
        return decode_event(json.loads(text))
    except (ValueError, RecursionError):
        raise PrivacyError("not an encoded privacy event") from None


@lru_cache(maxsize=4096)
def parts_of(text: str) -> tuple[Segment, ...]:
    """The sampled Gaussian mechanisms that the event in `text` is made of."""
    return tuple(merged([event_of(text)]))


def covers(reserved: Sequence[Segment], ran: Sequence[Segment]) -> bool:
    """Whether `ran` provably costs at most `reserved`, at every delta and after any other run.

    Each step that ran must be paid by a reserved step with at most its noise multiplier and at
    least its sampling rate. More noise is post-processing; a lower rate q' < q is the q-sampled
    mechanism over a sample drawn first, a mixture that reveals less. Steps are paid by their own
    mechanism first, then greedily: some dearer reservations may be refused, no cheaper accepted.
    """
    left = {part: part.steps for part in reserved}
    for part in sorted(ran, key=lambda part: not any(map(part.same_mechanism, reserved))):
        owed = part.steps
        for payer in sorted(left, key=lambda payer: not payer.same_mechanism(part)):
            if _pays(payer, part):
                paid = min(owed, left[payer])
                left[payer] -= paid
                owed -= paid
        if owed:
            return False
    return True


def _pays(payer: Segment, part: Segment) -> bool:
    return (
        part.noise_multiplier >= payer.noise_multiplier
        and part.sampling_rate <= payer.sampling_rate
    )
