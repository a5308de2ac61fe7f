"""Reading costs, and taking them off the reward."""

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_forecast as sf
from sb3_forecast.training.costs import step_costs
from tests.baselines.test_ppo_lagrangian import Costly


def test_costs_by_environment():
    np.testing.assert_array_equal(step_costs([{"cost": 1.0}, {"cost": 0.25}], "me"), [1.0, 0.25])


def test_the_environment_without_a_cost_is_named():
    with pytest.raises(ValueError, match="at every step for me, got an info without it from environment 1"):
        step_costs([{"cost": 1.0}, {}], "me")


def test_the_penalty_is_taken_off():
    env = sf.CostPenalty(DummyVecEnv([Costly]), 3.0)
    env.reset()
    assert env.step(np.zeros(1, dtype=int))[1] == pytest.approx([-3.0])


def test_a_penalty_needs_a_cost():
    env = sf.CostPenalty(DummyVecEnv([lambda: Costly(cost=False)]), 3.0)
    env.reset()
    with pytest.raises(ValueError, match="for CostPenalty"):
        env.step(np.zeros(1, dtype=int))
