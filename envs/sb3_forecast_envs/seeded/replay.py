"""Plays real episodes against a finite model: scores of another game than the one that is played would be wrong without a word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from sb3_forecast_envs.seeded.exploration import Failed, Step

_RANDOM_EPISODES = 3


def check_replay(
    env: gym.Env[Any, Any],
    seed: int,
    failed: Failed,
    successors: NDArray[np.int32],
    views: NDArray[np.uint8],
    as_view: Callable[[Any], NDArray[np.uint8]],
    timeout_fails: bool,
) -> None:
    """Follow episodes of one seed in its model: one that only takes action 0, so that it reaches the time limit, and three random ones.

    :param env: the environment with the wrappers that the agent sees
    :param seed: reset seed of the task
    :param failed: what counts as failure
    :param successors: shape (states, actions), int32; -1 is an end without failure, -2 a failure
    :param views: the bytes of each state's observation, shape (states, bytes)
    :param as_view: observation -> its bytes
    :param timeout_fails: whether an episode that reaches its time limit has failed
    :raises ValueError: at the first difference, with the step
    """
    generator = np.random.default_rng(seed)
    for episode in range(1 + _RANDOM_EPISODES):
        env.reset(seed=seed)
        state, ended, taken = 0, False, 0
        while not ended:
            action = 0 if episode == 0 else int(generator.integers(successors.shape[1]))
            observation, reward, terminated, truncated, info = env.step(action)
            taken += 1
            bad = bool(failed(Step(env, float(reward), bool(terminated), bool(truncated), info)))
            after = int(successors[state, action])
            where = f"step {taken} (action {action}) of seed {seed}"
            if terminated and after != (-2 if bad else -1):
                raise ValueError(
                    f"the finite model must end as the environment does, got another end at {where}; use scorer='frequency', and report this"
                )
            if not terminated and (after < 0 or not np.array_equal(as_view(observation), views[after])):
                raise ValueError(
                    f"the finite model must show what the environment shows, got another observation at {where}; use wrappers that do not "
                    "depend on time, or scorer='frequency'"
                )
            if bad and not terminated and not truncated:
                raise ValueError(
                    f"failed must only be true where an episode ends to be seen by exact scores, got True in the middle, at {where}; end the "
                    "episode there, or use scorer='frequency'"
                )
            if truncated and not terminated and bad and not timeout_fails:
                raise ValueError(
                    f"timeout_fails must be True where `failed` calls an episode failed that reaches its time limit, got False at {where}; use "
                    "timeout_fails=True"
                )
            state, ended = after, terminated or truncated
