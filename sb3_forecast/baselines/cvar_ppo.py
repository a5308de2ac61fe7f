"""CVaR-PPO for SB3: PPO that also improves its worst episodes (Tamar, Glassner & Mannor 2015; Ying et al. 2022)."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from sb3_forecast.training.callback import after_users
from sb3_forecast.training.costs import step_costs


class CVaRPPO(PPO):
    """PPO that maximises the return plus a multiple of the CVaR (conditional value at risk) of an episode's outcome.

    The outcome of an episode is G = return - failure_penalty x cost. Its value at risk v is the ``alpha``-quantile of the
    last ``window`` episodes. The policy gradient of the CVaR is E[(G - v) 1(G < v) / alpha x grad log pi] (Tamar et al.
    2015, eq. 7). So ``weight`` (G - v) / alpha is added to the advantage of every step of an episode with G < v.

    Environments must report ``info["cost"]`` at every step. If more than a share ``alpha`` of the episodes have the same
    worst outcome, the CVaR is that outcome and has no gradient. So start from an agent that fails less often than that.

    :param policy: as in PPO
    :param env: as in PPO
    :param alpha: share of the episodes that count as the worst ones, above 0 and below 1
    :param weight: weight of the CVaR; 0 gives PPO
    :param failure_penalty: outcome that is lost per unit of cost
    :param window: number of latest episodes from which the quantile is computed
    :param ppo_arguments: any other argument of PPO
    :raises ValueError: if an argument is out of range
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        *,
        alpha: float = 0.05,
        weight: float = 1.0,
        failure_penalty: float = 1.0,
        window: int = 2000,
        _init_setup_model: bool = True,
        **ppo_arguments: Any,
    ) -> None:
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"alpha must be above 0 and below 1, got {alpha}; use 0.05 for the worst 5% of the episodes")
        for name, value in (("weight", weight), ("failure_penalty", failure_penalty)):
            if not value >= 0.0:
                raise ValueError(f"{name} must be at least 0, got {value}; use 0 to switch it off")
        if window < 1.0 / alpha:
            raise ValueError(
                f"window must be at least 1 / alpha = {int(np.ceil(1.0 / alpha))} episodes, got {window}; use a larger window or alpha"
            )
        #: outcomes of the latest episodes, and outcomes so far of the running ones; saved with the model
        self.outcomes: deque[float] = deque(maxlen=window)
        self.running_outcomes: NDArray[np.float64] | None = None
        self.alpha, self.weight, self.failure_penalty, self.window = alpha, weight, failure_penalty, window
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **ppo_arguments)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return after_users(super()._init_callback(callback, progress_bar), _TailAdvantages(), self)


class _TailAdvantages(BaseCallback):
    """Records the outcomes of the episodes, and adds the CVaR's advantages to the buffer before PPO trains on it."""

    model: CVaRPPO

    def _init_callback(self) -> None:
        n = self.training_env.num_envs
        self.outcomes = self.model.outcomes
        if self.model.running_outcomes is None or len(self.model.running_outcomes) != n:
            self.model.running_outcomes = np.zeros(n)
        self.running = self.model.running_outcomes
        self.began = np.zeros(n, dtype=np.int64)
        self.step = 0
        #: episodes that ended in this rollout: environment, first step and last step in the buffer, outcome
        self.ended: list[tuple[int, int, int, float]] = []
        self.costs: deque[float] = deque(maxlen=self.model._stats_window_size)
        self.running_cost = np.zeros(n)

    def _on_rollout_start(self) -> None:
        self.ended.clear()
        self.began[:] = 0
        self.step = 0

    def _on_step(self) -> bool:
        cost = step_costs(self.locals["infos"], "CVaRPPO")
        # SB3 adds the value of a truncated state only to the rewards in the buffer, not to these rewards
        self.running += self.locals["rewards"] - self.model.failure_penalty * cost
        self.running_cost += cost
        for env in np.flatnonzero(self.locals["dones"]):
            self.ended.append((int(env), int(self.began[env]), self.step, float(self.running[env])))
            self.outcomes.append(float(self.running[env]))
            self.costs.append(float(self.running_cost[env]))
            self.running[env] = self.running_cost[env] = 0.0
            self.began[env] = self.step + 1
        self.step += 1
        return True

    def _on_rollout_end(self) -> None:
        model = self.model
        if self.costs:
            self.logger.record("rollout/ep_cost_mean", float(np.mean(self.costs)))
        if len(self.outcomes) * model.alpha < 1.0:
            return
        outcomes = np.array(self.outcomes)
        value_at_risk = float(np.quantile(outcomes, model.alpha))
        tail = outcomes[outcomes <= value_at_risk]
        self.logger.record("cvar/value_at_risk", value_at_risk)
        self.logger.record("cvar/cvar", float(tail.mean()))
        if model.weight == 0.0:
            return
        added: NDArray[np.float32] = np.zeros_like(model.rollout_buffer.advantages)
        for env, first, last, outcome in self.ended:
            if outcome < value_at_risk:
                added[first : last + 1, env] = model.weight * (outcome - value_at_risk) / model.alpha
        model.rollout_buffer.advantages += added
