"""A simulated silo's canaries, and the file in which what is seen of them is kept for the audit.

The node's own configuration asks for them (`canaries`, how many coordinates, and `canaries-dir`), a
job cannot. Real silos have none.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context

from privet.client.silo import Silo
from privet.privacy.audit.canary_files import add_sighting
from privet.privacy.audit.sightings import Sighting
from privet.privacy.mechanisms import Canaries, CanaryTrace, DpSgd
from privet.randomness import numpy_generator, stream


def canaries_of(silo: Silo, context: Context) -> Canaries | None:
    """The silo's canaries, each in or out by a fair coin of the seed's, once for all rounds."""
    count = int(context.node_config.get("canaries", 0))
    if silo.seed is None or count == 0:
        return None
    coins = numpy_generator(stream(silo.seed, "canaries", silo.index)).random(count)
    return Canaries(coins < 0.5)


def keep_trace(
    silo: Silo, context: Context, round_: int, plan: DpSgd, canaries: Canaries, trace: CanaryTrace
) -> None:
    """Write down what a round's training made of the canaries."""
    folder = Path(str(context.node_config["canaries-dir"]))
    sighting = Sighting(silo.name, round_, plan, canaries.inserted, trace.sampled, trace.gradients)
    add_sighting(folder / f"silo-{silo.index}.jsonl", sighting)
