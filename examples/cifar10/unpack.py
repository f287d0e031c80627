"""Write CIFAR-10 as JPEG files in a folder for each class: python unpack.py SOURCE TARGET.

SOURCE has train.npz and test.npz, with all files' bytes one after the other (`jpeg`), where each
begins and the last ends (`offsets`), `labels` and names of `classes`.
"""

import sys
from pathlib import Path

import numpy as np


def write(source: Path, target: Path) -> None:
    """The files of one part, numbered in their order."""
    with np.load(source) as part:
        jpeg, offsets = part["jpeg"].tobytes(), part["offsets"]
        names = part["classes"][part["labels"]]
    for folder in {*names}:
        (target / folder).mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        content = jpeg[offsets[place] : offsets[place + 1]]
        (target / name / f"{place:05}.jpg").write_bytes(content)


if __name__ == "__main__":
    here, there = map(Path, sys.argv[1:])
    for part in ("train", "test"):
        write(here / f"{part}.npz", there / part)
