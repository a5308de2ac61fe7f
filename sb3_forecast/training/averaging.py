"""Averaging a policy over its last updates: what is left behind is the average, not the last noisy step."""

from __future__ import annotations

import copy
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy


class PolicyAverage(BaseCallback):
    """Keeps an exponentially weighted average of the policy's parameters, and leaves it in the model when the training ends.

    With a constant learning rate each update's policy differs from the next one, and the failure probability of single tasks differs by powers
    of ten. The average fails less and succeeds more in our runs, for plain PPO too (docs/calibration.md). The training itself is not changed.

    :param decay: weight of the past per rollout; 0.9 averages over about the last ten
    :param verbose: as in SB3
    :raises ValueError: if the decay is not in [0, 1)
    """

    def __init__(self, decay: float = 0.9, verbose: int = 0) -> None:
        super().__init__(verbose)
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be in [0, 1), got {decay}; use 0.9 to average over about ten rollouts")
        self.decay = decay
        #: the average, by name of the parameter, in float64; ``None`` before the first update
        self.average: dict[str, th.Tensor] | None = None

    def _on_training_start(self) -> None:
        self.average = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._add()

    def _on_training_end(self) -> None:
        self._add()
        self.apply(self.model.policy)

    def _add(self) -> None:
        """Let the present policy into the average."""
        now = {name: value.detach().double() for name, value in self.model.policy.state_dict().items()}
        if self.average is None:
            self.average = {name: value.clone() for name, value in now.items()}
            return
        for name, value in now.items():
            self.average[name].lerp_(value, 1.0 - self.decay)

    def apply(self, policy: BasePolicy) -> dict[str, Any]:
        """Give a policy the averaged parameters.

        :param policy: of the same architecture
        :return: its own parameters, to give them back by ``load_state_dict``
        :raises RuntimeError: before the first update
        """
        if self.average is None:
            raise RuntimeError("apply() needs an average; train first")
        own = copy.deepcopy(policy.state_dict())
        policy.load_state_dict({name: value.to(own[name].dtype) for name, value in self.average.items()})
        return own
