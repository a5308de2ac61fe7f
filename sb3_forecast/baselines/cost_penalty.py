"""CostPenalty: a wrapper that subtracts the cost from the reward."""

from __future__ import annotations

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_forecast.training.costs import step_costs


class CostPenalty(VecEnvWrapper):
    """Subtracts a multiple of ``info["cost"]`` from the reward. This is what most users do against failures today.

    :param venv: vectorised environment that reports ``info["cost"]`` at every step
    :param penalty: reward that is lost per unit of cost
    :raises ValueError: if the penalty is negative
    """

    def __init__(self, venv: VecEnv, penalty: float) -> None:
        if not penalty >= 0.0:
            raise ValueError(f"penalty must be at least 0, got {penalty}; use 0 for no penalty")
        super().__init__(venv)
        self.penalty = penalty

    def reset(self) -> VecEnvObs:
        """Reset the wrapped environment."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Step the wrapped environment, and subtract the penalty from the rewards.

        :raises ValueError: if an environment reports no cost
        """
        observations, rewards, dones, infos = self.venv.step_wait()
        costs = step_costs(infos, "CostPenalty").astype(rewards.dtype)
        return observations, rewards - self.penalty * costs, dones, infos
