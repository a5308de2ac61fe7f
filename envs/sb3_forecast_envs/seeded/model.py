"""Finite models of seeded MiniGrid episodes, explored once and kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from functools import lru_cache
from typing import Any

import cloudpickle
import minigrid
import numpy as np
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sb3_forecast.files import write_whole
from sb3_forecast_envs.seeded.exploration import explore_episode
from sb3_forecast_envs.seeded.pool import SeededTasks

#: seeds per file: what a killed run loses at most
BLOCK = 32
_FORMAT = 1


class SeededModel:
    """The tasks as finite models, found by exploring real steps.

    Blocks of seeds are explored when they are first asked for and written atomically, so that a killed run goes on where it was.

    :param tasks: the tasks, of a MiniGrid environment
    :raises ValueError: if the environment is no MiniGrid environment, or its observations are no single array
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
                f"observations of {space} are no single array; wrap the environment, for example in minigrid.wrappers.ImgObsWrapper"
            )
        self._shape, self._dtype = space.shape, np.dtype(space.dtype)
        self.folder = tasks.cache_dir / f"seeded-{self._fingerprint()}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._block = lru_cache(maxsize=4)(self._load_or_explore)

    def _fingerprint(self) -> str:
        """What the models depend on; a change in any of it starts a new folder."""
        digest = hashlib.sha256()
        for function in (self.tasks.make, self.tasks.failed):
            digest.update(cloudpickle.dumps(function))
            # the source is not there for what was typed at a prompt; its code is in the pickle
            with contextlib.suppress(OSError, TypeError):
                digest.update(inspect.getsource(function).encode())
        for value in (
            _FORMAT,
            minigrid.__version__,
            np.__version__,
            repr(self.env.observation_space),
            self.horizon,
            self.env.spec,
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
        """
        seeds = self.tasks.seeds[tasks]
        parts = [self._task(int(seed)) for seed in tqdm(seeds, "exploring", disable=not self.progress_bar, leave=False)]
        successors, views = zip(*parts, strict=True)
        first = np.concatenate([[0], np.cumsum([len(part) for part in successors])])
        return first, np.concatenate(successors), np.concatenate(views), np.empty((0, self.n_actions))

    def observations(self, views: NDArray[np.uint8]) -> NDArray[Any]:
        """The agent's observations, from their bytes.

        :param views: shape (views, bytes)
        """
        return np.ascontiguousarray(views).view(self._dtype).reshape(len(views), *self._shape)

    def action_masks(self, views: NDArray[np.uint8]) -> None:
        """None: what an environment would mask is not explored."""

    def _task(self, seed: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        first, successors, views = self._block(seed // BLOCK)
        begin, end = first[seed % BLOCK], first[seed % BLOCK + 1]
        return successors[begin:end], views[begin:end]

    def _load_or_explore(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
        path = self.folder / f"seeds-{block * BLOCK}-{(block + 1) * BLOCK - 1}.npz"
        if path.exists():
            with np.load(path) as file:
                first, successors, views = file["first"], file["successors"], file["views"]
            self._check_start(block, views)
            return first, successors, views
        parts = [self._explore(seed) for seed in range(block * BLOCK, (block + 1) * BLOCK)]
        first = np.concatenate([[0], np.cumsum([len(successors) for successors, _ in parts])])
        successors, views = (np.concatenate(column) for column in zip(*parts, strict=True))
        write_whole(path, lambda file: np.savez_compressed(file, first=first, successors=successors, views=views))
        return first, successors, views

    def _check_start(self, block: int, views: NDArray[np.uint8]) -> None:
        observation, _ = self.env.reset(seed=block * BLOCK)
        if not np.array_equal(self._bytes(np.asarray(observation)[None])[0], views[0]):
            raise ValueError(
                f"the models kept in {self.folder} start otherwise than the environment does now: its code has changed; delete that folder"
            )

    def _explore(self, seed: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        self.env.reset(seed=seed)
        successors, observations = explore_episode(self.env, self.tasks.failed, self.max_states)
        return successors, self._bytes(observations)

    def _bytes(self, observations: NDArray[Any]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(observations, dtype=self._dtype).reshape(len(observations), -1).view(np.uint8)
