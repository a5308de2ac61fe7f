"""How a pool reaches the training: from any vectorised environment that plays one."""

import gymnasium as gym
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.protocols import PlaysTasks, Pool, TellsTasksApart
from sb3_forecast.scorers.tasks_of import tasks_of
from tests.conftest import SMALL_PPO


def test_pools_and_environments_fulfil_the_protocols(pool):
    for tasks in (pool, sfe.CartPoleTasks(5, 0), sfe.SeededTasks("CartPole-v1", 5, sfe.ended_early)):
        assert isinstance(tasks, Pool)
        assert isinstance(tasks, TellsTasksApart)
        assert len(tasks.task_keys()) == len(set(tasks.task_keys())) == len(tasks) or tasks is pool
        assert isinstance(tasks.make_env(), PlaysTasks)
        assert tasks_of(tasks.make_vec_env(2)) is tasks
    assert isinstance(sfe.GridVecEnv(pool, 2), PlaysTasks)


def test_wrappers_hide_nothing(pool):
    assert tasks_of(VecNormalize(VecMonitor(sfe.GridVecEnv(pool, 2)))) is pool
    wrapped = DummyVecEnv([lambda: gym.wrappers.TimeLimit(pool.make_env(), 10)])
    assert tasks_of(VecMonitor(wrapped)) is pool


def test_environments_in_other_processes_are_asked(pool):
    env = SubprocVecEnv([pool.make_env])
    try:
        assert tasks_of(env).key == pool.key
    finally:
        env.close()


def test_no_tasks():
    for env in (None, DummyVecEnv([lambda: gym.make("CartPole-v1")])):
        with pytest.raises(ValueError, match="env must play a pool of tasks, got"):
            tasks_of(env)


def test_a_pool_that_env_does_not_play_is_refused(pool):
    other = sfe.TaskPool("ThinIce-8x8", 300, seed=9)
    with pytest.raises(ValueError, match="pool must hold the tasks that env plays"):
        sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8), pool=other, eval_size=60, k=5, **SMALL_PPO)
    assert sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8), pool=pool, **SMALL_PPO).objective.pool_loss.eval_size == 20
