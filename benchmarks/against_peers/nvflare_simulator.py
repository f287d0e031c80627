"""NVFlare's simulator, with a site and a thread for each client of a cohort."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from nvflare.job_config.api import FedJob
from nvflare_parts import OUTCOME, Averaging, Trainer
from workloads import WORKLOADS, asked, say


def main() -> None:
    workload = WORKLOADS[asked().parse_args().workload]
    job = FedJob(name="against-peers", min_clients=workload.cohort)
    job.to_server(Averaging(workload.name))
    job.to_clients(Trainer(workload.name))
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder) / "accuracy.jsonl"
        os.environ[OUTCOME] = str(outcome)
        job.simulator_run(
            folder, n_clients=workload.cohort, threads=workload.cohort, log_config="concise"
        )
        say(json.loads(outcome.read_text().splitlines()[-1])["accuracy"])


if __name__ == "__main__":
    main()
