"""Keeps the state of an episode and goes on from it later, in any environment, and proves that this works before it is used."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding

from sb3_forecast.scorers.protocols import SupportsEpisodes


class MakesEnvs(SupportsEpisodes, Protocol):
    """Tasks that can be played in single environments."""

    def make_env(self) -> gym.Env[Any, Any]:
        """One environment that plays these tasks. It understands ``reset(options={"task": i})`` and reports ``info["cost"]``."""


@dataclass
class Episode:
    """A running episode.

    :param env: the environment that plays it, used by no other episode
    :param observation: what the agent sees now
    :param moves: what has happened since the reset: actions, and new noise; only a :class:`Replay` needs it
    :param replayed: environment steps that were taken to come here again
    """

    env: gym.Env[Any, Any]
    observation: Any
    moves: list[Any] = field(default_factory=list)
    replayed: int = 0


@dataclass(frozen=True)
class _Noise:
    """New noise, as a move of an episode."""

    seed: int


class Keeper(ABC):
    """A way to keep the states of episodes.

    :param pool: the tasks
    """

    name: ClassVar[str]

    def __init__(self, pool: MakesEnvs) -> None:
        self.pool = pool
        self._free: list[gym.Env[Any, Any]] = []

    def start(self, task: int, seed: int) -> Episode:
        """Start an episode.

        :param task: index into the pool
        :param seed: seed of its noise
        :return: the episode
        """
        env = self._free.pop() if self._free else self.pool.make_env()
        observation, _ = env.reset(seed=seed, options={"task": task})
        return Episode(env, observation, [(task, seed)])

    def step(self, episode: Episode, action: Any) -> tuple[float, bool]:
        """Take one step.

        :param episode: the episode
        :param action: an action of the environment
        :return: its cost, and whether the episode has ended
        :raises KeyError: if the environment does not report a cost
        """
        episode.observation, _, terminated, truncated, info = episode.env.step(action)
        episode.moves.append(action)
        return float(info["cost"]), bool(terminated or truncated)

    @abstractmethod
    def keep(self, episode: Episode) -> Any:
        """Keep the state of an episode, which may go on.

        :param episode: the episode
        :return: the state
        """

    @abstractmethod
    def restore(self, kept: Any) -> Episode:
        """Go on from a state, with the noise that would have followed. A state may be used many times.

        :param kept: as returned by :meth:`keep`
        :return: a new episode
        """

    def branch(self, kept: Any, seed: int) -> Episode:
        """Go on from a state, with new noise.

        :param kept: as returned by :meth:`keep`
        :param seed: seed of the new noise
        :return: a new episode
        """
        episode = self.restore(kept)
        new_noise(episode.env, seed)
        episode.moves.append(_Noise(seed))
        return episode

    def release(self, episode: Episode) -> None:
        """Give back the environment of an episode that has ended.

        :param episode: the episode, which is not used any more
        """
        self._free.append(episode.env)

    def forget(self) -> None:  # noqa: B027  # most ways hold nothing
        """Give back what was held for tasks that are finished."""


class OwnState(Keeper):
    """Uses ``get_state()`` and ``set_state(state)`` of the environment inside all wrappers, and copies what the wrappers hold."""

    name = "get_state and set_state"

    def __init__(self, pool: MakesEnvs) -> None:
        super().__init__(pool)
        inner: Any = pool.make_env().unwrapped
        if not all(callable(getattr(inner, name, None)) for name in ("get_state", "set_state")):
            raise TypeError(f"{type(inner).__name__} has no get_state() and set_state(state)")

    def keep(self, episode: Episode) -> Any:
        """See :meth:`Keeper.keep`."""
        inner: Any = episode.env.unwrapped
        memo = _shared(episode.env, self.pool)
        # functions stay with their layer: they may refer to its environment
        held = [
            copy.deepcopy(
                {name: value for name, value in vars(layer).items() if name != "env" and not callable(value)}, dict(memo)
            )
            for layer in _layers(episode.env)[:-1]
        ]
        state, noise = copy.deepcopy(inner.get_state()), copy.deepcopy(inner._np_random)
        return episode.moves[0], state, held, noise, copy.deepcopy(episode.observation)

    def restore(self, kept: Any) -> Episode:
        """See :meth:`Keeper.restore`."""
        (task, seed), state, held, noise, observation = kept
        episode = self.start(task, seed)
        for layer, values in zip(_layers(episode.env), held, strict=False):
            vars(layer).update(copy.deepcopy(values, _shared(layer, self.pool)))
        inner: Any = episode.env.unwrapped
        inner.set_state(copy.deepcopy(state))
        inner._np_random = copy.deepcopy(noise)
        episode.observation = copy.deepcopy(observation)
        return episode


class Copies(Keeper):
    """Copies the environment, and shares what no step changes: spaces, the pool, MuJoCo's model."""

    name = "copies"

    def __init__(self, pool: MakesEnvs) -> None:
        super().__init__(pool)
        # one for each task, because contexts change the model that the copies share. A copy is never reset: its functions may still refer
        # to the environment that it was copied from
        self._templates: dict[int, gym.Env[Any, Any]] = {}

    def start(self, task: int, seed: int) -> Episode:
        """See :meth:`Keeper.start`."""
        if task not in self._templates:
            self._templates[task] = self.pool.make_env()
        env = self._templates[task]
        observation, _ = env.reset(seed=seed, options={"task": task})
        return Episode(self._copied(env), copy.deepcopy(observation))

    def keep(self, episode: Episode) -> Any:
        """See :meth:`Keeper.keep`."""
        return self._copied(episode.env), copy.deepcopy(episode.observation)

    def restore(self, kept: Any) -> Episode:
        """See :meth:`Keeper.restore`."""
        env, observation = kept
        return Episode(self._copied(env), copy.deepcopy(observation))

    def release(self, episode: Episode) -> None:
        """Nothing: a copy is not used again."""

    def forget(self) -> None:
        """See :meth:`Keeper.forget`."""
        self._templates.clear()

    def _copied(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        # attribute by attribute: copy.deepcopy would make many of Gymnasium's environments anew, in their first state (EzPickle)
        layers, memo = _layers(env), _shared(env, self.pool)
        copies = [object.__new__(type(layer)) for layer in layers]
        memo |= {id(layer): made for layer, made in zip(layers, copies, strict=True)}
        for layer, made in zip(layers, copies, strict=True):
            vars(made).update({name: copy.deepcopy(value, memo) for name, value in vars(layer).items()})
        found: gym.Env[Any, Any] = copies[0]
        return found


class Replay(Keeper):
    """Plays the same actions with the same noise again, in environments that are deterministic given their seed, such as those of Box2D."""

    name = "replay"

    def keep(self, episode: Episode) -> Any:
        """See :meth:`Keeper.keep`."""
        return tuple(episode.moves)

    def restore(self, kept: Any) -> Episode:
        """See :meth:`Keeper.restore`."""
        (task, seed), *moves = kept
        episode = self.start(task, seed)
        for move in moves:
            if isinstance(move, _Noise):
                new_noise(episode.env, move.seed)
                episode.moves.append(move)
            else:
                self.step(episode, move)
                episode.replayed += 1
        return episode


#: the ways, the cheapest first
KEEPERS: tuple[type[Keeper], ...] = (OwnState, Copies, Replay)


def _layers(env: gym.Env[Any, Any]) -> list[Any]:
    """An environment, from the outermost wrapper to the innermost environment."""
    layers: list[Any] = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _shared(env: gym.Env[Any, Any], pool: Any) -> dict[int, Any]:
    """What copies of an environment share because no step changes it, for ``copy.deepcopy``."""
    held = [pool, *getattr(pool, "__dict__", {}).values()]
    for layer in _layers(env):
        held += [
            value for value in vars(layer).values() if isinstance(value, (gym.Space, EnvSpec)) or _is_physics_model(value)
        ]
    return {id(value): value for value in held}


def _is_physics_model(value: Any) -> bool:
    """Whether something is a MuJoCo model, without importing MuJoCo."""
    return type(value).__name__ == "MjModel" and type(value).__module__.startswith("mujoco")


def new_noise(env: gym.Env[Any, Any], seed: int) -> None:
    """Give an episode new random events from now on.

    A layer with a method ``set_noise(seed)`` is asked to do it itself. Otherwise the generators that Gymnasium gives to environments and
    wrappers are replaced.

    :param env: the environment, in the middle of an episode
    :param seed: seed of the new noise
    """
    for depth, layer in enumerate(_layers(env)):
        own: Callable[[int], None] | None = getattr(type(layer), "set_noise", None) and layer.set_noise
        if own is not None:
            own(seed)
        elif vars(layer).get("_np_random") is not None:
            layer._np_random = seeding.np_random(seed + depth)[0]


def find_keeper(pool: MakesEnvs, seed: int = 0, ways: tuple[type[Keeper], ...] = KEEPERS) -> Keeper:
    """The cheapest way that works for the environments of a pool.

    It is proved with random actions before it is used: the same actions give the same future after restoring, twice, while other episodes go
    on; and if two fresh episodes of a task differ under the same actions, branches with new noise must differ as well.

    :param pool: the tasks
    :param seed: seed of the proof
    :param ways: the ways to try, in order
    :return: the keeper
    :raises ValueError: if no way works; the message says why
    """
    reasons = []
    for way in ways:
        try:
            keeper = way(pool)
            _prove(keeper, np.random.default_rng(seed))
        except Exception as error:  # whatever the environment raises when it is copied
            reasons.append(f"{way.name}: {error}")
        else:
            return keeper
    raise ValueError(
        f"env must be one whose state can be kept for splitting, got one for which no way works ({'; '.join(reasons)}); give it get_state() and "
        "set_state(state), and set_noise(seed) if it has random events of its own, or use scorer='frequency'"
    )


def _prove(keeper: Keeper, generator: np.random.Generator, tasks: int = 3, horizon: int = 60) -> None:
    """Play random actions, restore, and compare futures.

    :raises ValueError: if a future differs, or new noise changes nothing in an environment with noise
    """
    n_tasks = len(keeper.pool)
    noisy, renewed = False, False
    for task in generator.integers(n_tasks, size=tasks).tolist():
        first, second, third = (int(seed) for seed in generator.integers(2**31, size=3))
        episode = keeper.start(task, first)
        space = episode.env.action_space
        space.seed(first)
        actions = [space.sample() for _ in range(horizon)]
        whole = list(_future(keeper, keeper.start(task, first), actions))
        noisy |= not _same(whole, list(_future(keeper, keeper.start(task, second), actions)))
        # after the first step at least, where noise may hide that belongs to the episode; before the last one, if there are two
        middle = int(generator.integers(1, len(whole) // 2 + 1)) if len(whole) > 1 else 0
        for action in actions[:middle]:
            keeper.step(episode, action)
        kept = keeper.keep(episode)
        rest = actions[middle:]
        expected = list(_future(keeper, episode, rest))
        if not _same(expected, whole[middle:]):
            raise ValueError("an episode with the same seed and the same actions has another course")
        restored = keeper.restore(kept), keeper.restore(kept)
        for again in restored:
            if not _same(list(_future(keeper, again, rest)), expected):
                raise ValueError("the same actions have another future after restoring")
        branches = [list(_future(keeper, keeper.branch(kept, number), rest)) for number in (second, third)]
        renewed |= not _same(*branches)
    if noisy and not renewed:
        raise ValueError("the environment has random events that new noise does not change; give it set_noise(seed)")


def _future(keeper: Keeper, episode: Episode, actions: list[Any]) -> Iterator[Any]:
    """What happens when some actions are taken."""
    for action in actions:
        cost, ended = keeper.step(episode, action)
        yield copy.deepcopy(episode.observation), cost, ended
        if ended:
            return


def _same(one: list[Any], other: list[Any]) -> bool:
    """Whether two futures are equal, bit for bit."""
    return len(one) == len(other) and all(a[1:] == b[1:] and _equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return all(_equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(np.array_equal(one, other))
