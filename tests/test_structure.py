"""The house: what imports what, what an import costs, what is public, what is tested where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import privet

ROOT = Path(privet.__file__).parent
TESTS = Path(__file__).parent
CHECKOUT = TESTS.parent

# The rooms, from the top down: each imports only what stands below it. Two in one line are two
# hosts of the same apps and do not know each other. Modules of no room stand below them all.
ROOMS = (
    ("commands",),
    ("reports",),
    ("serving",),
    ("audits",),
    ("sweeps",),
    ("simulations", "deployment"),
    ("tracking",),
    ("server",),
    ("client",),
    ("record",),
    ("strategies",),
    ("tasks",),
    ("wire",),
    ("privacy",),
    ("charts",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
HEIGHT = FLOOR | {"api": 0.5}  # the functions that the commands call: above every other room
LINKS = ("server", "client", "privacy", "strategies", "simulations")  # at the root, for people
DOORS = ("privet", "privet.__main__")  # import what they lead to; nothing imports them


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, modules: set[str]) -> set[str]:
    """Modules of the package that a module imports, in functions and for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively, which this test does not read"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else str(node.module) for name in names}
            behind = names & {f"privet.{name}" for name in privet.__all__}
            assert not behind, f"{path} imports {behind} by the front door"
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & modules) - {"privet"}  # what it says of itself: its version


@cache
def _imports() -> dict[str, set[str]]:
    """Every module of the package with the others of the package that it imports."""
    paths = {_name(path): path for path in ROOT.rglob("*.py")}
    return {name: _imported(path, {*paths}) - {name} for name, path in paths.items()}


def _within(folder: str) -> dict[str, set[str]]:
    """What the folders and modules in one folder import of each other."""
    found: dict[str, set[str]] = defaultdict(set)
    inside = [module for module in _imports() if f"{module}.".startswith(f"{folder}.")]
    for module in {*inside} - {*DOORS}:
        own, *its = (
            f"{name}.__init__".removeprefix(f"{folder}.").split(".")[0]
            for name in (module, *(_imports()[module] & {*inside}))
        )
        found[own] |= {*its} - {own}
    return found


def _room(module: str) -> str:
    return module.split(".")[1]


def test_no_module_is_in_an_import_cycle() -> None:
    TopologicalSorter(_imports()).prepare()  # a CycleError names the cycle


@pytest.mark.parametrize("folder", sorted(_name(p) for p in ROOT.rglob("__init__.py")))
def test_no_folder_holds_an_import_cycle(folder: str) -> None:
    TopologicalSorter(_within(folder)).prepare()


def test_every_folder_is_a_room_and_every_room_a_folder() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == {*FLOOR}


def test_rooms_depend_one_way() -> None:
    lowest = len(ROOMS)
    for module in {*_imports()} - {*DOORS}:
        for other in _imports()[module]:
            own, its = _room(module), _room(other)
            downwards = HEIGHT.get(own, lowest) < HEIGHT.get(its, lowest + 1)
            assert own == its or downwards, f"{module} imports {other}"


def test_privacy_imports_no_other_room() -> None:
    for module, others in _imports().items():
        if module.startswith("privet.privacy"):
            assert {_room(other) for other in others} & {*FLOOR} <= {"privacy"}, module


def test_a_class_name_has_one_meaning() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(_name(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_the_links_at_the_root_lead_to_the_rooms() -> None:
    for room in LINKS:
        assert (CHECKOUT / room).resolve() == CHECKOUT / "src" / "privet" / room


def test_contributing_lists_the_rooms_in_this_order() -> None:
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.findall(r"^ {8}(\w+)/  ", text, flags=re.MULTILINE)
    assert listed == [room for rooms in ROOMS for room in rooms]


def test_folders_of_tests_are_named_as_what_they_test() -> None:
    # Across rooms: what lies, what kills, what needs data; and what tests share.
    across = {"adversary", "chaos", "realdata", "support"}
    for path in {path.parent for path in TESTS.rglob("*.py")} - {TESTS}:
        folder = path.relative_to(TESTS)
        tested = ROOT / folder
        assert tested.is_dir() or tested.with_suffix(".py").exists() or folder.parts[0] in across, (
            folder
        )


@pytest.mark.parametrize(
    "code",
    [
        "import privet",
        "from privet.commands.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from privet.commands.cli import main\ntry: main(['tasks'])\nexcept SystemExit: pass",
        "from privet.commands.cli import main\ntry: main(['strategies'])\nexcept SystemExit: pass",
    ],
)
def test_light_commands_load_no_heavy_library(code: str) -> None:
    heavy = "torch flwr matplotlib opacus sklearn scipy pandas dp_accounting tenseal datasets"
    assert loaded_by(code, heavy) == ""


def test_a_silo_of_its_own_leaves_torch_to_its_worker() -> None:
    assert loaded_by("import privet.deployment.silo.serving", "torch opacus sklearn pandas") == ""


def loaded_by(code: str, heavy: str) -> str:
    probe = f"{code}\nimport sys\nprint(*set({heavy.split()!r}) & set(sys.modules), sep=',')"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].strip()


def test_a_plain_run_loads_neither_a_compiler_nor_an_accountant(tmp_path: Path) -> None:
    heavy = "torch._dynamo sympy dp_accounting scipy.stats sklearn opacus tenseal pandas"
    probe = (
        "import sys\nfrom privet.commands.cli import main\n"
        "for engine in ('in-process', 'vectorised'):\n"
        "    try: main(['simulate', 'run.toml', '-q', '--engine', engine, '--out', engine])\n"
        "    except SystemExit as end: assert not end.code\n"
        f"print(*set({heavy.split()!r}) & set(sys.modules), sep=',')"
    )
    settings = 'task = "digits"\nrounds = 1\nfederation.silos = 4\n'
    (tmp_path / "run.toml").write_text(settings)
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[-1].strip() == ""


def test_every_public_name_can_be_had() -> None:
    for name in privet.__all__:
        assert getattr(privet, name) is not None
        assert not (ROOT / name).is_dir(), f"importing the room {name} would hide the function"
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = privet.train
