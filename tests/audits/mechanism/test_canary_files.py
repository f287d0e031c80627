"""What was seen, written down and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audits.mechanism.made import sightings
from privet.errors import DataError
from privet.privacy.mechanisms.canaries import add_observation, read_observations


def written(folder: Path, count: int = 3) -> Path:
    for sighting in sightings(1, silos=1, rounds=count, coordinates=13):
        add_observation(folder / "silo-0.jsonl", sighting)
    return folder / "silo-0.jsonl"


def test_every_bit_comes_back(tmp_path: Path) -> None:
    made = sightings(1, silos=2, rounds=3, coordinates=13)
    for each in made:
        add_observation(tmp_path / f"{each.silo}.jsonl", each)
    for wrote, read in zip(made, read_observations(tmp_path), strict=True):
        assert (read.silo, read.round, read.plan) == (wrote.silo, wrote.round, wrote.plan)
        np.testing.assert_array_equal(read.inserted, wrote.inserted)
        np.testing.assert_array_equal(read.sampled, wrote.sampled)
        np.testing.assert_array_equal(read.gradients, wrote.gradients)


def test_a_line_that_was_cut_off_is_left_out_and_written_over(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_bytes(file.read_bytes()[:-40])
    assert [each.round for each in read_observations(tmp_path)] == [1, 2]
    add_observation(file, sightings(1, silos=1, rounds=3, coordinates=13)[2])
    assert [each.round for each in read_observations(tmp_path)] == [1, 2, 3]


def test_a_round_that_ran_again_counts_once(tmp_path: Path) -> None:
    file = written(tmp_path)
    again = sightings(2, silos=1, rounds=2, coordinates=13)[1]
    add_observation(file, again)
    read = {each.round: each for each in read_observations(tmp_path)}
    assert sorted(read) == [1, 2, 3]
    np.testing.assert_array_equal(read[2].gradients, again.gradients)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"round": 2', b'"round": "b"'),
        (b'"clip": 2.0', b'"clip": -2.0'),
        (b'"clip": 2.0', b'"slip": 2.0'),
        (b'"gradients": "', b'"gradients": "A'),
        (b'"sampled": "', b'"sampled": "AAA'),
        (b'"silo"', b'"solo"'),
        (b"{", b""),
        (b'"inserted": "', b'"inserted": "0'),
        (b'"inserted": "', b'"inserted": "2'),
        (b'"steps": 12, "sampled"', b'"steps": 13, "sampled"'),
    ],
)
def test_a_line_that_was_changed_is_named(tmp_path: Path, old: bytes, new: bytes) -> None:
    file = written(tmp_path)
    lines = file.read_bytes().split(b"\n")
    assert old in lines[1]
    lines[1] = lines[1].replace(old, new, 1)
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"silo-0.jsonl, line 2"):
        read_observations(tmp_path)
