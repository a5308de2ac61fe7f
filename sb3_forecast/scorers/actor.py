"""What a scorer needs from an agent: the log-probabilities of its discrete actions, as the agent acts in its environment."""

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

#: observations per forward pass: enough to make the overhead small, few enough to stay in the cache
_BATCH = 4096


class Views(Protocol):
    """Turns compact views into the inputs of a policy."""

    def observations(self, views: NDArray[np.uint8]) -> NDArray[Any]:
        """What the policy sees for compact views, shape (views, *observation)."""

    def action_masks(self, views: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
        """Actions that a policy with masks may take, shape (views, actions); ``None`` if the tasks have no masks."""


class Actor:
    """A model's policy over discrete actions, with the normalisation and the masks that the model acts with.

    :param model: PPO, A2C or ForecastPPO, or sb3-contrib's TRPO, MaskablePPO or RecurrentPPO
    :param n_actions: number of actions of the tasks
    :param may_remember: whether a model with a memory (RecurrentPPO) is allowed; only :meth:`consider` can use its memory
    :raises ValueError: if the model's action probabilities cannot be read, or its actions do not fit the tasks
    """

    #: whether actions may be other than Discrete; then only a subclass can tell their probabilities
    any_actions = False

    def __init__(self, model: Any, n_actions: int, may_remember: bool = False) -> None:
        if not isinstance(model, OnPolicyAlgorithm) or not isinstance(model.policy, (ActorCriticPolicy, maskable_policy())):
            raise ValueError(
                f"model must have a stochastic actor-critic policy, got {type(model).__name__}; use a PPO, A2C or ForecastPPO model, "
                "or scorer='frequency' to measure"
            )
        self.remembers = isinstance(model.policy, recurrent_policy())
        if self.remembers and not may_remember:
            raise ValueError(
                f"model must act without a memory for 'exact' and 'survival' scores, got {type(model).__name__}; "
                "use scorer='episodes', or 'frequency' to measure"
            )
        if not self.any_actions:
            _check_discrete(model.action_space, n_actions)
        self.policy: Any = model.policy
        self.normalize = model.get_vec_normalize_env()
        self.masked = isinstance(model.policy, maskable_policy())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the policy into evaluation mode (no dropout), then restore its mode."""
        training = self.policy.training
        self.policy.set_training_mode(False)
        try:
            yield
        finally:
            self.policy.set_training_mode(training)

    def log_probabilities(self, observations: NDArray[Any], masks: NDArray[np.bool_] | None = None) -> th.Tensor:
        """Log-probabilities of the actions, with a graph if gradients are enabled.

        :param observations: the tasks' own observations, shape (batch, *observation)
        :param masks: actions that may be taken, shape (batch, actions), bool; only for policies with masks
        :return: shape (batch, actions), float64, CPU
        :raises ValueError: if the observations do not have the policy's shape, or if a policy with masks gets no masks
        """
        if self.masked and masks is None:
            raise ValueError(
                "masks must be given for a model with masked actions, got None from the tasks; use a pool whose finite model has "
                "`action_masks`, or scorer='frequency' to measure"
            )
        return log_probabilities(self.policy, observations, self.normalize, masks if self.masked else None)

    def first_memory(self, n: int) -> NDArray[np.float32] | None:
        """The memory of the model at the beginning of an episode.

        :param n: number of episodes
        :return: zeros, shape (n, 2, layers, width), float32; ``None`` for a model without a memory
        """
        if not self.remembers:
            return None
        layers, _, width = self.policy.lstm_hidden_state_shape
        return np.zeros((n, 2, layers, width), dtype=np.float32)

    def consider(self, situations: Situations, normalize: VecNormalize | None) -> tuple[th.Tensor, NDArray[np.float32] | None]:
        """Log-probabilities of the actions in some situations, with a graph if gradients are enabled.

        The memory is held fixed: no gradient goes through it.

        :param situations: a batch of observations of any space, as a vectorised environment gives them
        :param normalize: the wrapper that normalises the observations if the environment did not; ``None`` to leave them
            as they are
        :return: log-probabilities, shape (batch, actions), float64, CPU; the memory afterwards, shape (batch, 2, layers,
            width), or ``None`` for a model without a memory
        """
        distribution, after = self.distribution(situations, normalize)
        logits: th.Tensor = distribution.distribution.logits
        return logits.double().log_softmax(-1).cpu(), after

    def distribution(self, situations: Situations, normalize: VecNormalize | None) -> tuple[Any, NDArray[np.float32] | None]:
        """The policy's distribution over actions in some situations.

        :param situations: a batch
        :param normalize: see :meth:`consider`
        :return: distribution of Stable-Baselines3; the memory afterwards
        """
        seen = situations.observations
        batch, _ = self.policy.obs_to_tensor(seen if normalize is None else normalize.normalize_obs(seen))
        after = None
        if situations.memory is not None:
            # sb3-contrib expects the layers in the first dimension
            hidden, cell = th.as_tensor(situations.memory, device=self.policy.device).permute(1, 2, 0, 3).contiguous()
            starts = th.zeros(len(situations.memory), device=self.policy.device)
            # cuDNN cannot compute gradients of recurrent networks in evaluation mode
            with th.backends.cudnn.flags(enabled=not th.is_grad_enabled()):
                distribution, left = self.policy.get_distribution(batch, (hidden, cell), starts)
            after = th.stack(left).permute(2, 0, 1, 3).contiguous().detach().cpu().numpy()
        elif self.masked:
            distribution = self.policy.get_distribution(batch, action_masks=situations.masks)
        else:
            distribution = self.policy.get_distribution(batch)
        return distribution, after

    def log_probabilities_of_views(self, tasks: Views, views: NDArray[np.uint8]) -> th.Tensor:
        """Log-probabilities of the actions at compact views. Only a part of the observations is in memory at once.

        :param tasks: turns views into observations
        :param views: compact views, shape (views, width), uint8
        :return: shape (views, actions), float64, CPU
        """
        parts = (views[begin : begin + _BATCH] for begin in range(0, len(views), _BATCH))
        return th.cat(
            [
                self.log_probabilities(tasks.observations(part), tasks.action_masks(part) if self.masked else None)
                for part in parts
            ]
        )


def _check_discrete(space: Any, n_actions: int) -> None:
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"action_space must be Discrete for 'exact' and 'survival' scores, got {space}; use scorer='frequency' or 'splitting' to measure, "
            "'episodes' to train"
        )
    if int(space.n) != n_actions:
        raise ValueError(
            f"model must have the {n_actions} actions of the tasks, got one with {space.n} actions; use a model that was trained on such tasks"
        )


def log_probabilities(
    policy: Any, observations: NDArray[Any], normalize: VecNormalize | None = None, masks: NDArray[np.bool_] | None = None
) -> th.Tensor:
    """Log-probabilities of the actions, with a graph if gradients are enabled.

    :param policy: actor-critic policy over discrete actions
    :param observations: observations, shape (batch, *observation)
    :param normalize: the wrapper that normalises the observations; ``None`` to leave them as they are
    :param masks: actions that may be taken, shape (batch, actions), bool; ``None`` if the policy has no masks
    :return: shape (batch, actions), float64, CPU
    :raises ValueError: if the observations do not have the policy's shape
    """
    space = policy.observation_space
    if isinstance(observations, np.ndarray) and is_image_space(space):
        # Stable-Baselines3 moves the channels to the front before its policy sees an image
        observations = maybe_transpose(observations, space)
    if isinstance(space, spaces.Dict) or observations.shape[1:] != space.shape:
        shape = getattr(observations, "shape", (len(observations),))[1:]
        raise ValueError(
            f"observations of the tasks must fit the model's observation_space {space}, got shape {shape}; "
            "use a model that was trained on these tasks' own observations, without observation wrappers, or scorer='frequency'"
        )
    if not len(observations):
        # tasks in which nothing can fail have no risky states
        return th.zeros((0, policy.action_space.n), dtype=th.float64)
    out = []
    for begin in range(0, len(observations), _BATCH):
        part: Any = observations[begin : begin + _BATCH]
        if normalize is not None and normalize.norm_obs:
            part = normalize.normalize_obs(part)
        batch = th.as_tensor(part, device=policy.device)
        chosen = {} if masks is None else {"action_masks": masks[begin : begin + _BATCH]}
        # log-softmax again in float64: the float32 one is accurate to about 1e-7 only (docs/method.md section 1)
        logits = policy.get_distribution(batch, **chosen).distribution.logits
        out.append(logits.double().log_softmax(-1).cpu())
    return th.cat(out)


def maskable_policy() -> type[BasePolicy]:
    """The policy class of sb3-contrib with masks. If sb3-contrib is not installed: a class without instances."""
    try:
        from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
    except ImportError:
        return _Absent
    policy: type[BasePolicy] = MaskableActorCriticPolicy
    return policy


def recurrent_policy() -> type[BasePolicy]:
    """The policy class of sb3-contrib with a memory. If sb3-contrib is not installed: a class without instances."""
    try:
        from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    except ImportError:
        return _Absent
    policy: type[BasePolicy] = RecurrentActorCriticPolicy
    return policy


class _Absent(BasePolicy):
    """A class without instances, for isinstance checks that must be false."""

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        raise NotImplementedError
