"""Measuring any model: counts, the evaluation callback, recordings, the command line."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.measuring.selection import quality
from tests.conftest import SMALL_PPO


class Fallen(gym.Wrapper):
    """CartPole, where falling costs."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "cost": float(terminated)}


def cartpole():
    return Fallen(gym.make("CartPole-v1", max_episode_steps=60, render_mode="rgb_array"))


@pytest.fixture(scope="module")
def poles():
    return sfe.SeededTasks(cartpole, n_tasks=30)


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN])
def test_any_model_on_an_environment_without_a_model(poles, algorithm):
    model = algorithm("MlpPolicy", cartpole(), seed=0, device="cpu")
    report = sf.evaluate_forecast(model, poles, eval_size=10, n_splits=20, k=4, scorer=sf.FrequencyScorer(poles, 6))
    assert report.scorer == "FrequencyScorer"
    assert 0.5 / 7 < report.worst_failure <= 6.5 / 7
    # this environment does not say what a success is
    assert np.isnan(report.success)


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_continuous_actions(algorithm):
    tasks = sfe.SeededTasks("Pendulum-v1", 6, failed=lambda step: step.reward < -12.0)
    model = algorithm("MlpPolicy", gym.make("Pendulum-v1"), seed=0, device="cpu", buffer_size=10)
    scorer = sf.FrequencyScorer(tasks, 1, n_envs=3)
    counts = scorer.failures(model)
    assert set(counts) <= {0, 1}
    assert (scorer.last.lengths == 200).all()
    # off-policy models act without exploring: the same again
    np.testing.assert_array_equal(counts, sf.FrequencyScorer(tasks, 1, n_envs=6, seed=9).failures(model))


def low(step):
    """Whether the reward is low."""
    return step.reward < -12.0


def test_playing_leaves_the_noise_of_gsde_as_it_was():
    """A rollout of the training goes on with its own noise; and what is counted does not depend on that noise."""
    tasks = sfe.SeededTasks("Pendulum-v1", 3, failed=low, first_seed=3)
    model = PPO("MlpPolicy", tasks.make_vec_env(2), n_steps=8, batch_size=16, use_sde=True, seed=0, device="cpu")
    model.policy.reset_noise(2)
    before = model.policy.action_dist.exploration_matrices
    scorer = sf.FrequencyScorer(tasks, 1, n_envs=3)
    scorer.failures(model)
    first = scorer.last.returns
    assert model.policy.action_dist.exploration_matrices is before
    model.policy.reset_noise(2)
    scorer.failures(model)
    np.testing.assert_array_equal(scorer.last.returns, first)


def test_auto_says_why_nothing_fits(pool):
    class Bare:
        scorers = ("exact",)

        def __getattr__(self, name):
            return getattr(pool, name)

        def __len__(self):
            return len(pool)

    model = DQN("MlpPolicy", sfe.GridVecEnv(pool, 1), device="cpu", buffer_size=10)
    with pytest.raises(
        ValueError,
        match=r"must find a scorer for this model, got none of \('exact',\).* exact: model must have a stochastic .* got DQN",
    ):
        sf.evaluate_forecast(model, Bare(), 60, k=5)
    assert sf.evaluate_forecast(model, pool.subset(np.arange(60)), 20, 10, k=5).scorer == "FrequencyScorer"


def test_scores_of_counts(pool):
    few = pool.subset(np.arange(5))
    model = PPO("MlpPolicy", sfe.GridVecEnv(few, 4), seed=0, **SMALL_PPO)
    scorer = sf.FrequencyScorer(few, 9, seed=2)
    counts = scorer.failures(model)
    np.testing.assert_allclose(np.exp(-np.exp(-scorer.score(model).numpy())), (counts + 0.5) / 10)
    with pytest.raises(ValueError, match="scorer must have a gradient for training, got 'frequency'"):
        scorer.rescore(model, np.array([0]))
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        sf.FrequencyScorer(few, 0)
    with pytest.raises(ValueError, match="scorer must have a gradient for training, got 'frequency'"):
        sf.ForecastPPO(
            "MlpPolicy", sfe.GridVecEnv(pool, 8), eval_size=60, k=5, scorer="frequency", full_every=1, **SMALL_PPO
        ).learn(128)


def test_costs_are_needed_and_nan_is_named():
    model = PPO("MlpPolicy", "CartPole-v1", device="cpu", seed=0)

    class Broken(gym.Wrapper):
        def step(self, action):
            observation, *rest = self.env.step(action)
            return observation * np.nan, *rest

    tasks = sfe.SeededTasks(lambda: Broken(cartpole()), 4)
    with pytest.raises(FloatingPointError, match=r"got NaN or infinity in the observation of environment 0 \(task \d\)"):
        sf.FrequencyScorer(tasks, 1, n_envs=2).score(model)


class Count(BaseCallback):
    calls = 0

    def _on_step(self):
        self.calls += 1
        return True


def test_eval_callback(pool, tmp_path):
    held = sfe.TaskPool("ThinIce-8x8", 150, seed=7, rare_fraction=0.1)
    best, after = Count(), Count()
    callback = sf.ForecastEvalCallback(
        held, 50, callback_on_new_best=best, callback_after_eval=after, eval_freq=32, log_path=str(tmp_path / "log"),
        best_model_save_path=str(tmp_path / "best"), n_splits=50, k=5, verbose=0,
    )  # fmt: skip
    env = sfe.GridVecEnv(pool, 8, seed=1)
    model = PPO("MlpPolicy", env, seed=0, tensorboard_log=str(tmp_path / "tb"), **SMALL_PPO)
    model.learn(8 * 96, callback=callback)
    assert after.calls == 3
    assert 1 <= best.calls <= 3
    kept = np.load(tmp_path / "log" / "evaluations.npz")
    assert kept["timesteps"].tolist() == [256, 512, 768]
    assert callback.best_report.limit_holds in kept["limit_holds"]
    assert callback.last_report.limit_holds == kept["limit_holds"][-1]
    loaded = PPO.load(tmp_path / "best" / "best_model.zip", device="cpu")
    again = sf.evaluate_forecast(loaded, held, 50, 50, k=5)
    assert again.error.mean_abs == pytest.approx(callback.best_report.error.mean_abs, rel=1e-6)
    (folder,) = (tmp_path / "tb").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert {"eval/forecast_error", "eval/success", "eval/rare_success", "eval/worst_failure"} <= set(events.Tags()["scalars"])
    assert "eval/tail" in events.Tags()["images"]


def test_a_model_without_success_is_not_the_best(pool, tmp_path):
    held = sfe.TaskPool("ThinIce-8x8", 150, seed=7, rare_fraction=0.1)
    callback = sf.ForecastEvalCallback(
        held, 50, 0.99, eval_freq=8, best_model_save_path=str(tmp_path), k=5, n_splits=20, figures=False, verbose=0
    )
    PPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=1), seed=0, **SMALL_PPO).learn(128, callback=callback)
    assert callback.last_report.success < 0.99
    assert callback.best_report is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_success": 2.0}, r"min_success must be in \[0, 1\], got 2"),
        ({"eval_freq": 0}, "eval_freq must be at least 1, got 0"),
        ({"n_splits": 0}, "n_splits must be at least 1, got 0"),
        ({"method": "blu"}, "method must be one of .* got 'blu'"),
        ({"deploy_size": 10**6}, r"deploy_size must be in \[1, 250\], got 1000000"),
    ],
)
def test_mistakes_of_the_eval_callback_are_found_before_training(pool, arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.ForecastEvalCallback(pool, 50, k=5, **arguments)


def test_the_best_model_does_its_job_and_its_limit_holds(pool, clumsy):
    report = sf.evaluate_forecast(clumsy, pool, 60, 50, k=5)
    usual = replace(report, success=0.9, limit_holds=0.5, mean_failure=0.1)
    better = [
        replace(usual, limit_holds=0.96, mean_failure=0.2),  # a limit that holds is worth more than fewer failures
        replace(usual, mean_failure=0.05),
        replace(usual, success=float("nan"), mean_failure=0.05),  # success that nothing tells cannot be too low
        replace(usual, limit_holds=0.52, mean_failure=0.09),  # 2% of the splits are noise
    ]
    worse = [
        replace(usual, success=0.7, limit_holds=1.0, mean_failure=0.0),  # an agent that does not move
        replace(usual, limit_holds=0.4, mean_failure=0.0),
        replace(usual, limit_holds=1.0, mean_scale=0.0),  # all scores equal: nothing was forecast
    ]
    for other in better:
        assert quality(other, 0.8) > quality(usual, 0.8)
    for other in worse:
        assert quality(other, 0.8) < quality(usual, 0.8)
    assert quality(replace(usual, limit_holds=0.97), 0.8) == quality(replace(usual, limit_holds=0.99), 0.8)


def test_recording(agent, pool, poles, tmp_path):
    shown = sf.record_worst(agent, pool, n=2, path=tmp_path / "worst.gif", seed=3)
    scores = sf.ExactScorer(pool).score(agent)
    assert shown.tasks[0] == int(scores.argmax())
    assert shown.failed[0]
    with Image.open(shown.path) as image:
        assert image.n_frames > 8
    film = sf.record_worst(agent, pool, n=1, path=tmp_path / "worst.mp4")
    assert film.path.stat().st_size > 1000
    model = PPO("MlpPolicy", cartpole(), seed=0, device="cpu")
    poled = sf.record_worst(model, poles, n=1, path=tmp_path / "pole.gif", scorer=sf.FrequencyScorer(poles, 2))
    assert poled.path.exists()
    with pytest.raises(ValueError, match=r"path must end in \.gif or \.mp4, got 'worst\.avi'"):
        sf.record_worst(agent, pool, path="worst.avi")
    with pytest.raises(ValueError, match=r"n must be in \[1, 300\], got 0"):
        sf.record_worst(agent, pool, n=0)
    silent = sfe.SeededTasks(lambda: Fallen(gym.make("CartPole-v1")), 2)
    with pytest.raises(ValueError, match="render_mode of the tasks' environment must be 'rgb_array', got None"):
        sf.record_worst(model, silent, n=1, path=tmp_path / "no.gif", scorer=sf.FrequencyScorer(silent, 1))


def test_a_film_shows_failures_of_different_tasks(clumsy, tmp_path):
    """The worst task twice in the pool is shown once, and a task that cannot fail is left out."""
    twice = sfe.TaskPool("ThinIce-8x8", 40, seed=1).subset([3, 3, 3, 5])
    shown = sf.record_worst(clumsy, twice, n=4, path=tmp_path / "a.gif", max_frames=3, fps=2)
    assert len(shown.tasks) == len(set(shown.tasks)) <= 2
    assert all(shown.failed)
    with Image.open(tmp_path / "a.gif") as film:
        # equal pictures are joined in a GIF, so there may be fewer
        assert film.n_frames <= len(shown.tasks) * (3 + 2)


def test_a_film_of_an_agent_that_does_not_fail_shows_the_worst_task(clumsy, tmp_path):
    harmless = sfe.SeededTasks("MiniGrid-Empty-5x5-v0", 3, first_seed=7)
    model = PPO("MlpPolicy", harmless.make_vec_env(1), n_steps=8, batch_size=8, device="cpu", seed=0)
    shown = sf.record_worst(model, harmless, n=3, path=tmp_path / "b.gif", tries=1, scorer=sf.FrequencyScorer(harmless, 1))
    assert shown.failed == [False]
    assert harmless.label(shown.tasks[0]) == f"task {shown.tasks[0]} (seed {7 + shown.tasks[0]})"


def test_models_side_by_side(agent, clumsy, pool, tmp_path):
    shown = sf.record_side_by_side({"clumsy": clumsy, "agent": agent}, pool, 2, tmp_path / "both.gif", tries=3)
    assert shown.failed == [True, True]
    worst = np.argsort(-sf.ExactScorer(pool).score(clumsy).numpy())[0]
    assert shown.tasks[0] == worst
    with Image.open(tmp_path / "both.gif") as film:
        assert film.n_frames > 6
        assert film.width > 2 * 240
    for options, message in (({"path": "a.avi"}, "path"), ({"models": {}}, "models must hold"), ({"n": 0}, "n must be")):
        with pytest.raises(ValueError, match=message):
            sf.record_side_by_side(**{"models": {"a": agent}, "pool": pool, "path": tmp_path / "c.gif", **options})
