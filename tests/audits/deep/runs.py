"""Small runs to be audited deeply, and what such an audit says of them."""

from __future__ import annotations

from pathlib import Path

from privet import Execution, Experiment
from privet.audits import evidence
from privet.audits.claims import Claim
from privet.audits.deep.claims import deep_audit
from privet.audits.deep.record import Deep, DeepOptions
from privet.simulations.run import simulate

Claims = tuple[Claim, Claim]


def experiment(**changes: object) -> Experiment:
    """Six silos of 239 digits, four rounds of six steps, each of 96 records."""
    return Experiment.from_mapping({"task": "digits"}).with_settings(
        {
            "model": "linear",
            "rounds": 4,
            "seed": 5,
            "federation.silos": 6,
            "training.batch_size": 96,
            "training.steps": 6,
            "training.lr": 0.5,
            "privacy.epsilon": 4.0,
            **changes,
        }
    )


def run(folder: Path, **changes: object) -> Path:
    """The folder of a finished run."""
    simulate(experiment(**changes), out=folder / "run", execution=Execution(engine="in-process"))
    return folder / "run"


def deep(folder: Path, *, models: int = 200, seed: int = 1) -> tuple[Claims, Deep | None]:
    """The claims of the server's view and of the last model's, and the record."""
    own = evidence.read_own(folder, subject="ledger", keys={})
    found = evidence.read_run(folder, subject="run", others=(), own=own, policy=None)
    options = DeepOptions(models, seed)
    (updates, model), record = deep_audit(found, options, watch=lambda _done: None)
    assert (updates.id, model.id) == ("mechanism.deep-updates", "mechanism.deep-model")
    return (updates, model), record


def attacked(folder: Path, *, models: int = 200, seed: int = 1) -> tuple[Claims, Deep]:
    """The same of a run that can be trained again."""
    claims, record = deep(folder, models=models, seed=seed)
    assert record is not None, claims[0].evidence
    return claims, record
