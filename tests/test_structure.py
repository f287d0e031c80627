"""The house: what imports what, what an import costs, what is public."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import privet

ROOT = Path(privet.__file__).parent
ROOMS = (
    "server",
    "client",
    "privacy",
    "strategies",
    "simulations",
    "tasks",
    "parties",
    "provision",
    "remote",
)
MAY_IMPORT = {
    "privacy": set(),
    "strategies": set(),
    "tasks": set(),
    "parties": {"privacy"},
    "provision": {"privacy", "parties"},
    "remote": {"privacy", "parties"},
    "client": {"privacy", "strategies", "tasks", "parties"},
    "server": {"privacy", "strategies", "tasks", "parties"},
    "simulations": {"privacy", "strategies", "tasks", "client", "server"},
}


def _imports(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
            modules |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
    return modules


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_depend_one_way(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        for other in set(ROOMS) - {room} - MAY_IMPORT[room]:
            wrong = {m for m in _imports(path) if f"{m}.".startswith(f"privet.{other}.")}
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def _rooms_within(room: str) -> dict[str, set[str]]:
    """What each folder and module of a room imports of the others, inside of functions too."""
    inside = ROOT / room
    names = {path.stem for path in inside.iterdir() if path.suffix == ".py" or path.is_dir()}
    found: dict[str, set[str]] = {name: set() for name in names}
    for path in inside.rglob("*.py"):
        own = path.relative_to(inside).with_suffix("").parts[0]
        parts = (module.split(".") for module in _imports(path))
        found[own] |= {part[2] for part in parts if part[:2] == ["privet", room] and part[2:]}
    return {name: imported & names - {name} for name, imported in found.items()}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_within_a_room_import_no_cycle(room: str) -> None:
    TopologicalSorter(_rooms_within(room)).prepare()  # a CycleError names the cycle


def test_the_links_at_the_root_lead_to_the_rooms() -> None:
    checkout = ROOT.parent.parent
    if not (checkout / "pyproject.toml").exists():
        pytest.skip("not a checkout")
    for room in ("server", "client", "privacy", "strategies", "simulations"):
        assert (checkout / room).resolve() == ROOT / room


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
    probe = f"{code}\nimport sys\nprint(*set({heavy.split()!r}) & set(sys.modules), sep=',')"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == ""


def test_a_plain_run_loads_neither_a_compiler_nor_an_accountant(tmp_path: Path) -> None:
    heavy = "torch._dynamo sympy dp_accounting scipy.stats scipy.signal opacus tenseal pandas"
    probe = (
        "import sys\nfrom privet.commands.cli import main\n"
        "for engine in ('in-process', 'vectorised'):\n"
        "    try: main(['simulate', 'run.toml', '-q', '--engine', engine, '--out', engine])\n"
        "    except SystemExit as end: assert not end.code\n"
        f"print(*set({heavy.split()!r}) & set(sys.modules), sep=',')"
    )
    settings = 'task = "toy_tasks:Tiny"\nrounds = 1\nfederation.silos = 4\n'
    (tmp_path / "run.toml").write_text(settings)
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.stdout.splitlines()[-1].strip() == ""


def test_every_public_name_can_be_had() -> None:
    for name in privet.__all__:
        assert getattr(privet, name) is not None
        assert not (ROOT / name).is_dir(), f"importing the room {name} would hide the function"
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = privet.train
