"""A job on real silos, audited by somebody who was given what the parties kept of it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from privet.audits import audit
from privet.deployment.trial import SERVER, Trial
from privet.privacy.ledger import SiloKey
from trials import OVER, PRIVATE, begun


@pytest.mark.slow
def test_silos_that_have_canaries_can_show_their_mechanism(tmp_path: Path) -> None:
    with Trial.create(tmp_path / "trial") as trial:
        for name in trial.silos:
            kit = trial.kit(name) / "silo.toml"
            kit.write_text("canaries = 60\n" + kit.read_text())
        job = begun(trial, {**PRIVATE, "rounds": 3})
        with trial.client() as client:
            while client.job(job)["state"] not in OVER:
                time.sleep(0.2)
            assert client.job(job)["state"] == "finished", client.log(job, start=0)
    run = trial.kit(SERVER) / "state/jobs" / job / "run"
    ledgers, keys = [], {}
    for name in trial.silos:
        kit = trial.kit(name)
        shutil.copytree(kit / "state/canaries" / job, run / "canaries", dirs_exist_ok=True)
        ledgers.append(kit / "ledger.sqlite")
        keys[name] = SiloKey.load(kit / "identity.key").public
    report = audit([run, *ledgers], base=tmp_path, keys=keys)
    told = {claim.id: claim for claim in report.claims if claim.id.startswith("mechanism.")}
    assert {id_: claim.verdict for id_, claim in told.items()} == {
        "mechanism.canaries": "PASS",
        "mechanism.conformance": "PASS",
        "mechanism.lower-bound": "PASS",
        "mechanism.sound": "PASS",
        "mechanism.steps": "PASS",
        "mechanism.dry-run": "PASS",
        "mechanism.code": "PASS",
    }
    assert report.verdict == "PASS"
