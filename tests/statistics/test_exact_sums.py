"""Sums that do not depend on the order."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_forecast.statistics.exact_sums import ExactSum

not_negative = st.lists(st.floats(0.0, 1e300, allow_subnormal=True), min_size=1, max_size=40)


@given(not_negative, st.randoms(use_true_random=False))
def test_any_order_and_any_parts_give_the_same(values, random):
    whole = ExactSum.of(np.array(values))
    shuffled = list(values)
    random.shuffle(shuffled)
    cut = random.randint(0, len(values))
    assert ExactSum.of(np.array(shuffled[cut:])) + ExactSum.of(np.array(shuffled[:cut])) == whole


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40))
def test_it_is_the_correctly_rounded_sum(values):
    # addends below 2^-1200 of the largest are left out, and float64 cannot hold such a sum
    assert float(ExactSum.of(np.array(values))) == math.fsum(values)


def test_logs_of_what_underflows():
    total = ExactSum.of_logs(np.array([-5000.0, -5001.0, -np.inf]))
    assert float(total) == 0.0
    assert total.log() == pytest.approx(np.logaddexp(-5000.0, -5001.0), rel=1e-15)


def test_logs_far_beyond_float64_do_not_fill_the_memory():
    assert float(ExactSum.of_logs(np.array([-1e17]))) == 0.0
    assert ExactSum.of_logs(np.array([-1e17])).log() == pytest.approx(-1e17)
    assert ExactSum.of_logs(np.array([-1e300])).log() == -math.inf


def test_a_part_can_be_taken_away():
    values = np.random.default_rng(0).random(1000) ** 9
    rest = ExactSum.of(values).without(ExactSum.of(values[:300]))
    assert rest == ExactSum.of(values[300:])
    with pytest.raises(ValueError, match="sum of some of the addends"):
        ExactSum.of(values[:300]).without(ExactSum.of(values))
    with pytest.raises(ValueError, match="sum of some of the addends"):
        ExactSum.of(values).without(ExactSum.of(np.array([1e9])))


def test_nothing_is_zero():
    assert float(ExactSum()) == 0.0
    assert ExactSum().log() == -math.inf
    assert ExactSum.of(np.zeros(3)) == ExactSum() == ExactSum.of(np.empty(0))


def test_json():
    total = ExactSum.of(np.random.default_rng(0).random(100))
    assert ExactSum.from_list(total.to_list()) == total


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_values(bad):
    with pytest.raises(ValueError, match="values must be finite and not negative"):
        ExactSum.of(np.array([0.5, bad]))


@pytest.mark.parametrize("bad", [0.1, np.nan])
def test_bad_logs(bad):
    with pytest.raises(ValueError, match="logs must be natural logarithms"):
        ExactSum.of_logs(np.array([-1.0, bad]))
