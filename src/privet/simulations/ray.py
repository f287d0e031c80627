"""The same experiment on Flower's own Ray simulation, for a cluster."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from privet.devices import Device
from privet.errors import ExperimentError
from privet.server.app import Hosting, run
from privet.simulations.apps import SimulatedSilos, simulated_client_app
from privet.simulations.prepare import Prepared


def run_on_ray(
    prepared: Prepared, hosting: Hosting, simulated: SimulatedSilos, *, workers: int
) -> None:
    """Run with one CPU a silo, and one GPU on such a device, and `workers` CPUs in all.

    ExperimentError when Ray is missing.
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ExperimentError(
            "engine = 'ray' needs Ray: pip install 'privet[ray]', or use --engine in-process"
        ) from None
    if prepared.experiment.strategy.name == "scaffold" and hosting.resume:
        raise ExperimentError("--resume with --engine ray and scaffold: Ray keeps no silo memory")
    if prepared.experiment.federation.local is not None and hosting.resume:
        raise ExperimentError("--resume with --engine ray and federation.local: Ray keeps no parts")
    from flwr.simulation import run_simulation
    from flwr.supercore import telemetry

    # Flower reads the variable once, when it is imported, which was before this.
    telemetry.FLWR_TELEMETRY_ENABLED = os.environ.get("FLWR_TELEMETRY_ENABLED", "0")

    logging.getLogger("flwr").setLevel(logging.ERROR)  # its progress would mix with ours
    outcome = _Outcome()
    with _path_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Ray's, on accelerators
        run_simulation(
            server_app=_server(prepared, hosting, outcome),
            client_app=simulated_client_app(prepared.experiment, simulated),
            num_supernodes=len(prepared.place.silos),
            backend_config={
                "init_args": {"num_cpus": workers, "log_to_driver": False},
                "client_resources": {"num_cpus": 1, "num_gpus": _gpus(simulated.device)},
            },
        )
    if outcome.error is not None:
        raise outcome.error


def _gpus(device: Device) -> float:
    """That one silo at a time owns; Ray shows its process no other."""
    return 1.0 if device.kind == "cuda" else 0.0


@contextmanager
def _path_kept() -> Iterator[None]:
    """Flower lengthens PYTHONPATH with every run of a process, until Ray cannot be started."""
    before = os.environ.get("PYTHONPATH")
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH", None)
        if before is not None:
            os.environ["PYTHONPATH"] = before


class _Outcome:
    """Carries an exception out of the thread in which Flower runs the ServerApp."""

    error: BaseException | None = None


def _server(prepared: Prepared, hosting: Hosting, outcome: _Outcome) -> ServerApp:
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        # Flower's simulation hands no run config to apps that it is given as objects.
        context.run_config = dict(prepared.experiment.to_run_config())
        try:
            _wait_for_nodes(grid, len(prepared.place.silos))
            run(grid, context, hosting)
        except BaseException as error:
            outcome.error = error

    return server


def _wait_for_nodes(grid: Grid, silos: int) -> None:
    # Flower starts the ServerApp while it still registers nodes.
    pause = threading.Event()
    while len(list(grid.get_node_ids())) < silos:
        pause.wait(0.05)
