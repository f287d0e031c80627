"""What travels: everything arrives as it was sent, and nonsense is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from privet.wire import (
    Enrolment,
    ErrorReply,
    EvaluateReply,
    Failure,
    TrainReply,
    TrainRequest,
    payload_bytes,
)

vectors = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))
extras = st.dictionaries(st.sampled_from(["control", "other"]), vectors, max_size=2)
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    weights=vectors,
    more=extras,
    round_=st.integers(1, 10**6),
    noise=st.one_of(st.none(), finite),
)
def test_a_request_arrives_as_it_was_sent(weights, more, round_, noise) -> None:
    sent = TrainRequest(round_, weights, more, noise)
    received = TrainRequest.from_records(sent.to_records())
    np.testing.assert_array_equal(received.weights, weights)
    assert received.extras.keys() == more.keys()
    for name, vector in more.items():
        np.testing.assert_array_equal(received.extras[name], vector)
    assert (received.round, received.noise_multiplier) == (round_, noise)


@given(update=vectors, weight=finite, loss=st.one_of(st.none(), finite), private=st.booleans())
def test_a_reply_arrives_as_it_was_sent(update, weight, loss, private) -> None:
    event = {"version": 1, "x": [1, "é"]} if private else None
    sent = TrainReply(update, weight, event=event, loss=loss)
    received = TrainReply.from_records(sent.to_records())
    np.testing.assert_array_equal(received.update, update)
    assert (received.weight, received.loss, received.event) == (weight, loss, event)


@pytest.mark.parametrize(
    "odd",
    [
        {"stage": "Jane Doe"},
        {"code": "297 of 300"},
        {"names": ("diagnosis = HIV",)},
        {"names": ("Jane",)},
        {"names": ("a" * 61,)},
        {"names": ("rounds",) * 17},
        {"reference": "Jane Doe"},
        {"reference": "0123ABCD"},
    ],
)
def test_an_error_reply_has_no_place_for_words(odd: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ErrorReply(**{"stage": "data", "code": "data", **odd})


def test_an_enrolment_arrives_as_it_was_sent() -> None:
    for sent in (Enrolment("a", 3), Enrolment("b", 0, noise_multiplier=1.5)):
        assert Enrolment.from_records(sent.to_records()) == sent


def test_an_error_is_read_back_and_a_foreign_reason_is_kept() -> None:
    told = ErrorReply("guard", "policy", ("training.plain", "hours"), "0123abcd")
    assert ErrorReply.parse(str(told)) == told
    failure = Failure.parse(str(told), silo="silo-2")
    reason = "the data holder's policy does not allow it: training.plain, hours"
    assert failure == Failure("silo-2", "guard", reason, "0123abcd")
    for foreign in ("Node Unavailable", "[1]", '{"stage": 3}', "7", None):
        parsed = Failure.parse(foreign, silo="x")
        assert parsed.stage == "transport"
        assert parsed.reason == (foreign or "no reason given")


def request_with(array: Array) -> TrainRequest:
    records = TrainRequest(1, np.zeros(3, np.float32)).to_records()
    records["model"] = ArrayRecord({"weights": array})
    return TrainRequest.from_records(records)


@pytest.mark.parametrize(
    "values",
    [np.zeros(3), np.zeros((3, 1), np.float32), np.zeros((), np.float32), np.zeros(3, np.int64)],
)
def test_only_float32_vectors_are_taken(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected a float32 vector"):
        request_with(Array(values))


@pytest.mark.parametrize(
    ("shape", "keep"),
    [((10**12,), None), ((3,), 130), ((2,), None), ((3,), 5), ((3,), 0)],
    ids=["huge shape", "truncated", "other shape", "no header", "nothing"],
)
def test_bytes_that_do_not_fit_their_shape_are_refused(
    shape: tuple[int, ...], keep: int | None
) -> None:
    data = Array(np.zeros(3, np.float32)).data[:keep]
    with pytest.raises((ValueError, EOFError)):
        request_with(Array("float32", shape, "numpy.ndarray", data))


def test_payload_counts_the_arrays() -> None:
    records = TrainRequest(1, np.zeros(1000, np.float32)).to_records()
    assert 4000 <= payload_bytes(records) < 4200


@given(vector=vectors)
def test_arrays_are_written_as_flower_writes_them(vector) -> None:
    sent = TrainRequest(1, vector).to_records().array_records["model"]["weights"]
    assert sent == Array(vector)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_an_evaluation_on_no_number_of_records_is_refused(weight: float) -> None:
    reply = EvaluateReply({"accuracy": 0.5}, {"accuracy": "exact"}, weight=weight)
    with pytest.raises(ValueError, match="no number of records"):
        EvaluateReply.from_records(reply.to_records())
