import json

import numpy as np
import pytest
import torch as th

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.statistics.estimators import jones_forecast


class FixedScores:
    """A scorer whose answers are known."""

    supports_partial = True

    def __init__(self, scores):
        self.scores, self.n_tasks = np.asarray(scores), len(scores)

    def score(self, model, tasks=None):
        return th.from_numpy(self.scores if tasks is None else self.scores[tasks])

    def rescore(self, model, tasks):
        return self.score(model, tasks)


class Tasks:
    scorers = ("exact",)

    def __init__(self, rare):
        self.rare = rare

    def __len__(self):
        return len(self.rare)


def report_of(scores, rare=None, **arguments):
    rare = np.zeros(len(scores), dtype=bool) if rare is None else rare
    return sf.evaluate_forecast(None, Tasks(rare), scorer=FixedScores(scores), **arguments)


def test_numbers_by_hand():
    scores = np.random.default_rng(0).gumbel(size=500) - 3
    rare = np.zeros(500, dtype=bool)
    rare[[4, 40]] = True
    report = report_of(scores, rare, eval_size=50, n_splits=30, seed=3, deploy_size=300, k=6, method="jones")
    rng, errors, scales = np.random.default_rng(3), [], []
    for _ in range(30):
        split = rng.permutation(500)[:350]
        top = np.sort(scores[split[:50]])[::-1][:6]
        errors.append(float(jones_forecast(top, 50, 300)) - scores[split[50:]].max())
        scales.append((top.sum() - 6 * top[-1]) / 5)
    errors, scales = np.array(errors), np.array(scales)
    assert report.error.mean_abs == pytest.approx(np.abs(errors).mean())
    assert report.error.median_abs == pytest.approx(np.median(np.abs(errors)))
    assert report.error.signed == pytest.approx(errors.mean())
    assert report.error_in_scale.signed == pytest.approx((errors / scales).mean())
    assert report.under_predicted == pytest.approx((errors < 0).mean())
    p = np.exp(-np.exp(-scores))
    assert report.worst_failure == pytest.approx(p.max())
    assert report.rare_mean_failure == pytest.approx(p[[4, 40]].mean())
    assert np.isnan(report.success)


def test_a_missed_rare_mode_is_under_predicted_and_an_exact_tail_is_not():
    rng = np.random.default_rng(1)
    common = 0.3 * rng.exponential(size=4000) - 3
    plain = report_of(common, eval_size=200, n_splits=200, method="jones")
    assert plain.error.signed > 0  # docs/method.md eq. 17
    mode = common.copy()
    mode[:4] = 3.0
    assert report_of(mode, eval_size=200, n_splits=200).under_predicted > 0.75


def test_collapsed_scores_are_a_defined_outcome():
    report = report_of(np.full(300, -5.0), eval_size=50, n_splits=5)
    assert report.error.mean_abs == 0.0
    assert report.summary().startswith("Nothing was forecast: in every split the top evaluation scores are equal")
    assert "nan" not in report.summary()
    assert np.isnan(report.error_in_scale.mean_abs)
    content = json.loads(report.to_json())
    assert content["error_in_scale"]["mean_abs"] is None
    assert content["rare_success"] is None


def test_report_of_an_agent(agent, pool, tmp_path):
    report = sf.evaluate_forecast(agent, pool, eval_size=60, n_splits=50, k=5)
    again = sf.evaluate_forecast(agent, pool, eval_size=60, n_splits=50, k=5)
    assert report.to_json() == again.to_json()
    assert 0 < report.success < 1
    assert 0 < report.rare_success < 1
    assert report.success + report.mean_failure <= 1 + 1e-9
    report.to_json(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["n_tasks"] == 300
    assert "worst failure probability of a task" in report.summary()
    report.plot(tmp_path / "tail.png")
    assert (tmp_path / "tail.png").stat().st_size > 10_000


def test_survival_scores_serve_too(agent, pool):
    exact = sf.evaluate_forecast(agent, pool, 60, n_splits=20, k=5)
    sampled = sf.evaluate_forecast(agent, pool, 60, n_splits=20, k=5, scorer="survival")
    assert sampled.mean_failure == pytest.approx(exact.mean_failure, rel=0.2)


def test_failure_map_sums_to_the_failure_probability(agent, pool, tmp_path):
    from sb3_forecast.scorers.actor import log_probabilities

    def policy(observations):
        return log_probabilities(agent.policy, observations).exp().detach().numpy()

    failure = sf.ExactScorer(pool).outcomes(agent).failure
    for task in (0, 5, int(np.argmax(failure))):
        where = sfe.failure_map(pool, task, policy)
        assert where.sum() == pytest.approx(failure[task], rel=1e-5)
        hazards = pool.family.outcomes[pool.layouts[task]] == 2
        assert (where[~hazards] == 0).all()
    sfe.draw_tasks(pool, [("agent", [0, 5, 7], policy)], tmp_path / "tasks.png")
    assert (tmp_path / "tasks.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eval_size": 300}, "eval_size must be below the pool size 300, got 300"),
        ({"eval_size": 5, "k": 10}, "k must be at most eval_size=5, got 10"),
        ({"eval_size": 50, "deploy_size": 251}, r"deploy_size must be in \[1, 250\] for 300 tasks and eval_size=50, got 251"),
        ({"eval_size": 50, "n_splits": 0}, "n_splits must be at least 1, got 0"),
        ({"eval_size": 50, "scorer": "psychic"}, "scorer must be .* got 'psychic'"),
    ],
)
def test_bad_input(agent, pool, arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.evaluate_forecast(agent, pool, **arguments)


def test_success_is_counted_where_scores_do_not_tell(agent, pool):
    """By survival scores as by exact ones, but for chance."""
    exact = sf.evaluate_forecast(agent, pool, 60, 20, k=5)
    sampled = sf.evaluate_forecast(agent, pool, 60, 20, k=5, scorer="survival")
    spread = np.sqrt(exact.success * (1.0 - exact.success) / len(pool))
    assert abs(sampled.success - exact.success) < 4.0 * spread
    assert 0.0 < sampled.rare_success <= 1.0
