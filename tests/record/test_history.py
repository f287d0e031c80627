"""One round, one schema: what is written is read as it was, strictly or mended."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.errors import DataError
from privet.record.history import (
    HISTORY,
    HistoryTail,
    RoundRecord,
    event_text,
    mended_rounds,
    read_rounds,
)
from rounds_written import a_round

FAILURE = {"silo": "south", "stage": "train", "reason": "no memory"}
EVENT = {"version": 1, "type": "gaussian", "noise_multiplier": 2.0}
FULL = a_round(
    3,
    loss=math.inf,
    per_silo={"north": {"accuracy": 0.75, "loss": 1.0}, "west": {"loss": 1.0}},
    participants=["north", "west"],
    failures=[FAILURE, {"silo": "west", "stage": "keys", "reason": "late"}],
    refused={"east": "the budget is spent"},
    dropped=["far"],
    arrived={"north": {"update.update": 650}},
    evaluation={
        "metrics": {"accuracy": 0.5},
        "per_silo": {"north": {"accuracy": 0.5}},
        "released": {"north": {"accuracy": "noised"}},
        "events": {"north": EVENT, "west": None},
        "failures": [FAILURE],
        "arrived": {"north": {"metrics.accuracy": 1}},
    },
    events={"north": EVENT, "west": None},
    epsilon={"max": None, "per_silo": {"north": 1.5, "west": None}},
    affordable={"north": 3},
    skipped="too few",
)


def written(folder: Path, *lines: str) -> Path:
    (folder / HISTORY).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    line = json.loads(a_round(0, evaluation=FULL.model_dump()["evaluation"]).line())
    change(line)
    return json.dumps(line)


@pytest.mark.parametrize("entry", [a_round(0), FULL.model_copy(update={"round": 0})])
def test_what_is_written_is_read_as_it_was(entry: RoundRecord, tmp_path: Path) -> None:
    folder = written(tmp_path, entry.line())
    assert read_rounds(folder, finished=True) == mended_rounds(folder) == (entry,)
    assert json.loads(entry.line())["schema"] == 2


def test_who_did_what() -> None:
    assert FULL.updated == {"north", "west"}  # it failed at the masks, after its update
    assert FULL.of_silos("accuracy") == {"north": 0.75}
    assert (FULL.silo_epsilon, FULL.kept) == ({"north": 1.5}, {"west"})
    assert FULL.describe() == (
        "loss inf  accuracy 0.8000  on silos' records 0.5000  1 refused  3 silos missing"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line.update(surprise=1), "surprise"),
        (lambda line: line.pop("skipped"), "skipped"),
        (lambda line: line.pop("arrived"), "arrived"),
        (lambda line: line["evaluation"].pop("arrived"), "evaluation.arrived"),
        (lambda line: line["seconds"].pop("encryption"), "seconds.encryption"),
        (lambda line: line["bytes"].update(sideways=1), "bytes.sideways"),
        (lambda line: line.update(accuracy="0.8"), "accuracy"),
        (lambda line: line.update(round=True), "round"),
        (lambda line: line["bytes"].update(up=-1), "bytes.up"),
        (lambda line: line.update(schema=3), "schema 3; this version of privet reads 1 and 2"),
        (lambda line: line.update(schema="2"), "schema '2'"),
        (lambda line: line.update(schema=True), "schema True"),
    ],
)
def test_strictly_anything_else_is_a_fault_of_its_line(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    folder = written(tmp_path, a_round(0).line(), changed(change))
    with pytest.raises(DataError, match=rf"history\.jsonl, line 2: {said}"):
        read_rounds(folder, finished=True)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"round": 0, "round": 0}'], "line 1: the key 'round' is there twice"),
        (["[]"], "line 1: it is no JSON object"),
        ([a_round(1).line()], "line 1: round 1, not 0"),
        ([a_round(0).line(), a_round(0).line()], "line 2: round 0, not 1"),
        ([a_round(0).line(), '{"round": 1}'], "line 2: schema 1 behind 2"),
        (["[" * 100_000], "line 1: "),
    ],
)
def test_strictly_rounds_come_once_and_in_order(
    lines: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        read_rounds(written(tmp_path, *lines), finished=False)


def test_a_line_without_its_end_is_of_an_interrupted_run_only(tmp_path: Path) -> None:
    folder = written(tmp_path, a_round(0).line())
    with (folder / HISTORY).open("a") as file:
        file.write('{"round": 1, "lo')
    assert read_rounds(folder, finished=False) == mended_rounds(folder) == (a_round(0),)
    with pytest.raises(DataError, match="its last line has no end"):
        read_rounds(folder, finished=True)


def test_mended_text_can_be_shown_and_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    line = {
        "round": 0,
        "accuracy": "much",
        "loss": 10**400,
        "metrics": None,
        "participants": ["a\x00\ud800b", 5],
        "failures": [{"silo": "x\ny"}, "nothing"],
        "refused": {"s\x1b[2J": ["why"]},
        "epsilon": {"per_silo": {"north": "?", "west": None, "south": 1}},
        "bytes": {"up": "many"},
        "surprise": 1,
    }
    (found,) = mended_rounds(written(tmp_path, json.dumps(line)))
    assert (found.accuracy, found.loss, found.metrics) == (None, None, {})
    assert found.participants == ["a��b", "5"]
    assert [vars(failure) for failure in found.failures] == [
        {"silo": "x y", "stage": "unknown", "reason": "unknown"}
    ]
    assert found.refused == {"s�[2J": "['why']"}
    assert (found.silo_epsilon, found.kept) == ({"south": 1.0}, {"west"})
    assert (found.bytes.up, found.seconds.total, found.arrived) == (0, None, None)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(told=st.dictionaries(st.sampled_from(sorted(RoundRecord.model_fields)), ANYTHING))
def test_mended_anything_has_the_shape_of_a_round(told: dict[str, Any]) -> None:
    found = RoundRecord.mended({**told, "round": 1})
    assert found.model_fields_set == RoundRecord.model_fields.keys()
    found.describe()
    assert found.updated <= {*found.participants}
    assert found.kept.isdisjoint(found.silo_epsilon)
    json.loads(found.line())


def test_an_event_that_no_ledger_can_hold_has_words_all_the_same() -> None:
    assert event_text(None) is None
    assert event_text({"b": 1, "a": [2]}) == '{"a":[2],"b":1}'
    assert "nan" in (event_text({"noise": math.nan}) or "")


# --- a history that grows


def grow(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.write("".join(lines))


def test_a_tail_gives_whole_lines_as_they_were_written(tmp_path: Path) -> None:
    tail = HistoryTail(tmp_path / HISTORY)
    assert (len(tail), tail.lines(0)) == (0, [])
    grow(tmp_path / HISTORY, '{"loss": NaN}\n', "second\n", "thi")
    assert (len(tail), tail.lines(0)) == (2, [b'{"loss": NaN}', b"second"])
    grow(tmp_path / HISTORY, "rd\n\n")
    assert tail.lines(1) == [b"second", b"third", b""]
    assert (tail.lines(4), tail.lines(99)) == ([], [])


def test_a_tail_reads_what_is_new_and_one_line_more(tmp_path: Path) -> None:
    path, line = tmp_path / HISTORY, "x" * 999 + "\n"
    grow(path, *[line] * 300)
    tail = HistoryTail(path)
    assert len(tail) == 300
    assert tail.bytes_read == 300_000
    for _ in range(400):  # as often as twenty seconds have looks
        assert (len(tail), tail.lines(300)) == (300, [])
    assert tail.bytes_read == 300_000
    grow(path, line)
    assert tail.lines(300) == [b"x" * 999]
    assert tail.bytes_read == 303_000  # the last one known, the new one, and the new one to send


def test_a_tail_sees_that_a_history_was_gone_back_on(tmp_path: Path) -> None:
    path = tmp_path / HISTORY
    grow(path, "a\n", "b\n", "c\n")
    tail = HistoryTail(path)
    assert tail.news(0, restarts=0) == ([b"a", b"b", b"c"], 0)
    path.write_text("a\nb\nC\nd\n")  # the third round once more, and already one more
    assert tail.news(3, restarts=0) == ([b"a", b"b", b"C", b"d"], 1)
    assert tail.news(4, restarts=1) == ([], 1)
    path.write_text("a\n")
    assert (len(tail), tail.lines(0)) == (1, [b"a"])
