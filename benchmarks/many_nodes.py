"""A real server with many silos: what a message, an idle silo and coming online cost.

`privet server` over TLS on loopback, and silos that are threads of two other processes: they speak
the fleet protocol with privet's own connection, signatures and all, and answer at once without any
training (the model and a random number, so that no two replies are equal). A real job runs. Both
ends share this machine's cores, so a server of its own does better.

    python benchmarks/many_nodes.py [--nodes 20 50 100 200] [--rounds 6]
    python benchmarks/many_nodes.py --nodes 8 --rounds 3 --task large_task:Large

The second has a model of 100 MB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from flwr.app import Message

from privet import Experiment
from privet.deployment.admin import AdminClient, follow
from privet.deployment.parties import SiloKit
from privet.deployment.parties.requests import Signing
from privet.deployment.provision import Project, provision
from privet.deployment.silo.connection import Connection, RunOver, Stopped
from privet.deployment.trial import ADMIN, SERVER, Trial, free_port
from privet.privacy.ledger import SiloKey
from privet.record.history import RoundRecord
from privet.wire import ENROL, Enrolment, TrainReply, TrainRequest

PROCESSES = 2
_TICK = os.sysconf("SC_CLK_TCK")


def answer(message: Message, name: str, index: int, rng: np.random.Generator) -> Message:
    if message.metadata.message_type == ENROL:
        me = Enrolment(name, index, noise_multiplier=None, rounds=None, records=None)
        return Message(me.to_records(), reply_to=message)
    weights = TrainRequest.from_records(message.content).weights
    assert weights is not None
    update = weights + np.float32(rng.normal(0, 1e-4))
    reply = TrainReply(update=update, weight=1.0, event=None, loss=1.0, extras={}, sealed=None)
    return Message(reply.to_records(), reply_to=message)


def live(folder: Path, index: int, stop: threading.Event, asked: Counter[str]) -> None:
    """One silo, until `stop`; what it asks of the server is counted in `asked`."""
    kit = SiloKit.from_folder(folder)
    auth = Signing(project=kit.project, name=kit.name, identity=SiloKey.load(kit.identity))
    connection = Connection(kit.server, ca=kit.ca, node_key=kit.node_key, auth=auth, stop=stop)

    def count(response: httpx.Response) -> None:
        asked[response.request.url.path.rpartition("/")[2]] += 1

    for fleet in (connection._fleet, connection._pulse):
        fleet._client.event_hooks["response"].append(count)
    rng, run = np.random.default_rng(index), None
    with suppress(Stopped):
        connection.activate()
        while True:
            if (found := connection.next()) is None:
                continue
            with suppress(RunOver):
                head, tree = found
                if head.metadata.run_id != run:
                    run = head.metadata.run_id
                    connection.settings(run)
                reply = answer(connection.fetch(head, tree), kit.name, index, rng)
                connection.reply(reply, seconds=0.0)
    connection.close()


def crowd(kits: list[Path], first: int, pipe: Any) -> None:
    """Silos as threads of this process; they begin at the first word that is sent to it, every
    further one is answered with what they have asked so far, and they end with the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    asked: list[Counter[str]] = [Counter() for _ in kits]
    threads = [
        threading.Thread(target=live, args=(kit, first + place, stop, asked[place]), daemon=True)
        for place, kit in enumerate(kits)
    ]
    with suppress(EOFError, OSError):
        pipe.send("ready")
        pipe.recv()
        for thread in threads:
            thread.start()
        while True:
            pipe.recv()
            pipe.send(sum(asked, Counter()))
    stop.set()
    for thread in threads:
        thread.join(timeout=0.2)
    os._exit(0)


class Crowd:
    """All silos; a context manager."""

    def __init__(self, kits: list[Path]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.processes, self._pipes = [], []
        for part in range(PROCESSES):
            ours, theirs = spawn.Pipe()
            first = len(kits) * part // PROCESSES
            mine = kits[first : len(kits) * (part + 1) // PROCESSES]
            process = spawn.Process(target=crowd, args=(mine, first, theirs))
            process.start()
            theirs.close()
            self.processes.append(process)
            self._pipes.append(ours)
        for pipe in self._pipes:
            pipe.recv()

    def begin(self) -> None:
        for pipe in self._pipes:
            pipe.send("begin")

    def asked(self) -> Counter[str]:
        for pipe in self._pipes:
            pipe.send("how many?")
        return sum((pipe.recv() for pipe in self._pipes), Counter())

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self.processes:
            process.join(timeout=20)
            process.kill()


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def memory(pid: int) -> float:
    """Resident MB."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) / 1024


def threads(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def provisioned(folder: Path, silos: int) -> tuple[Trial, float]:
    names = tuple(f"s{place:04}" for place in range(silos))
    quiet = 'health = ""\nmetrics = ""\n'
    text = [f'name = "many"\ndays = 30\n[server]\nhosts = ["127.0.0.1"]\nport = {free_port()}\n']
    text += [quiet, *(f"[silos.{name}]\n{quiet}" for name in names), f"[admins.{ADMIN}]\n"]
    folder.mkdir()
    (folder / "project.toml").write_text("".join(text), encoding="utf-8")
    start = time.monotonic()
    provision(Project.from_file(folder / "project.toml"), out=folder / "kits")
    return Trial(folder, names), time.monotonic() - start


def wait_until_online(client: AdminClient, silos: int) -> None:
    end = time.monotonic() + 300
    while True:
        with suppress(Exception):
            if sum(each["online"] for each in client.status()["silos"]) == silos:
                return
        if time.monotonic() > end:
            sys.exit("not all silos came online")
        time.sleep(0.25)


def measure(folder: Path, silos: int, rounds: int, idle: float, task: str) -> dict[str, Any]:
    tell(f"{silos} silos: making their kits")
    trial, made = provisioned(folder, silos)
    settings = trial.kit(SERVER) / "server.toml"
    settings.write_text(settings.read_text().replace("tasks = []", f'tasks = ["{task}"]'))
    figures: dict[str, Any] = {"provision": made}
    with trial:
        trial.start(SERVER)
        pid = trial.processes[SERVER].pid
        with trial.client() as client:
            wait_until_online(client, 0)
            figures["empty_mb"] = memory(pid)
            tell(f"server {pid} is up; silos come online")
            with Crowd([trial.kit(name) for name in trial.silos]) as silent:
                start, used = time.monotonic(), cpu(pid)
                silent.begin()
                wait_until_online(client, silos)
                figures["online"] = time.monotonic() - start
                figures["online_cpu"] = cpu(pid) - used
                tell(f"all online after {figures['online']:.1f} s; idle for {idle:.0f} s")
                time.sleep(2)
                before, used, start = silent.asked(), cpu(pid), time.monotonic()
                time.sleep(idle)
                took = time.monotonic() - start
                figures["idle_cpu"] = (cpu(pid) - used) / took
                asked = silent.asked() - before
                figures["idle_asked"] = asked.total() / took
                tell(f"idle, they asked: {dict(asked)}")
                figures |= {"idle_mb": memory(pid), "threads": threads(pid)}
                figures |= work(client, silent, pid, rounds, silos, task)
    return figures


def work(
    client: AdminClient, silent: Crowd, pid: int, rounds: int, silos: int, task: str
) -> dict[str, Any]:
    """A job of so many rounds."""
    settings = {"task": task, "rounds": rounds, "federation": {"min_silos": silos}}
    marks: list[tuple[float, float, float, Counter[str]]] = []
    seconds: list[float] = []
    traffic: list[int] = []
    whole = 0

    def mark(entry: RoundRecord) -> None:
        tell(f"round {entry.round}/{rounds}: {len(entry.participants)} silos took part")
        crowded = sum(cpu(int(process.pid or 0)) for process in silent.processes)
        marks.append((time.monotonic(), cpu(pid), crowded, silent.asked()))
        if entry.round:
            nonlocal whole
            seconds.append(entry.seconds.total or 0.0)
            traffic.append(entry.bytes.down + entry.bytes.up)
            whole += len(entry.participants) == silos
            if len(entry.participants) != silos:
                print(f"round {entry.round}: {entry.failures[:3]}", file=sys.stderr)

    begin = time.monotonic()
    tell("a job begins")
    job = client.submit(Experiment.from_mapping(settings))
    told = follow(client, job, watch=mark, say=lambda _: None)
    if told["state"] != "finished":
        sys.exit(f"{told['state']}: {told['detail']}")
    (start, used, theirs, before), (end, all_used, all_theirs, after) = marks[0], marks[-1]
    messages = rounds * silos
    return {
        "enrol": start - begin,
        "whole": whole,
        "mb": statistics.median(traffic) / 1e6,
        "busy_threads": threads(pid),
        "round": statistics.median(seconds),
        "server_cpu": (all_used - used) / messages,
        "silos_cpu": (all_theirs - theirs) / messages,
        "busy": (all_used - used) / (end - start),
        "asked": {k: v / messages for k, v in sorted((after - before).items())},
        "busy_mb": memory(pid),
    }


def tell(phase: str) -> None:
    print(time.strftime("%H:%M:%S"), phase, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--idle", type=float, default=30.0, help="seconds")
    parser.add_argument("--task", default="digits")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for silos in options.nodes:
        with tempfile.TemporaryDirectory(prefix="many-nodes-") as folder:
            f = measure(Path(folder) / "project", silos, options.rounds, options.idle, options.task)
        each_idle = 1000 * f["idle_cpu"] / f["idle_asked"]
        asked = ", ".join(f"{each:.2f} {what}" for what, each in f["asked"].items())
        print(
            f"{silos} silos (kits in {f['provision']:.1f} s)\n"
            f"  all online after {f['online']:.1f} s; server CPU {f['online_cpu']:.1f} s\n"
            f"  idle: server CPU {100 * f['idle_cpu']:.1f} % of a core, "
            f"{f['idle_asked']:.1f} requests/s ({each_idle:.1f} ms each), "
            f"memory {f['idle_mb']:.0f} MB ({f['empty_mb']:.0f} MB before), "
            f"{f['threads']} threads\n"
            f"  enrolled in {f['enrol']:.1f} s; a round {f['round']:.2f} s = "
            f"{silos / f['round']:.1f} messages/s; server busy {100 * f['busy']:.0f} % of a core; "
            f"everybody in {f['whole']} of {options.rounds}\n"
            f"  CPU a message: server {1000 * f['server_cpu']:.1f} ms, "
            f"silos {1000 * f['silos_cpu']:.1f} ms; memory {f['busy_mb']:.0f} MB, "
            f"{f['busy_threads']} threads\n"
            f"  models and updates: {f['mb']:.2f} MB a round = {f['mb'] / f['round']:.1f} MB/s\n"
            f"  requests a message: {sum(f['asked'].values()):.2f} ({asked})",
            flush=True,
        )


if __name__ == "__main__":
    main()
