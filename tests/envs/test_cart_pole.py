"""The cart-poles: the batch against Gymnasium's own, lost poles against a search, survival scores against counting."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.playing import play
from sb3_forecast_envs.cart_pole import physics as cp
from sb3_forecast_envs.cart_pole import simulation

POOL = sfe.CartPoleTasks(40, seed=3, rare_fraction=0.3)


def untrained(**arguments: object) -> PPO:
    return PPO("MlpPolicy", POOL.make_vec_env(4), n_steps=16, batch_size=32, seed=0, device="cpu", **arguments)


@pytest.mark.parametrize("balancing", [False, True])
def test_the_batch_equals_gymnasiums_cart_pole_step_by_step(balancing: bool) -> None:
    batch = POOL.make_vec_env(5, seed=7)
    singles = DummyVecEnv([POOL.make_env] * 5)
    singles.seed(7)
    rng = np.random.default_rng(0)
    seen = batch.reset()
    np.testing.assert_allclose(seen, singles.reset(), rtol=1e-6, atol=1e-7)
    ends: list[str] = []
    for _ in range(400 if balancing else 150):
        # push to the side to which the pole leans and turns
        actions = (seen[:, 2] / 5.0 + 0.25 * seen[:, 3] > 0.0).astype(np.int64) if balancing else rng.integers(2, size=5)
        ours, theirs = batch.step(actions), singles.step(actions)
        seen = ours[0]
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours[1], theirs[1], atol=1e-6)
        np.testing.assert_array_equal(ours[2], theirs[2])
        for done, mine, his in zip(ours[2], ours[3], theirs[3], strict=True):
            assert {key: mine[key] for key in ("task", "cost")} == {key: his[key] for key in ("task", "cost")}
            assert mine.get("is_success") == his.get("is_success")
            if done:
                np.testing.assert_allclose(mine["terminal_observation"], his["terminal_observation"], rtol=1e-4, atol=1e-5)
                ends.append("failure" if mine["cost"] else "success" if mine["is_success"] else "neither")
    assert set(ends) >= ({"success", "neither"} if balancing else {"failure"})


def test_success_is_standing_near_the_goal_when_time_is_up() -> None:
    pool = sfe.CartPoleTasks(1, seed=0)
    env = sfe.CartPoleVecEnv(pool, 1)
    for distance, expected in ((0.1, True), (0.5, False)):
        env.reset()
        env.state[:] = [[pool.parameters[0, cp.GOAL] - distance, 0.0, 0.0, 0.0]]
        env.steps[:] = cp.HORIZON - 1
        _, _, dones, infos = env.step(np.array([1]))
        assert dones[0]
        assert infos[0]["is_success"] is expected
        assert infos[0]["cost"] == 0.0
        assert not infos[0]["TimeLimit.truncated"]


def exhaustive(state: NDArray[np.float64], tasks: NDArray[np.float64], decisions: int) -> NDArray[np.bool_]:
    """What :func:`cart_pole.doomed` says, by trying every sequence of decisions."""
    out = np.empty((len(state), 2), dtype=np.bool_)
    for action in (0, 1):
        after = cp.advance(state, tasks, np.full(len(state), action))
        lost = cp.fallen(after)
        alive = np.flatnonzero(~lost)
        if decisions and len(alive):
            lost[alive] = exhaustive(after[alive], tasks[alive], decisions - 1).all(axis=1)
        out[:, action] = lost
    return out


def test_a_pole_is_given_up_only_if_no_sequence_of_decisions_saves_it() -> None:
    rng = np.random.default_rng(0)
    n = 3000
    tasks = np.stack([cp.draw_task(rng, 0.3)[0] for _ in range(n)])
    state = np.stack([rng.uniform(-1, 1, n), rng.normal(0, 1, n), rng.uniform(-0.4, 0.4, n), rng.normal(0, 1.5, n)], axis=1)
    claimed, true = cp.doomed(state, tasks, 6), exhaustive(state, tasks, 6)
    assert not (claimed & ~true).any()
    # those it misses are about to leave the track, which it does not look for
    assert (true & ~claimed).mean() < 0.01
    assert 0.1 < true.mean() < 0.9


def test_survival_scores_are_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the sum over all sequences of decisions, of short episodes that begin in trouble."""
    horizon = 8
    for owner, name, value in (
        (cp, "HORIZON", horizon),
        (simulation, "HORIZON", horizon),
        (simulation, "LOOKAHEAD", 3),
        (simulation.CartPoleSimulation, "horizon", horizon),
    ):
        monkeypatch.setattr(owner, name, value)
    pool = sfe.CartPoleTasks(12, seed=0, rare_fraction=0.3)
    rng = np.random.default_rng(0)
    pool.parameters[:, cp.START] = rng.normal(0.0, [0.5, 0.5, 0.15, 0.6], size=(12, 4))
    pool.parameters[:3, cp.START.start] = [2.2, -2.2, 2.3]
    model = untrained()

    def failing(state: NDArray[np.float64], tasks: NDArray[np.float64], decision: int) -> NDArray[np.float64]:
        if decision == horizon:
            return np.zeros(len(state))
        seen = th.as_tensor(cp.observe(state, tasks, np.full(len(state), decision)))
        with th.no_grad():
            pi = model.policy.get_distribution(seen).distribution.probs.double().numpy()
        total = np.zeros(len(state))
        for action in (0, 1):
            after = cp.advance(state, tasks, np.full(len(state), action))
            later = np.where(cp.fallen(after), 1.0, failing(after, tasks, decision + 1))
            total += pi[:, action] * later
        return total

    exact = failing(pool.parameters[:, cp.START], pool.parameters, 0)
    sampled = -np.expm1(sf.SurvivalScorer(pool, episodes=4000, seed=1).log_survival(model).numpy())
    error = sampled.mean(axis=1) - exact
    assert (np.abs(error) < 4.5 * sampled.std(axis=1) / np.sqrt(4000) + 1e-6).all()
    assert ((exact > 0.02) & (exact < 0.98)).sum() >= 6
    assert sf.SurvivalScorer(pool, episodes=5).score(model).isfinite().all()


def test_the_scorer_that_is_told_nothing_runs_on_them() -> None:
    scorer = sf.EpisodeScorer(POOL, probes=20, delay=4, n_envs=8, warm_up_rounds=1, warm_up_failures=5)
    model = sf.ForecastPPO(
        "MlpPolicy", POOL.make_vec_env(8), scorer=scorer, eval_size=15, k=5, n_steps=128, batch_size=64, seed=0, device="cpu"
    )
    model.learn(4096)
    assert scorer.ready
    assert len(scorer.cost_model.transitions.failing[1]) > 5
    assert sf.evaluate_forecast(model, POOL, 15, 20, k=5, scorer=scorer).scorer == "EpisodeScorer"


def test_a_task_is_the_same_in_pools_of_any_size() -> None:
    few, many = sfe.CartPoleTasks(5, seed=3, rare_fraction=0.3), POOL
    np.testing.assert_array_equal(few.parameters, many.parameters[:5])
    part = many.subset(many.rare)
    assert part.rare.all()
    assert (np.abs(part.parameters[:, cp.WIND]) >= 5.0).all()
    assert part.key != many.key
    assert len(sfe.CartPoleTasks(4000, seed=1).subset([7])) == 1


def test_running_episodes_can_be_saved() -> None:
    env = POOL.make_vec_env(3)
    env.reset()
    rng = np.random.default_rng(0)
    actions = rng.integers(2, size=(60, 3))
    for row in actions[:20]:
        env.step(row)
    assert isinstance(env, sfe.CartPoleVecEnv)
    state = env.get_state()
    first = [env.step(row)[0] for row in actions[20:]]
    env.set_state(state)
    np.testing.assert_array_equal(first, [env.step(row)[0] for row in actions[20:]])
    with pytest.raises(ValueError, match="use the same n_envs and pool as in the run that was saved"):
        sfe.CartPoleTasks(40, seed=4).make_vec_env(3).set_state(state)  # type: ignore[attr-defined]


def test_it_is_a_gymnasium_environment_like_others() -> None:
    check_env(gym.make("SB3Forecast/CartPole-v0").unwrapped, skip_render_check=True)
    tasks = sfe.SeededTasks("SB3Forecast/CartPole-v0", n_tasks=3)
    outcome = play(untrained(), tasks.make_vec_env(2), np.array([0, 1, 2, 0]), seed=0)
    assert not outcome.success[outcome.failed].any()


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="n_tasks must be at least 1, got 0"):
        sfe.CartPoleTasks(0, seed=0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        sfe.CartPoleTasks(1, seed=-1)
    with pytest.raises(ValueError, match=r"rare_fraction must be in \[0, 1\], got 2"):
        sfe.CartPoleTasks(1, seed=0, rare_fraction=2.0)
    with pytest.raises(ValueError, match=r"task must be in \[0, 3999\], got 4000"):
        sfe.CartPoleTaskEnv().set_next_task(4000)
    with pytest.raises(ValueError, match="indices must select at least one task"):
        POOL.subset([])


def test_worst_tasks_can_be_filmed(tmp_path: object) -> None:
    recording = sf.record_worst(untrained(), POOL, 1, f"{tmp_path}/worst.gif", tries=1)
    assert recording.path.stat().st_size > 1000
