"""How near an observation is to a failure: a critic that is learnt from noisy episodes, in which failures are not rare."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import nn

#: a failure counts less the further away it is, by this factor per step
_DISCOUNT = 0.97
#: uniform actions in an episode of usual length, while failures are looked for: against ways to fail that the critic does not know
_DOUBT = 0.3
_WIDTH, _BATCH, _STEPS = 64, 512, 1500


@dataclass(frozen=True)
class Pilot:
    """Steps of noisy episodes.

    :param features: observations before the steps, shape (steps, features), float32
    :param actions: actions, shape (steps,), int64; all 0 where actions are not discrete
    :param to_failure: steps until the episode fails, from 0 for the step that fails, shape (steps,), float64; infinite if it does not fail
    :param episodes: number of episodes
    """

    features: NDArray[np.float32]
    actions: NDArray[np.int64]
    to_failure: NDArray[np.float64]
    episodes: int


class Critic:
    """The discounted chance of a failure after an action, by a small network. It only guides: a wrong critic costs work, and no bias.

    :param pilot: what to learn from, with at least one failure
    :param n_actions: number of discrete actions; 1 if the actions are not discrete
    :param seed: seed of weights and batches
    """

    def __init__(self, pilot: Pilot, n_actions: int, seed: int) -> None:
        #: chance of a uniform action at each step
        self.doubt = min(_DOUBT * pilot.episodes / len(pilot.to_failure), 0.1)
        generator = th.Generator().manual_seed(seed)
        x = th.as_tensor(pilot.features)
        self._mean, self._scale = x.mean(0), x.std(0).clamp(min=1e-3)
        n = x.shape[1]
        self._net = nn.Sequential(
            nn.Linear(n, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, n_actions)
        )
        with th.no_grad():
            for layer in self._net:
                if isinstance(layer, nn.Linear):
                    bound = 1.0 / math.sqrt(layer.in_features)
                    layer.weight.uniform_(-bound, bound, generator=generator)
                    layer.bias.zero_()
        inputs = (x - self._mean) / self._scale
        actions = th.as_tensor(pilot.actions)
        targets = th.as_tensor(_DISCOUNT**pilot.to_failure, dtype=th.float32)
        optimizer = th.optim.Adam(self._net.parameters(), lr=2e-3)
        # half of each batch comes from episodes that fail, which are few
        failing = th.as_tensor(np.flatnonzero(np.isfinite(pilot.to_failure)))
        for _ in range(_STEPS):
            rows = th.cat(
                [
                    failing[th.randint(len(failing), (_BATCH // 2,), generator=generator)],
                    th.randint(len(x), (_BATCH // 2,), generator=generator),
                ]
            )
            logits = self._net(inputs[rows]).gather(1, actions[rows][:, None])[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, targets[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships no type for it
            optimizer.step()

    def danger(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The discounted chance of a failure after each action.

        :param features: shape (batch, features), float32
        :return: shape (batch, actions), float64, in [0, 1]
        """
        with th.no_grad():
            logits = self._net((th.as_tensor(features) - self._mean) / self._scale)
        found: NDArray[np.float64] = logits.double().sigmoid().numpy()
        return found
