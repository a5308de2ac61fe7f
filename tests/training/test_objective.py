"""The objective between a scorer and a loss, with a scorer whose scores are given."""

import numpy as np
import pytest
import torch as th

import sb3_forecast as sf
from sb3_forecast.training import objective as module
from sb3_forecast.training.objective import ForecastObjective
from sb3_forecast.training.tail_line import TailLineLoss


class Given:
    """A scorer whose scores the test sets; it notes which tasks were scored."""

    def __init__(self, scores):
        self.scores = th.as_tensor(scores, dtype=th.float64)
        self.n_tasks = len(scores)
        self.supports_partial = True
        self.asked = []

    def score(self, model, indices=None):
        self.asked.append(None if indices is None else np.asarray(indices))
        return self.scores.clone() if indices is None else self.scores[th.from_numpy(indices)]

    def rescore(self, model, indices):
        return self.scores[th.from_numpy(indices)].requires_grad_()


def objective(scorer, **kwargs):
    return ForecastObjective(scorer, sf.ForecastLoss(20, 4, 16), seed=0, **kwargs)


@pytest.fixture
def scorer():
    return Given(np.random.default_rng(0).gumbel(size=100))


def test_task_weights_sum_up_the_loss_s_weights_and_fade(scorer):
    mine = objective(scorer, weight_decay=0.5)
    expected = np.zeros(100)
    for _ in range(3):
        terms = mine.refresh(None)
        expected *= 0.5
        expected[mine.touched] += np.maximum(terms.weights.numpy(), 0.0)
    assert expected.max() > 0.0
    np.testing.assert_allclose(mine.task_weights, expected, rtol=1e-12)


def test_missed_top_is_the_share_of_the_worst_that_was_not_followed(scorer):
    mine = objective(scorer, full_every=2, n_candidates=50)
    mine.refresh(None)
    assert np.isnan(mine.missed_top)
    mine.refresh(None)  # only the candidates
    outside = np.setdiff1d(np.arange(100), mine.candidates)[: module.WATCHED_TASKS // 5]
    scorer.scores[th.from_numpy(outside)] = scorer.scores.max() + 1.0 + th.arange(len(outside))
    mine.refresh(None)
    assert mine.missed_top == pytest.approx(len(outside) / module.WATCHED_TASKS)


def test_nothing_is_missed_while_the_worst_stay_the_worst(scorer):
    mine = objective(scorer, full_every=2, n_candidates=50)
    for _ in range(3):
        mine.refresh(None)
    assert mine.missed_top == 0.0


def test_a_partial_scoring_asks_for_the_candidates_only(scorer):
    mine = objective(scorer, full_every=3, n_candidates=30)
    for _ in range(4):
        mine.refresh(None)
    assert [each is None for each in scorer.asked] == [True, False, False, True]
    np.testing.assert_array_equal(scorer.asked[1], np.sort(th.topk(scorer.scores, 30).indices.numpy()))


def test_a_state_goes_on_as_the_run_it_was_taken_from(scorer):
    straight, resumed = objective(scorer), objective(scorer)
    straight.refresh(None)
    resumed.load_state_dict(straight.state_dict())
    for each in (straight, resumed):
        each.refresh(None)
    np.testing.assert_array_equal(resumed.task_weights, straight.task_weights)
    np.testing.assert_array_equal(resumed.touched, straight.touched)


def test_a_loss_with_a_memory_goes_on_with_it(scorer):
    """The tail line holds no task above where it was before the training, so it must not forget where that was."""
    straight, resumed = (
        ForecastObjective(scorer, TailLineLoss(eval_size=20, deploy_size=80, k=4, n_worst=30), seed=0) for _ in range(2)
    )
    straight.refresh(None)
    resumed.load_state_dict(straight.state_dict())
    scorer.scores += 1.0
    resumed.refresh(None)
    th.testing.assert_close(resumed.pool_loss.start, straight.pool_loss.start, rtol=0.0, atol=0.0)


def test_before_the_first_refresh(scorer):
    mine = objective(scorer)
    assert not mine.has_partitions
    for name in ("candidates", "touched"):
        with pytest.raises(RuntimeError, match=f"{name} needs .*got none yet"):
            getattr(mine, name)
