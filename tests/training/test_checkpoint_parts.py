"""The parts of a checkpoint: how many are kept, and what of the environments, the random state and the memory comes back."""

import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.training import checkpoints as module
from sb3_forecast.training.checkpoints import checkpoints


def cart_pole(seed=3):
    return make_vec_env("CartPole-v1", 2, seed=seed)


def learn(folder, rollouts, **arguments):
    model = A2C("MlpPolicy", cart_pole(), n_steps=16, device="cpu", seed=0)
    return model.learn(rollouts * 32, callback=sf.TrainingCheckpoints(folder, **arguments))


@pytest.mark.parametrize(("every", "keep", "kept"), [(1, 2, [96, 128]), (1, 1, [128]), (2, 5, [64, 128]), (3, 1, [96])])
def test_so_many_are_kept(tmp_path, every, keep, kept):
    learn(tmp_path, 5, every=every, keep=keep)
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{steps}" for steps in kept]
    assert not list(tmp_path.glob("*.partial"))


def test_every_tenth_is_usual_and_two_are_kept(tmp_path):
    found = sf.TrainingCheckpoints(tmp_path)
    assert (found.every, found.keep, found.verbose) == (10, 2, 0)
    for name in ("every", "keep"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            sf.TrainingCheckpoints(tmp_path, **{name: 0})


@pytest.mark.parametrize("verbose", [0, 1])
def test_a_line_for_each(tmp_path, capsys, verbose):
    learn(tmp_path, 3, every=1, verbose=verbose)
    lines = [f"Saved {tmp_path / f'checkpoint-{steps}'}" for steps in (32, 64)]
    assert capsys.readouterr().out.splitlines() == (lines if verbose else [])


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for name in ("checkpoint-20", "checkpoint-100", "checkpoint-3", "checkpoint-7x", "checkpoint-", "other-5"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(str(tmp_path))] == ["checkpoint-3", "checkpoint-20", "checkpoint-100"]


def test_a_later_checkpoint_gives_the_lock_back(tmp_path):
    (tmp_path / "checkpoint-5000").mkdir()
    with pytest.raises(ValueError, match="folder must not hold a later checkpoint"):
        learn(tmp_path, 1)
    assert not (tmp_path / ".running").exists()


def test_one_checkpoint_may_be_named(tmp_path):
    learn(tmp_path, 4, every=1, keep=3)
    model = sf.resume_training(A2C, tmp_path / "checkpoint-64", cart_pole(), device="cpu", unpickle=True)
    assert model.num_timesteps == 64


def test_saving_again_replaces(tmp_path):
    model = A2C("MlpPolicy", cart_pole(), n_steps=16, device="cpu", seed=0).learn(32)
    for _ in range(2):
        path = sf.save_training(model, tmp_path)
    assert path == tmp_path / "checkpoint-32"
    assert checkpoints(tmp_path) == [path]


def test_other_errors_than_those_of_the_disk_pass(tmp_path, monkeypatch):
    model = A2C("MlpPolicy", cart_pole(), n_steps=16, device="cpu", seed=0)

    def broken(path):
        raise ZeroDivisionError

    monkeypatch.setattr(model, "save", broken)
    with pytest.raises(ZeroDivisionError):
        sf.save_training(model, tmp_path)
    assert list(tmp_path.iterdir()) == []

    def full(path):
        raise OSError("full")

    monkeypatch.setattr(model, "save", full)
    with pytest.raises(OSError, match=r"checkpoint .*checkpoint-0 could not be written \(full\); there is no earlier one"):
        sf.save_training(model, tmp_path)


def test_recurrent_policies_go_on_with_their_memory(tmp_path):
    model = RecurrentPPO("MlpLstmPolicy", cart_pole(), n_steps=16, batch_size=16, n_epochs=1, device="cpu", seed=0).learn(32)
    sf.save_training(model, tmp_path)
    again = sf.resume_training(RecurrentPPO, tmp_path, cart_pole(), device="cpu", unpickle=True)
    ours, theirs = ((*model._last_lstm_states.pi, *model._last_lstm_states.vf) for model in (model, again))
    assert any(part.abs().sum() > 0 for part in ours)
    for a, b in zip(ours, theirs, strict=True):
        assert th.equal(a, b)
    finished = []
    for each in (model, again):
        th.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        each.learn(32, reset_num_timesteps=False)
        finished.append(th.cat([p.detach().flatten() for p in each.policy.parameters()]))
    assert th.equal(*finished)


def test_random_numbers_go_on():
    state = module._random_state()

    def drawn():
        return random.random(), np.random.random(), th.rand(1).item()  # noqa: NPY002

    first = drawn()
    assert drawn() != first
    module._restore_random(state)
    assert drawn() == first


def test_wrappers_come_back_to_their_state_and_stay_the_same_objects(pool):
    def make():
        return VecNormalize(VecMonitor(sfe.GridVecEnv(pool, 4, seed=3)))

    one, other = make(), make()
    one.reset()
    for _ in range(5):
        one.step(np.full(4, 2))
    state = module._environment_state(one)
    assert (state["type"], state["inner"]["type"], state["inner"]["inner"]["type"]) == (
        "VecNormalize",
        "VecMonitor",
        "GridVecEnv",
    )
    assert not {"venv", "observation_space", "action_space"} & set(state["own"])
    statistics, inner = other.obs_rms, other.venv
    module._restore_environment(other, state)
    assert other.obs_rms is statistics
    assert other.venv is inner
    np.testing.assert_array_equal(other.obs_rms.mean, one.obs_rms.mean)
    assert other.obs_rms.count == one.obs_rms.count
    for a, b in zip(one.step(np.full(4, 2))[:3], other.step(np.full(4, 2))[:3], strict=True):
        np.testing.assert_array_equal(a, b)


def test_helpers_of_sb3_are_taken_apart_without_what_is_configuration():
    helper = RunningMeanStd(shape=(2,))
    helper.box, helper.metadata = spaces.Discrete(2), {"fps": 3}
    assert set(module._state_of(helper)["attributes"]) == {"mean", "var", "count"}
    assert module._state_of({"a": 1}) == {"a": 1}
    target = SimpleNamespace(inner=SimpleNamespace(a=1), plain=None)
    kept = target.inner
    module._restore(target, {"inner": {"attributes": {"a": 5}}, "plain": {"attributes": 1, "b": 2}})
    assert target.inner is kept
    assert (kept.a, target.plain) == (5, {"attributes": 1, "b": 2})


def test_environments_of_another_number_are_refused():
    state = module._environment_state(cart_pole())
    with pytest.raises(ValueError, match="env must have 2 environments, as the run had, got 3"):
        module._restore_environment(make_vec_env("CartPole-v1", 3), state)
    assert module._environment_state(None) is None
    assert (
        module._environment_state(VecMonitor(sfe.GridVecEnv(sfe.TaskPool("ThinIce-5x5", 5, seed=0), 2)).venv)["type"]
        == "GridVecEnv"
    )


def test_an_exact_resumption_does_not_warn(tmp_path):
    learn(tmp_path, 2, every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sf.resume_training(A2C, tmp_path, cart_pole(), device="cpu", unpickle=True)
    with pytest.warns(
        UserWarning, match="the run that is resumed from checkpoint-32 starts new episodes.* is a pickle; use unpickle=True"
    ):
        sf.resume_training(A2C, tmp_path, cart_pole(), device="cpu")
