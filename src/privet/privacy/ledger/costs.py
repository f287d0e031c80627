"""What the ledger's events cost: when one provably covers another, and the epsilon of many.

Composition is commutative, so equal mechanisms are counted together. The mechanisms are then
composed along a binary tree whose shape depends on nothing but which mechanisms there are: the
figure is the same to the last bit however the entries were ordered, and one more step of one
mechanism costs one convolution a level, the rest being remembered.

A caveat that belongs to every accountant of this kind: the composition theorem for privacy loss
distributions fixes the mechanisms beforehand. When later noise is chosen by looking at earlier
outputs, the bound is proven for Renyi and Gaussian DP (Feldman & Zrnic 2021, arXiv 2008.11193;
Smith & Thakurta 2022, arXiv 2210.17520) and is believed, not proven, for arbitrary ones.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial

from privet.errors import PrivacyError
from privet.privacy.accounting import decode_event, encode_event
from privet.privacy.accounting.events import Segment, merged
from privet.privacy.accounting.gaussian import folded
from privet.privacy.accounting.losses import NOTHING, Pair, Tilts, composed_epsilon, losses_of
from privet.privacy.accounting.spending import check_delta
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

    Each step that ran must be covered by a reserved step with at most its noise multiplier and at
    least its sampling rate. More noise is post-processing; a lower rate q' < q is the q-sampled
    mechanism over a sample drawn first, a mixture that reveals less. Steps are covered by their own
    mechanism first, then greedily: what would suffice may be refused, never the reverse.
    """
    left = {part: part.steps for part in reserved}
    for part in sorted(ran, key=lambda part: not any(map(part.same_mechanism, reserved))):
        uncovered = part.steps
        for source in sorted(left, key=lambda source: not source.same_mechanism(part)):
            if _dominates(source, part):
                covered = min(uncovered, left[source])
                left[source] -= covered
                uncovered -= covered
        if uncovered:
            return False
    return True


def _dominates(reserved: Segment, ran: Segment) -> bool:
    return (
        ran.noise_multiplier >= reserved.noise_multiplier
        and ran.sampling_rate <= reserved.sampling_rate
    )


REMEMBERED_BYTES = 2**27
"""What is cached of the tree's branches between two calls: 128 MiB."""


def epsilon_of(parts: Iterable[Segment], *, delta: float) -> float:
    """Epsilon at `delta` of all `parts` together, in any order; infinity when unbounded.

    Pure: it depends on the multiset of (noise multiplier, sampling rate, steps) alone.
    Raises PrivacyError for a delta outside [1e-12, 1), and for one that so many steps do not allow.
    """
    check_delta(delta)
    ordered = tuple(sorted(_counted(parts), key=_place))
    return _epsilon(ordered, delta)


def _counted(parts: Iterable[Segment]) -> list[Segment]:
    steps: dict[tuple[float, float], int] = {}
    for part in parts:
        mechanism = (part.noise_multiplier, part.sampling_rate)
        steps[mechanism] = steps.get(mechanism, 0) + part.steps
    return [Segment(sigma, rate, count) for (sigma, rate), count in steps.items() if count]


def _place(part: Segment) -> int:
    return _address(part.noise_multiplier, part.sampling_rate)


@lru_cache(maxsize=4096)
def _address(noise_multiplier: float, sampling_rate: float) -> int:
    """The place of a mechanism in the tree: by a hash, so that every tree is balanced."""
    # Adding 0.0 makes -0.0 and 0.0, which are equal, one mechanism.
    content = struct.pack(">dd", noise_multiplier + 0.0, sampling_rate + 0.0)
    return int.from_bytes(hashlib.sha256(content).digest(), "big")


@lru_cache(maxsize=4096)
def _epsilon(ordered: tuple[Segment, ...], delta: float) -> float:
    parts = folded(ordered)
    return composed_epsilon(parts, delta=delta, compose=partial(_whole, parts))


def _whole(parts: tuple[Segment, ...], tilts: Tilts) -> Pair | None:
    """All `parts` at `tilts`; what is unsampled comes last, since each of its steps changes it."""
    sampled = tuple(part for part in parts if part.sampling_rate < 1)
    whole = _composed(sampled, tilts) if sampled else NOTHING
    for part in parts[len(sampled) :]:
        gaussian = losses_of(part, tilts)
        if whole is None or gaussian is None:
            return None
        whole = gaussian if whole is NOTHING else whole.compose(gaussian)
    return whole


Branch = tuple[tuple[Segment, ...], Tilts]
"""The parts of a branch, and their tilts."""


# Bounded by bytes and not by number: a branch holds from one mass to a million.
class _Branches:
    """The branches of trees that were used last, up to REMEMBERED_BYTES of losses."""

    def __init__(self) -> None:
        self._known: OrderedDict[Branch, tuple[Pair | None]] = OrderedDict()
        self._bytes = 0
        self._mutex = threading.Lock()

    def recall(self, branch: Branch) -> tuple[Pair | None] | None:
        with self._mutex:
            found = self._known.pop(branch, None)
            if found is not None:
                self._known[branch] = found
            return found

    def keep(self, branch: Branch, losses: Pair | None) -> Pair | None:
        with self._mutex:
            if branch not in self._known:
                self._known[branch] = (losses,)
                self._bytes += _size(losses)
            while self._bytes > REMEMBERED_BYTES:
                self._bytes -= _size(self._known.popitem(last=False)[1][0])
        return losses


_branches = _Branches()


def _composed(ordered: tuple[Segment, ...], tilts: Tilts) -> Pair | None:
    branch = (ordered, tilts)
    known = _branches.recall(branch)
    if known is not None:
        return known[0]
    if len(ordered) == 1:
        return _branches.keep(branch, losses_of(ordered[0], tilts))
    # Convolution is not associative to the last bit, so where the tree forks must follow from the
    # mechanisms alone and not from the order in which they came.
    middle = _fork(ordered)
    left, right = _composed(ordered[:middle], tilts), _composed(ordered[middle:], tilts)
    whole = None if left is None or right is None else left.compose(right)
    return _branches.keep(branch, whole)


def _size(losses: Pair | None) -> int:
    return 0 if losses is None else losses.remove.masses.nbytes + losses.add.masses.nbytes


def _fork(ordered: tuple[Segment, ...]) -> int:
    """The first part behind the highest bit in which the addresses differ."""
    bit = (_place(ordered[0]) ^ _place(ordered[-1])).bit_length() - 1
    return next(i for i, part in enumerate(ordered) if _place(part) >> bit & 1)
