"""The house: what imports what, what an import costs, what is public."""

from __future__ import annotations

import ast
import subprocess
import sys
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
        "from privet.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from privet.cli import main\ntry: main(['tasks'])\nexcept SystemExit: pass",
        "from privet.cli import main\ntry: main(['strategies'])\nexcept SystemExit: pass",
    ],
)
def test_light_commands_load_no_heavy_library(code: str) -> None:
    heavy = "torch flwr matplotlib opacus sklearn scipy pandas dp_accounting tenseal datasets"
    probe = f"{code}\nimport sys\nprint(*set({heavy.split()!r}) & set(sys.modules), sep=',')"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == ""


def test_every_public_name_can_be_had() -> None:
    for name in privet.__all__:
        assert getattr(privet, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = privet.train
