"""Counting with a budget of episodes, by real episodes."""

import json

import numpy as np
import pytest

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.__main__ import main
from sb3_forecast.scorers.frequency import all_as_before
from sb3_forecast.scorers.playing import Episodes, play
from sb3_forecast.statistics.allocation import Design, failure_means
from sb3_forecast.statistics.outlook import outlook_of_counts


@pytest.fixture(scope="module")
def tasks():
    return sfe.TaskPool("ThinIce-8x8", 120, seed=5)


def test_most_episodes_go_where_failures_were_seen(agent, tasks):
    scorer = sf.FrequencyScorer(tasks, 1, budget=360, seed=1)
    found = scorer.measure(agent)
    counts = found.counts
    assert counts.design == Design(1, 360)
    assert counts.trials.sum() == 360 == len(scorer.last.failed)
    failed = counts.first == 1
    assert counts.trials[failed].mean() > 2 * counts.trials[~failed].mean()
    np.testing.assert_array_equal(found.frequencies, counts.first)
    np.testing.assert_allclose(sf.failure_probability(found.scores), failure_means(counts.failures, counts.trials))
    # the episodes of a task are neighbours, the first ones first
    starts = np.cumsum(counts.trials) - counts.trials
    np.testing.assert_array_equal(np.add.reduceat(scorer.last.failed.astype(int), starts), counts.failures)
    np.testing.assert_array_equal(scorer.last.failed[starts], failed)
    np.testing.assert_array_equal(np.add.reduceat(scorer.last.lengths, starts), found.steps)
    assert scorer.steps_played == found.steps.sum()
    again = sf.FrequencyScorer(tasks, 1, budget=360, seed=1).counts(agent)
    np.testing.assert_array_equal(again.failures, counts.failures)
    np.testing.assert_array_equal(again.trials, counts.trials)


def test_it_says_what_the_exact_scores_say(agent, tasks):
    exact = sf.failure_probability(sf.ExactScorer(tasks).score(agent).numpy())
    counts = sf.FrequencyScorer(tasks, 4, budget=2400, seed=2).counts(agent)
    spread = np.sqrt(exact * (1 - exact) / counts.trials)
    away = np.abs(counts.failures / counts.trials - exact) / np.maximum(spread, 0.02)
    assert np.mean(away < 3) > 0.95
    assert abs(counts.first.mean() / 4 - exact.mean()) < 4 * np.sqrt((exact * (1 - exact)).mean() / 480)


def test_every_round_has_noise_of_its_own(agent, tasks, monkeypatch):
    seeds = []

    def noted(model, env, chosen, seed, *rest):
        seeds.append(seed)
        return play(model, env, chosen, seed, *rest)

    monkeypatch.setattr("sb3_forecast.scorers.frequency.play", noted)
    sf.FrequencyScorer(tasks, 1, budget=160, seed=1).counts(agent)
    assert seeds[0] == 1
    assert len(set(seeds)) == len(seeds) == 5


def test_a_part_of_the_tasks(agent, tasks):
    counts = sf.FrequencyScorer(tasks, 1, budget=40, seed=1).counts(agent, np.array([3, 7, 7]))
    assert counts.trials.sum() == 40
    assert len(counts.failures) == 3
    with pytest.raises(ValueError, match=r"budget must be at least episodes x tasks = 240, .* got 200"):
        sf.FrequencyScorer(tasks, 2, budget=200).counts(agent)


def test_without_a_budget_nothing_is_different(agent, tasks):
    counts = sf.FrequencyScorer(tasks, 3, seed=1).counts(agent)
    assert counts.design is None
    assert counts.first is None
    np.testing.assert_array_equal(counts.trials, 3)


def test_where_the_task_decides_the_budget_is_not_used(agent, tasks):
    scorer = sf.FrequencyScorer(tasks, 1, budget=360, seed=1, deterministic=True)
    found = scorer.measure(agent)
    assert found.counts.trials.sum() == 180
    assert found.warnings[-1].startswith(
        "every task that was played again ended as before, so the task decides: 180 of 360 episodes"
    )


@pytest.mark.parametrize(
    ("tasks", "returns", "alike"),
    [
        ([0, 1, 2, 3, 4] * 2, [1, 2, 3, 4, 5] * 2, True),
        ([0, 1, 2, 3, 4] * 2, [1, 2, 3, 4, 5, 1, 2, 3, 4, 6], False),
        ([0, 1, 2, 3] * 2, [1, 2, 3, 4] * 2, False),
        ([0, 1, 2, 3, 4] * 2, [500, 500, 500, 500, 7] * 2, False),  # they reach the time limit, whatever is done
        ([0, 1, 2, 3, 4] * 2 + [5, 6], [500] * 10 + [1, 2], False),
        ([0, 1, 2, 3, 4] * 2, [500, 500, 500, 8, 7] * 2, True),
        ([0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6], False),
    ],
)
def test_five_tasks_that_end_as_before(tasks, returns, alike):
    size = len(tasks)
    episodes = Episodes(np.zeros(size, bool), np.zeros(size), np.array(returns, float), np.ones(size, int))
    assert all_as_before(np.array(tasks), episodes, sampled=True) is alike


def test_likeliest_actions_may_all_end_at_the_time_limit():
    tasks, size = np.tile(np.arange(5), 2), 10
    episodes = Episodes(np.zeros(size, bool), np.zeros(size), np.ones(size), np.full(size, 64))
    assert all_as_before(tasks, episodes, sampled=False)
    assert not all_as_before(tasks[:9], Episodes(*(column[:9] for column in vars(episodes).values())), sampled=False)


def test_the_command(agent, capsys, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(sfe.GridVecEnv, "close", lambda self: closed.append(self.num_envs))
    agent.save(tmp_path / "agent.zip")
    line = [
        "evaluate",
        str(tmp_path / "agent.zip"),
        "--env-id",
        "SB3Forecast/ThinIce-8x8-v0",
        "--max-episodes",
        "200",
        "--seed",
        "4",
    ]
    assert main([*line, "--scorer", "frequency", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_eval"] == 150
    assert 10 in closed  # the environments of the probe
    assert found["source"].startswith("failures of 200 episodes: 150 tasks once, then 50 episodes in the ")
    counts = sf.FrequencyScorer(sfe.TaskPool("ThinIce-8x8", 150, seed=4), 1, 4, budget=200).counts(agent)
    expected = outlook_of_counts(counts.failures, counts.trials, 1e6, first=counts.first, design=counts.design)
    assert found["answer"] == expected["answer"]
    assert found["observed_mean_failure"] == pytest.approx(counts.first.mean())
    assert counts.first.mean() != pytest.approx((counts.failures / counts.trials).mean())
    assert found["observed_worst_probability"] == pytest.approx(failure_means(counts.failures, counts.trials).max())
    assert found["interval_probability"] == pytest.approx(expected["interval_probability"])
    assert main([*line, "--deterministic", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_eval"] == 200
    assert (
        "each of another task, because a task decides how its episode ends; PPO takes its likeliest actions" in found["source"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-episodes", "20"], "max_episodes must be at least 40, got 20"),
        (
            ["--max-episodes", "400"],
            "must be left out where failures need not be counted (ExactScorer computes them), got 400",
        ),
        (["--max-episodes", "400", "--eval-size", "100"], "eval_size must be left out with max_episodes"),
        (["--max-episodes", "400", "--episodes", "3"], "episodes must be left out with max_episodes"),
        (["--max-episodes", "400", "--held-out", "100"], "held_out must be left out with max_episodes"),
        (["--max-episodes", "400", "--scorer", "splitting"], "max_episodes must be left out with the scorer splitting"),
        (["--max-episodes", "400", "--active"], "max_episodes must be left out with active or cluster"),
    ],
)
def test_options_that_do_nothing(agent, capsys, tmp_path, options, message):
    agent.save(tmp_path / "agent.zip")
    status = main(["evaluate", str(tmp_path / "agent.zip"), "--env-id", "SB3Forecast/ThinIce-8x8-v0", *options])
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.split())
