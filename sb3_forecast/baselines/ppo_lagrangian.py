"""PPO-Lagrangian for SB3, on ``info["cost"]``: the standard baseline of safe RL (Ray, Achiam & Amodei 2019)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import obs_as_tensor

from sb3_forecast.training.callback import after_users
from sb3_forecast.training.costs import step_costs


class PPOLagrangian(PPO):
    """PPO that maximises the return under a limit on the mean cost per episode.

    A second critic predicts costs. Policy updates use the advantage (A_reward - lambda A_cost) / (1 + lambda). Lambda
    rises while the mean cost of an episode is above the limit, and falls while it is below. Environments must report
    ``info["cost"]`` at every step.

    :param policy: as in PPO
    :param env: as in PPO
    :param cost_limit: allowed mean cost per episode
    :param multiplier: initial lambda
    :param multiplier_lr: change of lambda per rollout and per unit of cost above the limit
    :param ppo_arguments: any other argument of PPO
    :raises ValueError: if an argument is negative
    """

    cost_critic: ActorCriticPolicy

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        *,
        cost_limit: float = 0.0,
        multiplier: float = 0.0,
        multiplier_lr: float = 0.05,
        _init_setup_model: bool = True,
        **ppo_arguments: Any,
    ) -> None:
        for name, value in (("cost_limit", cost_limit), ("multiplier", multiplier), ("multiplier_lr", multiplier_lr)):
            if not value >= 0.0:
                raise ValueError(f"{name} must be at least 0, got {value}; use 0 or a positive number")
        #: costs of the running episodes; kept here so that they are saved with the model
        self.running_costs: NDArray[np.float64] | None = None
        self.cost_limit = cost_limit
        self.multiplier = multiplier
        self.multiplier_lr = multiplier_lr
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **ppo_arguments)

    def _setup_model(self) -> None:
        super()._setup_model()
        # a complete policy, although only its value function is used: so every observation space of PPO works
        self.cost_critic = self.policy_class(  # type: ignore[assignment]  # PPO's policies are actor-critic
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return [*names, "cost_critic", "cost_critic.optimizer"], tensors

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "cost_critic"]

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return after_users(super()._init_callback(callback, progress_bar), _CostAdvantages(), self)


class _CostAdvantages(BaseCallback):
    """Records the costs, and mixes their advantages into the buffer before PPO trains on it."""

    model: PPOLagrangian

    def _init_callback(self) -> None:
        self.costs: list[NDArray[np.float32]] = []
        n = self.training_env.num_envs
        if self.model.running_costs is None or len(self.model.running_costs) != n:
            self.model.running_costs = np.zeros(n)
        self.running = self.model.running_costs
        self.finished: list[float] = []

    def _on_rollout_start(self) -> None:
        self.costs.clear()
        self.finished.clear()

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        cost = step_costs(infos, "PPOLagrangian").astype(np.float32)
        self.running += cost
        for env in np.flatnonzero(self.locals["dones"]):
            self.finished.append(float(self.running[env]))
            self.running[env] = 0.0
            if infos[env].get("TimeLimit.truncated", False):
                # as SB3 does for rewards: after a time limit, more costs could follow
                terminal, _ = self.model.policy.obs_to_tensor(infos[env]["terminal_observation"])
                with th.no_grad():
                    cost[env] += self.model.gamma * self.model.cost_critic.predict_values(terminal).item()
        self.costs.append(cost)
        return True

    def _on_rollout_end(self) -> None:
        model, buffer = self.model, self.model.rollout_buffer
        observations = _flatten(buffer.observations, model)
        with th.no_grad():
            values = model.cost_critic.predict_values(observations).cpu().numpy().reshape(buffer.buffer_size, buffer.n_envs)
            last = model.cost_critic.predict_values(obs_as_tensor(model._last_obs, model.device)).cpu().numpy().reshape(-1)  # type: ignore[arg-type]  # set by now
        going_on = 1.0 - np.concatenate([buffer.episode_starts[1:], self.locals["dones"][None].astype(np.float32)])
        following = np.concatenate([values[1:], last[None]])
        delta = np.stack(self.costs) + model.gamma * following * going_on - values
        advantage = np.zeros_like(values)
        carried = np.zeros(buffer.n_envs, dtype=np.float32)
        for step in reversed(range(buffer.buffer_size)):
            carried = delta[step] + model.gamma * model.gae_lambda * going_on[step] * carried
            advantage[step] = carried
        multiplier = model.multiplier
        buffer.advantages = (buffer.advantages - multiplier * advantage) / (1.0 + multiplier)
        self._fit(observations, th.as_tensor((advantage + values).reshape(-1, 1), device=model.device))
        if self.finished:
            mean_cost = float(np.mean(self.finished))
            model.multiplier = max(0.0, multiplier + model.multiplier_lr * (mean_cost - model.cost_limit))
            self.logger.record("rollout/ep_cost_mean", mean_cost)
        self.logger.record("lagrangian/multiplier", model.multiplier)

    def _fit(self, observations: Any, returns: th.Tensor) -> None:
        """Fit the cost critic to the cost returns, with PPO's own epochs, batch size and learning rate."""
        critic = self.model.cost_critic
        for group in critic.optimizer.param_groups:
            group["lr"] = self.model.lr_schedule(self.model._current_progress_remaining)
        generator = th.Generator().manual_seed(self.model.num_timesteps)
        for _ in range(self.model.n_epochs):
            for rows in th.split(th.randperm(len(returns), generator=generator), self.model.batch_size):
                batch = {k: v[rows] for k, v in observations.items()} if isinstance(observations, dict) else observations[rows]
                loss = th.nn.functional.mse_loss(critic.predict_values(batch), returns[rows])
                critic.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                th.nn.utils.clip_grad_norm_(critic.parameters(), self.model.max_grad_norm)
                critic.optimizer.step()


def _flatten(observations: Any, model: PPOLagrangian) -> Any:
    """Observations of the buffer, shape (steps, environments, ...), as one batch on the model's device."""
    if isinstance(observations, dict):
        return {key: _flatten(value, model) for key, value in observations.items()}
    return th.as_tensor(observations.reshape(-1, *observations.shape[2:]), device=model.device)
