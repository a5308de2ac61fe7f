"""Turns observations of any space into rows of numbers, for models other than the policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space, preprocess_obs


def n_features(space: spaces.Space[Any]) -> int:
    """Number of columns of :func:`features_of`.

    :param space: observation space
    """
    if isinstance(space, spaces.Dict):
        return sum(n_features(part) for part in space.spaces.values())
    return int(get_flattened_obs_dim(space))


def features_of(observations: Any, space: spaces.Space[Any]) -> NDArray[np.float32]:
    """Observations as rows of numbers.

    Images are scaled to [0, 1], discrete observations become one-hot, and the parts of a dictionary are put side by side.
    Images always get their channels last, so that the rows are the same before and after SB3 moves the channels.

    :param observations: a batch of observations, as an environment or a rollout buffer gives it
    :param space: observation space
    :return: shape (batch, n_features(space)), float32
    """
    if isinstance(space, spaces.Dict):
        return np.concatenate([features_of(observations[key], part) for key, part in space.spaces.items()], axis=1)
    array = np.asarray(observations)
    if isinstance(space, spaces.Box):
        array = array.reshape(len(array), *space.shape) if array.size == len(array) * int(np.prod(space.shape)) else array
    rows = preprocess_obs(th.as_tensor(array), space)
    assert isinstance(rows, th.Tensor)
    flat = rows
    if is_image_space(space) and rows.ndim == 4 and space.shape is not None and space.shape[0] < space.shape[-1]:
        flat = rows.permute(0, 2, 3, 1)
    return np.ascontiguousarray(flat.reshape(len(array), -1).numpy(), dtype=np.float32)
