"""The states of one episode of any MiniGrid environment, found by taking real MiniGrid steps from each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from minigrid.core.world_object import Floor, Goal, Lava, Wall, WorldObj
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

#: attributes that only repeat where in the grid an object is
_PLACES = {"cur_pos", "init_pos"}
#: objects without anything that could change
_FIXED = (Wall, Goal, Lava, Floor)
_IMMUTABLE = (bool, int, float, str, tuple, type(None))
#: what a state consists of, or what a step may change without changing what follows
_KNOWN = {"agent_pos", "agent_dir", "carrying", "step_count"}


class Step(NamedTuple):
    """What one step of an environment returned.

    :param env: the environment, after the step
    :param reward: its reward
    :param terminated: whether the episode ended by the rules of the task
    :param truncated: whether it ended by its time limit
    :param info: the step's info
    """

    env: gym.Env[Any, Any]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


Failed = Callable[[Step], bool]


def ended_without_reward(step: Step) -> bool:
    """Failure of MiniGrid's lava environments: the episode is over, and nothing was gained."""
    return step.terminated and step.reward <= 0.0


def ended_early(step: Step) -> bool:
    """Failure where only failing ends an episode before its time limit: a pole that falls, a walker that stumbles."""
    return step.terminated


def reported_cost(step: Step) -> bool:
    """Failure of environments that report it: ``info["cost"]`` is positive.

    :raises KeyError: if they do not
    """
    if "cost" not in step.info:
        raise KeyError("info has no 'cost'; pass failed=..., a function of a Step such as sb3_forecast_envs.ended_early")
    return bool(step.info["cost"] > 0.0)


@dataclass(frozen=True)
class MiniGridState:
    """Everything about a MiniGrid episode that a step reads and changes, step count and random numbers apart."""

    position: tuple[int, int]
    direction: int
    carrying: WorldObj | None
    cells: list[WorldObj | None]
    attributes: list[tuple[WorldObj, dict[str, Any]]]

    @classmethod
    def of(cls, env: MiniGridEnv) -> MiniGridState:
        """The present situation.

        :param env: MiniGrid's own environment, unwrapped
        """
        things = [thing for thing in (*env.grid.grid, env.carrying) if thing is not None and not isinstance(thing, _FIXED)]
        things += [box.contains for box in things if getattr(box, "contains", None) is not None]
        return cls(
            (int(env.agent_pos[0]), int(env.agent_pos[1])),
            int(env.agent_dir),
            env.carrying,
            list(env.grid.grid),
            [(thing, dict(vars(thing))) for thing in things],
        )

    def restore(self, env: MiniGridEnv) -> None:
        """Put the environment back into this situation, at step 0."""
        env.agent_pos, env.agent_dir, env.carrying, env.step_count = self.position, self.direction, self.carrying, 0
        env.grid.grid = list(self.cells)
        for thing, attributes in self.attributes:
            vars(thing).update(attributes)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal states. Objects count as themselves: some tasks ask for *this* ball."""
        states = tuple(
            (
                id(thing),
                tuple(v for name, v in attributes.items() if name not in _PLACES and isinstance(v, _IMMUTABLE)),
                id(attributes.get("contains")),
            )
            for thing, attributes in self.attributes
        )
        return (self.position, self.direction, id(self.carrying), tuple(map(id, self.cells)), states)


def observer(env: gym.Env[Any, Any]) -> Callable[[Any], Any]:
    """What the wrappers make of MiniGrid's own observation.

    :param env: the environment as the agent sees it
    :return: observation of the unwrapped environment -> observation of the agent
    :raises ValueError: if a wrapper does something else than changing observations
    """
    stages: list[gym.ObservationWrapper[Any, Any, Any]] = []
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, gym.ObservationWrapper):
            stages.append(layer)
        elif not isinstance(layer, (OrderEnforcing, PassiveEnvChecker)):
            raise ValueError(
                f"wrapper {type(layer).__name__} may keep a state of its own, which exploring the environment cannot see; leave it out "
                "(observation wrappers are fine)"
            )
        layer = layer.env

    def observe(raw: Any) -> Any:
        for stage in reversed(stages):
            raw = stage.observation(raw)
        return raw

    return observe


def explore_episode(env: gym.Env[Any, Any], failed: Failed, max_states: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Every state that the episode can reach from where it is now, by breadth-first search with real steps.

    :param env: a MiniGrid environment, wrapped or not, just reset
    :param failed: what counts as failure
    :param max_states: most states to enumerate
    :return: successors (states, actions), int32, -1 for an end without failure and -2 for a failure; observations (states, *observation)
    :raises ValueError: if the dynamics are random, hidden state changes, or the state space is too large
    """
    inner = env.unwrapped
    assert isinstance(inner, MiniGridEnv)
    observe = observer(env)
    n_actions = int(inner.action_space.n)
    # most of a step's time goes into an observation that is needed once per state, not once per action
    plain = type(inner).step is MiniGridEnv.step
    luck = inner.np_random.bit_generator.state
    rest = _others(inner)
    start = MiniGridState.of(inner)
    number = {start.key: 0}
    states = [start]
    observations = [np.asarray(observe(inner.gen_obs()))]
    successors: list[list[int]] = []
    for here in states:  # grows while it is walked
        row = []
        for action in range(n_actions):
            here.restore(inner)
            if plain:
                inner.gen_obs = dict
            try:
                _, reward, terminated, truncated, info = inner.step(action)
            finally:
                if plain:
                    del inner.gen_obs
            if terminated:
                step = Step(env, float(reward), True, bool(truncated), info)
                row.append(-2 if failed(step) else -1)
                continue
            after = MiniGridState.of(inner)
            key = after.key
            if key not in number:
                if len(states) >= max_states:
                    raise ValueError(
                        f"state space too large for the finite model: a task of {type(inner).__name__} has more than max_states="
                        f"{max_states}; raise max_states, or choose an environment in which less can be moved about"
                    )
                number[key] = len(states)
                states.append(after)
                observations.append(np.asarray(observe(inner.gen_obs())))
            row.append(number[key])
        successors.append(row)
        changed = [name for name, value in _others(inner).items() if rest.get(name) != value]
        if inner.np_random.bit_generator.state != luck or changed:
            what = f"its attributes {changed} change" if changed else "a step draws random numbers"
            raise ValueError(
                f"{type(inner).__name__} has no finite model that exploring it could find: {what}; use scorer='episodes' for it"
            )
    start.restore(inner)
    return np.array(successors, dtype=np.int32), np.stack(observations)


def _others(env: MiniGridEnv) -> dict[str, Any]:
    """Plain attributes of the environment that a step is not expected to change."""
    return {name: value for name, value in vars(env).items() if name not in _KNOWN and isinstance(value, _IMMUTABLE)}
