"""The configuration file of a kit."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from privet.deployment.parties import AdminKit, PartiesError, ServerKit, SiloKit, host_port
from privet.deployment.silo.orders import OrderedJob, node_config
from privet.experiment import Experiment

KEY = "ab" * 32
COMMON = {"project": "lungs", "project_key": KEY, "name": "north"}
SILO = {**COMMON, "server": "https://train.example.org:8443"}


def _kit(folder: Path, file: str, values: dict[str, object], extra: str = "") -> Path:
    lines = [f'{key} = "{value}"' for key, value in values.items()]
    (folder / file).write_text("\n".join([*lines, extra]))
    return folder


def test_a_server_needs_little(tmp_path: Path) -> None:
    kit = ServerKit.from_folder(_kit(tmp_path, "server.toml", COMMON))
    assert kit.listen == "0.0.0.0:8443"
    assert (kit.certificate, kit.certificate_key) == (
        tmp_path / "server.pem",
        tmp_path / "server.key",
    )
    assert (kit.ca, kit.parties, kit.state) == (
        tmp_path / "ca.pem",
        tmp_path / "parties.json",
        tmp_path / "state",
    )
    assert kit.tasks == ()
    assert (kit.health, kit.metrics) == ("127.0.0.1:9400", "127.0.0.1:9401")
    assert kit.max_message_mb == 2000


def test_a_silo_needs_to_know_its_server(tmp_path: Path) -> None:
    kit = SiloKit.from_folder(_kit(tmp_path, "silo.toml", SILO))
    assert kit.server == "https://train.example.org:8443"
    assert kit.dataset == "north"
    assert kit.data_dir is None
    assert kit.share is None
    assert kit.part is None
    assert (kit.health, kit.metrics) == ("127.0.0.1:9402", "127.0.0.1:9403")
    paths = (
        kit.identity, kit.node_key, kit.policy, kit.ledger, kit.keys, kit.models, kit.state
    )  # fmt: skip
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "identity.key",
        "node.key",
        "policy.toml",
        "ledger.sqlite",
        "keys",
        "models",
        "state",
    ]


def test_an_administrator_needs_a_key(tmp_path: Path) -> None:
    kit = AdminKit.from_folder(_kit(tmp_path, "admin.toml", SILO))
    assert kit.identity == tmp_path / "identity.key"


def test_paths_begin_at_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**SILO, "data_dir": "../records", "policy": "/etc/privet/policy.toml"}
    _kit(tmp_path, "mine.toml", values)
    monkeypatch.chdir(tmp_path)
    kit = SiloKit.from_folder(Path("mine.toml"))
    assert kit.data_dir == tmp_path / "../records"
    assert kit.policy == Path("/etc/privet/policy.toml")
    assert all(path.is_absolute() for path in (kit.data_dir, kit.ledger))


def test_values_are_taken(tmp_path: Path) -> None:
    values = {**SILO, "dataset": "scans", "share": "1/3", "health": "", "metrics": "[::1]:9"}
    kit = SiloKit.from_folder(_kit(tmp_path, "silo.toml", values))
    assert (kit.dataset, kit.part, kit.health, kit.metrics) == ("scans", (1, 3), None, "[::1]:9")
    server = _kit(tmp_path, "server.toml", COMMON, 'tasks = ["mine:Task"]\nmax_message_mb = 5')
    assert ServerKit.from_folder(server).tasks == ("mine:Task",)


STAYS = """
[datasets.stays]
task = "table"
file = "stays.csv"
target = "outcome"
numeric = ["age"]
classes = [0, 1]
ranges.age = [0, 110]
"""
DIGITS = '[datasets.digits]\ntask = "digits"\n'


def test_a_silo_describes_its_data_sets(tmp_path: Path) -> None:
    kit = SiloKit.from_folder(_kit(tmp_path, "silo.toml", SILO, STAYS))
    assert kit.dataset == "stays"
    assert kit.datasets["stays"].options["ranges"] == {"age": [0, 110]}
    both = SiloKit.from_folder(
        _kit(tmp_path, "silo.toml", {**SILO, "dataset": "digits"}, STAYS + DIGITS)
    )
    job = Experiment(task="table")
    for asked, name in (("stays", "stays"), ("digits", "digits"), ("../x", "digits")):
        named = job.model_copy(update={"data": {"dataset": asked}})
        assert both.meant(named) == (name, both.datasets[name])
    assert both.meant(job)[0] == "digits"
    plain = SiloKit.from_folder(_kit(tmp_path, "silo.toml", SILO))
    assert plain.meant(job) == (plain.dataset, None)


def test_a_job_reaches_the_data_set_that_it_names(tmp_path: Path) -> None:
    """In policy and ledger too: each has rules and a budget of its own."""
    kit = SiloKit.from_folder(
        _kit(tmp_path, "silo.toml", {**SILO, "dataset": "digits"}, STAYS + DIGITS)
    )
    for data, name in (
        ({"dataset": "stays"}, "stays"),
        ({}, "digits"),
        ({"dataset": []}, "digits"),
    ):
        experiment = Experiment(task="table", data=data)
        job = OrderedJob(
            id="1f",
            requester="ana",
            number=31,
            order="",
            until=datetime.now(UTC),
            text="",
            run_config=experiment.to_run_config(),
        )
        config = node_config(kit, job, roster=tmp_path / "roster.toml")
        assert config["dataset"] == name
        assert json.loads(config["description"])["task"] == kit.datasets[name].task


@pytest.mark.parametrize(
    ("values", "extra", "message"),
    [
        ({"polcy": "x"}, "", "unknown key 'polcy'. Did you mean 'policy'?"),
        ({"name": "no/rth"}, "", "name: 'no/rth' is no name"),
        ({"project": ""}, "", "project: '' is no name"),
        ({"project_key": "AB" * 32}, "", "project_key: it is not a public key (64 hexadecimal"),
        ({"project_key": "00" * 32}, "", "project_key: it is no key: anyone could sign for it"),
        ({"server": "http://a:1"}, "", "server: 'http://a:1': write \"https://host:port\""),
        ({"server": "https://a"}, "", "server: 'a' is no address; write host:port"),
        ({"health": "localhost"}, "", "health: 'localhost' is no address"),
        ({"metrics": "a:70000"}, "", "metrics: 'a:70000' is no address"),
        ({"share": "3/3"}, "", "share: '3/3' is no share; write \"0/3\""),
        ({}, "ledger = 7", "ledger = 7: "),
        ({}, "dataset = 7", "dataset = 7: "),
        ({"dataset": "north"}, STAYS, "dataset = 'north': the data set of jobs that name none is"),
        ({}, STAYS + DIGITS, "is one of [datasets]: stays, digits"),
        ({}, STAYS.replace("classes", "clases"), "datasets.stays: unknown key 'clases'. Did you"),
        (
            {},
            STAYS.replace("classes = [0, 1]", ""),
            "datasets.stays: a table on real silos is desc",
        ),
        ({}, STAYS.replace('file = "stays.csv"', ""), "exactly one of file and files is needed"),
        ({}, STAYS + 'missing = "refuse"', "no answer may depend on what a record lacks"),
        ({}, STAYS + 'silo = "ward"', "datasets.stays: silo: a holder's data set has no such"),
        ({}, STAYS.replace("[0, 110]", "[110, 0]"), "datasets.stays: ranges.age = [110.0, 0.0]"),
        ({}, DIGITS.replace("task", "tsk"), "datasets.digits.task"),
    ],
)
def test_mistakes_are_said_in_a_line(
    tmp_path: Path, values: dict[str, object], extra: str, message: str
) -> None:
    folder = _kit(tmp_path, "silo.toml", {**SILO, **values}, extra)
    with pytest.raises(PartiesError, match=re.escape(message)) as caught:
        SiloKit.from_folder(folder)
    assert "\n" not in str(caught.value)
    assert "silo.toml" in str(caught.value)


def test_a_message_limit_is_a_number_in_range(tmp_path: Path) -> None:
    for value in ("0", "2001", "true", '"5"'):
        folder = _kit(tmp_path, "server.toml", COMMON, f"max_message_mb = {value}")
        with pytest.raises(PartiesError, match="max_message_mb = "):
            ServerKit.from_folder(folder)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PartiesError, match=r"no kit at .*silo\.toml; privet provision makes one"):
        SiloKit.from_folder(tmp_path)
    with pytest.raises(PartiesError, match="'server' is missing"):
        SiloKit.from_folder(_kit(tmp_path, "silo.toml", COMMON))
    (tmp_path / "silo.toml").write_text("name = ")
    with pytest.raises(PartiesError, match="is not a TOML file"):
        SiloKit.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:9400", ("127.0.0.1", 9400)),
        ("train.example.org:8443", ("train.example.org", 8443)),
        ("[::1]:1", ("::1", 1)),
    ],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert host_port(text) == parts


@pytest.mark.parametrize(
    "text",
    ["", ":1", "a", "a:", "a:0", "a:65536", "a:-1", "a: 1", "::1:1", "[a]:1", "a b:1", "a:1\n",
     "10.0.0.400:1", "-a:1", "a:\u0661", "[fe80::1%eth0]:1", "https://a:1"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is no address; write host:port"):
        host_port(text)
