"""The one thing a scorer asks of an agent: log-probabilities of its discrete actions, as it acts in its environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, maybe_transpose
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forecast.scorers.situations import Situations

#: observations per forward pass: large enough to amortise overhead, small enough to stay in cache
_BATCH = 4096


class Views(Protocol):
    """What turns compact views into what a policy is given."""

    def observations(self, views: NDArray[np.uint8]) -> NDArray[Any]:
        """What the policy sees for compact views, shape (views, *observation)."""

    def action_masks(self, views: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
        """Actions that a policy with masks may take, shape (views, actions); ``None`` if the tasks have no masks."""


class Actor:
    """A model's policy over discrete actions, as it acts: on normalised observations, with masked actions.

    :param model: PPO, A2C or ForecastPPO, or sb3-contrib's TRPO or MaskablePPO
    :param n_actions: number of actions of the tasks
    :param may_remember: whether a model with a memory (RecurrentPPO) will do: only :meth:`consider` understands it
    :raises ValueError: if the model's action probabilities cannot be read
    """

    def __init__(self, model: Any, n_actions: int, may_remember: bool = False) -> None:
        if not isinstance(model, OnPolicyAlgorithm) or not isinstance(model.policy, (ActorCriticPolicy, maskable_policy())):
            raise ValueError(
                f"model={type(model).__name__} has no stochastic actor-critic policy; pass a PPO, A2C or ForecastPPO model, "
                "or measure it by scorer='frequency'"
            )
        self.remembers = isinstance(model.policy, recurrent_policy())
        if self.remembers and not may_remember:
            raise ValueError(
                f"model={type(model).__name__} acts on its memory, not on a state alone, which 'exact' and 'survival' scores need; "
                "use scorer='episodes', or 'frequency' to measure"
            )
        if not isinstance(model.action_space, spaces.Discrete):
            raise ValueError(
                f"action_space={model.action_space} is not discrete, as every scorer but 'frequency' needs it; use scorer='frequency' to measure"
            )
        if int(model.action_space.n) != n_actions:
            raise ValueError(
                f"the model has {model.action_space.n} actions, but the tasks have {n_actions}; pass a model that was trained on such tasks"
            )
        self.policy: Any = model.policy
        self.normalize = model.get_vec_normalize_env()
        self.masked = isinstance(model.policy, maskable_policy())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Act in evaluation mode (no dropout), then restore the mode."""
        training = self.policy.training
        self.policy.set_training_mode(False)
        try:
            yield
        finally:
            self.policy.set_training_mode(training)

    def log_probabilities(self, observations: NDArray[Any], masks: NDArray[np.bool_] | None = None) -> th.Tensor:
        """Log-probabilities of the actions, with a graph where gradients are enabled.

        :param observations: the tasks' own observations, shape (batch, *observation)
        :param masks: actions that may be taken, shape (batch, actions); for policies with masks only
        :return: shape (batch, actions), float64, CPU
        :raises ValueError: if the observations are not of the policy's shape, or a policy with masks is given none
        """
        if self.masked and masks is None:
            raise ValueError(
                "the model's actions are masked, but the tasks tell no masks; pass a pool whose finite model has `action_masks`, "
                "or use scorer='frequency'"
            )
        return log_probabilities(self.policy, observations, self.normalize, masks if self.masked else None)

    def first_memory(self, n: int) -> NDArray[np.float32] | None:
        """What a model remembers when an episode begins, shape (n, 2, layers, width); ``None`` for one without memory.

        :param n: how many
        """
        if not self.remembers:
            return None
        layers, _, width = self.policy.lstm_hidden_state_shape
        return np.zeros((n, 2, layers, width), dtype=np.float32)

    def consider(self, situations: Situations, normalize: VecNormalize | None) -> tuple[th.Tensor, NDArray[np.float32] | None]:
        """Log-probabilities of the actions, with a graph where gradients are enabled; what was remembered is held fixed.

        :param situations: a batch of observations of any space, as a vectorised environment gives them
        :param normalize: what normalises them, where the environment has not
        :return: shape (batch, actions), float64, CPU; what the model remembers afterwards, ``None`` for one without memory
        """
        seen = situations.observations
        batch, _ = self.policy.obs_to_tensor(seen if normalize is None else normalize.normalize_obs(seen))
        after = None
        if situations.memory is not None:
            # the network wants layers first
            hidden, cell = th.as_tensor(situations.memory, device=self.policy.device).permute(1, 2, 0, 3).contiguous()
            starts = th.zeros(len(situations.memory), device=self.policy.device)
            # cuDNN has no gradient of recurrent networks in evaluation mode
            with th.backends.cudnn.flags(enabled=not th.is_grad_enabled()):
                distribution, left = self.policy.get_distribution(batch, (hidden, cell), starts)
            after = th.stack(left).permute(2, 0, 1, 3).contiguous().detach().cpu().numpy()
        elif self.masked:
            distribution = self.policy.get_distribution(batch, action_masks=situations.masks)
        else:
            distribution = self.policy.get_distribution(batch)
        logits: th.Tensor = distribution.distribution.logits
        return logits.double().log_softmax(-1).cpu(), after

    def log_probabilities_of_views(self, tasks: Views, views: NDArray[np.uint8]) -> th.Tensor:
        """Log-probabilities of the actions in compact views, whose observations are never in memory all at once.

        :param tasks: what views mean
        :param views: shape (views, width), uint8
        :return: shape (views, actions), float64, CPU
        """
        parts = (views[begin : begin + _BATCH] for begin in range(0, len(views), _BATCH))
        return th.cat(
            [
                self.log_probabilities(tasks.observations(part), tasks.action_masks(part) if self.masked else None)
                for part in parts
            ]
        )


def log_probabilities(
    policy: Any, observations: NDArray[Any], normalize: VecNormalize | None = None, masks: NDArray[np.bool_] | None = None
) -> th.Tensor:
    """Log-probabilities of the actions, with a graph where gradients are enabled.

    :param policy: actor-critic policy over discrete actions
    :param observations: shape (batch, *observation)
    :param normalize: what normalises observations before the policy sees them
    :param masks: actions that may be taken, shape (batch, actions)
    :return: shape (batch, actions), float64, CPU
    :raises ValueError: if the observations are not of the policy's shape
    """
    space = policy.observation_space
    if isinstance(observations, np.ndarray) and is_image_space(space):
        # Stable-Baselines3 puts the channels first, and so must whoever asks the policy
        observations = maybe_transpose(observations, space)
    if isinstance(space, spaces.Dict) or observations.shape[1:] != space.shape:
        shape = getattr(observations, "shape", (len(observations),))[1:]
        raise ValueError(
            f"the tasks' observations have shape {shape}, but the model's observation_space is {space}; "
            "use a model that was trained on these tasks' own observations, without observation wrappers, or scorer='frequency'"
        )
    out = []
    for begin in range(0, len(observations), _BATCH):
        part: Any = observations[begin : begin + _BATCH]
        if normalize is not None and normalize.norm_obs:
            part = normalize.normalize_obs(part)
        batch = th.as_tensor(part, device=policy.device)
        chosen = {} if masks is None else {"action_masks": masks[begin : begin + _BATCH]}
        # normalised anew in float64: the network's own float32 log-softmax is good to 1e-7 only (docs/method.md section 1)
        logits = policy.get_distribution(batch, **chosen).distribution.logits
        out.append(logits.double().log_softmax(-1).cpu())
    return th.cat(out)


def maskable_policy() -> type[BasePolicy]:
    """sb3-contrib's policy with masks; where it is not installed, a type that nothing is an instance of."""
    try:
        from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
    except ImportError:
        return _Absent
    policy: type[BasePolicy] = MaskableActorCriticPolicy
    return policy


def recurrent_policy() -> type[BasePolicy]:
    """sb3-contrib's policy with memory; where it is not installed, a type that nothing is an instance of."""
    try:
        from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    except ImportError:
        return _Absent
    policy: type[BasePolicy] = RecurrentActorCriticPolicy
    return policy


class _Absent(BasePolicy):
    """No policy is of this type."""

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        raise NotImplementedError
