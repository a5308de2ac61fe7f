"""Tasks, and the families that generate them.

A task is one start situation. Family, pool seed and index determine it: task 17 of a pool of 100 is also task 17 of a pool of a million
with the same seed.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_forecast_envs.gridworld.cells import CONTINUES, EMPTY, WALL, Cell
from sb3_forecast_envs.gridworld.compiled import expand_batch, view_offsets
from sb3_forecast_envs.gridworld.exploration import check_size, most_variants, solvable
from sb3_forecast_envs.gridworld.rules import PICKABLE, WALKABLE, Rules, make_rules

START_DIRECTION = 0


@dataclass(frozen=True)
class Task:
    """One start situation of a gridworld.

    :param layout: cell codes, shape (size, size), uint8, indexed [y, x]
    :param start: the agent's (x, y, direction) at the start, direction as in MiniGrid: 0 right, 1 down, 2 left, 3 up
    :param rare: whether the task belongs to the rare mode
    """

    layout: NDArray[np.uint8]
    start: tuple[int, int, int]
    rare: bool


class FamilyOptions(TypedDict, total=False):
    """Arguments that all families share, see :class:`TaskFamily`. For the signature of a subclass that has more arguments."""

    horizon: int | None
    view_size: int
    time_penalty: float
    observation: Literal["onehot", "image"]
    see_through_walls: bool | None


class TaskFamily(ABC):
    """A generator of tasks, with a common part and a rare mode.

    A subclass sets ``name`` and ``cells`` and implements :meth:`draw_layout`. If it has arguments of its own, it stores each as an attribute
    of the same name before it calls ``super().__init__``.

    :param size: side of the square grid in cells, with the outer walls
    :param rare_fraction: probability that a task belongs to the rare mode
    :param horizon: number of steps after which an episode is truncated; ``None`` for ``size ** 2``
    :param view_size: side of the agent's egocentric view in cells, odd, from 3 to 61
    :param time_penalty: the reward at the goal is ``1 - time_penalty * steps / horizon``; in [0, 1]
    :param observation: what the agent sees:

        - ``"onehot"``: the view as zeros and ones, float32, flat. There is one channel per kind of cell, and one more for cells that the
          agent does not see if walls can hide them
        - ``"image"``: MiniGrid's (type, colour, state), uint8, shape (view_size, view_size, 3)
    :param see_through_walls: ``False`` hides what is behind walls and closed doors; ``None`` for the family's default
    :raises ValueError: if an argument is out of range
    """

    name: ClassVar[str]
    #: the cell of each code in a layout; code 0 must be EMPTY and code 1 WALL
    cells: tuple[Cell, ...]
    #: the agent's actions: names from ``rules.MOVES``
    actions: ClassVar[tuple[str, ...]] = ("left", "right", "forward")
    #: the value of ``see_through_walls`` if the user gives ``None``
    default_see_through_walls: ClassVar[bool] = True
    mission: ClassVar[str] = "reach the green goal square"
    #: :meth:`draw` gives up after this many layouts without a safe path to the goal
    max_draws: ClassVar[int] = 10_000

    def __init__(
        self,
        size: int = 8,
        rare_fraction: float = 0.002,
        horizon: int | None = None,
        view_size: int = 5,
        time_penalty: float = 0.5,
        observation: Literal["onehot", "image"] = "onehot",
        see_through_walls: bool | None = None,
    ) -> None:
        if size < 4:
            raise ValueError(f"size must be at least 4, got {size}; use a larger size, with room for a start and a goal")
        check_fraction(rare_fraction)
        if not 3 <= view_size <= 61 or view_size % 2 == 0:
            raise ValueError(f"view_size must be an odd number from 3 to 61, got {view_size}; use the default 5, for example")
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}; use None for size ** 2")
        if not 0.0 <= time_penalty <= 1.0:
            raise ValueError(f"time_penalty must be in [0, 1], got {time_penalty}; use 0 for a reward without time penalty")
        if observation not in ("onehot", "image"):
            raise ValueError(f"observation must be a known kind, got {observation!r}; use 'onehot' or 'image'")
        if self.cells[:2] != (EMPTY, WALL):
            raise ValueError(
                f"{type(self).__name__}.cells must begin with EMPTY and WALL, got {[c.name for c in self.cells[:2]]}; put these two first"
            )
        self.size = size
        self.rare_fraction = rare_fraction
        self.horizon = size**2 if horizon is None else horizon
        self.view_size = view_size
        self.time_penalty = time_penalty
        self.observation = observation
        self.see_through_walls = self.default_see_through_walls if see_through_walls is None else see_through_walls

    @property
    def n_actions(self) -> int:
        """Number of actions."""
        return len(self.actions)

    @property
    def id(self) -> str:
        """Name and size, as in the registered Gymnasium id: ``ThinIce-8x8``."""
        return f"{self.name}-{self.size}x{self.size}"

    @abstractmethod
    def draw_layout(self, rng: np.random.Generator, rare: bool) -> Task:
        """Draw one candidate for a task. :meth:`draw` repeats this until the goal can be reached safely.

        :param rng: generator; take all random numbers from it
        :param rare: whether the task is to belong to the rare mode
        :return: the candidate
        """

    def draw(self, seed: int, index: int) -> Task:
        """Draw task ``index`` of the pool with a given seed.

        :param seed: the pool's seed, non-negative
        :param index: position in the pool, non-negative
        :return: the task; its goal can be reached by moves that cannot fail
        :raises ValueError: if ``max_draws`` draws gave no such task, if :meth:`draw_layout` returned something that is not a task of this
            family, or if a task has too many states
        """
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
        rare = bool(rng.random() < self.rare_fraction)
        for _ in range(self.max_draws):
            task = self.draw_layout(rng, rare)
            self._check(task)
            if self._solvable(task):
                return task
        raise ValueError(
            f"{self.id}: draw_layout must find a layout with a safe path from start to goal, got none in {self.max_draws} draws for task "
            f"{index} (seed {seed}, rare={rare}); place fewer obstacles, or raise max_draws"
        )

    def _check(self, task: Task) -> None:
        """Reject a malformed task: compiled code checks nothing, and would read beyond its arrays."""
        layout = task.layout
        if layout.shape != (self.size, self.size) or layout.dtype != np.uint8:
            raise ValueError(
                f"{self.id}: draw_layout must return a layout of shape ({self.size}, {self.size}) and dtype uint8, got shape {layout.shape} "
                f"and dtype {layout.dtype}; use np.zeros(shape, dtype=np.uint8), for example"
            )
        if layout.max() >= len(self.cells):
            raise ValueError(
                f"{self.id}: cell codes from draw_layout must be in [0, {len(self.cells) - 1}], got {layout.max()}; use positions in the "
                "family's `cells`"
            )
        x, y, direction = task.start
        if not (0 <= x < self.size and 0 <= y < self.size and 0 <= direction < 4):
            raise ValueError(
                f"{self.id}: start from draw_layout must be inside the layout, got {task.start}; use (x, y, direction) with x and y in "
                f"[0, {self.size - 1}] and direction in [0, 3]"
            )

    def _solvable(self, task: Task) -> bool:
        x, y, _ = task.start
        here = task.layout[y, x]
        if self.outcomes[here] != CONTINUES or not self.rules.kinds[here, WALKABLE]:
            return False
        # a layout may have no outer walls; with a wall around it the search cannot leave the array
        padded = np.full((self.size + 2, self.size + 2), 1, dtype=np.uint8)
        padded[1:-1, 1:-1] = task.layout
        if self.changeable:
            check_size(self.id, most_variants(padded.reshape(1, -1), self._narrow_rules) * padded.size * 4)
        return bool(solvable(padded.reshape(-1), (y + 1) * (self.size + 2) + x + 1, self._narrow_rules))

    @cached_property
    def _narrow_rules(self) -> Rules:
        return self.rules._replace(stride=self.size + 2)

    @cached_property
    def rules(self) -> Rules:
        """The rules as tables, for layouts that are padded by :attr:`margin`."""
        return make_rules(self.id, self.cells, self.actions, self.stride, self.offsets, not self.see_through_walls)

    @cached_property
    def slippery(self) -> bool:
        """Whether some forward moves can go sideways at random."""
        return any(cell.slip > 0.0 for cell in self.cells)

    @cached_property
    def changeable(self) -> bool:
        """Whether the agent can change the layout."""
        return bool((self.rules.n_variants > 1).any())

    @cached_property
    def outcomes(self) -> NDArray[np.uint8]:
        """Outcome of entering a cell of each code, shape (codes,), uint8."""
        return np.array([c.outcome for c in self.cells], dtype=np.uint8)

    @cached_property
    def margin(self) -> int:
        """Width of the padding, in cells, that keeps every view inside the array."""
        return self.view_size - 1

    @cached_property
    def stride(self) -> int:
        """Width of a padded layout in cells."""
        return self.size + 2 * self.margin

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """View offsets in padded layouts, shape (4, view_size^2), int64, see ``view_offsets``."""
        return view_offsets(self.view_size, self.stride)

    @cached_property
    def channels(self) -> NDArray[Any]:
        """Observation of a cell of each code, and in the last row of an unseen cell; shape (codes + 1, channels)."""
        if self.observation == "image":
            return np.array([*(cell.encoding for cell in self.cells), (0, 0, 0)], dtype=np.uint8)
        codes = len(self.cells) + (not self.see_through_walls)
        return np.eye(len(self.cells) + 1, codes, dtype=np.float32)

    @cached_property
    def observation_space(self) -> spaces.Box:
        """Space of the agent's observations."""
        if self.observation == "image":
            return spaces.Box(0, 255, (self.view_size, self.view_size, 3), np.uint8)
        return spaces.Box(0.0, 1.0, (self.view_size**2 * self.channels.shape[1],), np.float32)

    def observations(self, views: NDArray[np.uint8]) -> NDArray[Any]:
        """Observations of compact views.

        :param views: cell codes, shape (batch, view_size^2), uint8; an unseen cell has the code ``len(cells)``
        :return: shape ``(batch, *observation_space.shape)``, float32 or uint8
        """
        out = np.empty((len(views), views.shape[1] * self.channels.shape[1]), dtype=self.channels.dtype)
        expand_batch(out, views, self.channels, self.observation == "onehot")
        return out.reshape(len(views), *self.observation_space.shape)

    def action_masks(self, views: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which actions change something. A step into a wall does not, nor does picking up or toggling without effect.

        :param views: cell codes, shape (batch, view_size^2), uint8
        :return: shape (batch, actions), bool
        """
        rules, own = self.rules, (self.view_size // 2) * self.view_size + self.view_size - 1
        ahead, load = views[:, own - 1], views[:, own]
        masks = np.ones((len(views), self.n_actions), dtype=np.bool_)
        for action, name in enumerate(self.actions):
            if name == "forward" and not self.slippery:
                masks[:, action] = rules.kinds[ahead, WALKABLE] > 0
            elif name == "pickup":
                masks[:, action] = (rules.kinds[ahead, PICKABLE] > 0) & (load == 0)
            elif name == "toggle":
                masks[:, action] = rules.toggled[load, ahead] != ahead
        return masks

    def goal_reward(self, steps: int) -> float:
        """Reward for reaching the goal after a number of steps.

        :param steps: number of steps
        :return: ``1 - time_penalty * steps / horizon``
        """
        return 1.0 - self.time_penalty * steps / self.horizon

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, TaskFamily) and self.arguments() == other.arguments()

    def __hash__(self) -> int:
        return hash((type(self), *self.arguments().values()))

    def arguments(self) -> dict[str, Any]:
        """Every constructor argument and its value, read from the attribute of the same name."""
        constructors = [
            vars(cls)["__init__"] for cls in type(self).__mro__ if issubclass(cls, TaskFamily) and "__init__" in vars(cls)
        ]
        signatures = [inspect.signature(constructor) for constructor in constructors]
        parameters = [p for s in signatures for p in s.parameters.values() if p.kind is not p.VAR_KEYWORD and p.name != "self"]
        return {p.name: getattr(self, p.name) for p in parameters}


def check_share(name: str, value: float) -> None:
    """Check a share of the free cells.

    :param name: name of the argument, for the message
    :param value: the share
    :raises ValueError: if it is not in [0, 1)
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {value}; use a share that leaves some cells safe")


def check_fraction(rare_fraction: float) -> None:
    """Check the probability that a task belongs to the rare mode.

    :param rare_fraction: the probability
    :raises ValueError: if it is not in [0, 1]
    """
    if not 0.0 <= rare_fraction <= 1.0:
        raise ValueError(f"rare_fraction must be in [0, 1], got {rare_fraction}; use the probability of a rare task")


#: family classes by name; their ids work for any size
FAMILIES: dict[str, Callable[..., TaskFamily]] = {}
#: families by id, filled by ``register_family``
REGISTERED: dict[str, TaskFamily] = {}


def make_family(family: str | TaskFamily, rare_fraction: float | None = None) -> TaskFamily:
    """Look a family up by its id.

    :param family: ``"ThinIce-8x8"``, the full Gymnasium id, or a family object. ``"module:Name-8x8"`` first imports the module, which
        registers the family
    :param rare_fraction: probability that a task belongs to the rare mode, instead of the family's default; only with an id
    :return: the family
    :raises ValueError: if the id is unknown, its module cannot be imported, or ``rare_fraction`` differs from that of a family object
    """
    if isinstance(family, TaskFamily):
        if rare_fraction is not None and rare_fraction != family.rare_fraction:
            raise ValueError(
                f"rare_fraction must be the family object's own {family.rare_fraction}, got {rare_fraction}; "
                f"use {type(family).__name__}(rare_fraction={rare_fraction})"
            )
        return family
    if not isinstance(family, str):
        raise TypeError(f"family must be an id or a TaskFamily, got {family!r}; use an id such as 'ThinIce-8x8'")
    module, _, short = family.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"family must name a module that exists, got {family!r}, which cannot be imported ({error}); run the command in the folder of "
                "the module, or set PYTHONPATH"
            ) from error
    short = short.removeprefix("SB3Forecast/").removesuffix("-v0")
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
            f"family must be a known id, got {family!r}; use '<Name>-<S>x<S>' with a name from {sorted(FAMILIES)}, use one of "
            f"{sorted(REGISTERED)}, or register your own family with register_family"
        )
    arguments = {} if rare_fraction is None else {"rare_fraction": rare_fraction}
    return FAMILIES[name](size=int(width), **arguments)
