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


@pytest.mark.parametrize(
    ("above", "arguments", "expected"),
    [
        (150, {"p_floor": 0.5, "n_candidates": "risky"}, 150),
        (20, {"p_floor": 0.5, "n_candidates": "risky"}, module.LEAST_RISKY),
        (900, {"p_floor": 0.5, "n_candidates": "risky"}, 227),  # as many as the loss may touch
        (150, {"n_candidates": "risky"}, 227),  # all can fail
        (20, {"p_floor": 0.5, "n_candidates": 30}, 30),
        (20, {"n_candidates": np.int64(30)}, 30),
        (150, {"p_floor": 0.5}, 227),
    ],
)
def test_a_partial_scoring_of_risky_tasks_only(above, arguments, expected):
    scores = np.full(1000, sf.failure_score(np.log(0.4)))
    scores[:above] = sf.failure_score(np.log(0.6))
    scorer = Given(scores)
    mine = ForecastObjective(scorer, sf.ForecastLoss(100, 10, 16), seed=0, full_every=3, **arguments)
    for _ in range(2):
        mine.refresh(None)
    assert len(scorer.asked[1]) == expected
    # the risky ones first
    assert (scorer.asked[1] < above).sum() == min(above, expected)


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


def test_scores_and_weights_go_on_with_a_state(scorer):
    straight = objective(scorer, full_every=5, n_candidates=30)
    straight.refresh(None)
    state = straight.state_dict()
    resumed = objective(scorer, full_every=5, n_candidates=30)
    resumed.load_state_dict(state)
    assert th.equal(resumed.scores, straight.scores)
    assert resumed.n_refreshes == 1
    # the state is a copy on both ways
    straight.refresh(None)
    assert not np.array_equal(straight.task_weights, resumed.task_weights)
    resumed.scores.zero_()
    assert not th.equal(resumed.scores, straight.scores)
    fresh = objective(scorer)
    fresh.load_state_dict(objective(scorer).state_dict())
    assert fresh.scores is None


class Remembering(Given):
    """A scorer with a state."""

    memory = 0

    def state_dict(self):
        return {"memory": self.memory}

    def load_state_dict(self, state):
        self.memory = state["memory"]


def test_a_scorer_with_a_memory_goes_on_with_it():
    scores = np.random.default_rng(0).gumbel(size=100)
    one, other = Remembering(scores), Remembering(scores)
    one.memory = 7
    objective(other).load_state_dict(objective(one).state_dict())
    assert other.memory == 7


def test_a_state_without_the_entries_of_later_versions(scorer):
    state = objective(scorer).state_dict()
    del state["loss"]
    mine = ForecastObjective(scorer, TailLineLoss(eval_size=20, deploy_size=80, k=4, n_worst=30))
    mine.load_state_dict(state)
    assert mine.pool_loss.start is None


def test_what_is_usual_for_an_objective(scorer):
    mine = ForecastObjective(scorer, sf.ForecastLoss(20, 4, 16))
    assert (mine.full_every, mine.weight_decay, mine.subpool) == (1, 0.98, None)
    assert mine.n_candidates == sf.ForecastLoss(20, 4).reach(100)
    assert mine.n_partitioned == 100
    assert len(mine.validation) == 0
    large = Given(np.zeros(5000))
    assert ForecastObjective(large, sf.ForecastLoss(1000, 4)).n_candidates == 500
    for _ in range(2):
        mine.refresh(None)
    other = ForecastObjective(scorer, sf.ForecastLoss(20, 4, 16), seed=0, weight_decay=0.98)
    for _ in range(2):
        other.refresh(None)
    np.testing.assert_array_equal(mine.task_weights, other.task_weights)


def test_candidates_are_at_most_the_tasks_that_are_learnt(scorer):
    mine = objective(scorer, full_every=2, n_candidates=500, validation=np.arange(10))
    assert mine.n_candidates == 90
    mine.refresh(None)
    np.testing.assert_array_equal(mine.candidates, np.arange(10, 100))


def test_tasks_of_the_validation_are_neither_touched_nor_followed(scorer):
    aside = np.sort(th.topk(scorer.scores, 20).indices.numpy())
    mine = objective(scorer, full_every=2, n_candidates=30, validation=aside)
    np.testing.assert_array_equal(mine.validation, aside)
    np.testing.assert_array_equal(mine.learning, np.setdiff1d(np.arange(100), aside))
    assert mine.n_partitioned == 80
    for _ in range(3):
        mine.refresh(None)
        assert not set(mine.touched) & set(aside)
        assert not set(mine.candidates) & set(aside)
    assert mine.task_weights[aside].sum() == 0.0
    assert mine.missed_top == 0.0


def test_a_subpool_is_drawn_anew_and_scored_alone(scorer):
    mine = objective(scorer, subpool=60)
    for _ in range(2):
        mine.refresh(None)
    a, b = scorer.asked
    assert len(set(a)) == len(set(b)) == mine.n_partitioned == 60
    assert (np.diff(a) > 0).all()
    assert set(a) != set(b)
    assert set(mine.touched) <= set(b)
    unseen = np.setdiff1d(np.arange(100), np.union1d(a, b))
    assert len(unseen)
    assert (mine.scores[th.from_numpy(unseen)] == -th.inf).all()
    seen = th.from_numpy(np.union1d(a, b))
    assert th.equal(mine.scores[seen], scorer.scores[seen])


def test_the_gradient_is_that_of_the_active_tasks(scorer):
    mine = ForecastObjective(scorer, sf.ForecastLoss(20, 4, 16, "squared"))
    mine.refresh(None)
    loss = mine.loss(None)
    tasks, weights = mine.active
    assert (weights != 0.0).all()
    assert (weights < 0.0).any()
    assert set(tasks) <= set(mine.touched)
    terms = mine.pool_loss.evaluate(mine.scores[mine.touched], mine._partitions, 100)
    assert loss.item() == pytest.approx(terms.loss.item())
    np.testing.assert_array_equal(weights.numpy(), terms.weights[terms.weights != 0.0].numpy())
    np.testing.assert_array_equal(tasks, mine.touched[(terms.weights != 0.0).numpy()])


def test_episodes_start_where_the_weights_are(scorer):
    mine = objective(scorer)
    assert mine.starts(0.0) == (None, 0.0)
    mine.refresh(None)
    weights, share = mine.starts(0.3)
    assert share == 0.3
    assert weights is mine.task_weights


def test_no_episode_starts_on_the_validation(scorer):
    aside = np.arange(20)
    mine = objective(scorer, validation=aside)
    uniform, share = mine.starts(0.3)  # no weights yet
    assert share == 1.0
    np.testing.assert_allclose(uniform, [0.0] * 20 + [1 / 80] * 80)
    mine.refresh(None)
    mixed, share = mine.starts(0.3)
    assert share == 1.0
    np.testing.assert_allclose(mixed, 0.7 * uniform + 0.3 * mine.task_weights / mine.task_weights.sum())
    none, share = mine.starts(0.0)
    assert share == 1.0
    np.testing.assert_allclose(none, uniform)


def test_a_failed_draw_leaves_no_gradient_behind(scorer):
    mine = objective(scorer)
    mine.refresh(None)
    scorer.scores[:] = -th.inf
    with pytest.raises(sf.NoForecastError):
        mine.refresh(None)
    assert not mine.has_partitions


def test_the_worst_that_are_watched_are_no_more_than_are_learnt():
    few = Given(np.random.default_rng(0).gumbel(size=8))
    mine = ForecastObjective(few, sf.ForecastLoss(4, 2, 16), full_every=2, n_candidates=4)
    for _ in range(3):
        mine.refresh(None)
    assert mine.missed_top == 0.5  # all 8 are watched, 4 were followed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_candidates": 0}, "n_candidates must be at least 1, got 0"),
        ({"weight_decay": 1.1}, r"weight_decay must be in \[0, 1\], got 1.1"),
        ({"subpool": 101}, r"subpool must be in \[1, 100\] for this pool, got 101"),
        ({"subpool": 0}, r"subpool must be in \[1, 100\]"),
        ({"subpool": 50, "full_every": 2}, "full_every must be 1 when subpool is given, got 2 with subpool=50"),
        ({"subpool": 50, "validation": np.arange(3)}, "validation must be None when subpool is given"),
        ({"validation": np.array([100])}, "tasks must be from 0 to 99, got 100"),
    ],
)
def test_bad_arguments(scorer, arguments, message):
    with pytest.raises(ValueError, match=message):
        objective(scorer, **arguments)


def test_whole_pools_as_subpools(scorer):
    objective(scorer, subpool=100, n_candidates=1, weight_decay=0.0).refresh(None)
    ForecastObjective(scorer, sf.ForecastLoss(2, 2), weight_decay=1.0, full_every=1)
