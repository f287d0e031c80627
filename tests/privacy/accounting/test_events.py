import json

import dp_accounting as dpa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.errors import PrivacyError
from privet.privacy.accounting import decode_event, dp_sgd_event, encode_event

multipliers = st.floats(0, 1e6)
gaussians = st.builds(dpa.GaussianDpEvent, multipliers)
poissons = st.builds(dpa.PoissonSampledDpEvent, st.floats(0, 1), gaussians)
leaves = st.one_of(
    gaussians, poissons, st.builds(dpa.NoOpDpEvent), st.builds(dpa.NonPrivateDpEvent)
)
events = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(dpa.SelfComposedDpEvent, inner, st.integers(1, 100)),
        st.builds(dpa.ComposedDpEvent, st.lists(inner, max_size=4)),
    ),
    max_leaves=8,
)


@given(events)
@settings(max_examples=200, deadline=None)
def test_an_event_survives_json_bit_for_bit(event):
    assert decode_event(json.loads(json.dumps(encode_event(event)))) == event


def test_a_dp_sgd_event_is_poisson_sampled_gaussians_repeated():
    event = dp_sgd_event(noise_multiplier=1.5, sampling_rate=0.1, steps=12)
    step = dpa.PoissonSampledDpEvent(0.1, dpa.GaussianDpEvent(1.5))
    assert event == dpa.SelfComposedDpEvent(step, 12)
    assert dp_sgd_event(noise_multiplier=1.5, sampling_rate=0.1, steps=0) == dpa.NoOpDpEvent()


def test_the_encoding_is_a_contract():
    event = dp_sgd_event(noise_multiplier=1.5, sampling_rate=0.1, steps=12)
    assert encode_event(event) == {
        "version": 1,
        "type": "repeated",
        "times": 12,
        "event": {
            "type": "poisson",
            "sampling_rate": 0.1,
            "event": {"type": "gaussian", "noise_multiplier": 1.5},
        },
    }


GAUSSIAN = {"version": 1, "type": "gaussian", "noise_multiplier": 1.0}
STEP = {"type": "gaussian", "noise_multiplier": 1.0}
TWICE = {"type": "repeated", "times": 4, "event": STEP}
DEEP = {"type": "no-op"}
for _ in range(40):
    DEEP = {"type": "repeated", "times": 1, "event": DEEP}


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ({}, "no version"),
        ([], "no version"),
        ({**GAUSSIAN, "version": 2}, "version 2"),
        ({**GAUSSIAN, "version": True}, "version True"),
        ({"version": 1, "type": "laplace", "noise_multiplier": 1.0}, "laplace"),
        ({"version": 1, "type": ["gaussian"]}, "unknown type"),
        ({"version": 1, "type": "gaussian"}, "noise_multiplier"),
        ({**GAUSSIAN, "clip": 1.0}, "clip"),
        ({**GAUSSIAN, "noise_multiplier": -1.0}, "-1.0"),
        ({**GAUSSIAN, "noise_multiplier": float("nan")}, "nan"),
        ({**GAUSSIAN, "noise_multiplier": float("inf")}, "inf"),
        ({**GAUSSIAN, "noise_multiplier": True}, "True"),
        ({**GAUSSIAN, "noise_multiplier": "1.0"}, "'1.0'"),
        ({"version": 1, "type": "repeated", "times": 0, "event": DEEP}, "times = 0"),
        ({"version": 1, "type": "repeated", "times": 1.5, "event": DEEP}, "times = 1.5"),
        ({"version": 1, "type": "poisson", "sampling_rate": 1.1, "event": DEEP}, "1.1"),
        ({"version": 1, "type": "poisson", "sampling_rate": 0.5, "event": 3}, "object"),
        ({"version": 1, "type": "composed", "events": {}}, "list"),
        ({"version": 1, **DEEP}, "deeper"),
        ({"version": 1, "type": "repeated", "times": 10**400, "event": STEP}, "2\\^53"),
        ({"version": 1, "type": "repeated", "times": 2**52, "event": TWICE}, "2\\^53"),
        ({"version": 1, "type": "poisson", "sampling_rate": 0.1, "event": {"type": "no-op"}}, "Po"),
    ],
)
def test_what_cannot_be_read_is_not_counted_as_nothing(encoded, message):
    with pytest.raises(PrivacyError, match=message):
        decode_event(encoded)


def test_an_event_of_another_kind_has_no_encoding():
    with pytest.raises(PrivacyError, match="LaplaceDpEvent"):
        encode_event(dpa.SelfComposedDpEvent(dpa.LaplaceDpEvent(1.0), 3))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"noise_multiplier": -0.1}, "noise_multiplier = -0.1"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier = nan"),
        ({"sampling_rate": 0.0}, "sampling_rate = 0.0"),
        ({"sampling_rate": 1.01}, "sampling_rate = 1.01"),
        ({"steps": -1}, "steps = -1"),
    ],
)
def test_impossible_parameters_are_named(changed, message):
    fine = {"noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 12}
    with pytest.raises(PrivacyError, match=message):
        dp_sgd_event(**{**fine, **changed})
