"""The average of the policies is what remains; the training is not touched."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import sb3_forecast_envs as sfe
from sb3_forecast.training.averaging import PolicyAverage
from tests.conftest import SMALL_PPO


def flat(state):
    return th.cat([value.double().flatten() for value in state.values()])


class Policies(BaseCallback):
    """Notes the policy before each rollout and at the end."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        self.seen.append(flat(self.model.policy.state_dict()))

    def _on_training_end(self):
        self.seen.append(flat(self.model.policy.state_dict()))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_average_is_left_behind(pool, decay):
    policies, average = Policies(), PolicyAverage(decay)
    model = PPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=3), seed=1, **SMALL_PPO)
    model.learn(512, callback=[policies, average])
    expected = policies.seen[0]
    for policy in policies.seen[1:]:
        expected = decay * expected + (1.0 - decay) * policy
    np.testing.assert_allclose(flat(model.policy.state_dict()), expected, rtol=1e-5, atol=1e-7)
    assert len(policies.seen) == 5


def test_the_training_is_the_same(pool):
    runs = []
    for callbacks in ([], [PolicyAverage(0.9)]):
        policies = Policies()
        PPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=3), seed=1, **SMALL_PPO).learn(512, callback=[policies, *callbacks])
        runs.append(th.stack(policies.seen))
    assert th.equal(*runs)


def test_own_parameters_can_be_given_back(pool):
    average = PolicyAverage(0.9)
    with pytest.raises(RuntimeError, match="train first"):
        average.apply(None)
    model = PPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=3), seed=1, **SMALL_PPO).learn(256, callback=average)
    averaged = flat(model.policy.state_dict())
    own = average.apply(model.policy)
    assert th.equal(flat(own), averaged)
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"decay must be in \[0, 1\)"):
            PolicyAverage(decay)


def test_what_is_usual_for_an_average():
    average = PolicyAverage()
    assert (average.decay, average.verbose, average.average) == (0.9, 0, None)
    assert PolicyAverage(0.5, verbose=1).verbose == 1


def test_a_second_training_begins_a_new_average(pool):
    average, policies = PolicyAverage(0.5), Policies()
    model = PPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=3), seed=1, **SMALL_PPO)
    model.learn(128, callback=average)
    model.learn(128, callback=[policies, average])
    np.testing.assert_allclose(flat(average.average), 0.5 * (policies.seen[0] + policies.seen[1]), rtol=1e-6, atol=1e-9)
    assert all(value.dtype == th.float64 for value in average.average.values())


def test_the_parameters_that_are_given_back_are_those_from_before(pool):
    average = PolicyAverage(0.9)
    PPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=3), seed=1, **SMALL_PPO).learn(128, callback=average)
    other = PPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=3), seed=2, **SMALL_PPO).policy
    before = flat(other.state_dict()).clone()
    own = average.apply(other)
    assert th.equal(flat(own), before)
    assert not th.equal(flat(other.state_dict()), before)
    other.load_state_dict(own)
    assert th.equal(flat(other.state_dict()), before)
