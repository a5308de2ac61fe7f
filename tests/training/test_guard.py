"""The guard notices each degenerate direction, and keeps silent over a training that goes well."""

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
