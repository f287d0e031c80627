"""Messages per second: the in-process grid against Flower's Ray engine, the very same apps.

100 clients, 10 rounds, 60,000 floats each way, FedAvg by Flower's own strategy.

    python benchmarks/grid_against_ray.py
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from pairs import in_turn, median, ratio

CLIENTS, ROUNDS, FLOATS = 100, 10, 60_000

client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    records = RecordDict(
        {
            "arrays": ArrayRecord(dict(message.content.array_records["arrays"])),
            "metrics": MetricRecord({"num-examples": 1.0}),
        }
    )
    return Message(records, reply_to=message)


def server(figures: dict[str, float]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        while len(list(grid.get_node_ids())) < CLIENTS:
            time.sleep(0.05)
        start = time.perf_counter()
        arrays = ArrayRecord({"x": Array(np.zeros(FLOATS, dtype=np.float32))})
        FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=arrays, num_rounds=ROUNDS)
        figures["messages_per_second"] = CLIENTS * ROUNDS / (time.perf_counter() - start)

    return app


def on_ray(figures: dict[str, float]) -> None:
    from flwr.simulation import run_simulation

    resources = {"num_cpus": 1, "num_gpus": 0.0}
    run_simulation(
        server_app=server(figures),
        client_app=client,
        num_supernodes=CLIENTS,
        backend_config={"client_resources": resources},
    )


def in_process(figures: dict[str, float]) -> None:
    from privet.simulations.grid import InProcessGrid, Sequential, contexts

    nodes = contexts(CLIENTS, run_id=1, run_config={}, node_config={})
    grid = InProcessGrid(Sequential(client, nodes), silos=CLIENTS, run_id=1)
    server(figures)(grid=grid, context=Context(1, 1, {}, RecordDict(), {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--engine", choices=["ray", "in-process"])
    options = parser.parse_args()
    if options.engine:
        figures: dict[str, float] = {}
        start = time.perf_counter()
        (on_ray if options.engine == "ray" else in_process)(figures)
        print(json.dumps({**figures, "seconds": time.perf_counter() - start}))
        return
    ways = {"in-process": ["--engine", "in-process"], "ray": ["--engine", "ray"]}
    rows = in_turn(__file__, ways, runs=options.runs)
    print(f"{CLIENTS} clients x {ROUNDS} rounds x {FLOATS:,} floats, median of {options.runs} runs")
    for name in ways:
        print(
            f"{name:<12}{median(rows[name], 'messages_per_second'):>9,.0f} messages/s"
            f"{median(rows[name], 'seconds'):>8.2f} s with start-up"
        )
    print(f"ratio, messages/s: {ratio(rows['in-process'], rows['ray'], 'messages_per_second'):.1f}")
    print(f"ratio, seconds with start-up: {ratio(rows['ray'], rows['in-process'], 'seconds'):.1f}")


if __name__ == "__main__":
    main()
