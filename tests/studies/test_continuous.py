"""The study of continuous actions: its simulators, what it measures, and its figure."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import sb3_forecast_envs as sfe
from studies import continuous, off_policy, pushed_poles
from studies.continuous import SIMULATORS, pendulum_tasks
from studies.cost_only_report import dots
from studies.pushed_poles import PushedPoleTasks
from studies.statistics import Column


def played(env, steps=80, seed=5):
    """Observations, rewards and dones of random pushes."""
    env.seed(seed)
    pushes = np.random.default_rng(0)
    found = [env.reset()]
    for _ in range(steps):
        env.step_async(pushes.uniform(-1.5, 1.5, (env.num_envs, 1)).astype(np.float32))
        observations, rewards, dones, _ = env.step_wait()
        found += [observations, rewards, dones]
    return found


def test_full_pushes_without_gusts_are_the_cart_pole(monkeypatch):
    monkeypatch.setattr(pushed_poles, "GUST", 0.0)
    pushed = PushedPoleTasks(30, 0, 0.5).make_vec_env(8, 3)
    known = sfe.CartPoleTasks(30, 0, 0.5).make_vec_env(8, 3)
    np.testing.assert_array_equal(pushed.reset(), known.reset())
    actions = np.random.default_rng(1)
    for _ in range(70):
        chosen = actions.integers(2, size=8)
        # more than a full push is a full push
        for env, given in ((pushed, (6.0 * chosen - 3.0)[:, None]), (known, chosen)):
            env.step_async(given)
        for mine, theirs in zip(pushed.step_wait()[:3], known.step_wait()[:3], strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_the_same_seed_gives_the_same_gusts():
    one, other = (PushedPoleTasks(30, 0, 0.5).make_vec_env(4, seed) for seed in (1, 2))
    for mine, theirs in zip(played(one), played(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert any((mine != theirs).any() for mine, theirs in zip(played(one, seed=6), played(other, seed=7), strict=True))


def test_a_state_that_is_kept_has_the_gusts():
    env = PushedPoleTasks(30, 0, 0.5).make_vec_env(4, 1)
    env.reset()
    kept = env.get_state()
    first = env.step(np.zeros((4, 1)))[0]
    env.set_state(kept)
    np.testing.assert_array_equal(env.step(np.zeros((4, 1)))[0], first)


def test_nobody_knows_which_push_fails():
    pool = PushedPoleTasks(30, 0)
    assert "survival" not in pool.scorers
    assert pool.key != sfe.CartPoleTasks(30, 0).key
    with pytest.raises(ValueError, match=r"played in batches, got make_env\(\) of .*; use make_vec_env\(1\)"):
        pool.make_env()


def test_the_pendulum_sees_the_slope():
    pytest.importorskip("mujoco")
    pool = pendulum_tasks(4, 0, 1.0)
    env = pool.make_env()
    for task in range(4):
        seen, _ = env.reset(options={"task": task})
        down, along = pool.contexts[task]
        assert seen[-2:] == pytest.approx([along, (down + 9.81) / 2.0])
        assert 1.0 <= along <= 1.6


@pytest.mark.parametrize("name", SIMULATORS)
def test_the_share_of_rare_tasks_is_as_asked(name):
    pytest.importorskip("mujoco")
    simulator = SIMULATORS[name]
    assert simulator.tasks(20, 1, 1.0).rare.all()
    assert not simulator.tasks(20, 1, 0.0).rare.any()
    assert simulator.tasks(2000, 1, simulator.rare_fraction).rare.mean() == pytest.approx(simulator.rare_fraction, rel=0.5)


@pytest.mark.parametrize("counts_success", [True, False])
def test_usual_and_rare_tasks_are_weighed_by_the_mass_of_the_rare_mode(counts_success, monkeypatch):
    class Counter:
        """Usual tasks fail with .1 and succeed with .8, rare ones with .6 and .3."""

        def __init__(self, tasks, episodes, seed, n_envs, deterministic):
            self.rare = tasks.rare

        def measure(self, model):
            success = np.where(self.rare, 0.3, 0.8) if counts_success else np.full(len(self.rare), np.nan)
            return SimpleNamespace(frequencies=np.where(self.rare, 0.6, 0.1), success=success)

    monkeypatch.setattr(continuous.sf, "FrequencyScorer", Counter)
    found = continuous.measure(replace(SIMULATORS["poles"], held_out=(30, 10)), 2, None, 1)
    assert (found["usual_failure"], found["rare_mean_failure"], found["rare_often"]) == pytest.approx((0.1, 0.6, 1.0))
    assert found["mean_failure"] == pytest.approx(0.997 * 0.1 + 0.003 * 0.6)
    usual, rare = (0.8, 0.3) if counts_success else (0.9, 0.4)
    assert found["rare_success"] == pytest.approx(rare)
    assert found["success"] == pytest.approx(0.997 * usual + 0.003 * rare)


@pytest.mark.parametrize("settings", [continuous.Settings(held_out=(30, 10)), off_policy.Settings()])
def test_settings_are_those_that_a_record_gives_back(settings):
    """A run that was stopped must not be refused as one of other settings."""
    assert json.loads(json.dumps(settings.kept())) == settings.kept()
    assert settings.kept()["held_out"] == list(settings.held_out)


def test_a_dot_per_seed_and_open_ones_where_nothing_was_seen(tmp_path):
    numbers = {"ppo": [0.1, 0.01, 0.2], "replay": [0.0, 0.003, 0.0]}
    records = [
        SimpleNamespace(method=method, result={"p": value}, seconds=1.0)
        for method, values in numbers.items()
        for value in values
    ]
    figure = dots(
        records, {"ppo": "PPO", "replay": "with replay"}, ("replay",), Column("p", ("p",), "{:.2f}"), tmp_path / "a.png"
    )
    (ax,) = figure.axes
    full, empty = ax.collections[::2], ax.collections[1::2]
    assert [sorted(part.get_offsets()[:, 0]) for part in full] == [[0.01, 0.1, 0.2], [0.003]]
    assert [len(part.get_offsets()) for part in empty] == [0, 2]
    # left of everything that was seen
    assert empty[1].get_offsets()[:, 0].max() < 0.003
    assert [line.get_xdata()[0] for line in ax.lines] == pytest.approx([0.1, 0.001])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["PPO", "with replay"]
    assert "none was seen" in ax.get_xlabel()
