"""Which actions probes take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw(weights: NDArray[np.float64], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Draw an action for each row in proportion to its weights; the last action if all weights are 0.

    :param weights: shape (rows, actions)
    :param uniforms: one uniform number per row, shape (rows,)
    :return: actions, shape (rows,)
    """
    cumulative = np.cumsum(weights, axis=1)
    drawn = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(axis=1)
    return np.asarray(np.minimum(drawn, weights.shape[1] - 1), dtype=np.int64)


def probing_actions(
    log_pi: NDArray[np.float64], logits: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Actions of the probes: a tenth is random, a tenth is where the members of the ensemble disagree most, the others are the policy's.

    :param log_pi: log-probabilities of the policy, shape (episodes, actions)
    :param logits: predictions of the cost model's members, shape (members, episodes, actions)
    :param generator: source of randomness
    :return: actions, shape (episodes,)
    """
    actions = draw(np.exp(log_pi), generator.random(len(log_pi)))
    explore = generator.random((2, len(actions)))
    # actions that a mask forbids have a probability of about e^-1e8
    allowed = log_pi > -1e6
    actions = np.where(explore[0] < 0.1, draw(allowed.astype(np.float64), explore[1]), actions)
    disagreement = np.where(allowed, logits.std(axis=0), -1.0)
    return np.where((explore[0] >= 0.1) & (explore[0] < 0.2), disagreement.argmax(axis=1), actions)


def likeliest_to_teach(
    log_pi: NDArray[np.float64], logits: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Exploratory actions: half of them random, half where the members of the ensemble disagree most.

    :param log_pi: log-probabilities of the policy, shape (episodes, actions); an action that a mask forbids has about -1e8
    :param logits: predictions of the members, shape (members, episodes, actions)
    :param generator: source of randomness
    :return: actions, shape (episodes,)
    """
    allowed = log_pi > -1e6
    random = draw(allowed.astype(np.float64), generator.random(len(log_pi)))
    doubtful = np.where(allowed, logits.std(axis=0), -1.0).argmax(axis=1)
    return np.where(generator.random(len(log_pi)) < 0.5, random, doubtful)
