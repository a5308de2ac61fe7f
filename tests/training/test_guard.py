"""The guard notices each degenerate direction, and keeps silent over a training that goes well."""

import dataclasses

import numpy as np
import pytest
import torch as th

import sb3_forecast as sf
from sb3_forecast.training.guard import ForecastGuard
from sb3_forecast.training.losses import LossTerms


def terms(error=0.1, scale=0.3, weights=(1.0, 0.5)):
    realised = th.zeros(4, dtype=th.float64)
    return LossTerms(th.tensor(1.0), realised + error, realised, th.full((4,), scale, dtype=th.float64), th.tensor(weights))


def after(times, *shown, success=None):
    guard = ForecastGuard()
    found = []
    for each in [terms(), *[terms(**kind) for kind in shown for _ in range(times)]]:
        found = guard.look(each, success)
    return " ".join(found)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"error": 12.0}, "the scores run away"),
        ({"error": 2.5}, "usually contain the rare mode"),
        ({"scale": 1e-9}, "collapsed to a point"),
        ({"weights": (1.0, -0.5)}, "33% of the loss's weight makes tasks fail more"),
    ],
)
def test_signs(kind, message):
    assert message in after(3, kind)
    assert after(2, kind) == ""  # once or twice is chance
    assert after(3, kind, {}) == ""  # and over


def test_an_agent_that_gives_up():
    guard = ForecastGuard()
    for success in (0.5, 0.9, 0.95):
        assert guard.look(terms(), success) == []
    found = [guard.look(terms(), 0.3) for _ in range(3)]
    assert found[:2] == [[], []]
    assert "success has fallen from 0.95 to 0.30" in found[2][0]


def test_real_losses():
    """The guarded loss asks no task to fail more; the squared one does, and is told on."""
    scores = th.from_numpy(np.random.default_rng(0).gumbel(size=400))
    generator = np.random.default_rng(1)
    found = {}
    for kind in ("guarded", "squared"):
        loss, guard = sf.ForecastLoss(100, 5, 32, kind), ForecastGuard()
        for _ in range(4):
            partitions = loss.draw(scores, generator)
            said = guard.look(loss.evaluate(scores[partitions.touched], partitions, 400), None)
        found[kind] = " ".join(said)
    assert found["guarded"] == ""
    assert "makes tasks fail more" in found["squared"]


@pytest.mark.parametrize(
    ("kind", "silent"),
    [
        ({"error": 3.4}, "run away"),  # 3 + 5 x 0.1 = 3.5
        ({"error": 1.99}, "too high"),
        ({"error": 2.0}, "too high"),
        ({"error": -1.0}, "too high"),
        ({"scale": 1.1e-6}, "collapsed"),
        ({"weights": (1.0, -0.01)}, "fail more"),
        ({"weights": (0.0, 0.0)}, "fail more"),
    ],
)
def test_just_below_a_sign(kind, silent):
    assert silent not in after(3, kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"error": 3.6}, "the forecast error is 3.6, its smallest value was 0.10"),
        ({"error": -3.6}, "run away"),
        ({"error": 2.01}, "too high by 2.0 on average"),
        ({"weights": (1.0, -0.011)}, "1% of the loss's weight"),
    ],
)
def test_just_above_a_sign(kind, message):
    assert message in after(3, kind)


def test_a_sign_must_last():
    """Three in a row: what comes and goes is not told."""
    guard, bad = ForecastGuard(), {"error": 2.5}
    found = [guard.look(terms(**kind), None) for kind in (bad, bad, {}, bad, bad, bad, bad)]
    assert [bool(each) for each in found] == [False] * 5 + [True] * 2


def test_the_smallest_error_is_remembered():
    guard = ForecastGuard()
    for error in (5.0, 0.2, 1.0, 4.1, 4.1, 4.1):  # 3 + 5 x 0.2 = 4
        found = guard.look(terms(error=-error), None)
    assert "its smallest value was 0.20" in found[0]


def test_what_is_held_on_purpose_is_no_wrong_weight():
    """The line holds tasks that have fallen too far; only what pulls beyond that is told."""
    guard = ForecastGuard()
    for held, told in ((0.5, False), (0.3, True)):
        for _ in range(3):
            found = guard.look(dataclasses.replace(terms(weights=(1.0, -0.5)), held=held), None)
        assert any("13% of the loss's weight" in text for text in found) == told


def test_without_a_forecast_the_weights_and_the_success_are_looked_at():
    """Baselines have no forecast."""
    empty = th.zeros(0, dtype=th.float64)
    bare = dataclasses.replace(terms(weights=(1.0, -1.0)), forecast=empty, realised=empty, scale=empty)
    guard = ForecastGuard()
    for success in (0.8, 0.1, 0.1, 0.1):
        found = guard.look(bare, success)
    assert len(found) == 2
    assert "50% of the loss's weight" in found[0]
    assert "success has fallen from 0.80 to 0.10" in found[1]


@pytest.mark.parametrize(
    ("best", "last", "told"), [(0.9, 0.44, True), (0.9, 0.45, False), (0.2, 0.05, False), (0.21, 0.05, True)]
)
def test_half_of_the_best_success_is_too_little(best, last, told):
    guard = ForecastGuard()
    guard.look(terms(), best)
    for _ in range(3):
        found = guard.look(terms(), last)
    assert bool(found) == told
