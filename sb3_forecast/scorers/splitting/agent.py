"""How a model acts in a batch of episodes, and by how much its actions are tilted towards failing ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_forecast.scorers.actor import Actor, maskable_policy
from sb3_forecast.scorers.playing import is_stochastic, normalisation_of
from sb3_forecast.scorers.situations import Situations
from sb3_forecast.scorers.splitting.critic import Critic


class Decision:
    """What a batch of episodes does next.

    :param actions: actions of the environment, one per episode
    :param indices: discrete actions, shape (batch,), int64; all 0 where actions are not discrete
    :param log_weights: log of the action's probability under the model over that under which it was drawn, shape (batch,), float64
    :param memories: memory of the model afterwards, one per episode; ``None`` for models without a memory
    :param danger: discounted chance of a failure as the critic sees it, shape (batch,), float64; ``None`` without a critic
    """

    def __init__(
        self,
        actions: Any,
        indices: NDArray[np.int64],
        log_weights: NDArray[np.float64],
        memories: list[Any],
        danger: NDArray[np.float64] | None,
    ) -> None:
        self.actions, self.indices, self.log_weights = actions, indices, log_weights
        self.memories, self.danger = memories, danger


class Agent:
    """A model that acts in episodes which can be kept and restored.

    :param model: any SB3 or sb3-contrib model
    :param deterministic: whether it takes its likeliest action
    :param generator: source of randomness of discrete actions; other actions are drawn by torch
    :raises ValueError: if the model explores with gSDE, whose noise belongs to a whole episode
    """

    def __init__(self, model: BaseAlgorithm, deterministic: bool, generator: np.random.Generator) -> None:
        if not deterministic and isinstance(model, OnPolicyAlgorithm) and model.use_sde:
            raise ValueError(
                "model must draw new noise at each step for splitting, got one with use_sde=True; use deterministic=True, or scorer='frequency'"
            )
        self.model, self.deterministic, self.generator = model, deterministic, generator
        self.normalize = normalisation_of(model)
        self.discrete = isinstance(model.action_space, spaces.Discrete)
        self.n_actions = int(model.action_space.n) if isinstance(model.action_space, spaces.Discrete) else 1
        #: reads action probabilities; ``None`` where the model cannot give them
        self.actor: Actor | None = None
        if self.discrete and is_stochastic(model) and not deterministic:
            self.actor = Actor(model, self.n_actions, may_remember=True)
        self.masked = isinstance(model.policy, maskable_policy())

    def decide(
        self,
        observations: Any,
        features: NDArray[np.float32] | None,
        memories: list[Any],
        masks: NDArray[np.bool_] | None,
        noise: NDArray[np.float64],
        tilt: float,
        critic: Critic | None,
    ) -> Decision:
        """Choose the next actions.

        :param observations: observations as environments give them: an array, or a dictionary of arrays
        :param features: the same for the critic, shape (batch, features); ``None`` without a critic
        :param memories: memory of each episode; ``None`` at its beginning
        :param masks: actions that may be taken, shape (batch, actions); ``None`` without masks
        :param noise: chance of a random action in each episode, shape (batch,), float64; only pilots use it
        :param tilt: largest chance of an action drawn by danger; discrete actions only
        :param critic: what knows dangers; ``None`` if there is none
        :return: actions, weights, memories and dangers
        """
        size = len(memories)
        risks = None if critic is None or features is None else critic.danger(features)
        if self.actor is None:
            actions, after = self._predict(observations, memories, masks)
            explores = np.flatnonzero(self.generator.random(size) < noise) if noise.any() else np.zeros(0, dtype=np.int64)
            for i in explores.tolist():
                actions[i] = self._any_action(None if masks is None else masks[i])
            indices = np.asarray(actions, dtype=np.int64) if self.discrete else np.zeros(size, dtype=np.int64)
            danger = None if risks is None else (risks[np.arange(size), indices] if self.discrete else risks[:, 0])
            return Decision(actions, indices, np.zeros(size), after, danger)
        situations = Situations(observations, masks, self._stacked(memories))
        with self.actor.evaluating(), th.no_grad():
            log_pi, memory = self.actor.consider(situations, self.normalize)
        pi = np.exp(log_pi.numpy())
        allowed = np.ones_like(pi, dtype=np.bool_) if masks is None else masks
        drawn = (1.0 - noise)[:, None] * pi + noise[:, None] * allowed / allowed.sum(axis=1, keepdims=True)
        danger = None
        if risks is not None:
            if critic is not None and tilt > 0.0:
                drawn = doubted(tilted(drawn, np.where(allowed, risks, 0.0), tilt), allowed, critic.doubt)
            danger = (drawn * risks).sum(axis=1)
        cumulative = np.cumsum(drawn, axis=1)
        cumulative /= cumulative[:, -1:]
        indices = (self.generator.random(size)[:, None] >= cumulative).sum(axis=1)
        rows = np.arange(size)
        log_weights = log_pi.numpy()[rows, indices] - np.log(drawn[rows, indices])
        after = [None] * size if memory is None else list(memory)
        start = int(getattr(self.model.action_space, "start", 0))
        return Decision(indices + start, indices, log_weights, after, danger)

    def _predict(self, observations: Any, memories: list[Any], masks: Any) -> tuple[Any, list[Any]]:
        seen = observations if self.normalize is None else self.normalize.normalize_obs(observations)
        starts = np.array([memory is None for memory in memories])
        state = None
        if not starts.all():
            known = next(memory for memory in memories if memory is not None)
            filled = [[np.zeros_like(part) for part in known] if memory is None else memory for memory in memories]
            state = tuple(np.stack(parts, axis=1) for parts in zip(*filled, strict=True))
        extra = {"action_masks": masks} if masks is not None else {}
        actions, after = self.model.predict(seen, state, starts, self.deterministic, **extra)
        actions = np.array(actions)
        if after is None:
            return actions, [None] * len(memories)
        return actions, [[part[:, i] for part in after] for i in range(len(memories))]

    def _stacked(self, memories: list[Any]) -> NDArray[np.float32] | None:
        assert self.actor is not None
        first = self.actor.first_memory(len(memories))
        if first is not None:
            for i, memory in enumerate(memories):
                if memory is not None:
                    first[i] = memory
        return first

    def _any_action(self, mask: NDArray[np.bool_] | None) -> Any:
        space = self.model.action_space
        if isinstance(space, spaces.Discrete):
            return self.generator.choice(np.arange(space.n) if mask is None else np.flatnonzero(mask))
        space.seed(int(self.generator.integers(2**31)))
        return space.sample()


def doubted(pi: NDArray[np.float64], allowed: NDArray[np.bool_], doubt: float) -> NDArray[np.float64]:
    """Action probabilities with a defensive part: all actions that may be taken, whatever the critic thinks of them.

    Without it a way to fail that the critic does not know is nearly never taken, and estimates are nearly always too low (Hesterberg 1995,
    "defensive mixtures").

    :param pi: action probabilities, shape (batch, actions), float64
    :param allowed: actions that may be taken, same shape
    :param doubt: chance of a uniform action, in [0, 1)
    :return: action probabilities, same shape
    """
    drawn: NDArray[np.float64] = (1.0 - doubt) * pi + doubt * allowed / allowed.sum(axis=1, keepdims=True)
    return drawn


def tilted(pi: NDArray[np.float64], risks: NDArray[np.float64], tilt: float) -> NDArray[np.float64]:
    """Action probabilities that favour actions which are more dangerous than what the policy does.

    With q the dangers and v = sum pi q, an action is drawn from the positive part of q - v with the chance tilt (max q - v), otherwise from pi.
    Where no action is more dangerous than the policy's own, nothing changes.

    :param pi: action probabilities, shape (batch, actions), float64
    :param risks: danger of each action, in [0, 1], same shape
    :param tilt: largest chance of such a draw
    :return: action probabilities, same shape; at least (1 - tilt) pi
    """
    excess = np.maximum(risks - (pi * risks).sum(axis=1, keepdims=True), 0.0)
    # an action that the policy never takes leads nowhere: its weight would be 0
    excess = np.where(pi > 0.0, excess, 0.0)
    total = excess.sum(axis=1, keepdims=True)
    chance = tilt * excess.max(axis=1, keepdims=True)
    drawn: NDArray[np.float64] = (1.0 - chance) * pi + chance * excess / np.where(total > 0.0, total, 1.0)
    return drawn
