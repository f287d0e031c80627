"""`privet new`: a folder with an experiment, a task where it needs one, made-up records and a test.

What it writes runs and passes its test as it is, and is meant to be changed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["table", "images", "text", "custom"]

_STARTERS = Path(__file__).parent / "starters"

_MODELS = {
    "custom": """\
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))""",
    "images": """\
        # Grey, 8 x 8. GroupNorm and not BatchNorm, so that each image's gradient is its own.
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(8 * 4 * 4, 2),
        )""",
    "text": """\
        # 50 words by number, twelve in a text.
        return nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(12 * 8, 2))""",
}
_INPUTS = {
    "custom": "torch.from_numpy(inputs)",
    "images": "torch.from_numpy(inputs).float() / 127.5 - 1",
    "text": "torch.from_numpy(inputs)",
}
_RATES = {"custom": 1.0, "images": 0.5, "text": 2.0}


def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="To be made, or empty.")],
    kind: Annotated[Kind, typer.Option(help="Of the records.")] = "table",
) -> None:
    """Begin a task of your own: experiment, code, made-up records and a test that passes."""
    from privet.errors import ExperimentError
    from privet.files import write_whole

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ExperimentError(f"{folder} is not empty: name a new folder")
        for name, content in _files(kind).items():
            write_whole(folder / name, content)
    except OSError as error:
        raise ExperimentError(f"cannot write to {folder}: {error.strerror}") from None
    typer.echo(f"{folder}: {', '.join(_files(kind))}")
    typer.echo(f"Next: cd {folder}; pytest; privet simulate experiment.toml --data-dir .")


def _files(kind: Kind) -> dict[str, bytes]:
    """Names and contents, the same at every call."""
    texts = {"experiment.toml": _starter("table.toml" if kind == "table" else "custom.toml")}
    test = {"test_task.py": _starter("test.py").encode()}
    if kind == "table":
        return {
            "experiment.toml": texts["experiment.toml"].encode(),
            "records.csv": _rows(),
            **test,
        }
    file, task = "records.npz", _starter("custom.py")
    code = task.format(file=file, model=_MODELS[kind], inputs=_INPUTS[kind])
    return {
        "experiment.toml": texts["experiment.toml"].format(lr=_RATES[kind]).encode(),
        "my_task.py": code.encode(),
        file: _arrays(kind),
        **test,
    }


def _starter(name: str) -> str:
    return (_STARTERS / f"{name}.starter").read_text(encoding="utf-8")


def _rows() -> bytes:
    """A table of people who are invented."""
    rng = _generator()
    lines = ["hospital,age,pressure,smoker,ill"]
    for place in range(1200):
        age, pressure, smokes = rng.integers(18, 95), rng.integers(80, 200), rng.random() < 0.4
        risk = (age - 56) / 20 + (pressure - 140) / 30 + (1.0 if smokes else -0.7)
        ill = rng.random() < 1 / (1 + math.exp(-3 * risk))
        words = ["yes" if each else "no" for each in (smokes, ill)]
        hospital = ("east", "north", "south", "west")[place % 4]
        lines.append(f"{hospital},{age},{pressure},{words[0]},{words[1]}")
    return ("\n".join(lines) + "\n").encode()


def _arrays(kind: Kind) -> bytes:
    from io import BytesIO

    import numpy as np

    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 1200), ("test", 300)):
        inputs, targets = _drawn(kind, count, first=part == "train")
        arrays |= {f"{part}_inputs": inputs, f"{part}_targets": targets}
    content = BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def _drawn(kind: Kind, count: int, *, first: bool) -> tuple[np.ndarray, np.ndarray]:
    """Made-up records of two classes that can be told apart."""
    import numpy as np

    rng = _generator(0 if first else 1)
    targets = rng.integers(0, 2, count)
    if kind == "images":  # bright above, or below
        light = np.linspace(1, -1, 8)[None, None, :, None] * (2 * targets - 1)[:, None, None, None]
        noisy = 128 + 50 * light + rng.normal(0, 30, (count, 1, 8, 8))
        return noisy.clip(0, 255).astype(np.uint8), targets
    if kind == "text":  # words from 25 on are commoner in one of them
        late = rng.random((count, 12)) < np.where(targets, 0.75, 0.25)[:, None]
        return rng.integers(0, 25, (count, 12)) + 25 * late, targets
    inputs = rng.normal(0, 1, (count, 6)).astype(np.float32)
    inputs[:, 0] += 3 * targets - 1.5
    return inputs, targets


def _generator(stream: int = 0) -> np.random.Generator:
    import numpy as np

    return np.random.Generator(np.random.PCG64([7, stream]))
