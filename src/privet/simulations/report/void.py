"""Rounds of an encrypted run that came to nothing, and silos that had no part in its keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privet.simulations.pages.formatting import counted, in_rounds, listed, shortened
from privet.simulations.report.curves import in_order
from privet.simulations.report.run import DECRYPT_STAGE, KEYS_STAGE, Round, Run

LENGTH = 200
REASONS = 3
"""At most this many reasons stand in the notice; every one is told with who took part."""


@dataclass(frozen=True)
class Void:
    """Rounds that are void for one reason; `silos` could not open the model that they were sent."""

    reason: str
    rounds: tuple[int, ...]
    silos: tuple[str, ...]

    @property
    def text(self) -> str:
        """Which rounds, why, and what became of the model."""
        told = (
            f"{_capital(in_rounds(self.rounds))} {'was' if len(self.rounds) == 1 else 'were'} void:"
            f" {self.reason}. What arrived then is not in the model."
        )
        if not self.silos:
            return told
        return (
            f"{told} The sum that could not be opened was given up, and with it the updates of the "
            f"round that made it. Who reported it: {listed(self.silos)}."
        )


def is_void(run: Run, entry: Round) -> bool:
    """Whether a round's sum could not be opened, or would not have been."""
    return run.sealing is not None and entry.skipped is not None


def voids(run: Run) -> tuple[Void, ...]:
    """One for each reason, in the order of their first rounds."""
    found: dict[str, list[Round]] = defaultdict(list)
    for entry in run.trained:
        if is_void(run, entry):
            found[shortened(entry.skipped or "", LENGTH)].append(entry)
    return tuple(
        Void(reason, tuple(each.number for each in rounds), _could_not_open(run, rounds))
        for reason, rounds in found.items()
    )


def notices(run: Run) -> Iterator[str]:
    """What of it must be known before anything else on the page is read."""
    found = voids(run)
    if found:
        yield _void_notice(run, found)
    without = _keyless(run)
    if without:
        named = listed([f"{shortened(s, 60)} in {in_rounds(n)}" for s, n in without.items()])
        yield f"A step with keys or masks failed at {counted(len(without), 'silo')}: {named}."
    clipped = run.sealing.outcome.clipped if run.sealing and run.sealing.outcome else 0
    if clipped:
        yield (
            f"Encryption cut off {counted(clipped, 'value')} that its encoding has no room for, so "
            "sums are not those of the updates."
        )


def _void_notice(run: Run, found: Sequence[Void]) -> str:
    numbers = [number for each in found for number in each.rounds]
    verb = "was" if len(numbers) == 1 else "were"
    why = "; ".join(each.reason for each in found[:REASONS])
    more = f"; and {counted(len(found) - REASONS, 'more reason')}" if len(found) > REASONS else ""
    paid = (
        " Silos whose update arrived were charged all the same." if run.section("privacy") else ""
    )
    return (
        f"{len(numbers):,} of {counted(len(run.trained), 'round')} {verb} void, because a sum "
        f"could not be opened ({in_rounds(numbers)}): {why}{more}.{paid}"
    )


def _could_not_open(run: Run, rounds: Sequence[Round]) -> tuple[str, ...]:
    failures = (failure for entry in rounds for failure in entry.failures)
    return tuple(in_order(run, (f.silo for f in failures if f.stage == DECRYPT_STAGE)))


def _keyless(run: Run) -> dict[str, list[int]]:
    """By silo, the rounds in which a step with keys or masks failed at it."""
    found: dict[str, list[int]] = defaultdict(list)
    for entry in run.trained:
        for failure in entry.failures:
            if failure.stage == KEYS_STAGE:
                found[failure.silo].append(entry.number)
    return {silo: found[silo] for silo in in_order(run, found)}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
