"""A process that plays environments, or runs a seed of a study, is killed: the error says so, and what to do."""

import dataclasses
import os
import signal
import time
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import SubprocVecEnv, VecMonitor

import sb3_forecast as sf
from sb3_forecast.scorers.workers import watched
from studies.runner import run_study
from tests.faults import jobs
from tests.faults.victims import Victim

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
DIED = r"a worker process of the environment died, number 1, killed by SIGKILL; use a new environment, .* and "


def in_processes(pool):
    return VecMonitor(SubprocVecEnv([pool.make_env] * 2))


def kill_second(env):
    env.venv.processes[1].kill()


def end(env):
    for process in env.venv.processes:
        process.kill()
        process.join()


class KillAt(BaseCallback):
    """Kills the second worker at a step.

    :param step: number of the call
    """

    def __init__(self, step):
        super().__init__()
        self.step = step

    def _on_step(self):
        if self.n_calls == self.step:
            kill_second(self.training_env)
        return True


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 23])
def test_training_says_which_worker_was_killed(pool, step):
    """In the first step, and in a later rollout."""
    env = in_processes(pool)
    model = sf.ForecastPPO("MlpPolicy", env, seed=1, **{**jobs.FORECAST, **jobs.SMALL_PPO, "batch_size": 32})
    try:
        with pytest.raises(ConnectionError, match=DIED + "resume_training to go on from the last checkpoint"):
            model.learn(96, callback=KillAt(step))
    finally:
        end(env)


@pytest.mark.slow
def test_counting_says_which_worker_was_killed(clumsy, pool):
    env = in_processes(pool)
    scorer = sf.FrequencyScorer(pool, episodes=1, env=env)
    kill_second(env)
    try:
        with pytest.raises(ConnectionError, match=DIED + "play the tasks again"):
            scorer.score(clumsy)
    finally:
        end(env)


class Breaks(gym.Wrapper):
    """Fails in its third step, as an environment with a mistake."""

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            os._exit(7)
        return self.env.step(action)


@pytest.mark.slow
def test_a_worker_that_ended_by_itself_says_with_what(clumsy, pool):
    env = VecMonitor(SubprocVecEnv([lambda: Breaks(pool.make_env())] * 2))
    try:
        with pytest.raises(
            ConnectionError, match=r"died, number 0, with exit code 7, and its own error is printed above; use"
        ):
            sf.FrequencyScorer(pool, episodes=1, env=env).score(clumsy)
    finally:
        end(env)


def test_another_broken_pipe_stays_what_it_is(pool):
    with pytest.raises(BrokenPipeError, match="of something else"), watched(jobs.grid(pool), "go on"):
        raise BrokenPipeError("of something else")


def kill_in_first_method(marker, job):
    """A study's function whose process dies while it runs seed 2, once."""
    if job.seed == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return jobs.run_method(job)


@pytest.mark.slow
def test_a_study_says_which_seeds_a_killed_process_left(tmp_path):
    study = dataclasses.replace(jobs.STUDY, run=partial(kill_in_first_method, tmp_path / "killed"))
    settings = jobs.Settings(tmp_path / "study", jobs=2)
    with pytest.raises(
        RuntimeError, match=r"a process of the study died, .* seeds \[.*2.*\] are unfinished; use the same command again"
    ):
        run_study(study, settings)
    assert [record.result["value"] for record in run_study(study, settings)] == [0.0, 10.0, 0.0, 20.0, 0.0, 30.0]


def slow_method(folder, job):
    """A study's function that says who runs it, and takes its time."""
    (folder / str(os.getpid())).touch()
    time.sleep(60)
    return {}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.slow
def test_the_processes_of_a_killed_study_end_with_it(tmp_path):
    (tmp_path / "workers").mkdir()
    study = dataclasses.replace(jobs.STUDY, run=partial(slow_method, tmp_path / "workers"))
    victim = Victim(partial(run_study, study, jobs.Settings(tmp_path / "study", jobs=2)))
    workers = []
    for _ in range(600):
        workers = [int(path.name) for path in (tmp_path / "workers").iterdir()]
        if len(workers) == 2:
            break
        time.sleep(0.1)
    assert len(workers) == 2
    victim.process.kill()
    assert victim.end().killed
    for _ in range(100):
        if not any(alive(pid) for pid in workers):
            break
        time.sleep(0.1)
    assert [pid for pid in workers if alive(pid)] == []
    # their seeds are free again
    results = np.array([r["value"] for r in jobs.study(tmp_path / "study")])
    assert list(results) == [0.0, 10.0, 0.0, 20.0, 0.0, 30.0]
