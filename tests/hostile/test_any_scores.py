"""Any vector of scores and any file: an answer that makes sense, or an error that says what is wrong. 20,000 of each in the slow tests."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import sb3_forecast as sf
from sb3_forecast.cli.forecast import _jsonable
from sb3_forecast.cli.readers import read_scores
from sb3_forecast.statistics.conformal import lower_bound, upper_bound
from sb3_forecast.statistics.outlook import outlook_of_scores
from tests.hostile.strategies import score_files, score_vectors

QUICK, MANY = 150, 20_000
_OPTIONS = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    "database": None,
}


def answer(call, *arguments):
    """The result and no message, or no result and the message of a ValueError; any other error fails the test."""
    try:
        return call(*arguments), ""
    except ValueError as error:
        return None, str(error)


def _forecast_makes_sense(scores):
    tail, message = answer(sf.GumbelTail.fit, scores)
    if message:
        assert "must" in message or "needs at least" in message
        return
    assert tail.scale >= 0.0
    forecasts = [float(tail.forecast(n)) for n in (1, 10, 1000, 1e6, 1e12)]
    assert not np.isnan(forecasts).any()
    assert (np.diff(forecasts) >= 0.0).all()
    low, high = tail.interval(1000)
    assert low <= high
    shuffled = np.random.default_rng(0).permutation(scores)
    assert float(sf.GumbelTail.fit(shuffled).forecast(1000)) == forecasts[2]
    assert 0.0 <= float(tail.worst_query_risk(1000)) <= 1.0
    assert 0.0 <= float(tail.aggregate_risk(1000)) <= 1.0


def _outlook_makes_sense(scores):
    found, message = answer(outlook_of_scores, scores, 1e6)
    if message:
        assert "must" in message or "needs at least" in message
        return
    # JSON has neither NaN nor infinity
    text = json.dumps({key: _jsonable(value) for key, value in found.items()}, allow_nan=False)
    assert "NaN" not in text
    low, high = found["observed_mean_interval"]
    assert 0.0 <= low <= found["observed_mean_failure"] * (1 + 1e-9) <= high * (1 + 1e-9) + 1e-300
    assert 0.0 <= found["any_failure"] <= 1.0
    assert "nan" not in found["answer"]


def _bounds_make_sense(scores):
    low, cannot = answer(lower_bound, scores, 1)
    high, cannot_either = answer(upper_bound, scores, 1)
    assert all("must" in message for message in (cannot, cannot_either) if message)
    assert cannot or cannot_either or low <= high


@given(score_vectors())
@settings(max_examples=QUICK, **_OPTIONS)
def test_any_scores(scores):
    for check in (_forecast_makes_sense, _outlook_makes_sense, _bounds_make_sense):
        check(scores)


@pytest.mark.slow
@given(score_vectors())
@settings(max_examples=MANY, **_OPTIONS)
def test_20000_vectors_of_scores(scores):
    for check in (_forecast_makes_sense, _outlook_makes_sense, _bounds_make_sense):
        check(scores)


def _file_makes_sense(file, folder):
    name, content = file
    path = folder / name
    path.write_bytes(content)
    found, message = answer(read_scores, path)
    if message:
        assert name in message or "must be installed" in message
        return
    if found.values is None:
        assert (found.failures <= found.trials).all()
    else:
        assert not np.isnan(found.values).any()


@given(score_files())
@settings(max_examples=QUICK, **_OPTIONS)
def test_any_file(tmp_path, file):
    _file_makes_sense(file, tmp_path)


@pytest.mark.slow
@given(score_files())
@settings(max_examples=MANY, **_OPTIONS)
def test_20000_files(tmp_path, file):
    _file_makes_sense(file, tmp_path)
