"""Existing environments as pools of tasks. Task i is the episode that starts with the i-th reset seed."""

from __future__ import annotations

import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import ImgObsWrapper
from numpy.typing import ArrayLike

from sb3_forecast.checks import whole
from sb3_forecast.descriptors import Descriptors
from sb3_forecast.files import cache_folder
from sb3_forecast_envs.pool import Pool, check_pool
from sb3_forecast_envs.seeded.exploration import Failed, ended_with_reward, ended_without_reward, observer, reported_cost
from sb3_forecast_envs.seeded.identity import UnknownIdentityError, environment_text, fingerprint

#: extras of this package, by the module of Gymnasium that needs them
_EXTRAS = ("mujoco", "box2d")

Wrapper = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]


class MakeFromId:
    """Makes an environment from its id. It is a class, not a function, so that pools can be pickled.

    :param id_: Gymnasium id
    :param wrappers: wrappers around it, the innermost first
    :param spec: what it is made from, as ``EnvSpec.to_json`` gives it, with arguments and time limit; ``None`` for what is registered
    """

    def __init__(self, id_: str, wrappers: Sequence[Wrapper] = (), spec: str | None = None) -> None:
        self.id = id_
        self.wrappers = tuple(wrappers)
        self.spec = spec

    def __call__(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Make it.

        :param render_mode: as in :func:`gymnasium.make`
        :return: the environment
        :raises ImportError: if a package that it needs is missing
        """
        try:
            env = gym.make(self.id if self.spec is None else EnvSpec.from_json(self.spec), render_mode=render_mode)
        except gym.error.DependencyNotInstalled as error:
            where = str(gym.spec(self.id.rpartition(":")[2]).entry_point)
            extra = next((name for name in _EXTRAS if name in where), None)
            install = f"pip install 'sb3-forecast[{extra}]'" if extra else "the command of that message"
            raise ImportError(
                f"env must be an environment whose packages are installed, got {self.id!r} ({error}); use {install}"
            ) from error
        for wrapper in self.wrappers:
            env = wrapper(env)
        # agents cannot read the text of a mission; environments without one are left as they are
        wrapped = isinstance(env.unwrapped, MiniGridEnv) and isinstance(env.observation_space, gym.spaces.Dict)
        return ImgObsWrapper(env) if wrapped else env


#: attributes that only cloudpickle can pickle
_FUNCTIONS = ("make", "failed", "succeeded")


class SeededTasks(Pool):
    """N episodes of a Gymnasium environment as a pool of tasks. Each task has a reset seed of its own.

    The tasks of a MiniGrid environment have a finite model if its steps are deterministic. The model is found by taking real steps from
    every state, and gives exact failure scores. For training, ``make_vec_env(tasks.make_env, n_envs)`` makes environments that play these
    tasks.

    :param env: id of the environment, or a function that makes the environment with all wrappers that the agent sees. An environment made
        from a MiniGrid id is wrapped in ``ImgObsWrapper``, because agents cannot read the text of the mission
    :param n_tasks: number of tasks
    :param failed: what counts as failure, a function of a :class:`Step`. ``None`` for an end without reward in a MiniGrid environment, and
        for a positive ``info["cost"]`` in any other
    :param first_seed: reset seed of task 0; task i has the seed ``first_seed + i``. Pools have no task in common if their ranges of seeds do
        not overlap
    :param timeout_fails: whether an episode that reaches its time limit has failed
    :param rare: which tasks belong to a rare mode, shape (n_tasks,), bool; only reports use it. ``None`` for no rare mode
    :param max_states: largest number of states in the finite model of one task
    :param cache_dir: folder for finite models; ``None`` for ``~/.cache/sb3_forecast``
    :param progress_bar: whether to show progress while finite models are made
    :param identity: a text that says what the tasks are, instead of a checksum of the environment's source, of ``env`` and of ``failed``
        with all that they close over. It is needed where that cannot be told; change it whenever the tasks change
    :param succeeded: what counts as success at the end of an episode, a function of a :class:`Step`. ``None`` for ``info["is_success"]``, or
        in a MiniGrid environment that does not report it, an end with a positive reward. Where neither is known, success is unknown
    :raises ValueError: if an argument is out of range, or ``identity`` is needed and missing
    """

    per_task: ClassVar[tuple[str, ...]] = ("seeds", "rare")

    def __init__(
        self,
        env: str | Callable[[], gym.Env[Any, Any]],
        n_tasks: int,
        failed: Failed | None = None,
        first_seed: int = 0,
        timeout_fails: bool = False,
        rare: ArrayLike | None = None,
        max_states: int = 200_000,
        cache_dir: str | pathlib.Path | None = None,
        progress_bar: bool = False,
        identity: str | None = None,
        succeeded: Failed | None = None,
    ) -> None:
        check_pool(n_tasks, 0)
        whole("first_seed", first_seed, low=0, use="a whole number such as 0")
        whole("max_states", max_states, low=1, use="the default 200_000, for example")
        if not isinstance(env, str) and not callable(env):
            raise ValueError(
                f"env must be an id or a function, got {env!r}; use a Gymnasium id, or a function without arguments that makes the environment"
            )
        self.make = MakeFromId(env) if isinstance(env, str) else env
        sample = self.make()
        #: why there is no finite model, so that failures can only be counted; ``None`` if there may be one
        self.no_model = _why_no_model(sample)
        self.name = sample.spec.id if sample.spec else type(sample.unwrapped).__name__
        self.failed = failed or (ended_without_reward if isinstance(sample.unwrapped, MiniGridEnv) else reported_cost)
        try:
            self.identity = identity or " ".join((environment_text(sample), fingerprint(self.make), fingerprint(self.failed)))
        except UnknownIdentityError as error:
            raise ValueError(
                f"identity must be given, because env or failed holds an object that does not say what it is, {error}, got None; use "
                "identity='a name that you change whenever the tasks change'"
            ) from error
        minigrid = isinstance(sample.unwrapped, MiniGridEnv)
        self.succeeded = succeeded or (ended_with_reward if minigrid else None)
        self.timeout_fails = timeout_fails
        self.seeds = first_seed + np.arange(n_tasks, dtype=np.int64)
        self.rare = np.zeros(n_tasks, dtype=np.bool_) if rare is None else np.asarray(rare, dtype=np.bool_)
        if self.rare.shape != (n_tasks,):
            raise ValueError(f"rare must have the shape ({n_tasks},), got {self.rare.shape}; use one boolean per task")
        self.max_states = max_states
        self.cache_dir = cache_folder() if cache_dir is None else pathlib.Path(cache_dir)
        self.progress_bar = progress_bar

    @property
    def scorers(self) -> Sequence[str]:
        """Names of the scorers that the pool can serve, the strongest first.

        Only MiniGrid environments have exact scores, and only if their wrappers do no more than change observations; :attr:`no_model` says
        what stands against it.
        """
        return super().scorers if self.no_model is None else ("episodes", "frequency", "splitting")

    def finite_model(self) -> Any:
        """The tasks as finite Markov decision processes, for exact scores.

        :return: see ``sb3_forecast.scorers.protocols.FiniteModel``
        :raises ValueError: if the tasks have no finite model
        """
        if self.no_model is not None:
            raise ValueError(f"exact scores need a finite model, got none: {self.no_model}; use scorer='frequency'")
        return super().finite_model()

    def preparer(self, env: gym.Env[Any, Any]) -> Callable[[int], dict[str, Any]]:
        """A function that prepares an environment for a task, before each reset.

        :param env: the environment, just made
        :return: takes the index of a task, and returns options for ``reset``
        """
        return _no_options

    def __getstate__(self) -> dict[str, Any]:
        # cloudpickle, because lambdas must also come back from the worker of a SubprocVecEnv
        return {**vars(self), **{name: cloudpickle.dumps(getattr(self, name)) for name in _FUNCTIONS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, **{name: cloudpickle.loads(state[name]) for name in _FUNCTIONS}})

    def __repr__(self) -> str:
        return f"SeededTasks({self.name!r}, n_tasks={len(self)}, seeds {self.seeds[0]} to {self.seeds[-1]})"

    def descriptors(self) -> Descriptors:
        """The first observation of each task. Every task is reset once, in one environment.

        :raises ValueError: if observations are no arrays of numbers
        """
        env = self.make()
        space = env.observation_space
        if not isinstance(space, (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiBinary, gym.spaces.MultiDiscrete)):
            raise ValueError(
                f"observations must be arrays of numbers to describe tasks, got {space}; use a wrapper, or pass descriptors"
            )
        rows = [np.asarray(env.reset(seed=int(seed))[0], dtype=np.float32).reshape(-1) for seed in self.seeds]
        env.close()
        return Descriptors(np.stack(rows), tuple(f"observation {i}" for i in range(len(rows[0]))))

    def label(self, task: int) -> str:
        """The name of a task, with its reset seed.

        :param task: index into this pool
        """
        return f"task {task} (seed {self.seeds[task]})"

    def task_keys(self) -> list[bytes]:
        """One key per task: its environment and reset seed."""
        return [f"{self.name} {self.identity} {seed}".encode() for seed in self.seeds]

    @property
    def key(self) -> str:
        """A text that identifies the tasks: environment, seeds, and what counts as failure."""
        late = ", timeouts fail" if self.timeout_fails else ""
        checksum = zlib.crc32(self.seeds.tobytes())
        return f"{self.name} ({self.identity}): {len(self)} seeds {self.seeds[0]} to {self.seeds[-1]}, checksum {checksum:08x}{late}"


def _no_options(task: int) -> dict[str, Any]:
    return {}


def _why_no_model(env: gym.Env[Any, Any]) -> str | None:
    if not isinstance(env.unwrapped, MiniGridEnv):
        return f"{type(env.unwrapped).__name__} is not a MiniGrid environment"
    try:
        observer(env)
    except ValueError as error:
        return str(error)
    return None
