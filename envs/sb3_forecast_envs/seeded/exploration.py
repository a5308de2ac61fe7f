"""Finds all states of an episode of any MiniGrid environment, by taking real MiniGrid steps from each state."""

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

#: attributes that repeat the position of the object in the grid
_PLACES = {"cur_pos", "init_pos"}
#: objects that cannot change
_FIXED = (Wall, Goal, Lava, Floor)
_IMMUTABLE = (bool, int, float, str, tuple, type(None))
#: attributes that belong to the state, or that a step may change without any effect on later steps
_KNOWN = {"agent_pos", "agent_dir", "carrying", "step_count"}


class Step(NamedTuple):
    """The result of one step of an environment.

    :param env: the environment, after the step
    :param reward: reward of the step
    :param terminated: whether the episode ended by the rules of the task
    :param truncated: whether the episode ended at its time limit
    :param info: ``info`` of the step
    """

    env: gym.Env[Any, Any]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


Failed = Callable[[Step], bool]


def ended_without_reward(step: Step) -> bool:
    """Failure of MiniGrid's lava environments, and of LunarLander: the episode is over, and its last step gained nothing."""
    return step.terminated and step.reward <= 0.0


def ended_with_reward(step: Step) -> bool:
    """Success of MiniGrid's environments: the episode ended by the rules of the task, with a reward; or what the environment reports."""
    return bool(step.info.get("is_success", step.terminated and step.reward > 0.0))


def ended_early(step: Step) -> bool:
    """Failure for environments in which only a failure ends an episode before its time limit, such as a falling pole or walker.

    Not for LunarLander, where a good landing ends it, too: use :func:`ended_without_reward`.
    """
    return step.terminated


def reported_cost(step: Step) -> bool:
    """Failure for environments that report a cost: ``info["cost"]`` is positive.

    :raises KeyError: if ``info`` has no cost
    """
    if "cost" not in step.info:
        raise KeyError(
            "info must have the key 'cost', got none; use failed=..., a function of a Step, such as sb3_forecast_envs.ended_early"
        )
    return bool(step.info["cost"] > 0.0)


@dataclass(frozen=True)
class MiniGridState:
    """Everything in a MiniGrid episode that a step reads or changes, except the step count and the random numbers."""

    position: tuple[int, int]
    direction: int
    carrying: WorldObj | None
    cells: list[WorldObj | None]
    attributes: list[tuple[WorldObj, dict[str, Any]]]

    @classmethod
    def of(cls, env: MiniGridEnv) -> MiniGridState:
        """The present state of an environment.

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
        """Put an environment into this state, at step 0.

        :param env: MiniGrid's own environment, unwrapped
        """
        env.agent_pos, env.agent_dir, env.carrying, env.step_count = self.position, self.direction, self.carrying, 0
        env.grid.grid = list(self.cells)
        for thing, attributes in self.attributes:
            vars(thing).update(attributes)

    @property
    def key(self) -> tuple[Any, ...]:
        """A key that is equal for equal states. Objects are compared by identity, because a task may ask for one particular ball."""
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
    """Make the function that turns MiniGrid's own observation into that of the agent.

    :param env: the environment with the wrappers that the agent sees
    :return: observation of the unwrapped environment -> observation of the agent
    :raises ValueError: if a wrapper does more than change observations
    """
    stages: list[gym.ObservationWrapper[Any, Any, Any]] = []
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, gym.ObservationWrapper):
            stages.append(layer)
        elif not isinstance(layer, (OrderEnforcing, PassiveEnvChecker)):
            raise ValueError(
                f"wrappers must only change observations, got {type(layer).__name__}, which may keep a state that the search for states does "
                "not see; leave it out"
            )
        layer = layer.env

    def observe(raw: Any) -> Any:
        for stage in reversed(stages):
            raw = stage.observation(raw)
        return raw

    return observe


def explore_episode(env: gym.Env[Any, Any], failed: Failed, max_states: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Find every state that the episode can reach from its present state, by a breadth-first search with real steps.

    :param env: a MiniGrid environment, wrapped or not, just reset
    :param failed: what counts as failure
    :param max_states: largest number of states
    :return: successors, shape (states, actions), int32, with -1 for an end without failure and -2 for a failure; observations, shape
        (states, *observation)
    :raises ValueError: if steps are random, if they change something that is not in the state, or if there are too many states
    """
    inner = env.unwrapped
    assert isinstance(inner, MiniGridEnv)
    observe = observer(env)
    n_actions = int(inner.action_space.n)
    # the observation takes most of the time of a step, and is needed once per state, not once per action
    plain = type(inner).step is MiniGridEnv.step
    luck = inner.np_random.bit_generator.state
    rest = _others(inner)
    start = MiniGridState.of(inner)
    number = {start.key: 0}
    states = [start]
    observations = [np.asarray(observe(inner.gen_obs()))]
    successors: list[list[int]] = []
    for here in states:  # the list grows during the loop
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
                        f"state space too large: a task of {type(inner).__name__} must have at most max_states={max_states} states, got "
                        "more; use a larger max_states, or an environment with fewer objects that can be moved"
                    )
                number[key] = len(states)
                states.append(after)
                observations.append(np.asarray(observe(inner.gen_obs())))
            row.append(number[key])
        successors.append(row)
        changed = [name for name, value in _others(inner).items() if rest.get(name) != value]
        if inner.np_random.bit_generator.state != luck or changed:
            what = f"a step that changes its attributes {changed}" if changed else "a step that draws random numbers"
            raise ValueError(
                f"{type(inner).__name__} must have deterministic steps without hidden state for exact scores, got {what}; use "
                "scorer='episodes'"
            )
    start.restore(inner)
    return np.array(successors, dtype=np.int32), np.stack(observations)


def _others(env: MiniGridEnv) -> dict[str, Any]:
    """Plain attributes of the environment that a step must not change."""
    return {name: value for name, value in vars(env).items() if name not in _KNOWN and isinstance(value, _IMMUTABLE)}
