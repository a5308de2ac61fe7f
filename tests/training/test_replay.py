"""Tasks that failed in training are played again."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.training.replay import FailureMemory


def test_a_failure_is_remembered_and_successes_let_it_fade():
    memory = FailureMemory(3, rate=0.5)
    memory.see(1, failed=False)
    assert (memory.estimates == 0.0).all()
    memory.see(1, failed=True)
    assert memory.estimates.tolist() == [0.0, 0.5, 0.0]
    memory.see(1, failed=True)
    assert memory.estimates[1] == 0.75
    for _ in range(5):
        memory.see(1, failed=False)
    assert memory.estimates[1] == pytest.approx(0.75 / 32)
    memory.see(1, failed=False)
    assert memory.estimates[1] == 0.0
    memory.see(1, failed=True)
    assert memory.estimates[1] == 0.5  # not less than after a first failure


def test_the_share_grows_with_what_is_remembered_up_to_a_limit():
    memory = FailureMemory(100, rate=0.2)
    assert memory.share(0.5, 0.02) == 0.0
    memory.see(7, failed=True)
    assert memory.share(0.5, 0.02) == pytest.approx(0.02)
    for task in range(50):
        memory.see(task, failed=True)
    assert memory.share(0.5, 0.02) == 0.5


class Lost(gym.Env):
    """One step; what happens is decided by the reset seed: every tenth task fails."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.bad = seed % 10 == 3
        return np.array([float(self.bad)], dtype=np.float32), {}

    def step(self, action):
        return np.zeros(1, dtype=np.float32), 0.0, True, False, {"bad": self.bad}


class Played(BaseCallback):
    """Notes the task of every episode."""

    def __init__(self):
        super().__init__()
        self.tasks = []

    def _on_step(self):
        for env in np.flatnonzero(self.locals["dones"]):
            self.tasks.append(self.locals["infos"][env]["task"])
        return True


def tasks():
    return sfe.SeededTasks(Lost, n_tasks=100, failed=lambda step: step.info["bad"])


def played_of(model, replay, steps):
    watcher = Played()
    model.learn(steps, callback=[replay, watcher])
    return np.array(watcher.tasks)


def test_tasks_that_fail_take_up_to_the_share():
    model = PPO("MlpPolicy", tasks().make_vec_env(4, 0), n_steps=32, batch_size=128, n_epochs=1, seed=0, device="cpu")
    found = played_of(model, sf.FailureReplay(share=0.6, per_task=0.5), 12_800)
    bad = np.mean(found[2000:] % 10 == 3)
    assert bad == pytest.approx(0.6 + 0.4 * 0.1, abs=0.03)


def test_one_failing_task_takes_no_more_than_its_own_share():
    pool = tasks()
    only = sfe.SeededTasks(Lost, n_tasks=100, failed=lambda step: step.info["bad"], first_seed=3).subset(
        np.array([0, 1, 2, 4, 5])
    )
    assert len(pool) == 100
    model = PPO("MlpPolicy", only.make_vec_env(4, 0), n_steps=32, batch_size=128, n_epochs=1, seed=0, device="cpu")
    found = played_of(model, sf.FailureReplay(share=0.6, per_task=0.02), 12_800)
    # the one task fails always, so that its estimate is 1: five times that of a first failure
    assert np.mean(found[4000:] == 0) == pytest.approx(0.1 + 0.9 / 5, abs=0.03)


def test_the_same_seed_plays_the_same_tasks():
    def once():
        model = PPO("MlpPolicy", tasks().make_vec_env(4, 0), n_steps=32, batch_size=128, n_epochs=1, seed=0, device="cpu")
        return played_of(model, sf.FailureReplay(), 1024)

    np.testing.assert_array_equal(once(), once())


def test_another_training_goes_on_with_what_is_remembered_of_the_same_pool():
    replay, model = (
        sf.FailureReplay(),
        PPO("MlpPolicy", tasks().make_vec_env(4, 0), n_steps=32, batch_size=128, n_epochs=1, device="cpu"),
    )
    model.learn(512, callback=replay)
    before = replay.memory
    assert before.estimates.sum() > 0.0
    model.learn(128, callback=replay)
    assert replay.memory is before
    other = sfe.SeededTasks(Lost, n_tasks=50, failed=lambda step: step.info["bad"])
    model.set_env(other.make_vec_env(4, 0))
    model.learn(128, callback=replay)
    assert len(replay.memory.estimates) == 50


def test_it_logs_and_leaves_the_environments_as_they_were(tmp_path):
    envs = tasks().make_vec_env(4, 0)
    model = PPO("MlpPolicy", envs, n_steps=32, batch_size=128, n_epochs=1, seed=0, device="cpu")
    model.set_logger(configure(str(tmp_path), ["csv"]))
    replay = sf.FailureReplay()
    model.learn(1024, callback=replay)
    model.logger.close()
    header, *_, last = (tmp_path / "progress.csv").read_text().splitlines()
    row = dict(zip(header.split(","), last.split(","), strict=True))
    assert float(row["replay/tasks"]) == (replay.memory.estimates > 0.0).sum() > 0
    assert 0.0 < float(row["replay/share"]) <= 0.5
    assert 0.0 < float(row["replay/failed"]) < 1.0
    counted = played_of(PPO("MlpPolicy", envs, n_steps=512, batch_size=2048, n_epochs=1, seed=0, device="cpu"), Played(), 2048)
    assert np.mean(counted % 10 == 3) == pytest.approx(0.1, abs=0.03)


def test_algorithms_with_a_replay_buffer():
    model = DQN("MlpPolicy", tasks().make_vec_env(1, 0), learning_starts=50, train_freq=4, seed=0, device="cpu")
    found = played_of(model, sf.FailureReplay(share=0.6, per_task=0.5), 3000)
    assert np.mean(found[1000:] % 10 == 3) > 0.4


def test_continuous_actions():
    pool = sfe.SeededTasks(
        lambda: gym.make("Pendulum-v1", max_episode_steps=5), n_tasks=20, failed=lambda step: step.reward < -5.0
    )
    replay = sf.FailureReplay()
    SAC("MlpPolicy", pool.make_vec_env(1, 0), learning_starts=50, train_freq=50, gradient_steps=1, seed=0, device="cpu").learn(
        500, callback=replay
    )
    assert replay.memory.estimates.sum() > 0.0


def test_environments_without_tasks():
    with pytest.raises(ValueError, match="env must have `set_task_weights` to play tasks again, got none"):
        PPO("MlpPolicy", make_vec_env("CartPole-v1", 2), device="cpu").learn(100, callback=sf.FailureReplay())


def test_a_forecast_chooses_its_tasks_itself(pool):
    model = sf.ForecastPPO(
        "MlpPolicy", sfe.GridVecEnv(pool, 4, seed=0), n_steps=16, batch_size=64, eval_size=20, k=5, device="cpu"
    )
    with pytest.raises(ValueError, match="model must not train with a forecast together with FailureReplay"):
        model.learn(64, callback=sf.FailureReplay())
    plain = sf.ForecastPPO(
        "MlpPolicy", sfe.GridVecEnv(pool, 4, seed=0), n_steps=16, batch_size=64, forecast_coef=0.0, device="cpu"
    )
    plain.learn(64, callback=sf.FailureReplay())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 1.5}, r"share must be in \[0, 1\], got 1.5"),
        ({"per_task": -0.1}, r"per_task must be in \[0, 1\], got -0.1"),
        ({"rate": 0.0}, r"rate must be in \[0.01, 1\], got 0.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.FailureReplay(**arguments)
