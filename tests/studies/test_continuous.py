"""The simulators of the study of continuous actions."""

import numpy as np
import pytest

import sb3_forecast_envs as sfe
from studies import pushed_poles
from studies.continuous import SIMULATORS, pendulum_tasks
from studies.pushed_poles import PushedPoleTasks


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
        for env, given in ((pushed, (2.0 * chosen - 1.0)[:, None]), (known, chosen)):
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


def test_the_rare_mode_is_rare_in_training():
    simulator = SIMULATORS["poles"]
    assert 0 < simulator.tasks(simulator.pool_size, 1, simulator.rare_fraction).rare.sum() < 50
