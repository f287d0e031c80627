"""Does DP-SGD's claim hold for the run's model and loss? Looked at anew, on made-up examples.

A run's record cannot say so: whoever wrote it may have trained with checks left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from privet.audits.claims import Claim, judged, unknown
from privet.audits.evidence import Evidence
from privet.errors import ModelError

STATEMENT = (
    "On made-up examples a batch's loss is the mean of its examples' own, and the model takes each "
    "example by itself and keeps nothing of it."
)


def claims(run: Evidence) -> Iterator[Claim]:
    """`mechanism.sound` of a run with differential privacy.

    UNKNOWN where its task or its data are not here. The task's code runs.
    """
    if run.settings.privacy is None:
        return
    # Here, so that an audit without private runs loads nothing that trains.
    from privet.audits.code import training_code
    from privet.privacy.mechanisms import check_training

    id_ = "mechanism.sound"
    try:
        code = training_code(run.settings)
    except Exception as error:  # the task is somebody's own code, and so are its data
        yield unknown(id_, run.subject, STATEMENT, f"the task cannot be made here: {error}")
        return
    faults = []
    try:
        check_training(code.model, code.loss, code.like, base=code.base)
    except ModelError as fault:
        faults = [str(fault)]
    yield judged(id_, run.subject, STATEMENT, faults=faults)


def claims_of_steps(run: Evidence) -> Iterator[Claim]:
    """What `steps` says of what ran, for a run with differential privacy."""
    if run.settings.privacy is not None:
        from privet.audits import steps

        yield from steps.claims(run)


def claims_of_code(run: Evidence) -> Iterator[Claim]:
    """What `steps` says of the code that is installed here, for such a run."""
    if run.settings.privacy is not None:
        from privet.audits import steps

        yield from steps.claims_of_code(run)
