"""Choosing a scorer: by name, by what fits, and a user's own, which is checked against the pool as ours are."""

import numpy as np
import pytest
import torch as th

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.make import CompletedScorer, complete, make_measuring_scorer, make_scorer
from sb3_forecast.scorers.protocols import FailureScorer, Scorer


class Least:
    """What a user must write, and no more."""

    supports_partial = True

    def __init__(self, scores):
        self.scores, self.n_tasks = np.asarray(scores), len(scores)

    def score(self, model, tasks=None):
        return th.from_numpy(self.scores if tasks is None else self.scores[tasks])

    def rescore(self, model, tasks):
        return self.score(model, tasks)


class WithKey(Scorer):
    """A user's scorer that says whose tasks it scores."""

    def __init__(self, pool):
        self.n_tasks, self._key = len(pool), pool.key

    @property
    def key(self):
        return self._key

    def score(self, model, tasks=None):
        return th.zeros(self.n_tasks if tasks is None else len(tasks), dtype=th.float64)

    def rescore(self, model, tasks):
        return self.score(model, tasks)


def test_the_least_is_enough():
    scorer = Least(np.linspace(-3.0, 0.5, 40))
    assert isinstance(scorer, FailureScorer)
    whole = complete(scorer)
    assert isinstance(whole, CompletedScorer)
    assert (whole.n_tasks, whole.supports_partial, whole.ready, whole.steps_played) == (40, True, True, 0)
    found = whole.measure(None)
    np.testing.assert_array_equal(found.scores, scorer.scores)
    np.testing.assert_allclose(found.frequencies, np.exp(-np.exp(-scorer.scores)))
    assert np.isnan(found.success).all()
    assert (found.warnings, found.counts) == ((), None)
    np.testing.assert_array_equal(whole.rescore(None, np.array([3, 1])), scorer.scores[[3, 1]])
    assert complete(whole) is whole


def test_a_scorer_with_a_state_keeps_it():
    class Drawing(Least):
        def state_dict(self):
            return {"drawn": 7}

        def load_state_dict(self, state):
            self.drawn = state["drawn"]

    whole = complete(Drawing(np.zeros(4)))
    whole.load_state_dict(whole.state_dict())
    assert whole.scorer.drawn == 7
    assert complete(Least(np.zeros(4))).state_dict() == {}


def test_a_users_scorer_of_other_tasks_is_refused(pool):
    other = sfe.TaskPool("ThinIce-8x8", 300, seed=9)
    assert make_scorer(WithKey(pool), pool).key == pool.key
    # the same tasks in another object
    assert make_scorer(WithKey(sfe.TaskPool("ThinIce-8x8", 300, seed=1, rare_fraction=0.1)), pool)
    for scorer in (WithKey(other), sf.ExactScorer(other), sf.SurvivalScorer(other), sf.FrequencyScorer(other)):
        with pytest.raises(ValueError, match="other tasks"):
            make_scorer(scorer, pool)
    with pytest.raises(ValueError, match="300"):
        make_scorer(Least(np.zeros(3)), pool)


@pytest.mark.parametrize("scorer", [None, 3, object()])
def test_what_is_no_scorer_is_named(pool, scorer):
    with pytest.raises(TypeError, match="scorer must be"):
        make_scorer(scorer, pool)


def test_arguments_of_counting_reach_the_counter(pool, clumsy):
    few = pool.subset(np.arange(6))
    assert make_measuring_scorer("frequency", few, clumsy, 3, {"episodes": 7}).episodes == 7
    assert isinstance(make_measuring_scorer("auto", few, clumsy, 3, {"episodes": 7}), sf.ExactScorer)


@pytest.mark.parametrize("name", ["exact", "survival", "frequency"])
def test_every_scorer_measures_failure_and_success(pool, clumsy, name):
    few = pool.subset(np.arange(12))
    scorer = make_scorer(name, few, seed=1, counting={"episodes": 5})
    found = scorer.measure(clumsy)
    assert found.scores.shape == found.frequencies.shape == found.success.shape == (12,)
    # an agent that takes any action with the same probability fails often
    assert 0.2 < found.frequencies.mean() <= 1.0
    assert ((found.success >= 0.0) & (found.success <= 1.0)).all()
    assert (found.counts is not None) == (name == "frequency")
    assert scorer.samples == (name != "exact")


def test_counts_are_kept(pool, clumsy):
    few = pool.subset(np.arange(12))
    scorer = sf.FrequencyScorer(few, 5, seed=1)
    found = scorer.measure(clumsy)
    np.testing.assert_array_equal(found.counts.trials, 5)
    np.testing.assert_allclose(found.frequencies, found.counts.failures / 5)
    np.testing.assert_allclose(sf.failure_probability(found.scores), (found.counts.failures + 0.5) / 6.0)
