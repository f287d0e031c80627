"""A server that does not keep to its part, and silos that do not: what the others notice."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
from safetensors.numpy import load_file

import privet
from privet import Experiment, PrivetError
from privet.client.keyring import SIMULATED_RUN
from privet.privacy.encryption import SecretKey, Tampered, make_cipher, read_header
from privet.privacy.encryption.keys import RunKey, Session, load_roster, make_offer
from privet.privacy.ledger import SiloKey
from privet.record.history import look_away
from privet.server.app import Hosting, server_app
from privet.server.cohort import Absent
from privet.simulations.apps import SimulatedKeys, SimulatedSilos, simulated_client_app
from privet.simulations.grid import SERVER_NODE, InProcessGrid, Sequential, contexts
from privet.simulations.ledger import simulated_ledger
from privet.wire import CONFIRM, CONSENT, MAKE, OFFER, TAKE, KeyRequest
from privet.wire.records import blob
from rounds_written import history

NAMES = ("north", "south", "west")
Meddle = Callable[[Message], None]

SETTINGS = Experiment.from_mapping(
    {
        "task": "digits",
        "rounds": 5,
        "seed": 2,
        "federation": {"silos": 3},
        "training": {"lr": 0.5, "steps": 2},
        "privacy": {"noise_multiplier": 1.0},
        "encryption": {"scheme": "bfv", "pairwise_masks": False},
    }
)


class Meddler(InProcessGrid):
    """Passes everything on, and may change it on the way."""

    def __init__(self, executor: Sequential, silos: int, down: Meddle, up: Meddle) -> None:
        super().__init__(executor, silos=silos, run_id=5)
        self._down, self._up = down, up

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        for reply in super().send_and_receive(map(self._changed, messages), timeout=timeout):
            if reply.has_content():
                self._up(reply)
            yield reply

    def _changed(self, message: Message) -> Message:
        # Copies, because the messages of a round share their records.
        message.content = RecordDict(
            {name: copy.deepcopy(record) for name, record in message.content.items()}
        )
        self._down(message)
        return message


def nothing(message: Message) -> None:
    """Honest."""


def run(
    out: Path,
    down: Meddle = nothing,
    up: Meddle = nothing,
    experiment: Experiment = SETTINGS,
    names: tuple[str, ...] = NAMES,
    node: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    out.mkdir(exist_ok=True)
    keys = SimulatedKeys(out / "keys", names)
    keys.make()
    assert experiment.encryption is not None
    with simulated_ledger(out) as books:
        house = SimulatedSilos(names=names, ledger=books.ledger, key=books.key, keys=keys)
        silos = contexts(len(names), run_id=5, run_config={}, node_config=node or {})
        executor = Sequential(simulated_client_app(experiment, house), silos)
        hosting = Hosting(
            folder=out,
            watch=look_away,
            roster=keys.roster,
            open_model=keys.opener(),
            run=SIMULATED_RUN,
        )
        context = Context(5, SERVER_NODE, {}, RecordDict(), {**experiment.to_run_config()})
        server_app(hosting)(grid=Meddler(executor, len(names), down, up), context=context)
    return history(out)


def test_nothing_leaves_beside_a_sealed_update(tmp_path: Path) -> None:
    """Without noise too: the training loss is no less a fact about the records than the update."""
    left: list[set[str]] = []

    def keep(message: Message) -> None:
        if message.metadata.message_type == MessageType.TRAIN:
            left.append({f"{n}.{key}" for n, record in message.content.items() for key in record})

    silent = Experiment.from_mapping(
        {**SETTINGS.model_dump(exclude_unset=True), "privacy": None, "rounds": 2}
    )
    run(tmp_path, up=keep, experiment=silent)
    assert left == 2 * len(NAMES) * [{"sealed.statement", "sealed-update.upload"}]


def test_an_honest_run_is_whole(tmp_path: Path) -> None:
    entries = run(tmp_path)
    assert [len(entry["participants"]) for entry in entries] == [0, 3, 3, 3, 3, 3]
    assert entries[-1]["accuracy"] > 0.6


def test_a_server_that_swaps_a_key_is_caught(tmp_path: Path) -> None:
    """In the middle between two silos, with an offer of its own in south's name."""
    mallory = SiloKey.create(tmp_path / "mallory.key")

    def swap(message: Message) -> None:
        if message.metadata.message_type not in (MAKE, TAKE):
            return
        request = KeyRequest.from_records(message.content)
        roster = load_roster(tmp_path / "keys/roster.toml")
        session = Session(run=SIMULATED_RUN, epoch=request.epoch, roster=roster)
        # make_offer itself refuses an identity that is not the roster's: forge the roster's view.
        forged = Session(run=session.run, epoch=session.epoch, roster=_with(session, mallory))
        _, offer = make_offer(session=forged, name="south", identity=mallory)
        message.content["keys"]["offers"] = [request.offers[0], offer, request.offers[2]]

    with pytest.raises(PrivetError, match="no key could be made"):
        run(tmp_path, down=swap)
    assert not list((tmp_path / "keys").rglob("simulation-*.key"))


def _with(session: Session, mallory: SiloKey) -> Any:
    from privet.privacy.encryption.keys import Member, Roster

    members = [
        Member(m.name, mallory.public if m.name == "south" else m.identity)
        for m in session.roster.members
    ]
    return Roster(tuple(members))


def tampering_in(round_: int, *nodes: int) -> Meddle:
    """Changes the sum of one round on its way to these silos."""

    def flip(message: Message) -> None:
        to = message.metadata.dst_node_id
        if (message.metadata.message_type, round_of(message)) == (CONFIRM, round_) and to in nodes:
            sealed = message.content["sealed-sum"]
            changed = bytearray(sealed["total"].data)
            for place in range(8):  # a low bit alone would be lost in the encryption's noise
                changed[place - 6000] ^= 0xFF
            sealed["total"] = blob(bytes(changed))

    return flip


def round_of(message: Message) -> int:
    return int(str(message.content["masks"]["round"])) if "masks" in message.content else 0


@pytest.mark.parametrize(
    ("strategy", "round_"), [("fedavg", 1), ("fedavg", 2), ("fedavgm", 2), ("fedavgm", 3)]
)
def test_a_sum_that_was_tampered_with_voids_the_round_and_changes_the_key(
    tmp_path: Path, strategy: str, round_: int
) -> None:
    job = SETTINGS.with_settings({"strategy.name": strategy})
    entries = run(tmp_path, down=tampering_in(round_, 2, 3, 4), experiment=job)
    spoilt = entries[round_]
    # Noted beside the round: everybody had trained, and is charged for it.
    assert len(spoilt["participants"]) == 3
    said = [failure["reason"] for failure in spoilt["failures"]]
    assert {failure["stage"] for failure in spoilt["failures"]} == {"decrypt"}
    assert len(said) == 3
    assert len(set(said)) == 1, "the answer must not depend on what was changed"
    assert "the key is changed" in spoilt["skipped"]
    assert spoilt["accuracy"] == entries[round_ - 1]["accuracy"]
    # They sit a round out, whose key they could not share, and go on with another one.
    later = entries[round_ + 2]
    assert len(later["participants"]) == 3
    assert entries[5]["accuracy"] > spoilt["accuracy"]
    # What has failed is nowhere any more.
    keys = {path.name for path in (tmp_path / "keys/north").glob("simulation-*.key")}
    assert keys == set()


def test_a_silo_that_opens_nothing_is_left_out_and_the_others_lose_nothing(tmp_path: Path) -> None:
    """Of three, one: its word does not void a round, and charges nobody for one that is void."""
    entries = run(tmp_path, down=tampering_in(2, 4))
    assert [entry["skipped"] for entry in entries[1:]] == [None] * 5
    assert [failure["silo"] for failure in entries[2]["failures"]] == ["west"]
    assert entries[3]["participants"] == ["north", "south"]
    assert len(entries[4]["participants"]) == 3
    assert entries[5]["accuracy"] > 0.6


def test_one_silos_update_is_not_opened_as_a_sum(tmp_path: Path) -> None:
    """The server hands out an upload as if it were everybody's."""
    stolen: list[bytes] = []

    def steal(reply: Message) -> None:
        if "sealed-update" in reply.content and not stolen:
            upload = reply.content["sealed-update"]["upload"].data
            header, _ = read_header(upload)
            total = make_cipher("bfv").adder(header.terms)
            total.add(upload, client=header.clients[0])
            stolen.append(total.to_bytes())

    def hand_out(message: Message) -> None:
        if message.metadata.message_type == CONFIRM:
            message.content["sealed-sum"]["total"] = blob(stolen[0])

    entries = run(tmp_path, down=hand_out, up=steal)
    reasons = {failure["reason"] for failure in entries[1]["failures"]}
    assert reasons == {"a sum of 1 clients: at_least = 2"}
    assert entries[1]["accuracy"] == entries[0]["accuracy"]


def test_an_upload_of_someone_else_or_of_another_round_is_not_added(tmp_path: Path) -> None:
    kept: dict[tuple[str, int], Any] = {}

    def splice(reply: Message) -> None:
        if "sealed-update" not in reply.content:
            return
        node, round_ = reply.metadata.src_node_id, int(str(reply.metadata.group_id))
        kept[str(node), round_] = {
            name: reply.content[name] for name in ("sealed", "sealed-update")
        }
        if node == 3 and round_ == 2:
            reply.content.update(kept["2", 2])  # north's
        if node == 3 and round_ == 3:
            reply.content.update(kept["3", 1])  # its own, of round 1
        if node == 3 and round_ == 4:
            upload = reply.content["sealed-update"]["upload"].data
            reply.content["sealed-update"] = ArrayRecord({"upload": blob(upload[:-1] + b"x")})

    entries = run(tmp_path, up=splice)
    for round_, reason in ((2, "signed by silo 'north'"), (3, "for round 1"), (4, "not what silo")):
        failures = [each for each in entries[round_]["failures"] if each["stage"] != "roster"]
        assert [failure["silo"] for failure in failures] == ["south"]
        assert reason in failures[0]["reason"]
        assert len(entries[round_]["participants"]) == 2
        # It was charged all the same: it may have been seen.
        assert "south" in entries[round_]["events"]


def test_nothing_leaves_in_the_clear_whatever_the_server_asks(tmp_path: Path) -> None:
    left: list[str] = []

    def ask_for_clear(message: Message) -> None:
        if message.metadata.message_type == MessageType.TRAIN:
            del message.content["masks"]

    def look(reply: Message) -> None:
        left.extend(name for name in reply.content if name == "update")

    entries = run(tmp_path, down=ask_for_clear, up=look)
    assert left == []
    assert all(not entry["participants"] for entry in entries)
    assert "the round was not agreed on" in entries[1]["failures"][0]["reason"]


def test_an_answer_in_the_clear_is_not_taken(tmp_path: Path) -> None:
    from privet.wire import TrainReply

    def undress(reply: Message) -> None:
        if "sealed-update" in reply.content:
            import numpy as np

            clear = TrainReply(np.zeros(650, np.float32), 1.0)
            reply.content = clear.to_records()

    entries = run(tmp_path, up=undress)
    assert "did not come sealed" in entries[1]["failures"][0]["reason"]


def test_a_silo_without_the_key_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    def lose(message: Message) -> None:
        if message.metadata.message_type == TAKE and message.metadata.dst_node_id == 4:
            message.content["keys"]["wrapped"] = b"lost on the way"

    entries = run(tmp_path, down=lose)
    assert [failure["silo"] for failure in entries[1]["failures"]] == ["west"]
    assert entries[1]["participants"] == ["north", "south"]
    assert entries[5]["participants"] == ["north", "south"]
    assert entries[5]["accuracy"] > 0.5


def test_a_job_whose_holders_of_the_model_are_all_away_is_one_that_can_wait(tmp_path: Path) -> None:
    """It would have failed for good when silos were killed between two keys."""
    asked = 0

    class Killed(Meddler):
        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> Iterator[Message]:
            nonlocal asked
            sent = list(messages)
            if sent and sent[0].metadata.message_type == OFFER:
                asked += 1
            if asked < 2:
                yield from super().send_and_receive(sent, timeout=timeout)

    rotated = SETTINGS.with_settings({"encryption.rotate_every": 2})
    with patch(f"{__name__}.Meddler", Killed), pytest.raises(Absent, match="make a key"):
        run(tmp_path, experiment=rotated)
    assert asked == 2
    assert len(history(tmp_path)) == 3


def test_silos_that_keep_models_write_the_last_one_down(tmp_path: Path) -> None:
    run(tmp_path, node={"models": str(tmp_path / "kept")})
    (kept,) = (tmp_path / "kept").iterdir()
    theirs, ours = load_file(kept), load_file(tmp_path / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(theirs[name], ours[name]) for name in ours)
    opened = privet.load(kept)
    assert opened.card.claim.epsilon is None
    assert len(opened.predict(np.zeros((2, 8, 8)))) == 2


MASKED = SETTINGS.with_settings(
    {"encryption.pairwise_masks": None, "federation.silos": 6, "rounds": 3}
)
SIX = ("a", "b", "c", "d", "e", "f")


def test_masks_leave_the_model_as_it_is(tmp_path: Path) -> None:
    masked = run(tmp_path / "masked", experiment=MASKED, names=SIX)
    plain = run(
        tmp_path / "plain",
        experiment=MASKED.with_settings({"encryption.pairwise_masks": False}),
        names=SIX,
    )
    assert [entry["loss"] for entry in masked] == [entry["loss"] for entry in plain]
    assert not list((tmp_path / "masked/keys").rglob("*.part"))


@pytest.mark.parametrize("missing", range(2**6))
def test_any_silos_may_drop_out_down_to_the_threshold(tmp_path: Path, missing: int) -> None:
    """Every subset of six, after shares were dealt: with four or more the sum, else no change."""
    gone = {SIX[place] for place in range(6) if missing >> place & 1}

    def drop(message: Message) -> None:
        if message.metadata.message_type == MessageType.TRAIN:
            name = SIX[message.metadata.dst_node_id - 2]
            if name in gone:
                message.content["task"]["round"] = "nonsense"  # refused before it has joined

    job = MASKED.with_settings({"rounds": 1})
    entry = run(tmp_path, down=drop, experiment=job, names=SIX)[1]
    assert set(entry["participants"]) == set(SIX) - gone
    if len(gone) <= 2:  # the least safe threshold of six is four
        assert entry["skipped"] is None
        assert entry["accuracy"] > 0.3
    else:
        assert entry["skipped"].startswith("no update came" if len(gone) == 6 else "updates came: ")
        assert entry["accuracy"] == pytest.approx(0.1)


def test_server_and_one_silo_together_cannot_read_an_update(tmp_path: Path) -> None:
    """With the key of silo f, an upload of silo a opens to noise; without masks, to the update."""
    stolen: dict[str, bytes] = {}

    def steal(reply: Message) -> None:
        if "sealed-update" in reply.content:
            upload = reply.content["sealed-update"]["upload"].data
            stolen.setdefault(read_header(upload)[0].clients[0], upload)
            # The key of silo f, which goes at the end of the run.
            (key,) = (tmp_path / str(masks) / "keys/f").glob("simulation-*.key")
            shutil.copy(key, key.with_name(key.name.replace("simulation", "kept")))

    opened = {}
    for masks in (False, True):
        stolen.clear()
        job = MASKED.with_settings({"encryption.pairwise_masks": masks, "rounds": 1})
        run(tmp_path / str(masks), up=steal, experiment=job, names=SIX)
        opened[masks] = _read_with_key_of("f", stolen["a"], tmp_path / str(masks) / "keys")
    assert opened[False] is not None
    assert np.abs(opened[False]).max() < 2
    assert opened[True] is None


def _read_with_key_of(name: str, upload: bytes, keys: Path) -> np.ndarray | None:
    """What a silo's key makes of a single upload, taken for a sum."""
    (path,) = (keys / name).glob("kept-*.key")
    epoch = int(path.stem.rpartition("-")[2])
    session = Session(run=SIMULATED_RUN, epoch=epoch, roster=load_roster(keys / "roster.toml"))
    secret = SecretKey.from_bytes(RunKey.load(path, session=session).container.reveal())
    cipher, terms = make_cipher("bfv"), read_header(upload)[0].terms
    total = cipher.adder(terms)
    total.add(upload, client=read_header(upload)[0].clients[0])
    try:
        return cipher.decrypt(
            total.to_bytes(), key=secret, run=terms.run, round=terms.round, at_least=1
        ).mean
    except Tampered:
        return None


def test_a_job_with_masks_gives_nothing_unmasked(tmp_path: Path) -> None:
    def forget(message: Message) -> None:
        if message.metadata.message_type == MessageType.TRAIN:
            del message.content["masks"]

    entries = run(tmp_path, down=forget, experiment=MASKED, names=SIX)
    assert all(not entry["participants"] for entry in entries)
    assert "the round was not agreed on" in entries[1]["failures"][0]["reason"]


def test_a_server_cannot_have_two_sums_of_one_round_unmasked(tmp_path: Path) -> None:
    """It asks the silos to consent to all survivors, and then to all but one."""
    asked: list[Any] = []

    def ask_again(message: Message) -> None:
        if message.metadata.message_type == CONSENT:
            names = list(message.content["masks"]["survivors"])
            asked.append(names)
            if message.metadata.dst_node_id % 2:  # half of them hear of another list
                message.content["masks"]["survivors"] = names[:-1]

    entries = run(tmp_path, down=ask_again, experiment=MASKED, names=SIX)
    assert asked
    assert "could not be taken out" in entries[1]["skipped"]
    assert entries[1]["accuracy"] == pytest.approx(0.1)


@pytest.mark.parametrize("masks", [None, False])
def test_two_silos_are_encrypted_only_with_a_word_that_says_it(
    tmp_path: Path, masks: bool | None
) -> None:
    """Each can work out the other's update from the sum, masked or not."""

    def lose_the_third(reply: Message) -> None:
        if "enrolment" in reply.content and reply.metadata.src_node_id == 4:
            reply.content["enrolment"]["index"] = "none"

    job = SETTINGS.with_settings({"encryption.pairwise_masks": masks, "rounds": 1})
    with pytest.raises(PrivetError, match=r"encryption\.colluding = 1 with 2 silos"):
        run(tmp_path / "refused", up=lose_the_third, experiment=job)
    trusted = job.with_settings({"encryption.colluding": 0})
    entries = run(tmp_path / "trusted", up=lose_the_third, experiment=trusted)
    assert entries[1]["participants"] == ["north", "south"]
