"""Write stays.csv: 300 invented hospital stays, the same ones every time. No patient is real."""

import csv
from pathlib import Path

import numpy as np

HOSPITALS = ("east", "north", "south")
COLUMNS = ("hospital", "age", "emergency", "creatinine", "earlier_stays", "long_stay")


def stay(rng: np.random.Generator, hospital: str) -> tuple[object, ...]:
    """One row: the older, the sicker and the more urgent, the likelier is a stay above 7 days."""
    age = int(np.clip(rng.normal(64 if hospital == "south" else 55, 16), 18, 95))
    emergency = int(rng.random() < (0.6 if hospital == "north" else 0.35))
    creatinine = round(float(np.clip(rng.lognormal(0.0, 0.35), 0.4, 6.0)), 2)
    earlier_stays = int(np.clip(rng.poisson(1.2), 0, 8))
    score = 0.06 * (age - 58) + 1.6 * emergency + 1.5 * (creatinine - 1) + 0.5 * earlier_stays - 1.2
    long_stay = int(rng.random() < 1 / (1 + np.exp(-1.6 * score)))
    return hospital, age, emergency, creatinine, earlier_stays, long_stay


def write(path: Path) -> None:
    """Write 300 rows, half of them from the north."""
    rng = np.random.default_rng(20)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for hospital in rng.choice(HOSPITALS, size=300, p=(0.2, 0.5, 0.3)):
            writer.writerow(stay(rng, str(hospital)))


if __name__ == "__main__":
    write(Path(__file__).with_name("stays.csv"))
