"""A silo's canaries, and the file in which what is seen of them is kept for the audit.

The node's own configuration asks for them (`canaries`, how many coordinates, and `canaries-dir`), a
job cannot.
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
    """The silo's canaries, each in or out by a fair coin, the same in all rounds of a job.

    Coins follow from the seed, and on a real silo from the job and its name: the block never leaves
    the silo, so there is nobody to be kept from guessing them.
    """
    count = int(context.node_config.get("canaries", 0))
    if count == 0:
        return None
    own = stream(0, "canaries", str(context.node_config.get("job")), silo.name)
    belongs_to = own if silo.seed is None else stream(silo.seed, "canaries", silo.index)
    return Canaries(numpy_generator(belongs_to).random(count) < 0.5)


def keep_trace(
    silo: Silo, context: Context, round_: int, plan: DpSgd, canaries: Canaries, trace: CanaryTrace
) -> None:
    """Write down what a round's training made of the canaries."""
    folder = Path(str(context.node_config["canaries-dir"]))
    sighting = Sighting(silo.name, round_, plan, canaries.inserted, trace.sampled, trace.gradients)
    name = silo.name if silo.seed is None else f"silo-{silo.index}"
    add_sighting(folder / f"{name}.jsonl", sighting)
