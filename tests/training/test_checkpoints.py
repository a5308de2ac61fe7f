"""Stopping in the middle and going on gives the same parameters as not stopping, bit for bit; and what can go wrong on the way."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.training.checkpoints import checkpoints
from sb3_forecast.training.injection import _HOOKS
from sb3_forecast.training.plain import DamagedError, write_checksums
from tests.conftest import SMALL_PPO

FORECAST = {"eval_size": 60, "k": 5, "n_partitions": 32, "gradient_every": 2}
CARTPOLE = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "device": "cpu"}


def parameters(model):
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


class Stop(BaseCallback):
    """Stops like a crash: in the middle of a rollout."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def _on_step(self):
        if self.num_timesteps >= self.steps:
            raise KeyboardInterrupt
        return True


def grid(pool):
    return VecMonitor(sfe.GridVecEnv(pool, 8, seed=3))


CASES = {
    "exact": lambda pool: (sf.ForecastPPO, grid, {**FORECAST, **SMALL_PPO}),
    "survival": lambda pool: (sf.ForecastPPO, grid, {"scorer": "survival", **FORECAST, **SMALL_PPO}),
    "normalised": lambda pool: (sf.ForecastPPO, lambda p: VecNormalize(grid(p)), {**FORECAST, **SMALL_PPO}),
    "minigrid": lambda pool: (
        sf.ForecastPPO, lambda p: make_vec_env("SB3Forecast/ThinIce-8x8-v0", 8, seed=3, env_kwargs={"pool": p}), {**FORECAST, **SMALL_PPO},
    ),
    "sde": lambda pool: (
        sf.ForecastPPO, lambda p: make_vec_env("Pendulum-v1", 8, seed=3), {"forecast_coef": 0.0, "use_sde": True, **CARTPOLE},
    ),
    "lagrangian": lambda pool: (sf.PPOLagrangian, grid, {"multiplier": 1.0, **SMALL_PPO}),
    "cvar": lambda pool: (sf.CVaRPPO, grid, {"alpha": 0.9, **SMALL_PPO}),
    "a2c": lambda pool: (A2C, lambda p: make_vec_env("CartPole-v1", 8, seed=3), {"n_steps": 16, "device": "cpu"}),
    "frames": lambda pool: (PPO, lambda p: VecFrameStack(make_vec_env("CartPole-v1", 8, seed=3), 3), CARTPOLE),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_going_on_is_as_not_stopping(pool, tmp_path, case):
    algorithm, make, settings = CASES[case](pool)
    rollout = 16 * 8
    # with state-dependent exploration, saving draws noise; elsewhere it changes nothing
    beside = sf.TrainingCheckpoints(tmp_path / "beside", every=2) if case == "sde" else None
    whole = algorithm("MlpPolicy", make(pool), seed=1, **settings).learn(6 * rollout, callback=beside)
    stopped = algorithm("MlpPolicy", make(pool), seed=1, **settings)
    with pytest.raises(KeyboardInterrupt):
        stopped.learn(6 * rollout, callback=[sf.TrainingCheckpoints(tmp_path, every=2), Stop(5 * rollout - 20)])
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{2 * rollout}", f"checkpoint-{4 * rollout}"]
    np.random.seed(12345)  # noqa: NPY002  # whatever happened in between
    th.manual_seed(54321)
    # only a pickle can hold the environments of a DummyVecEnv
    pickled = case in ("minigrid", "sde", "a2c", "frames")
    assert (tmp_path / f"checkpoint-{4 * rollout}" / "environments.pkl").exists() == pickled
    again = sf.resume_training(algorithm, tmp_path, make(pool), device="cpu", unpickle=pickled)
    assert again.num_timesteps == 4 * rollout
    again.learn(6 * rollout - again.num_timesteps, reset_num_timesteps=False)
    assert again.num_timesteps == 6 * rollout
    assert th.equal(parameters(whole), parameters(again))


@pytest.mark.slow
@pytest.mark.parametrize("max_share", [1.0, 0.5])
def test_episodes_scorer_goes_on(pool, agent, tmp_path, max_share):
    """With a largest share, a checkpoint may fall between two scorings, where the forecast of the last one is in use."""

    def make(source=None):
        scorer = sf.EpisodeScorer(
            pool, probes=50, seed=2, n_envs=32, warm_up_rounds=1, warm_up_failures=5, max_share=max_share
        )
        return sf.ForecastPPO.from_ppo(
            agent, grid(pool), device="cpu", scorer=scorer, full_every=3, n_candidates=70, restore_best=False, **FORECAST
        )

    whole = make().learn(12 * 128)
    assert not th.equal(parameters(whole), parameters(agent))
    stopped = make()
    with pytest.raises(KeyboardInterrupt):
        stopped.learn(12 * 128, callback=[sf.TrainingCheckpoints(tmp_path, every=3), Stop(7 * 128)])
    again = sf.resume_training(sf.ForecastPPO, tmp_path, grid(pool), device="cpu")
    assert isinstance(again.scorer, sf.EpisodeScorer)
    assert again.scorer.may_play == (max_share == 1.0)
    again.learn(12 * 128 - again.num_timesteps, reset_num_timesteps=False)
    assert again.scorer.steps_played == whole.scorer.steps_played
    assert again.objective.n_refreshes == whole.objective.n_refreshes
    assert th.equal(parameters(whole), parameters(again))


def test_a_full_disk_leaves_the_last_checkpoint(pool, tmp_path, monkeypatch):
    model = sf.ForecastPPO("MlpPolicy", grid(pool), seed=1, **FORECAST, **SMALL_PPO)
    saved = []
    save = sf.ForecastPPO.save

    def full(self, path, *args, **kwargs):
        if saved:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(path)
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(sf.ForecastPPO, "save", full)
    with pytest.raises(
        OSError,
        match=r"could not be written \(\[Errno 28\] No space left on device\); resume from the last complete one, .*checkpoint-128",
    ):
        model.learn(640, callback=sf.TrainingCheckpoints(tmp_path, every=1))
    assert [path.name for path in tmp_path.glob("[a-z]*")] == ["checkpoint-128"]
    monkeypatch.undo()
    assert sf.resume_training(sf.ForecastPPO, tmp_path, grid(pool), device="cpu").num_timesteps == 128
    # the hook of the run that was stopped does not outlive it
    assert model.policy.optimizer not in _HOOKS
    model.learn(128)


def trained(pool, folder, rollouts=3):
    model = sf.ForecastPPO("MlpPolicy", grid(pool), seed=1, **FORECAST, **SMALL_PPO)
    model.learn(rollouts * 128, callback=sf.TrainingCheckpoints(folder, every=1))
    return model


@pytest.mark.parametrize("name", ["model.zip", "training.json", "training.npz", "checksums.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_used(pool, tmp_path, name, damage):
    trained(pool, tmp_path)
    path = tmp_path / "checkpoint-256" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content) if damage == "flip" else content[:-9])
    if damage == "missing":
        path.unlink()
    with pytest.raises(
        DamagedError, match=r"checkpoint-256.*use fall_back=True to resume from checkpoint-128, the newest whole checkpoint"
    ):
        sf.resume_training(sf.ForecastPPO, tmp_path, grid(pool), device="cpu")
    with pytest.warns(UserWarning, match=r"checkpoint-256.*training resumes from checkpoint-128, the newest whole checkpoint"):
        model = sf.resume_training(sf.ForecastPPO, tmp_path, grid(pool), device="cpu", fall_back=True)
    assert model.num_timesteps == 128
    (tmp_path / "checkpoint-128" / "model.zip").write_bytes(b"")
    with pytest.raises(DamagedError, match="no older checkpoint is whole; start the training anew"):
        sf.resume_training(sf.ForecastPPO, tmp_path, grid(pool), device="cpu", fall_back=True)


def test_our_files_execute_nothing(pool, tmp_path):
    """They hold no pickle, unless the environments are those of a DummyVecEnv; and that one is left alone unless asked for."""
    trained(pool, tmp_path)
    names = {path.name for path in (tmp_path / "checkpoint-256").iterdir()}
    assert names == {"model.zip", "training.json", "training.npz", "checksums.json"}
    env = make_vec_env("CartPole-v1", 2, seed=3)
    A2C("MlpPolicy", env, n_steps=16, device="cpu").learn(96, callback=sf.TrainingCheckpoints(tmp_path / "a", every=1))
    folder = checkpoints(tmp_path / "a")[-1]
    (folder / "environments.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "executed").encode() + b"'\ntR.")
    write_checksums(folder)
    with pytest.warns(UserWarning, match="starts new episodes.*is a pickle; use unpickle=True if you trust the folder"):
        sf.resume_training(A2C, tmp_path / "a", make_vec_env("CartPole-v1", 2, seed=3), device="cpu")
    assert not (tmp_path / "executed").exists()


def test_two_runs_in_one_folder(pool, tmp_path):
    """A second process is refused; in the same process, the next run takes over what a stopped one has left behind."""
    code = (
        "import sys, time, pathlib; from sb3_forecast.training.lock import FolderLock; "
        "FolderLock(pathlib.Path(sys.argv[1])).take(); print('taken', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"taken\n"
        with pytest.raises(
            ValueError, match=r"folder must not be used by another run, got .*; use another folder, or stop that run"
        ):
            trained(pool, tmp_path)
    finally:
        other.kill()
        other.communicate()
    # a killed run leaves no lock
    model = sf.ForecastPPO("MlpPolicy", grid(pool), seed=1, **FORECAST, **SMALL_PPO)
    with pytest.raises(KeyboardInterrupt):
        model.learn(640, callback=[sf.TrainingCheckpoints(tmp_path, every=1), Stop(300)])
    again = sf.resume_training(sf.ForecastPPO, tmp_path, grid(pool), device="cpu")
    again.learn(256, callback=sf.TrainingCheckpoints(tmp_path, every=1), reset_num_timesteps=False)
    assert not list(tmp_path.glob(".running"))


def test_ctrl_c_in_scoring(pool, tmp_path, monkeypatch):
    model = sf.ForecastPPO("MlpPolicy", grid(pool), seed=1, **FORECAST, **SMALL_PPO)
    score, calls = sf.ExactScorer.score, []

    def interrupted(self, model, tasks=None):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return score(self, model, tasks)

    monkeypatch.setattr(sf.ExactScorer, "score", interrupted)
    # a suite that was started in the background ignores the signal
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            model.learn(1280, callback=sf.TrainingCheckpoints(tmp_path, every=1))
    finally:
        signal.signal(signal.SIGINT, handler)
    monkeypatch.undo()
    assert not model.policy.optimizer._optimizer_step_pre_hooks
    resumed = sf.resume_training(sf.ForecastPPO, tmp_path, grid(pool), device="cpu")
    resumed.learn(128, reset_num_timesteps=False)


@pytest.mark.slow
def test_a_killed_worker(pool, tmp_path):
    """The error says which worker died and how; the last checkpoint is whole, and what cannot be exact says so."""
    env = make_vec_env("SB3Forecast/ThinIce-8x8-v0", 2, env_kwargs={"pool": pool}, vec_env_cls=SubprocVecEnv)

    class Kill(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 96:
                env.processes[1].kill()
                env.processes[1].join()
            return True

    model = sf.ForecastPPO("MlpPolicy", env, seed=1, **FORECAST, **{**SMALL_PPO, "batch_size": 32})
    with pytest.raises(
        ConnectionError, match=r"worker process of the environment died, number 1, killed by SIGKILL; use .* resume_training"
    ):
        model.learn(320, callback=[sf.TrainingCheckpoints(tmp_path, every=1), Kill()])
    fresh = make_vec_env("SB3Forecast/ThinIce-8x8-v0", 2, env_kwargs={"pool": pool})
    with pytest.warns(UserWarning, match="starts new episodes"):
        resumed = sf.resume_training(sf.ForecastPPO, tmp_path, fresh, device="cpu")
    resumed.learn(64, reset_num_timesteps=False)


def test_mistakes(pool, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder must hold a complete checkpoint, got .* without one"):
        sf.resume_training(PPO, tmp_path, grid(pool))
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        sf.TrainingCheckpoints(tmp_path, every=0)
    model = sf.ForecastPPO("MlpPolicy", grid(pool), seed=1, **FORECAST, **SMALL_PPO).learn(128)
    sf.save_training(model, tmp_path)
    with pytest.raises(ValueError, match="env must have VecMonitor here, as the run had, got GridVecEnv"):
        sf.resume_training(sf.ForecastPPO, tmp_path, sfe.GridVecEnv(pool, 8))
    other = VecMonitor(sfe.GridVecEnv(sfe.TaskPool("ThinIce-8x8", 300, seed=9), 8))
    with pytest.raises(ValueError, match=r"state must belong to 8 environments .* use the same n_envs and pool"):
        sf.resume_training(sf.ForecastPPO, tmp_path, other)
    # a checkpoint that was being written when the power went is not one
    (tmp_path / "checkpoint-999.partial").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-128"]


def test_environments_that_cannot_be_saved(pool, tmp_path):
    """A Monitor's open log file cannot; the rest is saved, and both sides say so."""
    env = make_vec_env("CartPole-v1", 2, monitor_dir=str(tmp_path / "logs"))
    model = PPO("MlpPolicy", env, seed=0, **CARTPOLE)
    with pytest.warns(UserWarning, match="the environments cannot be pickled"):
        sf.save_training(model, tmp_path / "checkpoints")
    with pytest.warns(UserWarning, match="starts new episodes"):
        sf.resume_training(PPO, tmp_path / "checkpoints", make_vec_env("CartPole-v1", 2), device="cpu").learn(64)
    env.close()


def test_a_folder_of_another_run(pool, tmp_path):
    model = sf.ForecastPPO("MlpPolicy", grid(pool), seed=1, **FORECAST, **SMALL_PPO)
    (tmp_path / "checkpoint-5000").mkdir()
    with pytest.raises(
        ValueError, match=r"folder must not hold a later checkpoint of another run, got .* with checkpoint-5000"
    ):
        model.learn(256, callback=sf.TrainingCheckpoints(tmp_path, every=1))


def test_nan_from_an_environment(pool):
    env = grid(pool)
    step = env.step_wait

    def broken():
        observations, rewards, dones, infos = step()
        rewards[2] = np.nan
        return observations, rewards, dones, infos

    env.step_wait = broken
    model = sf.ForecastPPO("MlpPolicy", env, seed=1, **FORECAST, **SMALL_PPO)
    with pytest.raises(FloatingPointError, match=r"got NaN or infinity in the reward of environment 2 \(task \d+\)"):
        model.learn(128)
