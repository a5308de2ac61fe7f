"""CVaR-PPO: PPO that also cares for its worst episodes (Tamar, Glassner & Mannor 2015; Ying et al. 2022), for SB3."""

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


class CVaRPPO(PPO):
    """PPO that maximises return plus a multiple of the conditional value at risk of an episode's outcome.

    An episode's outcome is G = return - failure_penalty x cost; its value at risk v is the ``alpha``-quantile of the last ``window`` episodes.
    The policy gradient of the CVaR is E[(G - v) 1(G < v) / alpha x grad log pi] (Tamar et al. 2015, eq. 7): that much, times ``weight``, is
    added to the advantage of every step of an episode in the tail. Environments report ``info["cost"]`` at every step. Where more than a share
    ``alpha`` of the episodes end in the same worst outcome, the CVaR is that outcome and has no gradient: fail less often than that first.

    :param policy: as in PPO
    :param env: as in PPO
    :param alpha: share of the worst episodes
    :param weight: of the CVaR; 0 is PPO
    :param failure_penalty: outcome lost per unit of cost
    :param window: episodes that the quantile is taken over
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
            raise ValueError(f"alpha={alpha} is no share of the episodes; use a value in (0, 1)")
        for name, value in (("weight", weight), ("failure_penalty", failure_penalty)):
            if not value >= 0.0:
                raise ValueError(f"{name}={value} is negative; use a value >= 0")
        if window < 1.0 / alpha:
            raise ValueError(f"window={window} episodes have no {alpha}-quantile; use window >= {int(np.ceil(1.0 / alpha))}")
        #: outcomes of the last episodes, and what the running ones have come to
        self.outcomes: deque[float] = deque(maxlen=window)
        self.running_outcomes: NDArray[np.float64] | None = None
        self.alpha, self.weight, self.failure_penalty, self.window = alpha, weight, failure_penalty, window
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **ppo_arguments)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return after_users(super()._init_callback(callback, progress_bar), _TailAdvantages(), self)


class _TailAdvantages(BaseCallback):
    """Follows the episodes' outcomes, and adds the tail's advantages to the buffer before PPO trains on it."""

    model: CVaRPPO

    def _init_callback(self) -> None:
        n = self.training_env.num_envs
        self.outcomes = self.model.outcomes
        if self.model.running_outcomes is None or len(self.model.running_outcomes) != n:
            self.model.running_outcomes = np.zeros(n)
        self.running = self.model.running_outcomes
        self.began = np.zeros(n, dtype=np.int64)
        self.step = 0
        #: episodes that ended in this rollout: environment, first and last step in the buffer, outcome
        self.ended: list[tuple[int, int, int, float]] = []
        self.costs: deque[float] = deque(maxlen=self.model._stats_window_size)
        self.running_cost = np.zeros(n)

    def _on_rollout_start(self) -> None:
        self.ended.clear()
        self.began[:] = 0
        self.step = 0

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        if "cost" not in infos[0]:
            raise ValueError(
                "env reports no info['cost']; CVaRPPO needs it at every step: 1.0 where a failure happens, else 0.0"
            )
        cost = np.array([info["cost"] for info in infos])
        # SB3 adds the value of a truncated state to the buffered reward only, not to these
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
