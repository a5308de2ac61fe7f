"""ContextTasks: a foreign environment with other physics in each task."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from sb3_forecast.checks import check_seed, real
from sb3_forecast.descriptors import Descriptors
from sb3_forecast_envs.contexts.attributes import ContextSetter
from sb3_forecast_envs.contexts.distributions import Distribution
from sb3_forecast_envs.seeded.exploration import Failed
from sb3_forecast_envs.seeded.pool import MakeFromId, SeededTasks


class ContextTasks(SeededTasks):
    """N tasks of a Gymnasium environment. Each has a reset seed and a context of its own: numbers of the environment's physics or options.

    ::

        tasks = sfe.ContextTasks(
            "LunarLander-v3", 2_000, {"gravity": sfe.Normal(-9.0, 0.5)}, failed=..., rare={"gravity": sfe.Uniform(-11.9, -11.0)},
            rare_fraction=0.01,
        )

    Numbers are attributes of the environment inside all wrappers (``gravity``, ``model.opt.gravity[2]``), which are set before each
    reset; with a star they multiply what is there (``model.body_mass*``); ``reset.low`` is an option of ``reset``. What an environment has
    computed from an attribute when it was made does not follow.

    :param env: id of the environment, or a function that makes it; see :class:`SeededTasks`
    :param n_tasks: number of tasks
    :param contexts: distribution of each number, by name
    :param failed: what counts as failure; see :class:`SeededTasks`
    :param seed: seed of contexts and episodes; task i of a seed does not depend on the number of tasks. Pools of other seeds share no task
    :param rare: distributions of the rare mode, by name; numbers that it does not name are drawn as usual. ``None`` for no rare mode
    :param rare_fraction: probability that a task belongs to the rare mode
    :param timeout_fails: whether an episode that reaches its time limit has failed
    :param identity: see :class:`SeededTasks`
    :param succeeded: see :class:`SeededTasks`
    :raises ValueError: if a name or number is not possible in this environment, or an argument is out of range
    """

    per_task: ClassVar[tuple[str, ...]] = ("seeds", "rare", "contexts")

    def __init__(
        self,
        env: str | Callable[[], gym.Env[Any, Any]],
        n_tasks: int,
        contexts: Mapping[str, Distribution],
        failed: Failed | None = None,
        seed: int = 0,
        rare: Mapping[str, Distribution] | None = None,
        rare_fraction: float = 0.0,
        timeout_fails: bool = False,
        identity: str | None = None,
        succeeded: Failed | None = None,
    ) -> None:
        check_seed(seed)
        real("rare_fraction", rare_fraction, low=0.0, high=1.0, use="the probability of a rare task")
        if not contexts:
            raise ValueError(
                "contexts must hold at least one number, got none; use SeededTasks for tasks that differ in their seed only"
            )
        unknown = sorted(set(rare or {}) - set(contexts))
        if unknown:
            raise ValueError(
                f"rare must name numbers of contexts, got {unknown}; give their usual distribution in contexts as well"
            )
        if rare_fraction > 0.0 and not rare:
            raise ValueError(
                f"rare must be given for rare_fraction={rare_fraction}, got {rare}; give the distributions of the rare mode"
            )
        super().__init__(env, n_tasks, failed, seed * 2**32, timeout_fails, identity=identity, succeeded=succeeded)
        #: names of the numbers
        self.names = tuple(contexts)
        rows = [self._draw(contexts, rare or {}, rare_fraction, seed * 2**32 + i) for i in range(n_tasks)]
        #: numbers of each task, shape (N, names), float64
        self.contexts: NDArray[np.float64] = np.stack([row for row, _ in rows])
        self.rare = np.array([is_rare for _, is_rare in rows])
        self.no_model = "the contexts change the environment from task to task"
        self._try_out()

    @staticmethod
    def _draw(
        usual: Mapping[str, Distribution], rare: Mapping[str, Distribution], rare_fraction: float, seed: int
    ) -> tuple[NDArray[np.float64], bool]:
        rng = seeding.np_random(seed)[0]
        is_rare = bool(rng.random() < rare_fraction)
        numbers = [(rare[name] if is_rare and name in rare else usual[name]).draw(rng) for name in usual]
        return np.array(numbers, dtype=np.float64), is_rare

    def _try_out(self) -> None:
        """Start the tasks with the smallest and the largest number of each name, so that what is not possible is seen before the work."""
        env = self.make()
        setter = ContextSetter(env, self.names)
        for column, name in enumerate(self.names):
            for task in (int(self.contexts[:, column].argmin()), int(self.contexts[:, column].argmax())):
                number = self.contexts[task, column]
                try:
                    if (
                        isinstance(self.make, MakeFromId)
                        and name in inspect.signature(type(env.unwrapped).__init__).parameters
                    ):
                        # the environment's own checks of its arguments
                        gym.make(self.make.id, **{name: type(getattr(env.unwrapped, name))(number)}).close()
                    observation, _ = env.reset(seed=int(self.seeds[task]), options=setter.set(self.contexts[task]) or None)
                except Exception as error:  # whatever the environment raises
                    raise ValueError(
                        f"contexts must be ones that the environment can have, got {name}={number:g} in task {task} "
                        f"({type(error).__name__}: {error}); use a narrower distribution"
                    ) from error
                parts = observation.values() if isinstance(observation, dict) else [observation]
                if not all(np.isfinite(np.asarray(part, dtype=np.float64)).all() for part in parts):
                    raise ValueError(
                        f"contexts must give finite observations, got NaN or infinity for {name}={number:g} in task {task}; "
                        "use a narrower distribution"
                    )
        env.close()

    def preparer(self, env: gym.Env[Any, Any]) -> Callable[[int], dict[str, Any]]:
        """A function that sets the numbers of a task; see :meth:`SeededTasks.preparer`."""
        setter = ContextSetter(env, self.names)
        return lambda task: setter.set(self.contexts[task])

    def descriptors(self) -> Descriptors:
        """The numbers of each task."""
        return Descriptors(self.contexts.astype(np.float32), self.names)

    def label(self, task: int) -> str:
        """The name of a task, with its reset seed and its numbers.

        :param task: index into this pool
        """
        numbers = ", ".join(f"{name} {number:.4g}" for name, number in zip(self.names, self.contexts[task], strict=True))
        return f"task {task} (seed {self.seeds[task]}, {numbers})"

    def task_keys(self) -> list[bytes]:
        """One key per task: its environment, reset seed and numbers."""
        return [key + row.tobytes() for key, row in zip(super().task_keys(), self.contexts, strict=True)]

    @property
    def key(self) -> str:
        """A text that identifies the tasks."""
        return f"{super().key}, {', '.join(self.names)} with checksum {zlib.crc32(self.contexts.tobytes()):08x}"

    def __repr__(self) -> str:
        return f"ContextTasks({self.name!r}, n_tasks={len(self)}, {', '.join(self.names)})"
