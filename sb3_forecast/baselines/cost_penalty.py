"""Vectorised environment wrappers."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class CostPenalty(VecEnvWrapper):
    """Subtracts a multiple of ``info["cost"]`` from the reward: what most users do about failures today.

    :param venv: vectorised environment whose infos report ``cost``
    :param penalty: reward lost per unit of cost
    :raises ValueError: if the penalty is negative
    """

    def __init__(self, venv: VecEnv, penalty: float) -> None:
        if not penalty >= 0.0:
            raise ValueError(f"penalty={penalty} would reward failures; use penalty >= 0")
        super().__init__(venv)
        self.penalty = penalty

    def reset(self) -> VecEnvObs:
        """As the wrapped environment."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """As the wrapped environment, with the penalty taken from the rewards."""
        observations, rewards, dones, infos = self.venv.step_wait()
        costs = np.array([info["cost"] for info in infos], dtype=rewards.dtype)
        return observations, rewards - self.penalty * costs, dones, infos
