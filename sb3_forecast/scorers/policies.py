"""The one thing a scorer asks of an agent: log-probabilities of its discrete actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space, maybe_transpose

#: observations per forward pass: large enough to amortise overhead, small enough to stay in cache
_BATCH = 4096


def check_model(model: Any, n_actions: int) -> ActorCriticPolicy:
    """The policy of an agent with discrete actions.

    :param model: an SB3 on-policy algorithm
    :param n_actions: number of actions of the tasks
    :return: its policy
    :raises ValueError: if its action probabilities cannot be read
    """
    if not isinstance(model, OnPolicyAlgorithm) or not isinstance(model.policy, ActorCriticPolicy):
        raise ValueError(
            f"model={type(model).__name__} has no stochastic actor-critic policy; pass a PPO, A2C or ForecastPPO model"
        )
    if not isinstance(model.action_space, spaces.Discrete):
        raise ValueError(
            f"action_space={model.action_space} is not discrete; 'exact' and 'survival' scores need a Discrete action space"
        )
    if int(model.action_space.n) != n_actions:
        raise ValueError(
            f"the model has {model.action_space.n} actions, but the tasks have {n_actions}; pass a model that was trained on such tasks"
        )
    return model.policy


@contextmanager
def evaluating(policy: ActorCriticPolicy) -> Iterator[None]:
    """Score in evaluation mode (no dropout), then restore the mode.

    :param policy: the policy
    """
    training = policy.training
    policy.set_training_mode(False)
    try:
        yield
    finally:
        policy.set_training_mode(training)


def log_probabilities(policy: ActorCriticPolicy, observations: NDArray[Any]) -> th.Tensor:
    """Log-probabilities of the actions, with a graph where gradients are enabled.

    :param policy: actor-critic policy over discrete actions
    :param observations: shape (batch, *observation)
    :return: shape (batch, actions), float64, CPU
    :raises ValueError: if the observations are not of the policy's shape
    """
    space = policy.observation_space
    if is_image_space(space):
        # Stable-Baselines3 puts the channels first, and so must whoever asks the policy
        observations = maybe_transpose(observations, space)
    if observations.shape[1:] != space.shape:
        raise ValueError(
            f"the tasks' observations have shape {observations.shape[1:]}, but the model's observation_space is {policy.observation_space}; "
            "use a model that was trained on these tasks' own observations, without observation wrappers"
        )
    out = []
    for begin in range(0, len(observations), _BATCH):
        batch = th.as_tensor(observations[begin : begin + _BATCH], device=policy.device)
        distribution = policy.get_distribution(batch)
        assert isinstance(distribution, CategoricalDistribution)
        # normalised anew in float64: the network's own float32 log-softmax is good to 1e-7 only (METHOD 1)
        out.append(distribution.distribution.logits.double().log_softmax(-1).cpu())
    return th.cat(out)


def log_probabilities_of_views(
    policy: ActorCriticPolicy, observations: Callable[[NDArray[np.uint8]], NDArray[Any]], views: NDArray[np.uint8]
) -> th.Tensor:
    """Log-probabilities of the actions in compact views, whose observations are never in memory all at once.

    :param policy: actor-critic policy over discrete actions
    :param observations: compact views -> what the policy sees
    :param views: shape (views, width), uint8
    :return: shape (views, actions), float64, CPU
    """
    parts = (views[begin : begin + _BATCH] for begin in range(0, len(views), _BATCH))
    return th.cat([log_probabilities(policy, observations(part)) for part in parts])
