"""The actions that learned survival considers at an observation: all of them, or a sample where there are too many.

Where actions are discrete, every one is a column. Otherwise K candidates are drawn for each observation, half from the policy and half from a
much wider distribution, because failing actions are rare under the policy. They get self-normalised importance weights, which take the place
of the action probabilities: P(failure) = sum_k w_k c(s, a_k). The gradient goes through the weights (score function); the candidates stay.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forecast.scorers.actor import Actor
from sb3_forecast.scorers.learned.cost_model import CostModel
from sb3_forecast.scorers.learned.features import features_of, n_features
from sb3_forecast.scorers.situations import Situations, joined_observations

#: candidates per observation; half of them from the wide distribution
CANDIDATES = 16
#: standard deviation of the wide proposals, in units of the policy's
_WIDE = 3.0

Features = NDArray[np.float32]


def flat(batches: Any) -> Any:
    """Entries of a rollout buffer as one batch.

    :param batches: an array of shape (steps, environments, ...), or a dictionary of such arrays
    """
    if isinstance(batches, dict):
        return {key: flat(value) for key, value in batches.items()}
    return batches.reshape(-1, *batches.shape[2:])


class Choices(ABC):
    """What an episode can choose from at each observation.

    :param observation_space: observation space of the environments
    :param action_space: their action space
    """

    #: c below this counts as 0
    tau = 0.1

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def repeats(self, delay: int) -> int:
        """How often a failure is counted that its cause precedes by up to so many steps.

        Where no single action is fatal, all steps that lead to a failure share its probability, and each would count it once.

        :param delay: see :class:`~sb3_forecast.EpisodeScorer`
        """
        return 1

    @abstractmethod
    def new_cost_model(self, seed: int) -> CostModel:
        """A cost model that has learnt nothing."""

    @abstractmethod
    def actor(self, model: Any) -> Actor:
        """The policy of a model.

        :raises ValueError: if its actions do not fit
        """

    @abstractmethod
    def considered(
        self, actor: Actor, seen: Situations, normalize: VecNormalize | None, generator: np.random.Generator
    ) -> Situations:
        """Situations with the actions that are considered in them."""

    @abstractmethod
    def logits(self, cost_model: CostModel, features: Features, seen: Situations) -> NDArray[np.float64]:
        """What each member of the cost model says of each column, shape (members, batch, columns), float64."""

    @abstractmethod
    def risks(self, cost_model: CostModel, features: Features, seen: Situations) -> NDArray[np.float64]:
        """Probability c of each column, shape (batch, columns), float64."""

    @abstractmethod
    def taken(self, features: Features, seen: Situations, columns: NDArray[np.int64]) -> tuple[Any, Features]:
        """Actions for the environments, and the inputs of the cost model for the transition.

        :param features: features of the observations, shape (batch, features)
        :param seen: the situations
        :param columns: chosen column of each, shape (batch,)
        """

    @abstractmethod
    def of_buffer(self, model: Any, features: Features, actions: NDArray[Any]) -> tuple[Features, NDArray[np.int64]]:
        """Inputs of the cost model for transitions of a rollout buffer, and their output.

        :param model: the model that acted
        :param features: features of the observations, shape (n, features)
        :param actions: the buffer's actions, shape (n, *action)
        """

    def of_rollout(self, model: Any, observations: list[Any] | None) -> tuple[Any, Features, Features, NDArray[np.int64]]:
        """The transitions of a full rollout buffer, all environments of a step side by side.

        :param model: the model that acted
        :param observations: observations of each step as the environment gave them, if the buffer holds normalised ones; ``None`` to use the
            buffer's
        :return: observations, their features, and inputs and output of the cost model
        """
        buffer = model.rollout_buffer
        seen = flat(buffer.observations) if observations is None else joined_observations(observations)
        features = features_of(seen, model.observation_space)
        return seen, features, *self.of_buffer(model, features, flat(buffer.actions))

    @abstractmethod
    def outputs(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The output of the cost model that belongs to each chosen column."""


class AllActions(Choices):
    """Every action of a Discrete space is a column, and an output of the cost model."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Discrete) -> None:
        super().__init__(observation_space, action_space)
        self.n_actions = int(action_space.n)

    def new_cost_model(self, seed: int) -> CostModel:
        """See :meth:`Choices.new_cost_model`."""
        return CostModel(n_features(self.observation_space), self.n_actions, seed)

    def actor(self, model: Any) -> Actor:
        """See :meth:`Choices.actor`."""
        return Actor(model, self.n_actions, may_remember=True)

    def considered(
        self, actor: Actor, seen: Situations, normalize: VecNormalize | None, generator: np.random.Generator
    ) -> Situations:
        """See :meth:`Choices.considered`."""
        return seen

    def logits(self, cost_model: CostModel, features: Features, seen: Situations) -> NDArray[np.float64]:
        """See :meth:`Choices.logits`."""
        return cost_model.logits(features)

    def risks(self, cost_model: CostModel, features: Features, seen: Situations) -> NDArray[np.float64]:
        """See :meth:`Choices.risks`."""
        return cost_model.probabilities(features)

    def taken(self, features: Features, seen: Situations, columns: NDArray[np.int64]) -> tuple[Any, Features]:
        """See :meth:`Choices.taken`."""
        return columns, features

    def of_buffer(self, model: Any, features: Features, actions: NDArray[Any]) -> tuple[Features, NDArray[np.int64]]:
        """See :meth:`Choices.of_buffer`."""
        return features, actions.reshape(len(features)).astype(np.int64)

    def outputs(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :meth:`Choices.outputs`."""
        return columns


class SampledActions(Choices):
    """Candidates of a Box, MultiDiscrete or MultiBinary space. The cost model sees the action as the environment gets it."""

    tau = 0.01

    def repeats(self, delay: int) -> int:
        """See :meth:`Choices.repeats`."""
        return delay + 1

    def new_cost_model(self, seed: int) -> CostModel:
        """See :meth:`Choices.new_cost_model`."""
        return CostModel(n_features(self.observation_space) + n_features(self.action_space), 1, seed)

    def actor(self, model: Any) -> Actor:
        """See :meth:`Choices.actor`."""
        if model.action_space != self.action_space:
            raise ValueError(
                f"model must have the action_space of the tasks, {self.action_space}, got {model.action_space}; use a model that was trained "
                "on such tasks"
            )
        return SampledActor(model)

    def considered(
        self, actor: Actor, seen: Situations, normalize: VecNormalize | None, generator: np.random.Generator
    ) -> Situations:
        """See :meth:`Choices.considered`."""
        assert isinstance(actor, SampledActor)
        return actor.propose(seen, normalize, generator)

    def logits(self, cost_model: CostModel, features: Features, seen: Situations) -> NDArray[np.float64]:
        """See :meth:`Choices.logits`."""
        return cost_model.logits(self._pairs(features, seen))[:, :, 0].reshape(cost_model.members, len(features), CANDIDATES)

    def risks(self, cost_model: CostModel, features: Features, seen: Situations) -> NDArray[np.float64]:
        """See :meth:`Choices.risks`."""
        return cost_model.probabilities(self._pairs(features, seen))[:, 0].reshape(len(features), CANDIDATES)

    def _pairs(self, features: Features, seen: Situations) -> Features:
        """Inputs of the cost model for all candidates, shape (batch * K, columns)."""
        assert seen.candidates is not None
        executed = seen.candidates["executed"]
        actions = features_of(executed.reshape(-1, *executed.shape[2:]), self.action_space)
        return np.concatenate([np.repeat(features, CANDIDATES, axis=0), actions], axis=1)

    def taken(self, features: Features, seen: Situations, columns: NDArray[np.int64]) -> tuple[Any, Features]:
        """See :meth:`Choices.taken`."""
        assert seen.candidates is not None
        actions = seen.candidates["executed"][np.arange(len(columns)), columns]
        return actions, np.concatenate([features, features_of(actions, self.action_space)], axis=1)

    def of_buffer(self, model: Any, features: Features, actions: NDArray[Any]) -> tuple[Features, NDArray[np.int64]]:
        """See :meth:`Choices.of_buffer`."""
        executed = _executed(model.policy, self.action_space, actions.reshape(len(features), -1))
        pairs = np.concatenate([features, features_of(executed, self.action_space)], axis=1)
        return pairs, np.zeros(len(features), dtype=np.int64)

    def outputs(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :meth:`Choices.outputs`."""
        return np.zeros_like(columns)


def choices_of(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Choices:
    """The choices that fit an action space.

    :param observation_space: observation space of the environments
    :param action_space: their action space
    :raises ValueError: if no policy of Stable-Baselines3 has such actions
    """
    if isinstance(action_space, spaces.Discrete):
        return AllActions(observation_space, action_space)
    if isinstance(action_space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
        return SampledActions(observation_space, action_space)
    raise ValueError(
        f"action_space must be Discrete, Box, MultiDiscrete or MultiBinary for learned survival, got {action_space}; use scorer='frequency' "
        "to measure"
    )


class SampledActor(Actor):
    """A policy over actions that are too many to list.

    :param model: on-policy model
    """

    any_actions = True

    def __init__(self, model: Any) -> None:
        super().__init__(model, 0, may_remember=True)
        self.action_space = model.action_space

    def propose(self, seen: Situations, normalize: VecNormalize | None, generator: np.random.Generator) -> Situations:
        """Draw the candidates of some situations.

        :param seen: the situations
        :param normalize: see :meth:`Actor.consider`
        :param generator: source of randomness
        :return: the same situations with candidates
        """
        with th.no_grad():
            distribution, _ = self.distribution(seen, normalize)
        size, half = len(seen), CANDIDATES // 2
        parts = _parameters(distribution)
        if isinstance(distribution, (MultiCategoricalDistribution, BernoulliDistribution)):
            # half from the policy, half from one that is half uniform in each dimension
            drawn, log_q = _draw_discrete([part.exp().double().cpu().numpy() for part in parts], size, generator)
            points = drawn.astype(np.float32)
        else:
            mean, std = (part.double().cpu().numpy()[:, None] for part in parts)
            noise = generator.standard_normal((size, CANDIDATES, mean.shape[2]))
            noise[:, half:] *= _WIDE
            narrow = _log_normal(noise, 1.0)
            log_q = np.logaddexp(narrow, _log_normal(noise, _WIDE)) - np.log(2.0) - np.log(std).sum(axis=2)
            points = (mean + std * noise).astype(np.float32)
        raw = points.reshape(size * CANDIDATES, -1)
        if isinstance(self.action_space, spaces.Box) and _squashes(distribution):
            raw = np.tanh(raw)
        executed = _executed(self.policy, self.action_space, raw)
        shaped = executed.reshape(size, CANDIDATES, *executed.shape[1:])
        return replace(seen, candidates={"points": points, "log_q": log_q, "executed": shaped})

    def consider(self, situations: Situations, normalize: VecNormalize | None) -> tuple[th.Tensor, NDArray[np.float32] | None]:
        """Log-weights of the candidates, which take the place of log-probabilities; see :meth:`Actor.consider`."""
        assert situations.candidates is not None
        distribution, after = self.distribution(situations, normalize)
        points = th.from_numpy(situations.candidates["points"]).to(self.policy.device)
        parts = _parameters(distribution)
        if isinstance(distribution, (MultiCategoricalDistribution, BernoulliDistribution)):
            chosen = points.long()
            density = sum(part.gather(1, chosen[:, :, i]) for i, part in enumerate(parts))
            assert isinstance(density, th.Tensor)
        else:
            mean, std = (part[:, None] for part in parts)
            density = (-0.5 * ((points - mean) / std) ** 2 - std.log() - 0.5 * np.log(2.0 * np.pi)).sum(dim=2)
        log_weights = density.double().cpu() - th.from_numpy(situations.candidates["log_q"])
        return log_weights.log_softmax(-1), after


def _parameters(distribution: Any) -> list[th.Tensor]:
    """Mean and standard deviation, shape (batch, dimensions); or log-probabilities of each dimension, shape (batch, values)."""
    inner = distribution.distribution
    if isinstance(distribution, MultiCategoricalDistribution):
        return [part.logits.log_softmax(-1) for part in inner]
    if isinstance(distribution, BernoulliDistribution):
        on, off = th.nn.functional.logsigmoid(inner.logits), th.nn.functional.logsigmoid(-inner.logits)
        return [th.stack([off[:, i], on[:, i]], dim=1) for i in range(on.shape[1])]
    return [inner.mean, inner.stddev]


def _draw_discrete(
    pi: list[NDArray[np.float64]], size: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Candidates of several discrete dimensions, shape (size, K, dimensions), and their log-probability under the mixture, shape (size, K)."""
    half = CANDIDATES // 2
    columns, narrow, wide = [], np.zeros((size, CANDIDATES)), np.zeros((size, CANDIDATES))
    for probabilities in pi:
        flat = 0.5 * probabilities + 0.5 / probabilities.shape[1]
        uniforms = generator.random((size, CANDIDATES))
        source = np.where((np.arange(CANDIDATES) < half)[None, :, None], probabilities[:, None], flat[:, None])
        drawn = np.minimum((uniforms[:, :, None] >= np.cumsum(source, axis=2)).sum(axis=2), probabilities.shape[1] - 1)
        columns.append(drawn)
        with np.errstate(divide="ignore"):
            narrow += np.log(np.take_along_axis(probabilities, drawn, axis=1))
        wide += np.log(np.take_along_axis(flat, drawn, axis=1))
    return np.stack(columns, axis=2), np.logaddexp(narrow, wide) - np.log(2.0)


def _log_normal(noise: NDArray[np.float64], std: float) -> NDArray[np.float64]:
    """Log-density of noise under N(0, std^2) in each dimension, summed over the last axis."""
    found: NDArray[np.float64] = (-0.5 * (noise / std) ** 2 - np.log(std) - 0.5 * np.log(2.0 * np.pi)).sum(axis=-1)
    return found


def _squashes(distribution: Any) -> bool:
    return isinstance(distribution, SquashedDiagGaussianDistribution) or (
        isinstance(distribution, StateDependentNoiseDistribution) and distribution.bijector is not None
    )


def _executed(policy: Any, space: spaces.Space[Any], raw: NDArray[Any]) -> NDArray[Any]:
    """Actions as Stable-Baselines3 gives them to the environment: unscaled if the policy squashes them, else clipped.

    :param policy: the policy
    :param space: action space
    :param raw: the policy's actions, shape (n, dimensions)
    :return: shape (n, *action)
    """
    if isinstance(space, spaces.Box):
        shaped = raw.reshape(len(raw), *space.shape)
        executed = policy.unscale_action(shaped) if policy.squash_output else np.clip(shaped, space.low, space.high)
        return np.asarray(executed, dtype=space.dtype)
    return raw.astype(space.dtype)
