"""A calibrated model of the next step's cost, P(cost | observation, action), learnt only from transitions.

Two choices are important. Both were found by experiment (``docs/model_free.md``):

- Half of each batch are failures, and a quarter are the negatives that the model is most wrong about. So the model
  separates hazards and safe moves well.
- Such batches distort the probabilities. A recalibration with two parameters, on the natural mix of recent transitions,
  corrects this.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from scipy import optimize
from torch import nn

from sb3_forecast.scorers.learned.transitions import Features, Transitions

#: observations per forward pass
_BATCH = 8192
#: number of negatives among which the model's worst errors are searched
_MINED_FROM = 4096


class Ensemble(nn.Module):
    """Several small networks, computed together. Each gives one logit per action for an observation.

    :param n_features: number of features of an observation
    :param n_actions: number of actions
    :param members: number of networks
    :param width: width of the two hidden layers
    :param generator: source of random numbers for the initial weights
    """

    def __init__(self, n_features: int, n_actions: int, members: int, width: int, generator: th.Generator) -> None:
        super().__init__()
        sizes = [n_features, width, width, n_actions]
        self.weights = nn.ParameterList(
            nn.Parameter((2.0 * th.rand(members, inside, outside, generator=generator) - 1.0) / math.sqrt(inside))
            for inside, outside in pairwise(sizes)
        )
        self.biases = nn.ParameterList(nn.Parameter(th.zeros(members, 1, outside)) for outside in sizes[1:])

    def forward(self, features: th.Tensor) -> th.Tensor:
        """Logits of all members.

        :param features: shape (members, batch, n_features), or (batch, n_features) to give all members the same batch;
            float32
        :return: shape (members, batch, actions), float32
        """
        hidden = features if features.ndim == 3 else features.expand(len(self.biases[0]), *features.shape)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = th.baddbmm(bias, hidden, weight)
            if layer < len(self.weights) - 1:
                hidden = hidden.relu()
        return hidden


class CostModel:
    """c(s, a): the probability that action a on observation s is followed by a cost.

    :param n_features: number of features of an observation
    :param n_actions: number of discrete actions
    :param seed: seed of all random numbers
    :param members: number of networks in the ensemble
    :param width: width of their hidden layers
    :param learning_rate: learning rate of AdamW
    """

    def __init__(
        self, n_features: int, n_actions: int, seed: int = 0, members: int = 3, width: int = 48, learning_rate: float = 2e-3
    ) -> None:
        self.n_actions = n_actions
        self.generator = np.random.default_rng([seed, 31])
        self.transitions = Transitions(n_features, self.generator)
        self.members = members
        self.ensemble = Ensemble(n_features, n_actions, members, width, th.Generator().manual_seed(seed))
        self.optimizer = th.optim.AdamW(self.ensemble.parameters(), lr=learning_rate)
        #: recalibration: slope and offset of the logits
        self.platt = np.array([1.0, 0.0])

    def logits(self, features: Features) -> NDArray[np.float64]:
        """Recalibrated logits of each member.

        :param features: observations, shape (n, n_features), float32
        :return: shape (members, n, actions), float64
        """
        with th.no_grad():
            parts = [self.ensemble(th.from_numpy(features[i : i + _BATCH])) for i in range(0, len(features), _BATCH)]
        if not parts:
            return np.zeros((self.members, 0, self.n_actions))
        raw: NDArray[np.float64] = th.cat(parts, dim=1).double().numpy()
        calibrated: NDArray[np.float64] = self.platt[0] * raw + self.platt[1]
        return calibrated

    def probabilities(self, features: Features) -> NDArray[np.float64]:
        """Probability c of each action, from the mean of the members' logits.

        :param features: observations, shape (n, n_features), float32
        :return: shape (n, actions), float64
        """
        return _sigmoid(self.logits(features).mean(axis=0))

    def fit(self, steps: int = 60, batch: int = 512) -> float:
        """Train on the kept transitions, then recalibrate.

        :param steps: number of optimizer steps
        :param batch: number of transitions in a step; half of them are failures
        :return: loss of the last step; NaN if there are no failing transitions, or no other ones
        """
        failing, others = self.transitions.failing, self.transitions.others
        if not len(failing[1]) or not len(others[1]):
            return math.nan
        loss = th.zeros(())
        labels = th.cat([th.ones(batch // 2), th.zeros(batch - batch // 2)]).expand(self.members, batch)
        for _ in range(steps):
            bad = self.generator.integers(len(failing[1]), size=(self.members, batch // 2))
            good = self._negatives(batch - batch // 2)
            features = th.from_numpy(np.concatenate([failing[0][bad], others[0][good]], axis=1))
            actions = th.from_numpy(np.concatenate([failing[1][bad], others[1][good]], axis=1))
            logits = self.ensemble(features).gather(2, actions[..., None])[..., 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            self.optimizer.step()
        self._recalibrate()
        return loss.item()

    def _negatives(self, count: int) -> NDArray[np.int64]:
        """Indices of negatives for each member, shape (members, count).

        Half of them are random. The other half are those to which the member gives the largest logits.
        """
        others = self.transitions.others
        seen = self.generator.integers(len(others[1]), size=_MINED_FROM)
        with th.no_grad():
            logits = self.ensemble(th.from_numpy(others[0][seen]))
        taken = logits[:, th.arange(len(seen)), th.from_numpy(others[1][seen])]
        hard = seen[th.topk(taken, count // 2, dim=1).indices.numpy()]
        random = self.generator.integers(len(others[1]), size=(self.members, count - count // 2))
        return np.concatenate([hard, random], axis=1)

    def _recalibrate(self) -> None:
        """Fit slope and offset to the recent transitions by maximum likelihood, weakly pulled towards their previous values."""
        recent, failed = self.transitions.recent, self.transitions.recent_failed
        if failed.sum() < 5:
            return
        self.platt, before = np.array([1.0, 0.0]), self.platt
        raw = self.logits(recent[0]).mean(axis=0)[np.arange(len(failed)), recent[1]]

        def loss(log_slope_and_offset: NDArray[np.float64]) -> float:
            logits = math.exp(log_slope_and_offset[0]) * raw + log_slope_and_offset[1]
            likelihood = np.where(failed, -np.logaddexp(0.0, -logits), -np.logaddexp(0.0, logits)).sum()
            pull = (log_slope_and_offset[0] - math.log(before[0])) ** 2 + 0.1 * (log_slope_and_offset[1] - before[1]) ** 2
            return float(pull - likelihood)

        found = optimize.minimize(
            loss, [math.log(before[0]), before[1]], method="L-BFGS-B", bounds=[(-2.0, 2.0), (-30.0, 30.0)]
        ).x
        self.platt = np.array([math.exp(found[0]), found[1]])

    def small(self) -> CostModel:
        """The same model, without the transitions that it learnt from, except the failing ones."""
        kept = copy.copy(self)
        kept.transitions = copy.copy(self.transitions)
        kept.transitions.forget_all_but_failing()
        return kept

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {
            "ensemble": copy.deepcopy(self.ensemble.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "platt": self.platt.copy(),
            "generator": self.generator.bit_generator.state,
            "transitions": self.transitions.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: as returned by :meth:`state_dict`
        """
        self.ensemble.load_state_dict(state["ensemble"])
        # torch's optimizers change the tensors that they get, so they must get a copy
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.platt = state["platt"].copy()
        self.generator.bit_generator.state = state["generator"]
        self.transitions.load_state_dict(state["transitions"])


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -logits))
