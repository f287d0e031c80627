"""Time two commands in turn, each in a process of its own, and compare them pair by pair."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence


def measure(script: str, arguments: Sequence[str]) -> dict[str, float]:
    """Run `script` with `arguments`; its last line of output is a JSON object of figures."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def in_turn(
    script: str, ways: Mapping[str, Sequence[str]], *, runs: int
) -> dict[str, list[dict[str, float]]]:
    """`runs` measurements of every way, interleaved so that a drifting machine hits all alike."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, arguments in ways.items():
            results[name].append(measure(script, arguments))
    return results


def median(rows: Sequence[Mapping[str, float]], figure: str) -> float:
    """Median of one figure."""
    return statistics.median(row[figure] for row in rows)


def ratio(
    above: Sequence[Mapping[str, float]], below: Sequence[Mapping[str, float]], figure: str
) -> float:
    """Median of the ratios pair by pair."""
    return statistics.median(a[figure] / b[figure] for a, b in zip(above, below, strict=True))
