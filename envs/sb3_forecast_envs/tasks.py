"""Tasks, the families that generate them, and pools of tasks.

A task is one start situation, deterministic given (family, pool seed, index): task 17 of a pool of 100 is task 17 of a
pool of a million drawn with the same seed.
"""

from __future__ import annotations

import copy
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_forecast_envs.cells import CONTINUES, EMPTY, WALL, Cell
from sb3_forecast_envs.compiled import expand_views, pad_layouts, reachable, view_offsets

if TYPE_CHECKING:
    from sb3_forecast_envs.dynamics import GridModel, GridSimulation

START_DIRECTION = 0


@dataclass(frozen=True)
class Task:
    """One start situation of a gridworld.

    :param layout: cell codes, shape (size, size), uint8, indexed [y, x]
    :param start: the agent's first (x, y, direction), direction as in MiniGrid: 0 right, 1 down, 2 left, 3 up
    :param rare: whether the task belongs to the rare mode
    """

    layout: NDArray[np.uint8]
    start: tuple[int, int, int]
    rare: bool


class TaskFamily(ABC):
    """A generator of tasks with a common part and a rare mode of mass ``rare_fraction``.

    Subclasses set ``name`` and ``cells`` and implement :meth:`draw_layout`.

    :param size: side of the square grid in cells, outer walls included
    :param rare_fraction: probability that a task belongs to the rare mode
    :param horizon: steps after which an episode is truncated; ``None`` for ``size ** 2``
    :param view_size: side of the agent's egocentric view in cells, odd
    :param time_penalty: the goal pays ``1 - time_penalty * steps / horizon``
    :raises ValueError: if an argument is out of range
    """

    name: ClassVar[str]
    #: what a layout's codes stand for; code 0 must be EMPTY and code 1 WALL
    cells: ClassVar[tuple[Cell, ...]]
    #: actions: 0 turn left, 1 turn right, 2 forward
    n_actions: ClassVar[int] = 3
    mission: ClassVar[str] = "reach the green goal square"
    #: how often a layout without a safe path to the goal is drawn again before giving up
    max_draws: ClassVar[int] = 10_000

    def __init__(
        self,
        size: int = 8,
        rare_fraction: float = 0.002,
        horizon: int | None = None,
        view_size: int = 5,
        time_penalty: float = 0.5,
    ) -> None:
        if size < 4:
            raise ValueError(f"size={size} leaves no room for a start and a goal; use size >= 4")
        check_fraction(rare_fraction)
        if view_size < 3 or view_size % 2 == 0:
            raise ValueError(f"view_size={view_size} has no centre or shows nothing; use an odd number >= 3")
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon={horizon} allows no step; use horizon >= 1, or None for size ** 2")
        if not 0.0 <= time_penalty <= 1.0:
            raise ValueError(f"time_penalty={time_penalty} would make the goal's reward negative or grow; use [0, 1]")
        if self.cells[:2] != (EMPTY, WALL):
            raise ValueError(
                f"{type(self).__name__}.cells must begin with EMPTY and WALL, got {[c.name for c in self.cells[:2]]}"
            )
        self.size = size
        self.rare_fraction = rare_fraction
        self.horizon = size**2 if horizon is None else horizon
        self.view_size = view_size
        self.time_penalty = time_penalty

    @property
    def id(self) -> str:
        """Name and size, as in the registered Gymnasium id: ``ThinIce-8x8``."""
        return f"{self.name}-{self.size}x{self.size}"

    @abstractmethod
    def draw_layout(self, rng: np.random.Generator, rare: bool) -> Task:
        """Draw one candidate task; :meth:`draw` repeats until the goal can be reached safely.

        :param rng: the only source of randomness
        :param rare: whether the task is to belong to the rare mode
        :return: the task
        """

    def draw(self, seed: int, index: int) -> Task:
        """Task ``index`` of the pool drawn with ``seed``.

        :param seed: the pool's seed, non-negative
        :param index: position in the pool, non-negative
        :return: the task, its goal reachable without entering a failing cell
        :raises ValueError: if no solvable layout was found in ``max_draws`` draws
        """
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
        rare = bool(rng.random() < self.rare_fraction)
        for _ in range(self.max_draws):
            task = self.draw_layout(rng, rare)
            if self._solvable(task):
                return task
        raise ValueError(
            f"{self.id}: no layout of task {index} (seed {seed}, rare={rare}) in {self.max_draws} draws has a safe path "
            "from start to goal; place fewer obstacles, or raise max_draws"
        )

    def _solvable(self, task: Task) -> bool:
        x, y, _ = task.start
        if self.cells[task.layout[y, x]].outcome != CONTINUES or not self.cells[task.layout[y, x]].walkable:
            return False
        return bool(reachable(task.layout.reshape(-1), self.size, y * self.size + x, self.walkable, self.outcomes))

    @cached_property
    def walkable(self) -> NDArray[np.uint8]:
        """1 for each cell code that the agent can enter."""
        return np.array([c.walkable for c in self.cells], dtype=np.uint8)

    @cached_property
    def outcomes(self) -> NDArray[np.uint8]:
        """Outcome of entering each cell code."""
        return np.array([c.outcome for c in self.cells], dtype=np.uint8)

    @cached_property
    def margin(self) -> int:
        """Padding that keeps every view inside the array."""
        return self.view_size - 1

    @cached_property
    def stride(self) -> int:
        """Width of a padded layout."""
        return self.size + 2 * self.margin

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """View offsets in padded layouts, shape (4, view_size^2)."""
        return view_offsets(self.view_size, self.stride)

    @cached_property
    def one_hot(self) -> NDArray[np.float32]:
        """Observation channels of each cell code, shape (codes, codes)."""
        return np.eye(len(self.cells), dtype=np.float32)

    def observations(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One-hot observations of compact views.

        :param views: cell codes, shape (batch, view_size^2), uint8
        :return: shape (batch, view_size^2 * codes), float32
        """
        out = np.empty((len(views), views.shape[1] * len(self.cells)), dtype=np.float32)
        expand_views(out, views, self.one_hot)
        return out

    def goal_reward(self, steps: int) -> float:
        """Reward for reaching the goal after ``steps`` steps."""
        return 1.0 - self.time_penalty * steps / self.horizon

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, TaskFamily) and self._arguments() == other._arguments()

    def __hash__(self) -> int:
        return hash((type(self), *self._arguments()))

    def _arguments(self) -> tuple[float, ...]:
        return (self.size, self.rare_fraction, self.horizon, self.view_size, self.time_penalty)


def check_fraction(rare_fraction: float) -> None:
    """Reject what is no mass of a mode.

    :raises ValueError: outside [0, 1]
    """
    if not 0.0 <= rare_fraction <= 1.0:
        raise ValueError(f"rare_fraction={rare_fraction} is not a probability; use a value in [0, 1]")


#: classes whose ids work for any size
FAMILIES: dict[str, Callable[..., TaskFamily]] = {}
#: families by id, filled by ``register_family``
REGISTERED: dict[str, TaskFamily] = {}


def make_family(family: str | TaskFamily, rare_fraction: float | None = None) -> TaskFamily:
    """Look a family up by its id.

    :param family: ``"ThinIce-8x8"``, the full Gymnasium id, or a family object
    :param rare_fraction: replaces the family's default; only with an id
    :return: the family
    :raises ValueError: if the id is unknown, or ``rare_fraction`` contradicts a family object
    """
    if isinstance(family, TaskFamily):
        if rare_fraction is not None and rare_fraction != family.rare_fraction:
            raise ValueError(
                f"rare_fraction={rare_fraction} contradicts the family's own {family.rare_fraction}; "
                f"construct {type(family).__name__}(rare_fraction={rare_fraction}) instead"
            )
        return family
    short = family.removeprefix("sb3_forecast_envs:").removeprefix("SB3Forecast/").removesuffix("-v0")
    if short in REGISTERED:
        registered = copy.copy(REGISTERED[short])
        if rare_fraction is not None:
            check_fraction(rare_fraction)
            registered.rare_fraction = rare_fraction
        return registered
    name, _, shape = short.partition("-")
    width, _, height = shape.partition("x")
    if name not in FAMILIES or not width.isdecimal() or width != height:
        raise ValueError(
            f"family={family!r} is unknown; use '<Name>-<S>x<S>' with a name of {sorted(FAMILIES)}, one of {sorted(REGISTERED)}, "
            "or register yours with register_family"
        )
    arguments = {} if rare_fraction is None else {"rare_fraction": rare_fraction}
    return FAMILIES[name](size=int(width), **arguments)


class TaskPool:
    """N tasks of a family, stored as arrays.

    :param family: ``"ThinIce-8x8"`` or a family object
    :param n_tasks: number of tasks
    :param seed: seed of the pool; pools of different seeds share no task by construction of the generator
    :param rare_fraction: mass of the rare mode; ``None`` for the family's default
    :raises ValueError: if an argument is out of range or the family unknown
    """

    #: scorers that these tasks can serve, strongest first (``scorer="auto"`` takes the first)
    scorers: ClassVar[tuple[str, ...]] = ("exact", "survival")

    def __init__(self, family: str | TaskFamily, n_tasks: int, seed: int, rare_fraction: float | None = None) -> None:
        if n_tasks < 1:
            raise ValueError(f"n_tasks={n_tasks} makes an empty pool; use n_tasks >= 1")
        if seed < 0:
            raise ValueError(f"seed={seed} is negative; use seed >= 0")
        self.family = make_family(family, rare_fraction)
        self.seed = seed
        size = self.family.size
        self.indices = np.arange(n_tasks, dtype=np.int64)
        self.layouts = np.empty((n_tasks, size, size), dtype=np.uint8)
        self.starts = np.empty((n_tasks, 3), dtype=np.int64)
        self.rare = np.empty(n_tasks, dtype=np.bool_)
        for i in range(n_tasks):
            task = self.family.draw(seed, i)
            self.layouts[i], self.starts[i], self.rare[i] = task.layout, task.start, task.rare

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def key(self) -> str:
        """What tells these tasks from others: family, and a checksum of layouts and starts."""
        content = zlib.crc32(self.starts.tobytes(), zlib.crc32(self.layouts.tobytes()))
        return f"{self.family.id} horizon {self.family.horizon} view {self.family.view_size}: {len(self)} tasks, checksum {content:08x}"

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(f"task {index} is not in a pool of {len(self)} tasks; use an index in [0, {len(self) - 1}]")
        x, y, direction = (int(v) for v in self.starts[index])
        return Task(self.layouts[index].copy(), (x, y, direction), bool(self.rare[index]))

    def __iter__(self) -> Iterator[Task]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"TaskPool({self.family.id!r}, n_tasks={len(self)}, seed={self.seed}, rare={int(self.rare.sum())})"

    def subset(self, indices: ArrayLike) -> TaskPool:
        """A pool of some of the tasks, in the given order.

        :param indices: positions in this pool, or a boolean mask over it
        :return: the smaller pool
        :raises ValueError: if nothing is selected or an index is out of range
        """
        wanted = np.asarray(indices)
        if wanted.size == 0 or (wanted.dtype == np.bool_ and not wanted.any()):
            raise ValueError("indices select no task; a pool holds at least one")
        try:
            chosen = np.arange(len(self))[wanted]
        except IndexError as error:
            raise ValueError(f"indices do not fit a pool of {len(self)} tasks ({error}); use [0, {len(self) - 1}]") from error
        pool = object.__new__(TaskPool)
        pool.family, pool.seed, pool.indices = self.family, self.seed, self.indices[chosen]
        pool.layouts, pool.starts, pool.rare = self.layouts[chosen], self.starts[chosen], self.rare[chosen]
        return pool

    def padded_layouts(self, tasks: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """Layouts padded for views, flattened; shape (tasks, stride^2), uint8.

        :param tasks: which tasks; ``None`` for all
        """
        layouts = self.layouts if tasks is None else self.layouts[tasks]
        return pad_layouts(layouts, self.family.margin, self.family.cells.index(WALL))

    def start_positions(self, tasks: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Flat padded positions of the start cells.

        :param tasks: which tasks; ``None`` for all
        """
        starts = self.starts if tasks is None else self.starts[tasks]
        margin, stride = self.family.margin, self.family.stride
        return (starts[:, 1] + margin) * stride + starts[:, 0] + margin

    def finite_model(self) -> GridModel:
        """The tasks as finite Markov decision processes, for exact scores."""
        from sb3_forecast_envs.dynamics import GridModel

        return GridModel(self)

    def simulation(self, tasks: NDArray[np.int64]) -> GridSimulation:
        """One batched episode of each given task, with the failing actions known, for survival scores.

        :param tasks: indices into the pool, repeats allowed
        """
        from sb3_forecast_envs.dynamics import GridSimulation

        return GridSimulation(self, tasks)
