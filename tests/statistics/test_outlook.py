"""The outlook brings together what the parts say, for the sizes, method and level that were asked for, and adds what to beware of."""

import math

import numpy as np
import pytest

import sb3_forecast as sf
from sb3_forecast.statistics.alternatives import ParetoTail, lognormal_forecast
from sb3_forecast.statistics.count_checks import goodness_of_fit
from sb3_forecast.statistics.counts import CountTail
from sb3_forecast.statistics.expected import expected_failures
from sb3_forecast.statistics.outlook import gumbel_tail, outlook_of_counts, outlook_of_scores
from sb3_forecast.statistics.risk import clopper_pearson

M, K, N, LEVEL = 400, 24, 20_000, 0.8


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(0).exponential(size=M) * 0.4 - 3.0


def p_of(score):
    return float(sf.failure_probability(score))


@pytest.mark.parametrize("method", ["blue", "jones", "direct"])
def test_the_entries_are_those_of_the_tail(scores, method):
    found, tail = outlook_of_scores(scores, float(N), method, K, LEVEL), sf.GumbelTail.fit(scores, K, method)
    low, high = (float(v) for v in tail.interval(N, LEVEL))
    checks = tail.diagnostics()
    worst = float(tail.forecast(N))
    assert {name: value for name, value in found.items() if name not in ("answer", "caveats", "observed_mean_interval")} == {
        "observed_mean_failure": pytest.approx(sf.failure_probability(scores).mean()),
        "method": method,
        "n_eval": M,
        "k": K,
        "worst_score": worst,
        "worst_probability": p_of(worst),
        "worst_log_survival": float(sf.log_survival_probability(worst)),
        "interval": [low, high],
        "interval_probability": [p_of(low), p_of(high)],
        "level": LEVEL,
        "observed_worst_probability": p_of(scores.max()),
        "any_failure": float(tail.aggregate_risk(N)),
        "mean_failure": math.exp(tail.log_mean_failure()),
        "share_above_half": float(tail.behavior_frequency(0.5)),
        "share_above_half_limit": tail.behavior_frequency_limit(0.5, LEVEL),
        "exceeds_observed_worst": pytest.approx(N / (N + M)),
        "curvature_p": checks.curvature_p,
        "anderson_darling_p": checks.anderson_darling_p,
    }


def test_the_answer_comes_from_the_data_themselves(scores):
    found = outlook_of_scores(scores, N, level=LEVEL)
    expected = expected_failures(sf.failure_probability(-np.sort(-scores)), LEVEL)
    assert found["answer"] == expected.sentence(N, LEVEL)
    assert found["observed_mean_interval"] == [expected.low, expected.high]


def test_what_is_usual():
    scores = np.random.default_rng(1).exponential(size=M)
    found, tail = outlook_of_scores(scores, N), sf.GumbelTail.fit(scores)
    assert (found["method"], found["k"], found["level"]) == ("blue", tail.k, 0.9)
    assert found["interval"] == [float(v) for v in tail.interval(N, 0.9)]


@pytest.mark.parametrize("method", ["pareto", "lognormal"])
def test_other_models_give_the_worst_task_only(scores, method):
    found = outlook_of_scores(scores, N, method, K, LEVEL)
    pareto = ParetoTail.fit(scores, K)
    assert found["worst_score"] == (pareto.forecast(N) if method == "pareto" else lognormal_forecast(scores, N))
    assert found.get("pareto_shape") == (pareto.shape if method == "pareto" else None)
    assert np.isnan(found["interval"]).all()
    assert found["any_failure"] == float(sf.GumbelTail.fit(scores, K).aggregate_risk(N))
    assert any(f"only the forecast of the worst task is that of '{method}'" in text for text in found["caveats"])


@pytest.mark.parametrize(
    ("method", "fitted"), [("jones", "jones"), ("direct", "direct"), ("pareto", "blue"), ("lognormal", "blue")]
)
def test_other_models_fit_an_unbiased_tail_beside(scores, method, fitted):
    tail = gumbel_tail(scores, K, method)
    assert (tail.method, tail.k) == (fitted, K)


def test_a_tail_that_bends_disagrees_with_a_straight_one():
    heavy = np.random.default_rng(0).standard_t(2, size=4000) - 20.0
    found, tail = outlook_of_scores(heavy, 4_000_000, "pareto", 100, LEVEL), sf.GumbelTail.fit(heavy, 100)
    low, high = (p_of(v) for v in tail.interval(4_000_000, LEVEL))
    assert found["worst_score"] > float(tail.interval(4_000_000, LEVEL)[1])
    (text,) = [text for text in found["caveats"] if "disagree" in text]
    assert f"by more than the 80% interval of the latter, {low:.2g} to {high:.2g}" in text


def test_a_straight_tail_agrees_with_itself(scores):
    low, high = sf.GumbelTail.fit(scores, K).interval(2000, LEVEL)
    found = outlook_of_scores(scores, 2000, "pareto", K, LEVEL)
    assert low <= found["worst_score"] <= high
    assert not any("disagree" in text for text in found["caveats"])


def test_above_the_forecast_but_within_the_interval_is_no_disagreement(scores, monkeypatch):
    tail = sf.GumbelTail.fit(scores, K)
    low, high = (float(v) for v in tail.interval(N, LEVEL))
    middle = float(tail.forecast(N))
    for score, disagrees in (
        (low - 0.01, True),
        (low + 0.01, False),
        ((middle + high) / 2, False),
        (high - 0.01, False),
        (high + 0.01, True),
    ):
        monkeypatch.setattr(ParetoTail, "forecast", lambda self, n_deploy, score=score: score)
        caveats = outlook_of_scores(scores, N, "pareto", K, LEVEL)["caveats"]
        assert any("disagree" in text for text in caveats) == disagrees


def test_a_forecast_of_a_thousand_times_the_evaluation_is_far():
    scores = np.random.default_rng(1).exponential(size=M)
    near, far = (outlook_of_scores(scores, n)["caveats"] for n in (1000 * M, 1001 * M))
    assert not any("times as large as the evaluation" in text for text in near)
    assert any("the deployment is 1001 times as large as the evaluation" in text for text in far)


def test_tasks_that_cannot_fail_are_told():
    scores = np.append(np.random.default_rng(1).exponential(size=M - 3), [-np.inf] * 3)
    assert any(f"3 of {M} tasks have p = 0" in text for text in outlook_of_scores(scores, N)["caveats"])
    assert not any("have p = 0" in text for text in outlook_of_scores(scores[:-3], N)["caveats"])


def test_warnings_of_the_fit_are_caveats():
    scores = np.round(np.random.default_rng(0).exponential(size=500), 1)
    assert any("tied" in text for text in outlook_of_scores(scores, N)["caveats"])


def test_how_rare_a_kind_may_be_missed_at_even_odds(scores):
    """A kind of share 1 - 2^(-1/m) is in none of m tasks half of the time."""
    text = outlook_of_scores(scores, N)["caveats"][-1]
    assert f"makes up less than {1 - 0.5 ** (1 / M):.2g} of all tasks is probably missing from these {M}" in text


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    return rng.binomial(40, rng.beta(0.4, 12.0, size=M)), np.full(M, 40)


@pytest.fixture
def quick(monkeypatch):
    """An interval that takes no time, and tells what was asked for."""
    monkeypatch.setattr(CountTail, "interval", lambda self, n_deploy, level: (-level, math.log10(n_deploy)))


def test_the_entries_of_counts_are_those_of_the_beta_distribution(counts, quick):
    failures, trials = counts
    found, tail = outlook_of_counts(failures, trials, N, LEVEL), CountTail.fit(failures, trials)
    expected = expected_failures(failures / trials, LEVEL)
    interval, mean, worst = list(tail.interval(N, LEVEL)), tail.a / (tail.a + tail.b), tail.forecast(N)
    caveats = found.pop("caveats")
    assert found == {
        "answer": expected.sentence(N, LEVEL),
        "observed_mean_failure": expected.mean,
        "observed_mean_interval": [expected.low, expected.high],
        "method": "beta-binomial",
        "n_eval": M,
        "worst_score": worst,
        "worst_probability": p_of(worst),
        "worst_log_survival": float(sf.log_survival_probability(worst)),
        "interval": interval,
        "interval_probability": [p_of(v) for v in interval],
        "level": LEVEL,
        "observed_worst_probability": (failures / trials).max(),
        "any_failure": pytest.approx(1.0 - (1.0 - mean) ** N),
        "mean_failure": mean,
        "fit_p": goodness_of_fit(tail),
        "exceeds_observed_worst": sf.exceedance_probability(M, int(N), 1),
    }
    assert f"({(failures == 0).sum()} of {M} are 0)" in caveats[0]
    assert f"(a = {tail.a:.3g}, b = {tail.b:.3g})" in caveats[0]


def test_any_failure_of_counts_is_no_certainty_in_a_small_deployment(quick):
    failures = np.array([5, 4, 3, 2, 1] + [0] * 295)
    found = outlook_of_counts(failures, np.full(300, 50), 10)
    assert found["any_failure"] == pytest.approx(1.0 - (1.0 - found["mean_failure"]) ** 10, rel=1e-9)
    assert 0.0 < found["any_failure"] < 0.1
    assert found["level"] == 0.9  # the usual one


def test_too_few_failures_give_limits_without_a_forecast():
    failures, trials = np.array([2, 1, 1] + [0] * 97), np.full(100, 50)
    found = outlook_of_counts(list(failures), list(trials), N, LEVEL)
    expected = expected_failures(failures / trials, LEVEL)
    by_task, by_episode = clopper_pearson(3, 100, LEVEL), clopper_pearson(4, 5000, LEVEL)
    caveats = found.pop("caveats")
    assert found == {
        "answer": expected.sentence(N, LEVEL),
        "observed_mean_failure": expected.mean,
        "observed_mean_interval": [expected.low, expected.high],
        "method": "counts only",
        "n_eval": 100,
        "level": LEVEL,
        "observed_worst_probability": 0.04,
        "failing_tasks_limit": by_task,
        "failure_limit_if_tasks_are_alike": by_episode,
    }
    assert f"with 80% confidence at most {by_task:.3g} of all tasks" in caveats[0]
    assert f"the 5,000 episodes say that one fails with probability at most {by_episode:.3g}" in caveats[0]
    assert "no forecast of the worst task: failures must be above 0 for at least 5 tasks, got 3 of 100" in caveats[1]
