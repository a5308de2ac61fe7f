"""Plays given tasks with any SB3 or sb3-contrib model, in any vectorised environment whose task can be chosen."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from tqdm import tqdm

from sb3_forecast.scorers.actor import maskable_policy
from sb3_forecast.scorers.workers import watched

#: what to do after a worker process died while tasks were played
AGAIN = "play the tasks again"


@dataclass(frozen=True)
class Episodes:
    """Outcomes of some episodes.

    :param failed: whether a step of the episode had a positive cost, shape (episodes,), bool
    :param success: 1.0 if the episode ended in success, 0.0 if not, NaN if the environment does not report it, shape
        (episodes,)
    :param returns: sum of the rewards as the environment gives them, shape (episodes,), float64
    :param lengths: number of steps, shape (episodes,), int64
    """

    failed: NDArray[np.bool_]
    success: NDArray[np.float64]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]


def is_stochastic(model: Any) -> bool:
    """Whether a model samples its actions when it is deployed.

    On-policy models sample their actions. Other models are deployed without exploration: they take their likeliest action.

    :param model: SB3 or sb3-contrib model
    """
    return isinstance(model, OnPolicyAlgorithm)


def play(
    model: BaseAlgorithm,
    env: VecEnv,
    tasks: NDArray[np.int64],
    seed: int = 0,
    deterministic: bool | None = None,
    progress_bar: bool = False,
) -> Episodes:
    """Play one episode of each given task.

    :param model: any model with ``predict``; it may have a memory (RecurrentPPO) or masks (MaskablePPO)
    :param env: environments whose ``reset`` understands ``options={"task": i}`` and that have ``set_next_task``. They
        need the same wrappers as the model's own environment. If that one has ``VecNormalize``, its statistics normalise
        the observations
    :param tasks: indices into the environment's pool, shape (episodes,); an index may occur more than once
    :param seed: seed of environments and actions
    :param deterministic: whether the model takes its likeliest action. ``None``: on-policy models sample their actions,
        others take their likeliest action
    :param progress_bar: whether to show the progress
    :return: the outcomes, in the order of ``tasks``
    :raises ValueError: if the environment does not report a cost
    :raises FloatingPointError: if an observation or reward is not finite
    :raises ConnectionError: if a process of the environment has died
    """
    chosen = np.asarray(tasks, dtype=np.int64)
    greedy = not is_stochastic(model) if deterministic is None else deterministic
    total = len(chosen)
    failed, success = np.zeros(total, dtype=np.bool_), np.full(total, np.nan)
    returns, lengths = np.zeros(total), np.zeros(total, dtype=np.int64)
    normalize = own_normalisation(model, env)
    masked = isinstance(model.policy, maskable_policy())
    sync_normalisation(model, env)
    with (
        seeded(seed),
        _own_noise(model, env.num_envs),
        stationary(env),
        watched(env, AGAIN),
        tqdm(total=total, disable=not progress_bar, desc="episodes") as bar,
    ):
        env.seed(seed)
        queue = TaskQueue(env, chosen)
        state, starts = None, np.ones(env.num_envs, dtype=np.bool_)
        while queue.running:
            seen = queue.observations if normalize is None else normalize.normalize_obs(queue.observations)
            extra = {"action_masks": np.stack(env.env_method("action_masks"))} if masked else {}
            actions, state = model.predict(seen, state, starts, greedy, **extra)
            step = queue.step(actions)
            starts = step.dones
            for i in np.flatnonzero(step.episodes >= 0):
                episode, info = step.episodes[i], step.infos[i]
                failed[episode] |= step.costs[i] > 0.0
                returns[episode] += step.rewards[i]
                lengths[episode] += 1
                if starts[i]:
                    success[episode] = float(info["is_success"]) if "is_success" in info else np.nan
                    if "episode" in info:
                        # a Monitor recorded the environment's own rewards, before other wrappers changed them
                        returns[episode] = info["episode"]["r"]
                    bar.update()
    return Episodes(failed, success, returns, lengths)


def count_success(model: BaseAlgorithm, env: VecEnv, n_tasks: int, seed: int = 0) -> NDArray[np.float64]:
    """Play one episode of each task, and report its success.

    :param model: see :func:`play`
    :param env: see :func:`play`
    :param n_tasks: number of tasks in the environment's pool
    :param seed: see :func:`play`
    :return: 1.0 for success, 0.0 for none, NaN if the environment does not report it, shape (n_tasks,), float64
    """
    return play(model, env, np.arange(n_tasks), seed).success


@dataclass(frozen=True)
class QueueStep:
    """One step of all environments of a :class:`TaskQueue`.

    :param episodes: episode that each environment played; -1 if it does not count, shape (envs,), int64
    :param rewards: rewards of the step, shape (envs,)
    :param costs: costs of the step, shape (envs,)
    :param dones: whether the episode ended with the step, shape (envs,)
    :param infos: info of each environment
    """

    episodes: NDArray[np.int64]
    rewards: NDArray[np.float32]
    costs: NDArray[np.float64]
    dones: NDArray[np.bool_]
    infos: list[dict[str, Any]]


class TaskQueue:
    """Plays one episode of each given task. An environment that finishes an episode takes the next task.

    :param env: environments whose ``reset`` understands ``options={"task": i}`` and that have ``set_next_task``
    :param tasks: indices into their pool, shape (episodes,); an index may occur more than once
    """

    def __init__(self, env: VecEnv, tasks: NDArray[np.int64]) -> None:
        self.env, self.tasks = env, tasks
        n = env.num_envs
        # the episode that each environment plays now, and the one that it plays next; -1 for an episode that does not count
        self._current = np.where(np.arange(n) < len(tasks), np.arange(n), -1)
        self._following = np.full(n, -1)
        self._queue = iter(range(n, len(tasks)))
        env.set_options([{"task": int(tasks[e])} if e >= 0 else {} for e in self._current])
        #: current observations of all environments
        self.observations: Any = env.reset()
        self._announce(np.arange(n))

    @property
    def running(self) -> bool:
        """Whether an episode that counts is still running."""
        return bool((self._current >= 0).any())

    @property
    def episodes(self) -> NDArray[np.int64]:
        """Episode that each environment plays; -1 if it does not count, shape (envs,), int64."""
        return self._current.copy()

    def step(self, actions: Any) -> QueueStep:
        """Take one step in every environment.

        :param actions: one action per environment
        :return: rewards, costs and infos of the step
        :raises ValueError: if the environment does not report a cost
        :raises FloatingPointError: if an observation or reward is not finite
        """
        played = self.episodes
        with watched(self.env, AGAIN):
            self.observations, rewards, dones, infos = self.env.step(actions)
        check_finite(self.observations, rewards, infos)
        try:
            costs = np.fromiter((info["cost"] for info in infos), np.float64, len(infos))
        except KeyError as error:
            raise ValueError(
                "env must report info['cost'] at every step, got an info without it; use environments of "
                "sb3_forecast_envs.SeededTasks(env, n_tasks, failed=...)"
            ) from error
        ended = np.flatnonzero(dones)
        self._current[ended] = self._following[ended]
        self._announce(ended)
        return QueueStep(played, rewards, costs, dones, infos)

    def _announce(self, envs: NDArray[np.int64]) -> None:
        """Tell some environments which task they play after the one that has just begun."""
        for i in envs:
            self._following[i] = next(self._queue, -1)
            if self._following[i] >= 0:
                self.env.env_method("set_next_task", int(self.tasks[self._following[i]]), indices=[int(i)])


def check_finite(observations: Any, rewards: NDArray[np.floating[Any]], infos: list[dict[str, Any]]) -> None:
    """Raise an error if an observation or a reward is not finite.

    :param observations: observations of all environments: an array, or a dictionary or tuple of arrays
    :param rewards: one reward per environment
    :param infos: one info per environment
    :raises FloatingPointError: if an observation or reward is NaN or infinite. The message names the environment, and its
        task if the info holds it
    """
    if isinstance(observations, (dict, tuple)):
        parts = list(observations.values()) if isinstance(observations, dict) else list(observations)
    else:
        parts = [observations]
    for name, array in (("reward", rewards), *(("observation", part) for part in parts)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
            task = f" (task {infos[bad]['task']})" if "task" in infos[bad] else ""
            raise FloatingPointError(
                f"env must return finite observations and rewards, got NaN or infinity in the {name} of environment {bad}{task}; "
                "correct the environment, then resume from the last checkpoint"
            )


def normalisation_of(model: BaseAlgorithm) -> VecNormalize | None:
    """The ``VecNormalize`` of the model's own environment.

    :param model: the model
    :return: the wrapper; ``None`` if there is none, or it does not normalise observations
    """
    own = model.get_vec_normalize_env()
    return own if own is not None and own.norm_obs else None


def own_normalisation(model: BaseAlgorithm, env: VecEnv) -> VecNormalize | None:
    """The ``VecNormalize`` of the model's own environment, if the given environment has none.

    :param model: the model
    :param env: environment in which the model will act
    :return: the wrapper that must normalise the given environment's observations; ``None`` if nothing must
    """
    return normalisation_of(model) if unwrap_vec_normalize(env) is None else None


def sync_normalisation(model: BaseAlgorithm, env: VecEnv) -> None:
    """Copy the ``VecNormalize`` statistics of the model's own environment into another environment that normalises.

    :param model: the model
    :param env: environment in which the model will act
    """
    own, other = model.get_vec_normalize_env(), unwrap_vec_normalize(env)
    if own is not None and other is not None and own is not other and own.norm_obs:
        other.obs_rms = copy.deepcopy(own.obs_rms)


@contextmanager
def stationary(env: VecEnv) -> Iterator[None]:
    """Freeze the ``VecNormalize`` statistics of an environment, then restore the setting.

    :param env: vectorised environment, with or without ``VecNormalize``
    """
    normalize = unwrap_vec_normalize(env)
    training = normalize is not None and normalize.training
    if normalize is not None:
        normalize.training = False
    try:
        yield
    finally:
        if normalize is not None:
            normalize.training = training


@contextmanager
def _own_noise(model: BaseAlgorithm, n_envs: int) -> Iterator[None]:
    """Draw the noise of gSDE anew, else it would be that of whatever was played before; then restore what a rollout of the training may need."""
    if not isinstance(model, OnPolicyAlgorithm) or not model.use_sde:
        yield
        return
    noise = model.policy.action_dist
    assert isinstance(noise, StateDependentNoiseDistribution)
    before = noise.weights_dist, noise.exploration_mat, noise.exploration_matrices
    model.policy.reset_noise(n_envs)
    try:
        yield
    finally:
        noise.weights_dist, noise.exploration_mat, noise.exploration_matrices = before


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators that policies use, then restore them."""
    numpy_state = np.random.get_state()  # noqa: NPY002  # DQN explores with it
    with th.random.fork_rng(devices=range(th.cuda.device_count())):
        th.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
