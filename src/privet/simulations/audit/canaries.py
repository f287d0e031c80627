"""What a simulation's canaries show: did the mechanism run that was claimed and charged?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from privet.privacy.audit.canary_files import CANARIES, read_sightings
from privet.privacy.audit.claims import Claim, judged
from privet.privacy.audit.mechanism import mechanism_claims
from privet.privacy.audit.sightings import Sighting
from privet.simulations.audit.evidence import Evidence
from privet.simulations.audit.sums import parts_of_charges


def claims(run: Evidence) -> Iterator[Claim]:
    """None for a run without canaries."""
    seen = read_sightings(run.folder / CANARIES)
    if not seen:
        return
    statement = "Canaries were seen of the mechanism that the ledger charges."
    yield judged("mechanism.canaries", run.subject, statement, faults=_elsewhere(run, seen))
    told, delta = run.lines[-1].epsilon, run.delta
    if told is not None and told.max is not None and delta is not None:
        yield from mechanism_claims(seen, subject=run.subject, epsilon=told.max, delta=delta)


def _elsewhere(run: Evidence, seen: Sequence[Sighting]) -> Iterator[str]:
    for each in seen:
        bill = run.bill(each.silo)
        if bill is None:
            continue
        charged = parts_of_charges(bill.of("training", each.round))
        ran = (each.plan.noise_multiplier, each.plan.sampling_rate, len(each.gradients))
        if ran not in [(part.noise_multiplier, part.sampling_rate, part.steps) for part in charged]:
            yield (
                f"{each.silo}, round {each.round}: noise multiplier {ran[0]:g}, sampling rate "
                f"{ran[1]:g}, {ran[2]} steps are not what the ledger charges"
            )
