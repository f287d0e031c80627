"""What a source distribution and a wheel hold, and what a package index shows of them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
ADDRESS = "https://example.org/privet"
LEFT_OUT = re.compile(r"\.ci/|\.github/|\.gitignore|\.pre-commit-config\.yaml")
"""What is tracked for the repository's sake only."""


def _tracked() -> list[str]:
    """The files of the repository, its links left out; skips outside a checkout."""
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    lines = [line.split("\t") for line in listed.stdout.splitlines()]
    return [
        path for mode, path in lines if not mode.startswith("120000") and (ROOT / path).is_file()
    ]


@pytest.fixture(scope="session")
def setup_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("privet_setup", ROOT / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _build(source: Path, out: Path, address: str | None, *kinds: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PRIVET_REPOSITORY"}
    if address:
        environment["PRIVET_REPOSITORY"] = address
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            *kinds,
            "--outdir",
            str(out),
            str(source),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is tracked, links included, and some of what lies about beside it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("checkout")
    for path in _tracked():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    for link in ROOT.iterdir():
        if link.is_symlink() and (target := str(link.readlink())).startswith("src/"):
            (folder / link.name).symlink_to(target)
    litter = folder / "tests" / "__pycache__" / "x.cpython-311.pyc"
    litter.parent.mkdir()
    litter.write_bytes(b"")
    return folder


@pytest.fixture(scope="session")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sdist and the wheel that is made of it, with an address."""
    out = tmp_path_factory.mktemp("dist")
    _build(checkout, out, ADDRESS)
    return out


@pytest.fixture(scope="session")
def source(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    (packed,) = built.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


@pytest.fixture(scope="session")
def wheel(built: Path) -> zipfile.ZipFile:
    (packed,) = built.glob("*.whl")
    return zipfile.ZipFile(packed)


def _metadata_of(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return HeaderParser().parsestr(wheel.read(name).decode())


@pytest.mark.slow
def test_the_source_distribution_holds_every_file_that_belongs(source: Path) -> None:
    belongs = {path for path in _tracked() if not LEFT_OUT.match(path)}
    holds = {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()}
    assert sorted(belongs - holds) == []
    made = {"PKG-INFO", "setup.cfg"}
    assert sorted(p for p in holds - belongs - made if ".egg-info/" not in p) == []
    assert sum(path.startswith("tests/") for path in holds) > 100


@pytest.mark.slow
def test_the_wheel_is_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    package = {path.removeprefix("src/") for path in _tracked() if path.startswith("src/")}
    holds = {name for name in wheel.namelist() if not re.match(r"privet-[^/]*\.dist-info/", name)}
    assert sorted(package - holds) == []
    assert sorted(holds - package) == []


@pytest.mark.slow
def test_a_package_index_can_follow_every_link(wheel: zipfile.ZipFile) -> None:
    metadata = _metadata_of(wheel)
    text = metadata.get_payload()
    links = re.findall(r"\]\(([^()\s]+)\)", text)
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []
    assert f"]({ADDRESS}/raw/v{metadata['Version']}/docs/pictures/report.png)" in text
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert urls["Source"] == ADDRESS
    assert set(urls) >= {"Documentation", "Changelog", "Issues"}
    assert all(url.startswith(ADDRESS) for url in urls.values())


@pytest.mark.slow
def test_a_package_index_can_show_the_text(built: Path) -> None:
    pytest.importorskip("twine")
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_a_source_distribution_remembers_its_address(
    source: Path, wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    _build(source, tmp_path, None, "--wheel")
    (again,) = tmp_path.glob("*.whl")
    assert _metadata_of(zipfile.ZipFile(again)).as_string() == _metadata_of(wheel).as_string()


@pytest.mark.slow
def test_without_an_address_nothing_is_invented(checkout: Path, tmp_path: Path) -> None:
    _build(checkout, tmp_path, None, "--wheel")
    (packed,) = tmp_path.glob("*.whl")
    metadata = _metadata_of(zipfile.ZipFile(packed))
    assert metadata.get_all("Project-URL") is None
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text("utf-8").strip()


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("[a](docs/deploy.md)", "[a](X/blob/v1/docs/deploy.md)"),
        ("[a](docs/deploy.md#top)", "[a](X/blob/v1/docs/deploy.md#top)"),
        ("[a](docs)", "[a](X/tree/v1/docs)"),
        ("![a](docs/pictures/report.png)", "![a](X/raw/v1/docs/pictures/report.png)"),
        ("[a [b]](LICENSE) [c](README.md)", "[a [b]](X/blob/v1/LICENSE) [c](X/blob/v1/README.md)"),
        ("[a](https://flower.ai)", "[a](https://flower.ai)"),
        ("[a](#speed)", "[a](#speed)"),
        ("    [a](LICENSE)", "    [a](LICENSE)"),
        ("```\n[a](LICENSE)\n```", "```\n[a](LICENSE)\n```"),
    ],
)
def test_relative_links_become_absolute(
    setup_module: ModuleType, written: str, becomes: str
) -> None:
    found = setup_module.absolute(written, ADDRESS, "v1")
    assert found == becomes.replace("(X/", f"({ADDRESS}/")


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/privet",
        "https://example.org",
        "https://example.org/privet/",
        "https://example.org/privet.git",
        "https://user:secret@example.org/privet",
        "https://example.org/privet?x=1",
        "https://example.org/privet\nSource, https://example.net",
        "git@example.org:privet",
    ],
)
def test_an_address_that_is_none_is_refused(
    setup_module: ModuleType, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVET_REPOSITORY", address)
    with pytest.raises(SystemExit, match=r"PRIVET_REPOSITORY is .*; it must be") as refused:
        setup_module.repository()
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_dist_asks_for_the_address_in_one_line() -> None:
    asked = subprocess.run(
        ["make", "--no-print-directory", "dist", "REPOSITORY="],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert asked.returncode != 0
    assert asked.stdout == ""
    (line,) = asked.stderr.splitlines()
    assert "make dist REPOSITORY=https://" in line
