"""Finite models of seeded MiniGrid episodes. They are found once and stored on disk."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import minigrid
import numpy as np
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sb3_forecast.files import load_arrays, save_arrays
from sb3_forecast_envs.seeded.exploration import explore_episode
from sb3_forecast_envs.seeded.pool import SeededTasks
from sb3_forecast_envs.seeded.replay import check_replay

#: seeds per file; a run that is killed loses at most one file
BLOCK = 32
_FORMAT = 3


class SeededModel:
    """The tasks as finite models, found by taking real steps from every state.

    The seeds are explored in blocks, each when it is needed for the first time. A block is written atomically, so a run that was killed
    continues after the last whole block.

    :param tasks: the tasks, of a MiniGrid environment
    :raises ValueError: if the environment is not a MiniGrid environment, or its observation is not one array
    """

    def __init__(self, tasks: SeededTasks) -> None:
        env = tasks.make()
        inner = env.unwrapped
        if not isinstance(inner, MiniGridEnv):
            raise ValueError(
                f"env must be a MiniGrid environment for exact scores, got {tasks.name}; use scorer='frequency' to count failures"
            )
        self.tasks, self.env = tasks, env
        self.max_states, self.progress_bar = tasks.max_states, tasks.progress_bar
        self.horizon = int(inner.max_steps)
        self.n_actions = int(inner.action_space.n)
        self.timeout_fails = tasks.timeout_fails
        space = env.observation_space
        if not isinstance(space.shape, tuple) or space.dtype is None:
            raise ValueError(
                f"observations must be one array, got {space}; use a wrapper, for example minigrid.wrappers.ImgObsWrapper"
            )
        self._shape, self._dtype = space.shape, np.dtype(space.dtype)
        self.folder = tasks.cache_dir / f"seeded-{self._fingerprint()}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._block = lru_cache(maxsize=4)(self._load_or_explore)

    def _fingerprint(self) -> str:
        """A digest of everything that the models depend on. If it changes, the models go into a new folder."""
        digest = hashlib.sha256()
        for value in (
            _FORMAT,
            self.tasks.identity,
            minigrid.__version__,
            np.__version__,
            repr(self.env.observation_space),
            self.horizon,
        ):
            digest.update(repr(value).encode())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.tasks)

    def tables(
        self, tasks: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8], NDArray[np.float64]]:
        """Reachable states of some tasks; see ``FiniteModel.tables``.

        :param tasks: indices into the pool
        :return: four arrays:

            - first state of each task, then the total number of states, shape (tasks + 1,), int64
            - successors, shape (states, actions), int32. States are numbered within their task; -1 is an end without failure, -2 a failure
            - compact views, the bytes of the observations, shape (states, bytes), uint8
            - an array of shape (0, actions): nothing is random
        """
        seeds = self.tasks.seeds[tasks]
        parts = [self._task(int(seed)) for seed in tqdm(seeds, "exploring", disable=not self.progress_bar, leave=False)]
        successors, views = zip(*parts, strict=True)
        first = np.concatenate([[0], np.cumsum([len(part) for part in successors])])
        return first, np.concatenate(successors), np.concatenate(views), np.empty((0, self.n_actions))

    def observations(self, views: NDArray[np.uint8]) -> NDArray[Any]:
        """The agent's observations, from their bytes.

        :param views: shape (views, bytes), uint8
        :return: shape (views, *observation)
        """
        return np.ascontiguousarray(views).view(self._dtype).reshape(len(views), *self._shape)

    def action_masks(self, views: NDArray[np.uint8]) -> None:
        """None: masks of the environment are not explored."""

    def _task(self, seed: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        first, successors, views = self._block(seed // BLOCK)
        begin, end = first[seed % BLOCK], first[seed % BLOCK + 1]
        return successors[begin:end], views[begin:end]

    def _load_or_explore(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
        path = self.folder / f"seeds-{block * BLOCK}-{(block + 1) * BLOCK - 1}.npz"
        stored = load_arrays(path, "models")
        if stored is not None:
            self._check_start(block, stored["views"])
            return stored["first"], stored["successors"], stored["views"]
        parts = [self._explore(seed) for seed in range(block * BLOCK, (block + 1) * BLOCK)]
        check_replay(self.env, block * BLOCK, self.tasks.failed, *parts[0], self._view, self.timeout_fails)
        first = np.concatenate([[0], np.cumsum([len(successors) for successors, _ in parts])])
        successors, views = (np.concatenate(column) for column in zip(*parts, strict=True))
        save_arrays(path, {"first": first, "successors": successors, "views": views}, compress=True)
        return first, successors, views

    def _check_start(self, block: int, views: NDArray[np.uint8]) -> None:
        observation, _ = self.env.reset(seed=block * BLOCK)
        if not np.array_equal(self._bytes(np.asarray(observation)[None])[0], views[0]):
            raise ValueError(
                f"stored models must start like the environment, got another first observation in {self.folder}: the environment's code has "
                "changed; delete that folder"
            )

    def _explore(self, seed: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        self.env.reset(seed=seed)
        successors, observations = explore_episode(self.env, self.tasks.failed, self.max_states)
        return successors, self._bytes(observations)

    def _view(self, observation: Any) -> NDArray[np.uint8]:
        view: NDArray[np.uint8] = self._bytes(np.asarray(observation)[None])[0]
        return view

    def _bytes(self, observations: NDArray[Any]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(observations, dtype=self._dtype).reshape(len(observations), -1).view(np.uint8)
