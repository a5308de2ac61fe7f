"""The cost advantages of PPO-Lagrangian, worked out by hand."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th

import sb3_forecast as sf


class Costly(gym.Env):
    """Costs 1 at every step and gives no reward; it never ends by itself."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, cost=True):
        self.cost = cost

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {"cost": 1.0} if self.cost else {}


def constant(policy, value):
    """Make the value function return ``value`` everywhere."""
    with th.no_grad():
        policy.value_net.weight.zero_()
        policy.value_net.bias.fill_(value)


def lagrangian(env, **kwargs):
    model = sf.PPOLagrangian(
        "MlpPolicy", env, n_steps=2, batch_size=2, learning_rate=0.0, gamma=0.5, gae_lambda=1.0, seed=0, device="cpu", **kwargs
    )
    constant(model.policy, 0.0)
    constant(model.cost_critic, 10.0)
    return model


def test_a_time_limit_is_not_the_end_of_the_costs():
    """Two steps, then a time limit: deltas 1 + 0.5 * 10 - 10 = -4 at both, so advantages -6 and -4; with lambda 1 half of their negative."""
    model = lagrangian(gym.wrappers.TimeLimit(Costly(), 2), multiplier=1.0).learn(2)
    np.testing.assert_allclose(model.rollout_buffer.advantages.reshape(-1), [3.0, 2.0], rtol=1e-6)


def test_the_multiplier_follows_the_cost_of_an_episode():
    model = lagrangian(gym.wrappers.TimeLimit(Costly(), 2), cost_limit=0.5, multiplier=1.0, multiplier_lr=0.1).learn(2)
    assert model.multiplier == pytest.approx(1.0 + 0.1 * (2.0 - 0.5))


def test_without_a_cost_nothing_is_trained():
    with pytest.raises(ValueError, match=r"info\['cost'\] at every step"):
        lagrangian(gym.wrappers.TimeLimit(Costly(cost=False), 2)).learn(2)
